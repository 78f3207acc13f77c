"""What a launch settles before anything starts: which run each experiment begins or goes on with, and whether
it can.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from envs.errors import InputError
from pipeline.doctor.checks import Subject, cheap_checks
from pipeline.experiment.experiment import Experiment, config_hash
from pipeline.rollout_log.folder import open_folder
from pipeline.run_directory.checkpoints import Checkpoints, read_note
from pipeline.run_directory.directory import FINISHED, RunDirectory, new_run_id
from pipeline.training.ray_cluster import lacking

if TYPE_CHECKING:
    from algorithms.igpo.config import IGPOConfig


@dataclass
class Plan:
    """One run, checked and ready to start."""

    experiment: Experiment
    config: IGPOConfig
    resolved: dict
    run: RunDirectory | None
    """The run to resume; None makes a new one."""
    identity: dict[str, Any] = field(default_factory=dict)
    """`SearchTask.identity`, once the plan is checked."""


def plan_run(experiment: Experiment, *, resume: bool, alone: bool) -> Plan:
    """The plan of one run: a new one, or with `resume` the newest unfinished one of the experiment.

    Raises `InputError` for settings that cannot work, a configuration that is not the resumed run's, and,
    where the run is `alone`, nothing to resume; in a grid, a run that is missing begins and one that is
    finished is kept.
    """
    config, resolved = experiment.algorithm_config(), experiment.resolved()
    if experiment.rollout_log:
        open_folder(experiment.rollout_log)
    if not resume:
        if experiment.restore:
            read_note(experiment.restore)
        return Plan(experiment, config, resolved, None)
    found = RunDirectory.find(experiment.storage_path, experiment.name)
    mine = [run for run in found if run.diary.get("label") == experiment.label]
    unfinished = [run for run in mine if run.diary["status"] != FINISHED]
    where = experiment.storage_path / experiment.name
    if alone and not mine:
        raise InputError(f"--resume: there is no run in {where}; start one without --resume.")
    if alone and not unfinished:
        raise InputError(
            f"--resume: the newest run, {mine[-1].path}, is finished; start a new one without --resume, "
            f"or from its weights with --restore {mine[-1].checkpoints / 'last'}."
        )
    run = unfinished[-1] if unfinished else mine[-1] if mine else None
    if run is not None:
        _check_unchanged(run, resolved, experiment)
        first_weights(run)
    return Plan(experiment, config, resolved, run)


def check_plan(plan: Plan, console: Console, *, joins_cluster: bool) -> None:
    """The doctor's cheap checks: what is broken refuses the run, what is unpromising is said.

    Too little memory on this machine does not refuse a run that joins a cluster, whose other machines may
    have it.
    """
    subject = Subject(plan.experiment, plan.config)
    for finding in cheap_checks(subject):
        elsewhere = joins_cluster and finding.name == "memory"
        if finding.status == "fail" and not elsewhere:
            raise InputError(f"{plan.experiment.source}: {finding.message}")
        if finding.status != "ok":
            console.print(
                Text.assemble(("warning: ", "yellow"), f"{finding.name}: {finding.message}"), soft_wrap=True
            )
    assert subject.task is not None
    plan.identity = subject.task.identity


def check_resources(plan: Plan, console: Console, *, may_grow: bool) -> None:
    """A cluster that was joined may grow; this machine will not."""
    lack = lacking(plan.config)
    if lack and not may_grow:
        raise InputError(
            f"{plan.experiment.source}: {lack}: lower num_env_runners, num_learners or what each of them "
            "asks for."
        )
    if lack:
        console.print(
            Text.assemble(("warning: ", "yellow"), f"{lack}: waiting for the cluster to grow"), soft_wrap=True
        )


def first_weights(run: RunDirectory) -> Path | None:
    """The checkpoint that an attempt at `run` starts from: its own last one, else the one it was restored
    from, if any.
    """
    restored_from = run.diary.get("restored_from")
    checkpoint = Checkpoints(run.checkpoints).last or (Path(restored_from) if restored_from else None)
    if checkpoint is not None:
        read_note(checkpoint)
    return checkpoint


def grid_ids(plans: list[Plan]) -> dict[str, str]:
    """Experiment to what its trials have in common, for those with several; a grid that is resumed keeps its
    own.
    """
    names = Counter(plan.experiment.name for plan in plans)
    known = {plan.experiment.name: plan.run.diary.get("grid_id") for plan in plans if plan.run is not None}
    return {name: known.get(name) or new_run_id() for name, trials in names.items() if trials > 1}


def _check_unchanged(run: RunDirectory, resolved: dict, experiment: Experiment) -> None:
    """A run goes on with the configuration that it began with; only when it stops may change."""
    if run.diary.get("config_hash") == config_hash(resolved):
        return
    (old,), (new,) = run.resolved.values(), resolved.values()
    before, now = _flat(old["config"]), _flat(new["config"])
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    if not changed:
        return
    listed = ", ".join(f"`{key}` ({before.get(key)!r} -> {now.get(key)!r})" for key in changed[:3])
    raise InputError(
        f"--resume: {experiment.source} is not what run {run.path} began with: {listed} changed. Put it "
        "back, "
        f"or start a new run with --restore {run.checkpoints / 'last'}."
    )


def _flat(values: dict, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
