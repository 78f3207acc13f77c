"""Plans a launch before it starts: the run that each experiment begins or resumes."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from algorithms.igpo.weights.restoring import check_policies
from envs.errors import InputError
from pipeline.doctor.checks import cheap_checks
from pipeline.doctor.findings import Subject, busy
from pipeline.experiment.experiment import Experiment
from pipeline.experiment.own_code import changed_parts, own_code
from pipeline.rollout_log.folder import open_folder
from pipeline.run_directory.checkpoints import Checkpoints, check_checkpoint, read_note
from pipeline.run_directory.directory import FINISHED, RunDirectory, new_run_id
from pipeline.terminal import Console
from pipeline.training.changed_settings import changed_settings, goes_further
from pipeline.training.ray_processes.cluster import asked_resources, missing_resources

if TYPE_CHECKING:
    from algorithms.igpo.config import IGPOConfig

UPLOADED = "/runtime_resources/working_dir_files/"
"""Below it Ray unpacks the `working_dir` of a submitted job, on each node, and starts the driver there."""


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
    questions: dict[str, Any] = field(default_factory=dict)
    """The questions that are left out or have no belief (`pipeline.doctor.questions`), likewise."""
    widened: dict[str, list[Any]] = field(default_factory=dict)
    """Limits of the resumed run that are wider now: setting to [before, now]."""
    is_done: bool = False
    """Whether `run` is finished, and stays so."""


def plan_run(experiment: Experiment, *, resume: bool, alone: bool) -> Plan:
    """The plan of one run: a new one, or with `resume` the newest unfinished one of the experiment.

    Where all are finished, the newest goes on if `stop` or `time_budget_s` is another now.

    Args:
        experiment: what to run.
        resume: continue a run. In a grid, a missing run begins, and a finished one is kept unless it goes on.
        alone: the launch makes this one run only.

    Raises:
        InputError: settings that cannot work, a configuration that differs from the resumed run's, or nothing
            to resume for a run that is `alone`.
    """
    config, resolved = experiment.algorithm_config(), experiment.resolved()
    if experiment.rollout_log:
        open_folder(experiment.rollout_log)
    if not resume:
        if experiment.restore:
            check_checkpoint(experiment.restore)
            check_policies(experiment.restore, config.policy_ids, config.adapters.by_policy)
            _check_stop(experiment)
        return Plan(experiment, config, resolved, None)
    found = RunDirectory.find(experiment.storage_path, experiment.name)
    mine = [run for run in found if run.metadata.get("label") == experiment.label]
    if not mine:
        if alone:
            where = experiment.storage_path / experiment.name
            raise InputError(f"--resume: there is no run in {where}; {unfinished_runs(experiment)}.")
        return Plan(experiment, config, resolved, None)
    unfinished = [run for run in mine if run.metadata["status"] != FINISHED]
    run = (unfinished or mine)[-1]
    is_done = not unfinished and not goes_further(run, resolved)
    if alone and is_done:
        raise InputError(_how_to_go_further(run))
    change = changed_settings(run, resolved)
    if change.refused:
        raise InputError(
            f"--resume: {experiment.source} is not what run {run.path} began with: {change.refused} "
            f"changed. Put it back, or {_a_new_run(run)}."
        )
    _check_own_code(run, config)
    first_weights(run)
    if not (unfinished or is_done) and Checkpoints(run.checkpoints).last is None:
        raise InputError(
            f"--resume: {run.path} is finished and kept no checkpoint to go on from; start a new run without "
            "--resume, and leave checkpoint_config.checkpoint_at_end on."
        )
    return Plan(experiment, config, resolved, run, widened=change.widened, is_done=is_done)


def _how_to_go_further(run: RunDirectory) -> str:
    """What to do where the newest run is finished."""
    done = run.metadata["iteration"]
    return (
        f"--resume: the newest run, {run.path}, is finished after iteration {done}: go on with a later stop, "
        f"for example --stop training_iteration={done + 10}, or {_a_new_run(run)}."
    )


def _a_new_run(run: RunDirectory) -> str:
    """How to begin another run: from the weights of `run`, if it has saved any."""
    if Checkpoints(run.checkpoints).last is None:
        return "start a new run without --resume"
    return f"start a new run from its weights with --restore {run.checkpoints / 'last'}"


def _check_stop(experiment: Experiment) -> None:
    """Raises InputError where a run that counts on from its `--restore` would stop before it begins."""
    assert experiment.restore is not None
    begun, stop = read_note(experiment.restore)["iteration"], experiment.stop.get("training_iteration")
    if stop is not None and stop <= begun:
        raise InputError(
            f"--restore {experiment.restore}: it is of iteration {begun}, from which this run counts on, "
            f"and stop.training_iteration is {stop:g}: raise it, for example --stop "
            f"training_iteration={begun + 10}"
        )


def unfinished_runs(experiment: Experiment) -> str:
    """What to do where an experiment has no run: names the newest unfinished runs of the same file."""
    runs = []
    for name in sorted(path.name for path in experiment.storage_path.glob("*") if path.is_dir()):
        for run in RunDirectory.find(experiment.storage_path, name):
            with suppress(InputError):  # a damaged run, which nobody asked for
                facts = run.metadata
                if facts.get("source") == str(experiment.source) and facts["status"] != FINISHED:
                    runs.append(run)
    if not runs:
        return "start one without --resume"
    newest = sorted(runs, key=lambda run: run.config_path.stat().st_mtime_ns)[-3:]
    named = ", ".join(str(run.path) for run in reversed(newest))
    return f"unfinished of this file: {named}; repeat the --set or --name of one, or leave --resume out"


def _check_own_code(run: RunDirectory, config: IGPOConfig) -> None:
    """Raises InputError where the code of a part of one's own is not what the run began with."""
    for path in changed_parts(run.metadata, own_code(config)):
        raise InputError(
            f"--resume: the file of `{path}`, or one that it imports, has changed since run {run.path} "
            f"began. Put it back, or {_a_new_run(run)}."
        )


def check_plan(plan: Plan, console: Console, *, joins_cluster: bool) -> None:
    """Runs the doctor's cheap checks. Failures abort the run; warnings are printed.

    Too little memory on this machine only warns where the run joins a cluster, whose other machines may have
    it.

    Raises:
        InputError: a check failed.
    """
    subject = Subject(plan.experiment, plan.config, joins_cluster=joins_cluster)
    findings = []
    with busy(subject, console):
        for finding in cheap_checks(subject):
            elsewhere = joins_cluster and finding.name == "memory"
            if finding.status == "fail" and not elsewhere:
                raise InputError(f"{plan.experiment.source}: {finding.message}")
            findings.append(finding)
    for finding in findings:
        if finding.status != "ok":
            console.print(
                Text.assemble(("warning: ", "yellow"), f"{finding.name}: {finding.message}"), soft_wrap=True
            )
    if warning := goes_with_the_job(plan.experiment):
        console.print(Text.assemble(("warning: ", "yellow"), warning), soft_wrap=True)
    assert subject.task is not None
    plan.identity = subject.task.identity
    plan.questions = {split: seen.note() for split, seen in subject.questions.items()}


def goes_with_the_job(experiment: Experiment) -> str | None:
    """A warning where the run would be written into the folder that Ray unpacked for a submitted job."""
    place = experiment.storage_path.absolute()
    if experiment.remote or UPLOADED not in place.as_posix():
        return None
    return (
        f"storage_path {experiment.storage_path} lies in the folder that Ray unpacked for this job and may "
        "remove afterwards: set storage_path to a folder that all nodes share, or to a bucket (s3://BUCKET/runs)"
    )


def check_resources(plan: Plan, console: Console, *, may_grow: bool) -> None:
    """Raises InputError if Ray has too few CPUs or GPUs; a warning where the cluster `may_grow`."""
    asked = asked_resources(plan.config)
    if asked["GPU"]:
        console.print(f"asks Ray for   {asked['GPU']:g} GPUs and {asked['CPU']:g} CPUs", soft_wrap=True)
    missing = missing_resources(plan.config)
    if missing and not may_grow:
        raise InputError(
            f"{plan.experiment.source}: {missing}: lower num_env_runners, num_learners or what each of them "
            "asks for."
        )
    if missing:
        console.print(
            Text.assemble(("warning: ", "yellow"), f"{missing}: waiting for the cluster to grow"),
            soft_wrap=True,
        )


def first_weights(run: RunDirectory) -> Path | None:
    """The checkpoint that an attempt at `run` starts from: its own last one, else its `--restore`, else None.

    Raises:
        InputError: the checkpoint is missing, incomplete or cannot be read by this version.
    """
    checkpoints = Checkpoints(run.checkpoints)
    checkpoints.check_last()
    if checkpoints.last is not None:
        return checkpoints.last
    restored_from = run.metadata.get("restored_from")
    if restored_from is None:
        return None
    check_checkpoint(restored_from)
    return Path(restored_from)


def grid_ids(plans: list[Plan]) -> dict[str, str]:
    """Maps each experiment with several trials to the id that they share; a resumed grid keeps its id."""
    names = Counter(plan.experiment.name for plan in plans)
    known = {plan.experiment.name: plan.run.metadata.get("grid_id") for plan in plans if plan.run is not None}
    return {name: known.get(name) or new_run_id() for name, trials in names.items() if trials > 1}
