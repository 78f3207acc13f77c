"""From experiments to runs: one after another, each in its own run directory, each with the whole machine.

Ray Tune is not used here, because two runs at once would share cores and memory. For Tune's schedulers, give
`IGPO` to `tune.Tuner` with the callback of `pipeline.training.callbacks.log_to`.
"""

from __future__ import annotations

import shlex
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envs.errors import InputError
from envs.loading import keep_loaded, without_collecting
from pipeline.analysis.results import REPORT, RESULTS
from pipeline.exit_codes import FAILED, INTERRUPTED
from pipeline.experiment.experiment import Experiment
from pipeline.experiment.own_code import own_code
from pipeline.experiment.resolved import config_hash
from pipeline.logging import configure_ray_logging, log_to_file, native_stderr_to
from pipeline.ray_address import knock
from pipeline.run_directory import provenance
from pipeline.run_directory.checkpoints import Checkpoints, read_note
from pipeline.run_directory.directory import FINISHED, HELDOUT_BEFORE, RunDirectory
from pipeline.run_directory.remote import TakenOverError
from pipeline.terminal import Console
from pipeline.training.attempt import open_attempt
from pipeline.training.build import build_algorithm, is_of_another
from pipeline.training.changed_settings import take_over
from pipeline.training.download import download_model
from pipeline.training.failures import cause_of, in_words
from pipeline.training.loop import Ending, TrainingLoop
from pipeline.training.plan import Plan, check_plan, check_resources, first_weights, grid_ids, plan_run
from pipeline.training.progress import Progress, before_and_after, nothing_learned
from pipeline.training.ray_processes.cluster import RayOptions, starting_ray
from pipeline.training.ray_processes.watch import RayLostError, lost_ray, watched_ray
from pipeline.training.remote_runs import look_at_remote, remote_places, upload_after_saving, upload_at_end

QUESTION = "SELECT turn_index, avg(gain), avg(advantage) FROM turns GROUP BY 1 ORDER BY 1"
"""A question to the log, as an example: which turns earned the credit?"""


@dataclass(frozen=True)
class LaunchOptions:
    """How runs are started."""

    command: tuple[str, ...]
    """The command line as typed, for the message that says how to resume."""
    resume: bool = False
    ray: RayOptions = RayOptions()
    verbosity: int = 0

    @property
    def resume_command(self) -> str:
        """The command line with `--resume` for `--restore`: the run has checkpoints of its own now."""
        words, kept = iter(self.command), []
        for word in words:
            if word == "--restore":
                next(words, None)
            elif word != "--resume" and not word.startswith("--restore="):
                kept.append(word)
        return shlex.join([*kept, "--resume"])


def launch(experiments: list[Experiment], options: LaunchOptions, console: Console) -> int:
    """Makes every run and returns the exit code. All runs are checked before the first one starts."""
    configure_ray_logging(options.verbosity)
    try:
        with without_collecting(), watched_ray(words="error: {}; give the same command again"):
            plans = _checked_plans(experiments, options, console)
    except RayLostError as error:
        console.print(f"error: {error}; give the same command again", style="red", soft_wrap=True)
        return FAILED
    keep_loaded()
    grids = grid_ids(plans)
    for number, plan in enumerate(plans, start=1):
        label = plan.experiment.label
        if len(plans) > 1:
            console.rule(
                f"run {number} of {len(plans)}: {plan.experiment.name} {label}".rstrip(), align="left"
            )
        if plan.run is not None and plan.is_done:
            console.print(f"already finished: {plan.run.path}", soft_wrap=True)
            continue
        code = _start(plan, grids.get(plan.experiment.name), options, console)
        if code:
            return code
    return 0


def _checked_plans(experiments: list[Experiment], options: LaunchOptions, console: Console) -> list[Plan]:
    """The plan of every run. Where one is unfinished, Ray has started, and every check of it has passed."""
    for url, names in remote_places(experiments).items():
        with console.status(f"looking at {url} ..."):
            look_at_remote(url, names, fetch=options.resume)
    plans = [
        plan_run(experiment, resume=options.resume, alone=len(experiments) == 1) for experiment in experiments
    ]
    unfinished = [plan for plan in plans if not plan.is_done]
    joins_cluster = options.ray.cluster is not None
    if unfinished and options.ray.cluster:
        knock(options.ray.cluster)  # before checks that may build an index
    if unfinished:
        with starting_ray(options.ray, options.verbosity) as ray_start:
            for plan in unfinished:
                check_plan(plan, console, joins_cluster=joins_cluster)
            with console.status("starting Ray ..."):
                ray_start.wait()
    for plan in unfinished:
        if not joins_cluster:  # there the nodes that need the model download it
            download_model(plan.config.model_path, console)
        check_resources(plan, console, may_grow=joins_cluster)
    return plans


def _start(plan: Plan, grid_id: str | None, options: LaunchOptions, console: Console) -> int:
    """Makes one run, from its directory to the summary; returns the exit code."""
    experiment = plan.experiment
    facts = {
        "label": experiment.label,
        "preset": plan.config.preset,
        "source": str(experiment.source),
        "restored_from": str(experiment.restore.resolve()) if experiment.restore else None,
        "config_hash": config_hash(plan.resolved[experiment.name]["config"]),
        **provenance.facts(),
        "own_code": own_code(plan.config),
        "command": list(options.command),
        "grid_id": grid_id,
    }
    run = plan.run or RunDirectory.create(
        experiment.storage_path, experiment.name, plan.resolved, facts, rollout_log=experiment.rollout_log
    )
    with _held(run, is_new=plan.run is None) as checkpoint:
        take_over(run, plan.resolved, plan.widened)
        run.note(questions=plan.questions)
        console.print(f"run directory  {_relative(run.path)}", soft_wrap=True)
        begun = run.metadata["iteration"]
        try:
            with log_to_file(run.logs / "driver.log"):
                native = run.logs / "native.log"
                with nullcontext() if options.verbosity else native_stderr_to(native):
                    ending = _train(plan, run, checkpoint, _resumed_from(plan, run, checkpoint), console)
        except KeyboardInterrupt:
            _print_lines(console, ("stopped at once", ""), ("go on", options.resume_command))
            return INTERRUPTED
        except TakenOverError as error:
            raise InputError(str(error)) from error
        except Exception as error:  # its traceback is in the run's log, and on the terminal under -v
            cause = cause_of(error)
            if isinstance(cause, InputError) and run.metadata["iteration"] == begun:
                raise cause from error  # this attempt has done nothing: it is told as what the checks find
            if options.verbosity:
                console.print_exception()
            console.print(f"the run failed: {in_words(error, run.path)}", style="red", soft_wrap=True)
            _print_lines(
                console, ("traceback", _relative(run.logs / "driver.log")), ("go on", options.resume_command)
            )
            upload_at_end(experiment.remote, run, console)
            return FAILED
        is_uploaded = upload_at_end(experiment.remote, run, console)
    _print_summary(ending, run, plan.config.model_path, options, console)
    if not is_uploaded:
        return FAILED
    return INTERRUPTED if ending.how == "interrupted" else 0


@contextmanager
def _held(run: RunDirectory, *, is_new: bool) -> Generator[Path | None]:
    """Holds the run's directory and gives the weights to start from; a new run that gets no further leaves
    none.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(run.lock())
            checkpoint = first_weights(run)
        except BaseException:
            if is_new:
                run.discard_if_unused()
            raise
        yield checkpoint


def _train(
    plan: Plan, run: RunDirectory, checkpoint: Path | None, resumed_from: int | None, console: Console
) -> Ending:
    """Opens log, tracker and algorithm, trains, and closes them however it ends."""
    experiment = plan.experiment
    if resumed_from is not None and resumed_from > 0:
        stop = ", ".join(f"{name} {value:g}" for name, value in experiment.stop.items())
        console.print(f"goes on after  iteration {resumed_from}, until {stop or 'Ctrl-C'}", soft_wrap=True)
    with open_attempt(
        run, plan.resolved, plan.config, resumed_from, plan.identity, experiment.mlflow
    ) as attempt:
        console.print(f"MLflow store   {attempt.tracker.tracking_uri}", soft_wrap=True)
        with Progress(console, experiment.stop.get("training_iteration")) as progress:
            progress.busy("starting the policy and the rollout engine ...")
            algorithm: Any = None
            try:
                with watched_ray():
                    algorithm = build_algorithm(
                        plan.config, run.logs, checkpoint, begins_run=is_of_another(run, checkpoint)
                    )
                    algorithm.callbacks.append(attempt.logger)
                    loop = TrainingLoop(
                        algorithm=algorithm,
                        run=run,
                        run_logger=attempt.logger,
                        progress=progress,
                        stop=experiment.stop,
                        checkpoint=experiment.checkpoint,
                        evaluate=bool(plan.config.evaluation_interval),
                        time_budget_s=experiment.time_budget_s,
                        after_saving=lambda: upload_after_saving(experiment.remote, run, progress),
                    )
                    ending = loop.run_to_end()
                    attempt.how = ending.how
                return ending
            finally:
                if algorithm is not None and lost_ray() is None:
                    algorithm.stop()


def _resumed_from(plan: Plan, run: RunDirectory, checkpoint: Path | None) -> int | None:
    """Returns the iteration after which this attempt continues: None for a fresh run, -1 where a dead one
    left nothing.
    """
    if plan.run is None:
        return None
    if Checkpoints(run.checkpoints).last is None and not (run.path / HELDOUT_BEFORE).is_file():
        return -1
    return int(read_note(checkpoint)["iteration"]) if checkpoint else 0


def _print_summary(
    ending: Ending, run: RunDirectory, model: str | None, options: LaunchOptions, console: Console
) -> None:
    """Prints the run's outcome and the exact commands that continue from it."""
    console.print(f"{ending.how} after iteration {ending.iteration}: {ending.reason}")
    if ending.before and ending.after:
        console.print(before_and_after(ending.before, ending.after))
        if ending.how == FINISHED and (advice := nothing_learned(ending.before, ending.after, model)):
            console.print(advice, style="yellow", soft_wrap=True)
    checkpoints = Checkpoints(run.checkpoints)
    best = shlex.quote(_relative(checkpoints.folder / ("best" if checkpoints.best else "last")))
    folder = shlex.quote(_relative(run.path))
    lines = [
        ("run directory", _relative(run.path)),
        ("read one", f"igpo show {folder} --best"),
        ("rollouts", f'igpo sql {folder} "{QUESTION}"'),
    ]
    report = run.path / RESULTS / REPORT
    if report.is_file():
        lines.append(("report", _relative(report)))
    lines.append(("metrics", run.metadata["mlflow_ui"]))
    if checkpoints.last:
        trust = " --trust" if run.metadata.get("own_code") else ""  # it is asked for code of one's own
        lines.append(("evaluate", f"rllib evaluate {best}{trust}"))
        lines.append(("ask", f"igpo ask {best}{trust} {shlex.quote(ending.question or '...')}"))
    if ending.how == "interrupted":
        lines.append(("go on", options.resume_command))
    _print_lines(console, *lines)


def _print_lines(console: Console, *lines: tuple[str, str]) -> None:
    for label, text in lines:
        console.print(f"{label:14} {text}", soft_wrap=True)


def _relative(path: Path) -> str:
    """Returns the path relative to the working directory, where it is below it."""
    cwd = Path.cwd()
    return str(path.relative_to(cwd)) if path.is_relative_to(cwd) else str(path)
