"""The command line: help at once, and one clear sentence with exit code 2 for whatever the user can mend,
before Ray starts.
"""

import errno
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from tiny_policy import write_experiment, write_policy
from transformers import Gemma2Config

import pipeline.cli.igpo
import pipeline.cli.rllib
from envs.errors import InputError
from pipeline.cli.options import make_room_for
from pipeline.experiment.conf_files import packaged_conf

QUESTION = {"id": "q1", "question": "Who?", "golden_answers": ["me"]}
PASSAGE = {"id": "d1", "contents": "I am me"}


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return write_policy(tmp_path_factory.mktemp("policy"))


def write_lines(path: Path, *records) -> Path:
    path.write_text(
        "".join((record if isinstance(record, str) else json.dumps(record)) + "\n" for record in records)
    )
    return path


@pytest.mark.parametrize("module", ["pipeline.cli.rllib", "pipeline.cli.igpo"])
def test_help_costs_less_than_a_second(module):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [sys.executable, "-m", module, "--help"], capture_output=True, text=True, check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0
    assert "Usage:" in done.stdout


def commands(app, *path):
    """Every command below `app`, as the words that call it."""
    for word, command in getattr(app, "commands", {}).items():
        yield from commands(command, *path, word) if hasattr(command, "commands") else [[*path, word]]


@pytest.mark.parametrize("console_script", [pipeline.cli.rllib, pipeline.cli.igpo])
def test_every_help_has_examples_and_fits_into_80_columns(run, console_script, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    name = console_script.__name__.rpartition(".")[2]
    found = list(commands(typer.main.get_command(console_script.app)))
    assert ["train", "file"] in found or ["data", "world"] in found
    for command in found:
        code, said = run(*command, "--help", app=console_script.app)
        assert code == 0 and f"{name} {' '.join(command)}" in said.partition("Example")[2], command
        assert "…" not in said, f"{command}: a name is cut off"


@pytest.mark.parametrize("console_script", [pipeline.cli.rllib, pipeline.cli.igpo])
def test_help_names_no_type_of_a_flag(run, console_script, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    found = list(commands(typer.main.get_command(console_script.app)))
    for command in [*{tuple(command[:-1]) for command in found}, *found]:  # groups, commands
        code, said = run(*command, "--help", app=console_script.app)
        assert code == 0 and "Show this message" in said and "<bool>" not in said, command
        assert "--verbose" not in said or "--verbose -v Show the libraries' logs; -vv: all. │" in said


def test_the_help_of_estimate_says_nothing_of_what_was_run(run):
    """It was run on GPUs; docs/gpu.md says on which."""
    assert "not a measurement. Examples" in run("estimate", "--help", app=pipeline.cli.igpo.app)[1]


def test_version(run):
    for app in (pipeline.cli.rllib.app, pipeline.cli.igpo.app):
        code, said = run("--version", app=app)
        assert code == 0 and said.startswith("igpo-rllib ") and "ray 2." in said


def test_config_that_is_missing_or_unreadable(refused, tmp_path):
    assert "there is no such experiment file" in refused("train", "file", tmp_path / "nowhere.yaml")
    assert "did you mean conf/igpo.yaml?" in refused("train", "file", "conf/igp.yaml")
    assert "is a folder" in refused("train", "file", tmp_path)
    broken = write_lines(tmp_path / "broken.yaml", "demo: [")
    assert "broken.yaml, line" in refused("train", "file", broken)


@pytest.mark.parametrize(
    "words",
    [
        "rllib train file igpo.yaml --set lrr=1",
        "rllib evaluate tiny --config igpo.yaml --set lrr=1",
        "igpo ask tiny Who? --config igpo.yaml --set lrr=1",
        "igpo doctor igpo.yaml --set lrr=1",
        "igpo estimate igpo.yaml --set lrr=1",
        "igpo warm-start igpo.yaml --demonstrations d.jsonl --out new --set lrr=1",
        "igpo data describe q.jsonl --config igpo.yaml --set lrr=1",
        "igpo data demonstrations c.jsonl --out d.jsonl --config igpo.yaml --set lrr=1",
        "igpo settings lrr --config igpo.yaml",
        "igpo counterfactual nowhere --config igpo.yaml",
        "igpo study igpo.yaml",
    ],
)
def test_every_command_says_that_it_takes_the_packaged_file(run, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    script, *rest = words.split()
    app = getattr(pipeline.cli, script).app
    told = f"igpo.yaml is not here; using the copy that ships with the package: {packaged_conf()}/igpo.yaml"
    code, said = run(*rest, app=app)
    assert code == 2 and said.count(told) == 1 and said.startswith(told)
    (tmp_path / "igpo.yaml").write_text("here:\n  config:\n    lrr: 1\n")
    code, said = run(*rest, app=app)
    assert code == 2 and "ships with the package" not in said


def test_stop_may_be_given_several_times(run, tmp_path, policy, monkeypatch):
    """The later of two for one metric stands, as with --set."""
    launched = []
    monkeypatch.setattr("pipeline.training.launch.launch", lambda made, *_: launched.extend(made) or 0)
    file = write_experiment(tmp_path / "demo.yaml", policy)
    stops = [
        "--stop",
        '{"igpo/em": 0.5, "training_iteration": 9}',
        "-s",
        "time_total_s=60",
        "--stop",
        "igpo/em=0.75",
    ]
    assert run("train", "file", file, *stops) == (0, "")
    assert launched[0].stop == {"training_iteration": 9.0, "igpo/em": 0.75, "time_total_s": 60.0}


def test_flags_that_say_nothing(run, refused, tmp_path, policy):
    file = write_experiment(tmp_path / "demo.yaml", policy)
    assert f"did you mean {file}?" in refused("train", "file", file.with_suffix(".yml"))
    assert "this is not JSON" in refused("train", "file", file, "--stop", "{")
    assert "unknown key `stop.training_iterations`. Did you mean `training_iteration`?" in refused(
        "train", "file", file, "--stop", "training_iterations=5"
    )
    assert "lr is -1; it must be above 0" in refused("train", "file", file, "--set", "lr=-1")
    assert "did you mean `smollm2`?" in refused("train", "file", file, "--set", "model_path=smolm2")
    assert "Did you mean `lr`" in refused("train", "file", file, "--set", "lrr=1")
    assert "there is no run in" in refused("train", "file", file, "--resume")
    assert "give one of them" in refused("train", "file", file, "--resume", "--restore", tmp_path)
    assert "are for a Ray that is started here" in refused(
        "train", "file", file, "--ray-address", "a:1", "--ray-num-cpus", 2
    )
    code, said = run("train", file)
    assert code == 2 and "Write: rllib train file" in said


@pytest.mark.parametrize(
    "model, expected",
    [
        ("nowhere/at/all", "model_path nowhere/at/all does not exist"),
        ("{tmp}", "has no config.json"),
        (None, "`config.model_path` is missing"),
    ],
)
def test_model_that_is_missing(refused, tmp_path, model, expected):
    file = write_experiment(tmp_path / "demo.yaml", "", model_path=model and model.format(tmp=tmp_path))
    assert expected in refused("train", "file", file)
    assert not (tmp_path / "runs").exists(), "a refused run leaves nothing behind"


def test_model_that_the_learner_cannot_reproduce(refused, tmp_path):
    (tmp_path / "model").mkdir()
    Gemma2Config().save_pretrained(tmp_path / "model")
    said = refused("train", "file", write_experiment(tmp_path / "demo.yaml", tmp_path / "model"))
    assert "cannot be trained here: it caps its logits at 30 after the output head; take Llama" in said


def test_model_without_weights(refused, tmp_path, policy):
    folder = tmp_path / "empty"
    folder.mkdir()
    for file in policy.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    assert "no weights" in refused("train", "file", write_experiment(tmp_path / "demo.yaml", folder))


@pytest.mark.parametrize(
    "corpus, questions, expected",
    [
        (None, [QUESTION], "corpus.jsonl does not exist"),
        ([PASSAGE], None, "questions.jsonl does not exist"),
        ([PASSAGE, "{not json"], [QUESTION], "corpus.jsonl:2: not valid JSON"),
        ([PASSAGE, {"id": "d2"}], [QUESTION], "corpus.jsonl:2: no `contents`"),
        ([PASSAGE], [QUESTION, "[1]"], "questions.jsonl:2: expected a JSON object"),
        ([PASSAGE], [QUESTION, {**QUESTION, "id": "q2", "golden_answers": []}], "questions.jsonl:2"),
        ([PASSAGE], [], "holds no questions"),
    ],
)
def test_corpus_and_questions(refused, tmp_path, policy, corpus, questions, expected):
    paths = {"corpus": tmp_path / "corpus.jsonl", "questions": tmp_path / "questions.jsonl"}
    for records, path in zip((corpus, questions), paths.values(), strict=True):
        if records is not None:
            write_lines(path, *records)
    env = {name: str(path) for name, path in paths.items()}
    assert expected in refused("train", "file", write_experiment(tmp_path / "demo.yaml", policy, env=env))
    assert not (tmp_path / "runs").exists()


def test_tokenizer_without_a_chat_template(refused, tmp_path, policy):
    file = write_experiment(tmp_path / "demo.yaml", policy, env={"protocol": "chat_short"})
    assert "chat template" in refused("train", "file", file)


def test_memory_that_is_not_there(refused, tmp_path, policy):
    file = write_experiment(tmp_path / "demo.yaml", policy, engine={"kv_cache_gib": 1e5})
    assert "lower engine.kv_cache_gib" in refused("train", "file", file)


@pytest.mark.parametrize(
    "note, expected",
    [
        (None, "not an IGPO checkpoint"),
        ({"algorithm": "PPO", "schema_version": 1}, "a checkpoint of PPO, not of IGPO"),
        ({"algorithm": "IGPO", "schema_version": 99}, "checkpoint schema version 99, this program reads 1"),
    ],
)
def test_checkpoints_of_others(refused, tmp_path, policy, note, expected):
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    file = write_experiment(tmp_path / "demo.yaml", policy)
    if note is not None:
        (checkpoint / "igpo_checkpoint.json").write_text(json.dumps(note))
        assert expected in refused("evaluate", checkpoint)
        assert expected in refused("ask", checkpoint, "Who?", app=pipeline.cli.igpo.app)
    assert expected in refused("train", "file", file, "--restore", checkpoint)
    assert "there is no such checkpoint folder" in refused(
        "train", "file", file, "--restore", tmp_path / "nowhere"
    )


def test_evaluate_without_a_policy(refused, tmp_path, policy):
    file = write_experiment(tmp_path / "demo.yaml", policy)
    assert refused("evaluate", "./nowhere", "--config", file, "--out", tmp_path / "scores.json") == (
        "./nowhere: there is no such run (`igpo runs` lists them), checkpoint or model: a model is a "
        "folder, a hub name (OWNER/NAME), `tiny` or `smollm2`."
    )
    assert not (tmp_path / "scores.json").exists()
    assert "demo.yaml is a file" in refused("evaluate", file, "--config", file)
    assert "no file can be written there" in refused("evaluate", policy, "--config", file, "--out", tmp_path)


def test_a_file_in_a_folder_that_takes_no_new_one_is_refused_before_the_work(tmp_path, monkeypatch):
    """Root may write everywhere, so the folder's answer is played."""
    (tmp_path / "scores.json").write_text("old")
    make_room_for(tmp_path / "scores.json")

    def refuse(dir):
        assert dir == tmp_path.resolve()
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("pipeline.cli.options.TemporaryFile", refuse)
    with pytest.raises(InputError, match="no file can be written there: Permission denied"):
        make_room_for(tmp_path / "scores.json")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_doctor_names_what_is_broken_and_ends_with_2(run, tmp_path, policy):
    good = write_experiment(tmp_path / "demo.yaml", policy)
    code, said = run("doctor", good, "--quick", app=pipeline.cli.igpo.app)
    assert code == 0 and said.count("ok ") == 11
    bad = write_experiment(tmp_path / "bad.yaml", policy, engine={"kv_cache_gib": 1e5})
    code, said = run("doctor", bad, "--quick", app=pipeline.cli.igpo.app)
    assert code == 2 and "fail memory" in said
    useless = write_experiment(tmp_path / "useless.yaml", policy, env={"tools": ["search", "calculator"]})
    code, said = run("doctor", useless, "--quick", app=pipeline.cli.igpo.app)
    assert code == 0 and "warn task" in said and "knows only `search`: calculator can't be called" in said


@pytest.mark.parametrize("typed", ["", "--resume", "--restore old/best", "--restore=old/best"])
def test_the_command_that_goes_on_can_be_typed(typed):
    from pipeline.training.launch import LaunchOptions

    command = ("rllib", "train", "file", "demo.yaml", *typed.split(), "--set", "seed=4")
    assert LaunchOptions(command).resume_command == "rllib train file demo.yaml --set seed=4 --resume"
