"""The real command line on a tiny random policy: train, lose the env runner, lose the driver, resume,
evaluate.
"""

import json
import os
import signal
import time
from pathlib import Path

import psutil
import pytest
from command import Command
from tiny_policy import write_experiment, write_policy

from pipeline.analysis import open_run

pytestmark = pytest.mark.slow

PROMPTS, GROUP = 8, 4
OTHERS = "env_config.world.train_questions=90"
"""A setting with which a run has other training questions."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("end_to_end")
    write_experiment(
        folder / "demo.yaml",
        write_policy(folder / "policy"),
        evaluation_interval=100,
        evaluation_questions=10,
    )
    return folder


def the_run(folder: Path) -> Path:
    (path,) = (item.parent for item in (folder / "runs/demo").glob("*/run.json"))
    return path


def newest_run(folder: Path) -> Path:
    return max((folder / "runs/demo").glob("*/run.json"), key=lambda path: path.stat().st_mtime).parent


def prompts_by_iteration(run: Path) -> dict[int, list[str]]:
    """The visible training prompts of each iteration, sorted (the order in which they were drawn is not
    logged).
    """
    with open_run(run) as log:
        rows = log.sql(
            "SELECT iteration, question_id, count(*) FROM episodes WHERE split = 'train' GROUP BY ALL ORDER "
            "BY ALL"
        ).fetchall()
    assert all(count == GROUP for _, _, count in rows)
    prompts: dict[int, list[str]] = {}
    for iteration, question, _ in rows:
        prompts.setdefault(iteration, []).append(question)
    return prompts


def drawn_prompts(run: Path, iterations: int) -> dict[int, list[str]]:
    """What the cursor draws where nothing interrupts it."""
    from envs.data.prompt_sampler import PromptSampler
    from envs.data.questions import fingerprint
    from envs.search.task import SearchTask
    from pipeline.experiment.experiment import load_experiments

    config = load_experiments(run / "config.yaml")[0].algorithm_config()
    questions = SearchTask(config.env_settings()).train_questions
    cursor = PromptSampler(len(questions), config.seed, fingerprint(questions))
    return {
        i: sorted(questions[index].id for index in cursor.next(PROMPTS)) for i in range(1, iterations + 1)
    }


def mlflow_points(folder: Path, metric: str) -> tuple[list[str], list[int]]:
    """Ids of all MLflow runs, and the steps of `metric` in the first."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=f"sqlite:///{folder / 'runs/mlflow.db'}")
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    return [run.info.run_id for run in runs], [
        point.step for point in client.get_metric_history(runs[0].info.run_id, metric)
    ]


def test_a_run_survives_its_env_runner_and_its_driver(folder):
    first = Command(folder, "train", "file", "demo.yaml", "--stop", '{"training_iteration": 100}')
    first.wait_for("iteration 2/")
    (runner,) = first.descendants("IGPOEnvRunner")
    time.sleep(0.2)
    runner.send_signal(signal.SIGKILL)
    first.wait_for("an env runner died")
    done = max(
        int(word.split("/")[0]) for word in first.said.split("iteration ")[1:] if "/" in word.split()[0]
    )
    first.wait_for(f"iteration {done + 2}/")
    left = first.descendants("")
    first.process.kill()
    first.end()
    psutil.wait_procs(left, timeout=60)

    run = the_run(folder)
    saved = json.loads((run / "checkpoints/last/igpo_checkpoint.json").read_text())["iteration"]
    assert saved >= done + 1
    (mlflow_run,), _ = mlflow_points(folder, "train/em")
    last = saved + 2
    second = Command(
        folder, "train", "file", "demo.yaml", "--resume", "--stop", json.dumps({"training_iteration": last})
    )
    assert second.end() == 0, second.said
    assert f"iteration {saved + 1}/{last}" in second.said and f"iteration {saved}/" not in second.said
    assert "held-out before training" not in second.said, "it was done before the driver died"

    metadata = json.loads((run / "run.json").read_text())
    assert [(a["resumed_from_iteration"], a["how"]) for a in metadata["attempts"]] == [
        (None, "died"),
        (saved, "finished"),
    ]
    assert prompts_by_iteration(run) == drawn_prompts(run, last)
    runs, steps = mlflow_points(folder, "train/em")
    assert runs == [mlflow_run] and steps == list(range(1, last + 1))
    assert mlflow_points(folder, "heldout/em_squad")[1] == [0, last]


def test_a_finished_run_goes_on_to_a_later_stop(folder):
    """Comes after the run above: one more iteration of it, in its folder, its MLflow run and its log."""
    run = the_run(folder)
    (mlflow_run,), steps = mlflow_points(folder, "train/em")
    last = steps[-1] + 1
    report = (run / "results/report.html").stat().st_mtime_ns
    again = Command(folder, "train", "file", "demo.yaml", "--resume", "--stop", f"training_iteration={last}")
    assert again.end() == 0, again.said
    assert f"goes on after iteration {last - 1}" in again.said and f"iteration {last}/{last}" in again.said
    metadata = json.loads((run / "run.json").read_text())
    assert (metadata["status"], metadata["iteration"]) == ("finished", last)
    assert prompts_by_iteration(run) == drawn_prompts(run, last)
    assert mlflow_points(folder, "train/em") == ([mlflow_run], [*steps, last])
    assert mlflow_points(folder, "heldout/em_squad")[1] == [0, last - 1, last]
    assert (run / "results/report.html").stat().st_mtime_ns > report
    refused = Command(
        folder, "train", "file", "demo.yaml", "--resume", "--stop", f"training_iteration={last}"
    )
    assert refused.end() == 2 and f"is finished after iteration {last}" in refused.said


def test_a_finished_run_can_be_restored_evaluated_and_asked(folder):
    """Comes after the run above and uses its checkpoint."""
    best = the_run(folder) / "checkpoints/best"
    hf = str(best / "hf/default_policy")
    evaluated = Command(
        folder,
        "evaluate",
        hf,
        "--config",
        "demo.yaml",
        "--episodes",
        "3",
        "--samples",
        "2",
        "--out",
        "scores.json",
    )
    assert evaluated.end() == 0 and "3 questions, 2 samples each" in evaluated.said, evaluated.said
    scores = json.loads((folder / "scores.json").read_text())
    assert scores["summary"]["questions"] == 3 and len(scores["episodes"]) == 6
    asked = Command(
        folder, "ask", str(best), "food of friend of duto ?", "--gold", "red", module="pipeline.cli.igpo"
    )
    assert asked.end() == 0 and "belief in the right answer" in asked.said, asked.said
    at = json.loads((best / "igpo_checkpoint.json").read_text())["iteration"]
    stop = json.dumps({"training_iteration": at + 50})
    restored = Command(
        folder, "train", "file", "demo.yaml", "--restore", str(best), "--stop", stop, "--set", OTHERS
    )
    restored.wait_for("the checkpoint saw other training questions: this run's training questions begin anew")
    restored.wait_for(f"iteration {at + 1}/")
    assert restored.interrupt() == 130, restored.said
    assert "saving a checkpoint" in restored.said and "go on" in restored.said and "--resume" in restored.said
    run = newest_run(folder)
    assert prompts_by_iteration(run)[at + 1] == drawn_prompts(run, 1)[1]


def test_sigterm_to_every_process_of_a_run_ends_it_as_ctrl_c_does(folder):
    """As Slurm and systemd send it: Ray and the env runner hear it too."""
    run = Command(folder, "train", "file", "demo.yaml", "--stop", '{"training_iteration": 1000}')
    run.wait_for_iteration()
    assert run.descendants("IGPOEnvRunner")
    assert run.interrupt(signal.SIGTERM) == 130, (
        run.said
    )  # waiting for a Ray that is gone ends in 1, a minute later
    newest = newest_run(folder)
    metadata = json.loads((newest / "run.json").read_text())
    last = newest / "checkpoints/last/igpo_checkpoint.json"
    assert (
        metadata["status"] == "interrupted"
        and metadata["iteration"] == json.loads(last.read_text())["iteration"] > 0
    )
    assert "an env runner died" not in run.said and "saving a checkpoint" in run.said


def test_ctrl_c_twice_stops_at_once_and_the_run_goes_on(folder):
    """The second comes while an iteration is under way: nothing is saved, and nothing that was is lost."""
    slow = ("--set", "prompts_per_iteration=400")
    command = ("train", "file", "demo.yaml", *slow, "--stop", '{"training_iteration": 1000}')
    run = Command(folder, *command)
    run.wait_for_iteration()
    time.sleep(1.0)  # its checkpoint is written, and the next one has begun
    os.killpg(run.process.pid, signal.SIGINT)
    run.wait_for("once more stops at once")
    left, pressed = run.descendants(""), time.monotonic()
    assert run.interrupt() == 130, run.said
    assert time.monotonic() - pressed < 20, run.said
    assert "stopped at once" in run.said and "Traceback" not in run.said, run.said
    assert "--resume" in run.said.split("go on")[1]
    _, alive = psutil.wait_procs(left, timeout=30)
    assert not alive, "it left processes behind"
    path = newest_run(folder)
    assert json.loads((path / "run.json").read_text())["status"] == "interrupted"
    saved = json.loads((path / "checkpoints/last/igpo_checkpoint.json").read_text())["iteration"]
    assert saved == max(run.iterations)
    again = Command(folder, *command[:-1], json.dumps({"training_iteration": saved + 1}), "--resume")
    assert again.end() == 0, again.said
    assert newest_run(folder) == path and again.iterations == [saved + 1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_first_iteration_stops_at_once(folder, number):
    run = Command(folder, "train", "file", "demo.yaml")
    run.wait_for("starting the policy and the rollout engine")
    left = run.descendants("")
    assert run.interrupt(number) == 130, run.said
    assert "stopped at once" in run.said and "Traceback" not in run.said, run.said
    assert not psutil.wait_procs(left, timeout=30)[1]
    assert json.loads((newest_run(folder) / "run.json").read_text())["status"] == "interrupted"
