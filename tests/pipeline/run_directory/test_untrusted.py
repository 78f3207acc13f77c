"""A run folder of someone else's: it is read, and nothing in it runs."""

import json
import pickle

import pytest
import yaml
from rollout_log_samples import write_run

import pipeline.cli.igpo
from pipeline.evaluation.saved_policy import code_named
from pipeline.run_directory.directory import RunDirectory

CODE = """
from pathlib import Path
Path("ran").write_text("code of the folder ran")
def population(city: str) -> str:
    '''Counts.'''
    return city
"""
EVIL = {
    "evil": {
        "run": "IGPO",
        "env": "search",
        "config": {
            "model_path": "tiny",
            "trust_remote_code": True,
            "env_config": {"tools": ["search", "evil_tools:population"], "outcome": "evil_tools:population"},
        },
    }
}


class Payload:
    def __reduce__(self):
        return exec, (CODE,)


@pytest.fixture
def stranger(tmp_path, monkeypatch):
    """A downloaded run whose every file would run code if something loaded it; the working directory too."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    run = RunDirectory.create(tmp_path / "runs", "evil", EVIL, {"mlflow_ui": "$(touch ran)"}, run_id="1")
    write_run(run.path.parent, run_id="1", name="evil")
    checkpoint = run.checkpoints / "iteration_000001"
    (checkpoint / "hf" / "default_policy").mkdir(parents=True)
    for place in (tmp_path, run.path, checkpoint, checkpoint / "hf" / "default_policy"):
        for name in ("evil_tools.py", "sitecustomize.py", "conftest.py", "modeling_evil.py"):
            (place / name).write_text(CODE)
    for name in ("state.pkl", "metadata.pkl", "class_and_ctor_args.pkl", "algorithm_state.pkl"):
        (checkpoint / name).write_bytes(pickle.dumps(Payload()))
    (checkpoint / "rllib_checkpoint.json").write_text("{}")
    (checkpoint / "experiment.yaml").write_text(yaml.safe_dump(EVIL))
    for link in ("last", "best"):
        (run.checkpoints / link).symlink_to(checkpoint.name)
    return run


@pytest.mark.parametrize(
    "words",
    [
        ("sql", "RUN", "SELECT * FROM turns"),
        ("sql", "RUN", "--named", "credit_auroc"),
        ("show", "RUN", "--worst"),
        ("profile", "RUN"),
        ("report", "RUN", "--out", "report.html"),
        ("compact", "RUN"),
        ("recredit", "RUN", "--preset", "grpo", "--out", "out.parquet"),
    ],
)
def test_what_reads_a_run_runs_nothing_of_it(stranger, tmp_path, run, words):
    words = [str(stranger.path) if word == "RUN" else word for word in words]
    code, said = run(*words, app=pipeline.cli.igpo.app)
    assert code in (0, 2) and not (tmp_path / "ran").exists(), said
    assert code == 0 or words[0] in ("recredit", "profile"), said


def test_its_policy_is_not_opened_with_its_own_code(stranger, tmp_path, refused):
    checkpoint = stranger.checkpoints / "best"
    for words, app in (
        (("ask", checkpoint, "who ?"), pipeline.cli.igpo.app),
        (("evaluate", checkpoint), None),
    ):
        said = refused(*words, **({"app": app} if app else {}))
        assert "names code to run: evil_tools:population, evil_tools:population, trust_remote_code" in said
        assert "If you trust whoever made this checkpoint, add --trust" in said
    assert not (tmp_path / "ran").exists()


def test_its_own_estimator_does_not_run(stranger, tmp_path, refused):
    """Without --preset, `igpo recredit` would credit by what the run's log names."""
    config = {"preset": "evil_tools:population", "env_config": {"alias_rule": "max"}}
    write_run(stranger.path.parent, run_id="2", name="evil", config={"config": config})
    said = refused("recredit", stranger.path.with_name("2"), app=pipeline.cli.igpo.app)
    assert said == (
        "the run's own estimator is code: evil_tools:population. If you trust whoever made this run, add "
        "--trust; otherwise name an estimator with --preset."
    )
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ({"a": {"config": {"env_config": {"tools": ["search", "calculator"]}}}}, []),
        ({"a": {"config": {"env_config": {"outcome": "f1"}, "trust_remote_code": False}}}, []),
        ({"a": {"config": {"env_config": {"outcome": "m:f"}}}}, ["m:f"]),
        ({"a": {"config": {"env_config": {"protocol": "m:p", "next_speaker": "m:n"}}}}, ["m:p", "m:n"]),
        ({"a": {"config": {"env_config": {"retriever": {"kind": "m:r"}}, "preset": "m:e"}}}, ["m:r", "m:e"]),
        ({"a": {"config": {"trust_remote_code": True}}}, ["trust_remote_code (the model's own)"]),
        ({"a": None, "b": {"config": {"env_config": ["x"]}}}, []),
        ([], []),
    ],
)
def test_code_is_found_where_an_experiment_names_it(tmp_path, content, found):
    (tmp_path / "e.yaml").write_text(json.dumps(content))
    assert code_named(tmp_path / "e.yaml") == found
