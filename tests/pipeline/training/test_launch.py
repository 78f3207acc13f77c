"""From a command to an attempt: which weights it starts from, and what of an earlier attempt it keeps."""

import io
import json
import shlex
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from rich.console import Console
from tiny_policy import write_experiment, write_policy

from algorithms.credit import find_preset
from algorithms.igpo.weights.restoring import MODULES
from envs.errors import InputError
from pipeline.doctor.findings import Finding
from pipeline.evaluation.heldout_scores import Score, save_scores
from pipeline.exit_codes import FAILED
from pipeline.experiment.experiment import load_experiments
from pipeline.run_directory.checkpoints import NOTE
from pipeline.run_directory.directory import RunDirectory
from pipeline.training.build import is_of_another
from pipeline.training.launch import QUESTION, LaunchOptions, _print_summary, launch
from pipeline.training.loop import HELDOUT_BEFORE, Ending
from pipeline.training.plan import unfinished_runs
from pipeline.training.ray_processes.cluster import RayOptions, starting_ray

STARTED = SimpleNamespace(wait=lambda: None)
"""A Ray that is there."""


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return write_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture
def attempt(tmp_path, policy, monkeypatch):
    """Makes an attempt at the experiment that dies at once; returns (checkpoint, iteration resumed from) and
    its run.
    """
    monkeypatch.setattr("pipeline.training.launch.configure_ray_logging", lambda verbosity: None)
    monkeypatch.setattr("pipeline.training.launch.starting_ray", lambda *_: nullcontext(STARTED))
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 2.0})
    file = write_experiment(tmp_path / "demo.yaml", policy)

    def make(*overrides, resume=False):
        seen = []

        def die(plan, run, checkpoint, resumed_from, console):
            seen.append((checkpoint, resumed_from, run))
            raise ConnectionError("the power went off")

        monkeypatch.setattr("pipeline.training.launch._train", die)
        options = LaunchOptions(("rllib",), resume=resume)
        assert launch(load_experiments(file, list(overrides)), options, Console(file=io.StringIO())) == FAILED
        ((checkpoint, resumed_from, run),) = seen
        return (checkpoint, resumed_from), run

    return make


def write_checkpoint(folder, iteration):
    folder.mkdir(parents=True)
    note = {"algorithm": "IGPO", "schema_version": 1, "iteration": iteration}
    (folder / "igpo_checkpoint.json").write_text(json.dumps(note))
    return folder


def test_a_fresh_run_and_its_resume(attempt):
    first, run = attempt()
    assert first == (None, None)
    second, same = attempt(resume=True)
    assert second == (None, -1) and same.path == run.path, "it left nothing to keep"
    save_scores(run.path / HELDOUT_BEFORE, 0, {"q": Score(1.0, 1.0)})
    assert attempt(resume=True)[0] == (None, 0), "its held-out scores before training are kept"
    saved = write_checkpoint(run.checkpoints / "iteration_000003", 3)
    (run.checkpoints / "last").symlink_to(saved.name)
    assert attempt(resume=True)[0] == (saved, 3)


@pytest.mark.parametrize("typed_again", [True, False])
def test_a_restored_run_that_died_before_its_first_checkpoint(attempt, tmp_path, typed_again):
    """It goes on from the weights that it was restored from, wherever the link that named them points by
    then.
    """
    source = write_checkpoint(tmp_path / "other" / "iteration_000040", 40)
    link = tmp_path / "other" / "last"
    link.symlink_to(source.name)
    restore = [f"restore={link}", "stop.training_iteration=50"]
    first, run = attempt(*restore)
    assert first == (source, None)
    link.unlink()
    link.symlink_to(write_checkpoint(tmp_path / "other" / "iteration_000041", 41).name)
    again = restore if typed_again else restore[1:]
    assert attempt(*again, resume=True)[0] == (source, -1)
    save_scores(run.path / HELDOUT_BEFORE, 40, {"q": Score(1.0, 1.0)})
    assert attempt(*again, resume=True)[0] == (source, 40), (
        "the scores before training are those of iteration 40"
    )
    shutil.rmtree(source)
    with pytest.raises(InputError, match="there is no such checkpoint folder"):
        attempt(*again, resume=True)


def test_a_checkpoint_of_other_policies_is_refused_before_anything_starts(attempt, tmp_path):
    source = write_checkpoint(tmp_path / "other" / "iteration_000040", 40)
    (source / MODULES / "searcher").mkdir(parents=True)
    with pytest.raises(InputError, match="holds the policies searcher, but .* through default_policy too"):
        attempt(f"restore={source}")


@pytest.mark.parametrize("stop", [2, 3])
def test_a_restored_run_that_would_stop_before_it_begins_is_refused(attempt, tmp_path, stop):
    source = write_checkpoint(tmp_path / "other" / "iteration_000003", 3)
    with pytest.raises(InputError, match=f"of iteration 3, .* is {stop}: raise it, .*training_iteration=13"):
        attempt(f"restore={source}", f"stop.training_iteration={stop}")


def test_whose_a_checkpoint_is(attempt, tmp_path):
    """A run resumed from its own checkpoint keeps its questions; a restored one may have others."""
    _, run = attempt()
    own = write_checkpoint(run.checkpoints / "iteration_000003", 3)
    (run.checkpoints / "last").symlink_to(own.name)
    assert not is_of_another(run, None)
    assert not is_of_another(run, own) and not is_of_another(run, run.checkpoints / "last")
    assert is_of_another(run, write_checkpoint(tmp_path / "other" / "iteration_000003", 3))


@pytest.mark.parametrize("value", [None, False, True])
def test_a_run_with_a_setting_since_removed_is_resumed_unless_it_was_set(attempt, value):
    _, run = attempt()
    content = run.resolved
    for keys in content.values():
        keys["config"]["truncated_pays_back"] = value
    run.config_path.write_text(yaml.safe_dump(content))
    run.note(config_hash="of another version")
    refused = pytest.raises(InputError, match="truncated_pays_back: true` was removed")
    with refused if value else nullcontext():
        assert attempt(resume=True)[1].path == run.path


def finish(run, iteration, *, checkpoint=True):
    """Makes `run` look finished after `iteration`."""
    if checkpoint:
        saved = write_checkpoint(run.checkpoints / f"iteration_{iteration:06}", iteration)
        (run.checkpoints / "last").symlink_to(saved.name)
    run.note(status="finished", iteration=iteration)


@pytest.mark.parametrize("end", [[], ["stop.training_iteration=3"], ["stop.training_iteration=2"]])
def test_a_finished_run_is_resumed_by_a_later_stop_alone(attempt, end):
    _, run = attempt("stop.training_iteration=4")
    finish(run, 4)
    said = r"--resume: the newest run, .* is finished after iteration 4: .*training_iteration=14.*--restore"
    with pytest.raises(InputError, match=said):
        attempt(*(end or ["stop.training_iteration=4"]), resume=True)


@pytest.mark.parametrize("end", ["stop.training_iteration=9", "time_budget_s=60"])
def test_a_finished_run_goes_on_to_a_later_end(attempt, end):
    _, run = attempt("stop.training_iteration=4", "time_budget_s=30")
    finish(run, 4)
    ends = ["stop.training_iteration=4", "time_budget_s=30"]
    if end.startswith("time"):
        run.note(iteration=3)  # the time was spent before the fourth
    before = run.resolved["demo"]
    (checkpoint, resumed_from), same = attempt(*ends, end, resume=True)
    assert same.path == run.path and resumed_from == 4 and checkpoint.name == "iteration_000004"
    after = run.resolved["demo"]
    name, value = end.split("=")
    holder = after["stop"] if name.startswith("stop") else after
    assert holder.pop(name.removeprefix("stop.")) == int(value)
    holder = before["stop"] if name.startswith("stop") else before
    holder.pop(name.removeprefix("stop."))
    assert after == before, "nothing else of its configuration changes"
    run.note(status="finished", iteration=int(value) if name.startswith("stop") else 3)
    with pytest.raises(InputError, match="is finished after iteration"):
        attempt(*ends, end, resume=True)


def test_a_finished_run_without_a_checkpoint_does_not_begin_anew(attempt):
    _, run = attempt("stop.training_iteration=4")
    finish(run, 4, checkpoint=False)
    with pytest.raises(InputError, match="is finished and kept no checkpoint to go on from"):
        attempt("stop.training_iteration=9", resume=True)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("run.json", "run.json: this file is damaged"),
        ("config.yaml", "config.yaml: this file is damaged"),
        ("checkpoints/last/igpo_checkpoint.json", "igpo_checkpoint.json: this file is damaged"),
    ],
)
def test_damaged_files_are_found_before_a_run_is_resumed(attempt, name, said):
    _, run = attempt()
    saved = write_checkpoint(run.checkpoints / "iteration_000003", 3)
    (run.checkpoints / "last").symlink_to(saved.name)
    content = (run.path / name).read_bytes()
    (run.path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=said):
        attempt(resume=True)


@pytest.mark.parametrize("resumes", [False, True])
def test_a_run_that_did_not_start_leaves_no_folder(attempt, monkeypatch, tmp_path, resumes):
    if resumes:
        attempt()

    def fail(run):
        raise InputError("no weights")

    monkeypatch.setattr("pipeline.training.launch.first_weights", fail)
    with pytest.raises(InputError, match="no weights"):
        attempt(resume=resumes)
    assert len(list((tmp_path / "runs").glob("demo/*"))) == (1 if resumes else 0)


def test_a_changed_experiment_is_not_resumed(attempt):
    _, run = attempt()
    with pytest.raises(InputError, match=r"`lr` \(0.0001 -> 0.1\) changed.*start a new run without --resume"):
        attempt("lr=0.1", resume=True)
    attempt("stop.training_iteration=9", resume=True)
    assert len(RunDirectory.find(run.path.parents[1], "demo")) == 1


def test_a_run_whose_own_estimator_has_changed_is_not_resumed(attempt, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "own_resumed.py"
    file.write_text("def f(group): return group.outcomes_N[group.rollout_M]\n")
    _, run = attempt("preset=own_resumed:f")
    assert len(run.metadata["own_code"]["own_resumed:f"]) == 12
    attempt("preset=own_resumed:f", resume=True)
    file.write_text("def f(group): return 2 * group.outcomes_N[group.rollout_M]\n")
    find_preset.cache_clear()
    del sys.modules["own_resumed"]
    with pytest.raises(
        InputError, match="the file of `own_resumed:f`, or one that it imports, has changed since run"
    ):
        attempt("preset=own_resumed:f", resume=True)


def test_limits_may_be_widened_by_a_resume_and_not_narrowed(attempt):
    _, run = attempt()
    _, later = attempt("seed=7")
    narrow, wide = run.config_path.read_text(), "env_config.max_context_tokens=300"
    with pytest.raises(InputError, match=r"`env_config.max_turns` \(3 -> 2\) changed"):
        attempt("seed=7", wide, "env_config.max_turns=2", resume=True)
    with pytest.raises(InputError, match=r"`lr` \(0.0001 -> 0.1\) changed"):
        attempt("seed=7", wide, "lr=0.1", resume=True)
    assert attempt("seed=7", wide, "tokens_per_micro_batch=99999", resume=True)[1].path == later.path
    limits = {
        "env_config.max_context_tokens": [256, 300],
        "tokens_per_micro_batch": [yaml.safe_load(narrow)["demo"]["config"]["tokens_per_micro_batch"], 99999],
    }
    assert later.metadata["widened_limits"] == [{"attempt": 1, "limits": limits}]
    assert later.resolved["demo"]["config"]["env_config"]["max_context_tokens"] == 300
    with pytest.raises(InputError, match=r"`env_config.max_context_tokens` \(300 -> 256\)"):
        attempt("seed=7", "tokens_per_micro_batch=99999", resume=True)
    attempt("seed=7", wide, "tokens_per_micro_batch=99999", resume=True)
    assert len(later.metadata["widened_limits"]) == 1
    assert [found.path for found in RunDirectory.find(run.path.parents[1], "demo")] == [run.path, later.path]
    assert run.config_path.read_text() == narrow


def test_what_is_left_out_is_in_the_run_s_metadata(attempt):
    _, run = attempt()
    assert {split: seen["questions"] for split, seen in run.metadata["questions"].items()} == {
        "train": 100,
        "heldout": 20,
    }
    assert run.metadata["questions"]["train"]["too_long"] == {"count": 0, "ids": []}


@pytest.mark.parametrize(
    "override, lack",
    [
        ("num_env_runners=3", "3 env runners and 0 learners ask for 3 CPUs, and Ray has 2"),
        ("num_learners=2", "1 env runners and 2 learners ask for 3 CPUs, and Ray has 2"),
        ("num_gpus_per_env_runner=0.5", "ask for 0.5 GPUs, and Ray has 0"),
    ],
)
def test_what_ray_would_wait_for_without_end(attempt, tmp_path, monkeypatch, override, lack):
    # As on a machine with a GPU that Ray does not know of: `--ray-num-gpus 0`.
    monkeypatch.setattr("pipeline.doctor.checks.gpus", lambda subject: Finding("gpus", "ok", "one"))
    with pytest.raises(InputError, match=lack):
        attempt(override)
    assert not (tmp_path / "runs").exists(), "a refused run leaves nothing behind"


def test_what_ray_starts_does_not_hear_a_sigterm(monkeypatch):
    started = []
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", lambda **arguments: started.append(subprocess.Popen(["sleep", "60"])))
    with starting_ray(RayOptions()):
        pass
    (process,) = started
    assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    process.terminate()
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, []), "the run itself hears it"


@pytest.mark.parametrize("kind", [Exception, SystemExit])
def test_a_ray_that_does_not_start_is_one_sentence(monkeypatch, kind):
    def init(**arguments):
        raise kind("The current node timed out during startup.\nSee its logs.")

    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", init)
    told = r"can't be started on this machine: The current node timed out .* when it is less busy\.$"
    with pytest.raises(InputError, match=told), starting_ray(RayOptions()):
        pass


def test_what_another_process_raised_is_told_without_its_traceback(attempt, monkeypatch, tmp_path, policy):
    from ray.exceptions import RayTaskError

    def raises(cause):
        def train(*arguments):
            raise RayTaskError(
                "build", "Traceback\n  long", cause, "ray::build()", 1, "127.0.0.1"
            ).as_instanceof_cause()

        return train

    run = attempt()[1]
    experiments, options = load_experiments(run.config_path), LaunchOptions(("rllib",))
    said = io.StringIO()
    monkeypatch.setattr("pipeline.training.launch._train", raises(ImportError("no kernels")))
    assert launch(experiments, options, Console(file=said)) == FAILED
    assert "the run failed: ImportError: no kernels\n" in said.getvalue()
    assert "driver.log" in said.getvalue()
    monkeypatch.setattr("pipeline.training.launch._train", raises(InputError("no such folder")))
    with pytest.raises(InputError, match="^no such folder$"):
        launch(experiments, options, Console(file=said))


def test_the_commands_of_the_summary_name_paths_with_blanks(tmp_path, monkeypatch):
    """As a shell reads them."""
    monkeypatch.chdir(tmp_path)
    run = RunDirectory.create("my runs", "demo", {}, run_id="1")
    run.note(mlflow_ui="")
    (folder := run.checkpoints / "iteration_000001").mkdir()
    (folder / NOTE).write_text("{}")
    (run.checkpoints / "last").symlink_to(folder.name)
    said = io.StringIO()
    ending = Ending("finished", "training_iteration 1", 1)
    _print_summary(ending, run, "tiny", LaunchOptions(("rllib",)), Console(file=said))
    commands = [
        shlex.split(line) for line in said.getvalue().splitlines() if " igpo " in line or "rllib" in line
    ]
    path = "my runs/demo/1"
    assert [words[words.index("igpo" if "igpo" in words else "rllib") :] for words in commands] == [
        ["igpo", "show", path, "--best"],
        ["igpo", "sql", path, QUESTION],
        ["rllib", "evaluate", f"{path}/checkpoints/last"],
        ["igpo", "ask", f"{path}/checkpoints/last", "..."],
    ]


def test_resuming_under_another_name_is_told_which_runs_are_unfinished(tmp_path):
    experiment = SimpleNamespace(storage_path=tmp_path / "runs", source=Path("my.yaml"))
    assert unfinished_runs(experiment) == "start one without --resume"
    made = {"mine-kl_coeff-0": ("my.yaml", "interrupted"), "mine": ("my.yaml", "finished"), "x": ("x", "")}
    for name, (source, status) in made.items():
        folder = tmp_path / "runs" / name / "one"
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("")
        facts = {"name": name, "run_id": "one", "attempts": [], "source": source, "status": status}
        (folder / "run.json").write_text(json.dumps({"schema_version": 1, **facts}))
    (folder / "run.json").write_text("{")  # damaged
    assert unfinished_runs(experiment) == (
        f"unfinished of this file: {tmp_path}/runs/mine-kl_coeff-0/one; repeat the --set or --name of one, "
        "or leave --resume out"
    )
