"""What of a run can be run again, and from which checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from envs.errors import InputError
from pipeline.analysis import open_run
from pipeline.experiment.before_start import check_start
from pipeline.experiment.experiment import experiments_of
from pipeline.experiment.own_code import own_code
from pipeline.experiment.resolved import config_hash, settings_of_run
from pipeline.run_directory.checkpoints import NOTE, check_checkpoint, read_note
from pipeline.run_directory.directory import RunDirectory
from pipeline.training.plan import Plan

TRAIN = "train"


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
            f"the file of `{changed[0]}`, or one that it imports, has changed since run {run.path} began: "
            "put it back to verify the run."
        )
    check_start(experiment)
    plan = Plan(experiment, config, experiment.resolved(), None)
    begins = checkpoint is None or str(checkpoint) == run.metadata.get("restored_from")
    return Rerun(run, plan, checkpoint, start, iterations, begins, logged)


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
