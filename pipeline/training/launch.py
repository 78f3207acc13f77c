"""From experiments to runs: one after another, each in its own run directory, each taking the whole machine.

Ray Tune is not used here: two runs at once would share cores and memory, and a person who wants Tune's
schedulers can give `IGPO` to `tune.Tuner` as any other trainable.
"""

from __future__ import annotations

import shlex
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from envs.errors import InputError
from pipeline.analysis.results import REPORT, RESULTS
from pipeline.experiment.experiment import Experiment, config_hash
from pipeline.logging import log_to_file, native_stderr_to, quieten_ray
from pipeline.run_directory import provenance
from pipeline.run_directory.checkpoints import Checkpoints, read_note
from pipeline.run_directory.directory import FINISHED, RunDirectory
from pipeline.training.attempt import open_attempt
from pipeline.training.loop import HELDOUT_BEFORE, Ending, TrainingLoop
from pipeline.training.plan import Plan, check_plan, check_resources, first_weights, grid_ids, plan_run
from pipeline.training.progress import Progress, before_and_after
from pipeline.training.ray_cluster import start_ray

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
        """What was typed, with `--resume` in the place of a `--restore PATH`: the run has checkpoints of its
        own now.
        """
        words, kept = iter(self.command), []
        for word in words:
            if word == "--restore":
                next(words, None)
            elif word != "--resume" and not word.startswith("--restore="):
                kept.append(word)
        return shlex.join([*kept, "--resume"])


def launch(experiments: list[Experiment], options: LaunchOptions, console: Console) -> int:
    """Makes every run and returns the exit code. All of them are checked before the first one starts."""
    quieten_ray(options.verbosity)
    plans = [
        plan_run(experiment, resume=options.resume, alone=len(experiments) == 1) for experiment in experiments
    ]
    unfinished = [plan for plan in plans if plan.run is None or plan.run.diary["status"] != FINISHED]
    for plan in unfinished:
        check_plan(plan, console, joins_cluster=options.ray_address is not None)
    if unfinished:
        with console.status("starting Ray ..."):
            start_ray(options)
    for plan in unfinished:
        check_resources(plan, console, may_grow=options.ray_address is not None)
    grids = grid_ids(plans)
    for number, plan in enumerate(plans, start=1):
        label = plan.experiment.label
        if len(plans) > 1:
            console.rule(
                f"run {number} of {len(plans)}: {plan.experiment.name} {label}".rstrip(), align="left"
            )
        if plan.run is not None and plan.run.diary["status"] == FINISHED:
            console.print(f"already finished: {plan.run.path}", soft_wrap=True)
            continue
        code = _start(plan, grids.get(plan.experiment.name), options, console)
        if code:
            return code
    return 0


def _start(plan: Plan, grid_id: str | None, options: LaunchOptions, console: Console) -> int:
    """One run from opening its directory to the last word about it."""
    experiment = plan.experiment
    facts = {
        "label": experiment.label,
        "source": str(experiment.source),
        "restored_from": str(experiment.restore.resolve()) if experiment.restore else None,
        "config_hash": config_hash(plan.resolved),
        "versions": provenance.versions(),
        "hardware": provenance.hardware(),
        "git_commit": provenance.git_commit(),
        "command": list(options.command),
        "grid_id": grid_id,
    }
    run = plan.run or RunDirectory.create(
        experiment.storage_path, experiment.name, plan.resolved, facts, rollout_log=experiment.rollout_log
    )
    with run.lock():
        checkpoint = first_weights(run)
        console.print(f"run directory  {_short(run.path)}", soft_wrap=True, highlight=False)
        try:
            with log_to_file(run.logs / "driver.log"):
                native = run.logs / "native.log"
                with nullcontext() if options.verbosity else native_stderr_to(native):
                    ending = _train(
                        plan, run, checkpoint, _resumed_from(plan, run, checkpoint), options, console
                    )
        except InputError:
            raise
        except KeyboardInterrupt:
            _say(console, ("stopped at once", ""), ("go on", options.resume_command))
            return INTERRUPTED
        except (
            Exception
        ) as error:  # said in one line here; whole in the run's log, and on the terminal under -v
            if options.verbosity:
                console.print_exception()
            console.print(
                f"the run failed: {type(error).__name__}: {error}", style="red", markup=False, soft_wrap=True
            )
            _say(console, ("traceback", _short(run.logs / "driver.log")), ("go on", options.resume_command))
            return FAILED
    _last_words(ending, run, options, console)
    return INTERRUPTED if ending.how == "interrupted" else 0


def _train(
    plan: Plan,
    run: RunDirectory,
    checkpoint: Path | None,
    resumed_from: int | None,
    options: LaunchOptions,
    console: Console,
) -> Ending:
    """Opens log, tracker and algorithm, trains, and closes them whatever happens."""
    experiment = plan.experiment
    with open_attempt(
        run, plan.resolved, plan.config, resumed_from, plan.identity, experiment.mlflow
    ) as attempt:
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


def _resumed_from(plan: Plan, run: RunDirectory, checkpoint: Path | None) -> int | None:
    """The iteration that this attempt continues after: None for a fresh run, -1 where a dead one left nothing
    to keep.
    """
    if plan.run is None:
        return None
    if Checkpoints(run.checkpoints).last is None and not (run.path / HELDOUT_BEFORE).is_file():
        return -1
    return int(read_note(checkpoint)["iteration"]) if checkpoint else 0


def build_algorithm(config: IGPOConfig, run: RunDirectory, checkpoint: Path | None) -> Any:
    """The algorithm, restored from `checkpoint` if there is one.

    Raises `InputError` where that does not fit the experiment.
    """
    from ray.tune.trainable import trainable

    trainable.DEFAULT_STORAGE_PATH = str(
        run.logs / "rllib"
    )  # else RLlib makes folders in ~/ray_results, and has no setting
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
    lines = [
        ("run directory", _short(run.path)),
        ("rollouts", f'igpo sql {_short(run.path)} "SELECT * FROM turns LIMIT 5"'),
    ]
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
