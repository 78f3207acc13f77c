"""Runs iterations of a run again, from a checkpoint that is kept, and compares them with its log.

Sampling seeds derive from (seed, iteration, prompt, rollout, turn), and a checkpoint holds all else that an
iteration depends on. So the same code on the same kind of machine computes the same values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from envs.errors import InputError
from pipeline.analysis import open_run
from pipeline.analysis.same_rows import Sameness, compare
from pipeline.experiment.before_start import check_start
from pipeline.experiment.experiment import experiments_of
from pipeline.experiment.own_code import own_code
from pipeline.experiment.resolved import config_hash, settings_of_run
from pipeline.rollout_log.rows import RunInfo
from pipeline.rollout_log.writer import RolloutLogWriter
from pipeline.run_directory import provenance
from pipeline.run_directory.checkpoints import NOTE, check_checkpoint, read_note
from pipeline.run_directory.directory import RunDirectory
from pipeline.training.launch import build_algorithm
from pipeline.training.plan import Plan
from pipeline.training.ray_watch import lost_ray
from pipeline.training.run_logger import HELDOUT, RunLogger

if TYPE_CHECKING:
    from algorithms.igpo.config import IGPOConfig
    from algorithms.igpo.iteration_record import IterationRecord

TRAIN = "train"
WEIGHTS = "*.safetensors"


@dataclass
class Rerun:
    """What of a run can be run again, and from where."""

    run: RunDirectory
    plan: Plan
    checkpoint: Path | None
    """None: the run's first weights."""
    start: int
    """The iteration that the checkpoint was saved after; 0 without one."""
    iterations: int
    begins: bool
    """Whether the run itself began there, so that it evaluated before training."""
    logged: set[tuple[int, str]]
    """(iteration, split) of the log's visible rows."""

    @property
    def last(self) -> int:
        return self.start + self.iterations

    @property
    def kept_weights(self) -> Path | None:
        """The weights after the last iteration, where their checkpoint is kept."""
        from algorithms.igpo.algorithm import HF_FOLDER

        folder = self.run.checkpoints / f"iteration_{self.last:06d}"
        return folder / HF_FOLDER if (folder / NOTE).is_file() else None


@dataclass(frozen=True)
class Verdict:
    """What a rerun found."""

    rows: Sameness
    weights: tuple[int, int] | None
    """(tensors, those that differ); None: no checkpoint of that iteration is kept."""

    @property
    def is_equal(self) -> bool:
        return self.rows.is_equal and not (self.weights and self.weights[1])


def plan_rerun(run: RunDirectory, start: int | None, iterations: int | None) -> Rerun:
    """Finds what can be run again.

    Args:
        run: the run.
        start: the iteration to start after; None: the last one that can be started from.
        iterations: how many to run; None: one, and under `max_weight_lag` two, because there a checkpoint
            holds the next iteration's rollouts.

    Raises:
        InputError: nothing can be verified, with the reason.
    """
    name, keys = settings_of_run(run.config_path)
    (experiment,) = experiments_of(name, keys, run.config_path)
    config = experiment.algorithm_config()
    with open_run(run.path) as log:
        logged = {
            (int(iteration), split)
            for iteration, split in log.sql("SELECT iteration, split FROM iterations").fetchall()
        }
        hashes = dict(
            log.sql(
                "SELECT iteration, any_value(runs.config_hash) FROM iterations JOIN runs USING (run_id, "
                "attempt) GROUP BY iteration"
            ).fetchall()
        )
    starts = {k: at for k, at in _starts(run).items() if (k + 1, TRAIN) in logged}
    if start is None and starts:
        start = max(starts)
    if start is None or start not in starts:
        raise InputError(_no_start(run, start, starts))
    checkpoint = starts[start]
    if checkpoint is not None:
        check_checkpoint(checkpoint)
    last_logged = max(iteration for iteration, split in logged if split == TRAIN)
    if iterations is None:
        iterations = min(1 + config.max_weight_lag, last_logged - start)
    elif start + iterations > last_logged:
        raise InputError(
            f"--iterations {iterations}: the log of {run.path} ends with iteration {last_logged}, so after "
            f"iteration {start} there are {last_logged - start}."
        )
    settings_hash = config_hash(experiment.resolved()[name]["config"])
    for iteration in range(start + 1, start + iterations + 1):
        if hashes[iteration] != settings_hash:
            raise InputError(
                f"iteration {iteration} of {run.path} was run under other settings than its config.yaml has "
                f"now (hash {hashes[iteration]}, now {settings_hash}): its limits were widened since, or "
                "another version of igpo-rllib resolved them; verify a later iteration with --after."
            )
    code, now = run.metadata.get("own_code", {}), own_code(config)
    if changed := [path for path in code if now.get(path) != code[path]]:
        raise InputError(
            f"the file of `{changed[0]}` has changed since run {run.path} began: put it back to verify the "
            "run."
        )
    check_start(experiment)
    plan = Plan(experiment, config, experiment.resolved(), None)
    begins = checkpoint is None or str(checkpoint) == run.metadata.get("restored_from")
    return Rerun(run, plan, checkpoint, start, iterations, begins, logged)


def rerun(found: Rerun, folder: Path, say: Callable[[str], object]) -> Verdict:
    """Runs the iterations again and compares them.

    Args:
        found: what to run.
        folder: an empty folder for the rerun's own log and weights.
        say: called with what is being done.
    """
    run, config = found.run, found.plan.config
    say("starting the policy and the rollout engine ...")
    algorithm = build_algorithm(config, folder, found.checkpoint)
    try:
        with RolloutLogWriter(folder / "rollouts", run.run_id, 1, info=RunInfo()) as log:
            algorithm.callbacks.append(RunLogger(log, _Untracked(), folder))
            done: set[tuple[int, str]] = set()
            for iteration in range(found.start, found.last + 1):
                say(f"iteration {iteration} of {found.last} again ...")
                if iteration > found.start:
                    algorithm.train()
                    done |= {(record.iteration, record.split) for record in algorithm.records}
                if (iteration > found.start or found.begins) and (iteration, HELDOUT) in found.logged - done:
                    algorithm.evaluate()
                    done.add((iteration, HELDOUT))
        weights = None
        if found.kept_weights is not None:
            algorithm.export_hf(folder / "hf")
            weights = compare_weights(found.kept_weights, folder / "hf")
    finally:
        if lost_ray() is None:
            algorithm.stop()
    say("comparing ...")
    with open_run(run.path) as before, open_run(folder / "rollouts") as now:
        return Verdict(compare(before, now, done), weights)


def compare_weights(before: Path, now: Path) -> tuple[int, int]:
    """(tensors, those that differ or that one side lacks) of the modules in two folders."""
    tensors = [_tensors(folder) for folder in (before, now)]
    names = tensors[0].keys() | tensors[1].keys()
    return len(names), sum(tensors[0].get(name) != tensors[1].get(name) for name in names)


def what_changed(run: RunDirectory, config: IGPOConfig) -> list[str]:
    """What differs between the machine and code that began `run` and this process, and is known to change
    bits.
    """
    then, now = run.metadata, provenance.facts()
    watched = ("processor", "cores", "omp_num_threads", "gpus")
    facts = [
        *((name, _get(then, "versions", name), _get(now, "versions", name)) for name in provenance.PACKAGES),
        *(
            (name, _get(then, "hardware", name), _get(now, "hardware", name))
            for name in watched
            if name in then.get("hardware", {})  # an earlier version noted fewer
        ),
        ("commit of the code", then.get("git_commit"), now["git_commit"]),
    ]
    found = [f"{name}: {old}, now {new}" for name, old, new in facts if old != new]
    if "+changes" in str(then.get("git_commit")):
        found.append("the code had changes then that its commit does not have")
    if config.env_settings().retriever.kind in ("http", "web"):
        found.append("documents came from a server, which may answer differently now")
    if _get(now, "hardware", "gpus"):
        found.append("on a GPU, kernels may add in another order each time")
    return found


class _Untracked:
    """A tracker that keeps nothing."""

    def log_iteration(self, iteration: int, result: Mapping[str, Any]) -> None:
        pass

    def log_rollouts(self, record: IterationRecord) -> None:
        pass

    def commit(self, iteration: int) -> None:
        pass


def _starts(run: RunDirectory) -> dict[int, Path | None]:
    """What a rerun can start from: the iteration that it was saved after, and the checkpoint."""
    found: dict[int, Path | None] = {}
    if (first := run.metadata.get("restored_from")) is None:
        found[0] = None
    elif (Path(first) / NOTE).is_file():
        found[int(read_note(first)["iteration"])] = Path(first)
    for folder in sorted(run.checkpoints.glob("iteration_*")):
        if (folder / NOTE).is_file():
            found[int(read_note(folder)["iteration"])] = folder
    return found


def _no_start(run: RunDirectory, start: int | None, starts: Mapping[int, object]) -> str:
    kept = ", ".join(map(str, sorted(starts)))
    if start is not None and kept:
        return (
            f"--after {start}: {run.path} keeps no checkpoint of iteration {start} with a logged iteration "
            f"after it; it can be verified after {kept}."
        )
    return (
        f"{run.path} keeps nothing that one of its logged iterations can be run from again: train with "
        "--keep-checkpoints-num 2 (and put back the checkpoint of --restore, if the run began with one)."
    )


def _tensors(folder: Path) -> dict[str, bytes]:
    """The bytes of every tensor below `folder`, with its shape and type, by file and name."""
    import torch
    from safetensors import safe_open

    found = {}
    for file in sorted(folder.rglob(WEIGHTS)):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 (not a dict)
                tensor = opened.get_tensor(name).contiguous()
                kind = f"{tensor.dtype} {tuple(tensor.shape)}".encode()
                content = tensor.flatten().view(torch.uint8).numpy().tobytes()
                found[f"{file.relative_to(folder)}/{name}"] = kind + content
    return found


def _get(facts: Mapping[str, Any], group: str, name: str) -> Any:
    return facts.get(group, {}).get(name)
