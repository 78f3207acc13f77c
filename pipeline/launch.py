"""From experiments to runs: one after another, each in its own run directory, each taking the whole machine.

Ray Tune is not used here: two runs at once would share cores and memory, and a person who wants Tune's schedulers can give `IGPO`
to `tune.Tuner` as any other trainable.
"""

from __future__ import annotations

import shlex
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from envs.data.errors import InputError
from pipeline import provenance
from pipeline.analysis.results import REPORT, RESULTS
from pipeline.attempt import open_attempt
from pipeline.checkpoints import Checkpoints, read_note
from pipeline.cluster import lacking, start_ray
from pipeline.doctor import Subject, cheap_checks
from pipeline.experiment import Experiment, config_hash
from pipeline.progress import Progress, before_and_after
from pipeline.quiet import log_to_file, native_stderr_to, quieten_ray
from pipeline.rollout_log.folder import open_folder
from pipeline.run_directory import FINISHED, RunDirectory, new_run_id
from pipeline.training import HELDOUT_BEFORE, Ending, TrainingLoop

if TYPE_CHECKING:
    from algorithms.igpo.config import IGPOConfig

FAILED = 1
INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells know it."""


@dataclass(frozen=True)
class LaunchOptions:
    """How runs are started. `command` is what the user typed, for the message that says how to go on."""

    command: tuple[str, ...]
    resume: bool = False
    ray_address: str | None = None
    ray_num_cpus: int | None = None
    ray_num_gpus: int | None = None
    verbosity: int = 0

    @property
    def resume_command(self) -> str:
        """What was typed, with `--resume` in the place of a `--restore PATH`: the run has checkpoints of its own now."""
        words, kept = iter(self.command), []
        for word in words:
            if word == "--restore":
                next(words, None)
            elif word != "--resume" and not word.startswith("--restore="):
                kept.append(word)
        return shlex.join([*kept, "--resume"])


@dataclass
class _Plan:
    """One run, checked and ready to start."""

    experiment: Experiment
    config: IGPOConfig
    resolved: dict
    run: RunDirectory | None
    """The run to resume; None makes a new one."""
    identity: dict[str, Any] = field(default_factory=dict)
    """`SearchTask.identity`, once the plan is checked."""


def launch(experiments: list[Experiment], options: LaunchOptions, console: Console) -> int:
    """Makes every run and returns the exit code. All of them are checked before the first one starts."""
    quieten_ray(options.verbosity)
    plans = [_plan(experiment, options, alone=len(experiments) == 1) for experiment in experiments]
    unfinished = [plan for plan in plans if plan.run is None or plan.run.diary["status"] != FINISHED]
    for plan in unfinished:
        _check(plan, console)
    if unfinished:
        with console.status("starting Ray ..."):
            start_ray(options)
    for plan in unfinished:
        _check_resources(plan, options, console)
    grids = _grid_ids(plans)
    for number, plan in enumerate(plans, start=1):
        label = plan.experiment.label
        if len(plans) > 1:
            console.rule(f"run {number} of {len(plans)}: {plan.experiment.name} {label}".rstrip(), align="left")
        if plan.run is not None and plan.run.diary["status"] == FINISHED:
            console.print(f"already finished: {plan.run.path}", soft_wrap=True)
            continue
        code = _start(plan, grids.get(plan.experiment.name), options, console)
        if code:
            return code
    return 0


def _plan(experiment: Experiment, options: LaunchOptions, *, alone: bool) -> _Plan:
    config, resolved = experiment.algorithm_config(), experiment.resolved()
    if experiment.rollout_log:
        open_folder(experiment.rollout_log)
    if not options.resume:
        if experiment.restore:
            read_note(experiment.restore)
        return _Plan(experiment, config, resolved, None)
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
        _first_weights(run)
    return _Plan(experiment, config, resolved, run)


def _check(plan: _Plan, console: Console) -> None:
    """The doctor's cheap checks: what is broken refuses the run, what is unpromising is said."""
    subject = Subject(plan.experiment, plan.config)
    for finding in cheap_checks(subject):
        if finding.status == "fail":
            raise InputError(f"{plan.experiment.source}: {finding.message}")
        if finding.status == "warn":
            console.print(Text.assemble(("warning: ", "yellow"), f"{finding.name}: {finding.message}"), soft_wrap=True)
    assert subject.task is not None
    plan.identity = subject.task.identity


def _check_resources(plan: _Plan, options: LaunchOptions, console: Console) -> None:
    """A cluster that was joined may grow; this machine will not."""
    lack = lacking(plan.config)
    if lack and options.ray_address is None:
        raise InputError(f"{plan.experiment.source}: {lack}: lower num_env_runners, num_learners or what each of them asks for.")
    if lack:
        console.print(Text.assemble(("warning: ", "yellow"), f"{lack}: waiting for the cluster to grow"), soft_wrap=True)


def _check_unchanged(run: RunDirectory, resolved: dict, experiment: Experiment) -> None:
    """A run goes on with the configuration that it began with; only when it stops may change."""
    if run.diary.get("config_hash") == config_hash(resolved):
        return
    (old,), (new,) = run.resolved.values(), resolved.values()
    before, now = _flat(old["config"]), _flat(new["config"])
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    listed = ", ".join(f"`{key}` ({before.get(key)!r} -> {now.get(key)!r})" for key in changed[:3])
    raise InputError(
        f"--resume: {experiment.source} is not what run {run.path} began with: {listed} changed. Put it back, "
        f"or start a new run with --restore {run.checkpoints / 'last'}."
    )


def _grid_ids(plans: list[_Plan]) -> dict[str, str]:
    """Experiment to what its trials have in common, for those with several; a grid that is resumed keeps its own."""
    names = Counter(plan.experiment.name for plan in plans)
    known = {plan.experiment.name: plan.run.diary.get("grid_id") for plan in plans if plan.run is not None}
    return {name: known.get(name) or new_run_id() for name, trials in names.items() if trials > 1}


def _start(plan: _Plan, grid_id: str | None, options: LaunchOptions, console: Console) -> int:
    """One run from opening its directory to the last word about it."""
    experiment = plan.experiment
    facts = {
        "label": experiment.label, "source": str(experiment.source),
        "restored_from": str(experiment.restore.resolve()) if experiment.restore else None,
        "config_hash": config_hash(plan.resolved), "versions": provenance.versions(), "hardware": provenance.hardware(),
        "git_commit": provenance.git_commit(), "command": list(options.command), "grid_id": grid_id,
    }  # fmt: skip
    run = plan.run or RunDirectory.create(
        experiment.storage_path, experiment.name, plan.resolved, facts, rollout_log=experiment.rollout_log
    )
    with run.lock():
        checkpoint = _first_weights(run)
        console.print(f"run directory  {_short(run.path)}", soft_wrap=True, highlight=False)
        try:
            with log_to_file(run.logs / "driver.log"):
                native = run.logs / "native.log"
                with nullcontext() if options.verbosity else native_stderr_to(native):
                    ending = _train(plan, run, checkpoint, _resumed_from(plan, run, checkpoint), options, console)
        except InputError:
            raise
        except KeyboardInterrupt:
            _say(console, ("stopped at once", ""), ("go on", options.resume_command))
            return INTERRUPTED
        except Exception as error:  # said in one line here; whole in the run's log, and on the terminal under -v
            if options.verbosity:
                console.print_exception()
            console.print(f"the run failed: {type(error).__name__}: {error}", style="red", markup=False, soft_wrap=True)
            _say(console, ("traceback", _short(run.logs / "driver.log")), ("go on", options.resume_command))
            return FAILED
    _last_words(ending, run, options, console)
    return INTERRUPTED if ending.how == "interrupted" else 0


def _train(
    plan: _Plan, run: RunDirectory, checkpoint: Path | None, resumed_from: int | None, options: LaunchOptions, console: Console
) -> Ending:
    """Opens log, tracker and algorithm, trains, and closes them whatever happens."""
    experiment = plan.experiment
    with open_attempt(run, plan.resolved, plan.config, resumed_from, plan.identity, experiment.mlflow) as attempt:
        console.print(f"MLflow store   {attempt.tracker.tracking_uri}", soft_wrap=True, highlight=False)
        with Progress(console, experiment.stop.get("training_iteration")) as progress:
            progress.busy("starting the policy and the rollout engine ...")
            algorithm = build_algorithm(plan.config, run, checkpoint)
            try:
                loop = TrainingLoop(
                    algorithm=algorithm,
                    run=run,
                    log=attempt.log,
                    tracker=attempt.tracker,
                    progress=progress,
                    stop=experiment.stop,
                    checkpoint=experiment.checkpoint,
                    evaluate=bool(plan.config.evaluation_interval),
                    time_budget_s=experiment.time_budget_s,
                )
                ending = loop.run_to_end()
                attempt.how = ending.how
                return ending
            finally:
                algorithm.stop()


def _first_weights(run: RunDirectory) -> Path | None:
    """The checkpoint that an attempt at `run` starts from: its own last one, else the one it was restored from, if any."""
    restored_from = run.diary.get("restored_from")
    checkpoint = Checkpoints(run.checkpoints).last or (Path(restored_from) if restored_from else None)
    if checkpoint is not None:
        read_note(checkpoint)
    return checkpoint


def _resumed_from(plan: _Plan, run: RunDirectory, checkpoint: Path | None) -> int | None:
    """The iteration that this attempt continues after: None for a fresh run, -1 where a dead one left nothing to keep."""
    if plan.run is None:
        return None
    if Checkpoints(run.checkpoints).last is None and not (run.path / HELDOUT_BEFORE).is_file():
        return -1
    return int(read_note(checkpoint)["iteration"]) if checkpoint else 0


def build_algorithm(config: IGPOConfig, run: RunDirectory, checkpoint: Path | None) -> Any:
    """The algorithm, restored from `checkpoint` if there is one. Raises `InputError` where that does not fit the experiment."""
    from ray.tune.trainable import trainable

    trainable.DEFAULT_STORAGE_PATH = str(run.logs / "rllib")  # else RLlib makes folders in ~/ray_results, and has no setting
    algorithm = config.build_algo()
    if checkpoint is not None:
        algorithm.restore_from_path(str(checkpoint.absolute().resolve()))
    return algorithm


def _last_words(ending: Ending, run: RunDirectory, options: LaunchOptions, console: Console) -> None:
    """What came out of the run, and the exact commands that go on from here."""
    console.print(f"{ending.how} after iteration {ending.iteration}: {ending.reason}", highlight=False)
    if ending.before and ending.after:
        console.print(before_and_after(ending.before, ending.after))
    checkpoints = Checkpoints(run.checkpoints)
    best = checkpoints.folder / ("best" if checkpoints.best else "last")
    lines = [("run directory", _short(run.path)), ("rollouts", f'igpo sql {_short(run.path)} "SELECT * FROM turns LIMIT 5"')]
    report = run.path / RESULTS / REPORT
    if report.is_file():
        lines.append(("report", _short(report)))
    lines.append(("metrics", run.diary["mlflow_ui"]))
    if checkpoints.last:
        lines.append(("evaluate", f"rllib evaluate {_short(best)}"))
        lines.append(("ask", f"igpo ask {_short(best)} {shlex.quote(ending.question or '...')}"))
    if ending.how == "interrupted":
        lines.append(("go on", options.resume_command))
    _say(console, *lines)


def _say(console: Console, *lines: tuple[str, str]) -> None:
    for label, text in lines:
        console.print(f"{label:14} {text}", soft_wrap=True, highlight=False, markup=False)


def _short(path: Path) -> str:
    """The path as a person in this directory would type it."""
    cwd = Path.cwd()
    return str(path.relative_to(cwd)) if path.is_relative_to(cwd) else str(path)


def _flat(values: dict, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
