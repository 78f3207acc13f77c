"""`log_to`: the rollout log and MLflow for an `IGPO` that Python or Tune drives.

    config.callbacks(log_to("runs", name="mine"))

The callback makes `runs/mine/RUN_ID/`, as `rllib train file` does, without checkpoints: those are the
caller's.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.utils.annotations import override

from algorithms.igpo.callbacks import IGPOCallback
from envs.errors import InputError
from pipeline.experiment.experiment import ALGORITHM, ENVIRONMENT
from pipeline.experiment.resolved import config_hash, resolved_settings
from pipeline.rollout_log.folder import absolute
from pipeline.run_directory import provenance
from pipeline.run_directory.directory import METADATA, RunDirectory
from pipeline.tracking import TrackingSettings
from pipeline.training.attempt import Attempt, open_attempt
from pipeline.training.changed_settings import changed_settings, take_over

logger = logging.getLogger(__name__)


def log_to(
    runs_dir: str | Path = "runs",
    *,
    name: str = "igpo",
    run_id: str | None = None,
    rollout_log: str | None = None,
    mlflow: TrackingSettings | None = None,
) -> Callable[[], RunLogCallback]:
    """Returns a callback class for `config.callbacks(...)` that logs rollouts and metrics.

    Args:
        runs_dir: folder of all runs; relative to the working directory of this call, also under Tune.
        name: name of the experiment, for `igpo sql NAME` and as MLflow experiment.
        run_id: name of the run's folder; an existing one is continued as its next attempt. None: the name of
            the algorithm's `logdir`, which a trial keeps when Tune restarts it.
        rollout_log: folder or URL of all runs' rollout logs; None: in the run's folder.
        mlflow: what MLflow gets beside metrics; None: the defaults.
    """
    return partial(
        RunLogCallback,
        runs_dir=Path(runs_dir).expanduser().absolute(),
        name=name,
        run_id=run_id,
        rollout_log=rollout_log and absolute(rollout_log),
        mlflow=mlflow or TrackingSettings(),
    )


class RunLogCallback(IGPOCallback):
    """Opens an attempt at a run when there is something to log, and logs through its `RunLogger`.

    An algorithm that is restored to an earlier iteration begins the next attempt, which supersedes the rows
    after that iteration; so does one that goes on after an exception. Rows are on disk when `train()` or
    `evaluate()` returns, hence before any checkpoint that contains them. `stop()` closes the run.

    Args: see `log_to`.
    """

    def __init__(
        self,
        runs_dir: Path,
        name: str,
        run_id: str | None,
        rollout_log: str | None,
        mlflow: TrackingSettings,
    ):
        self._runs_dir = runs_dir
        self._name = name
        self._run_id = run_id
        self._rollout_log = rollout_log
        self._mlflow = mlflow
        self._resolved: dict[str, Any] = {}
        self._run: RunDirectory | None = None
        self._attempt: Attempt | None = None
        self._open = ExitStack()
        self._is_new = False
        """This callback made the run's directory, and has not closed the run yet."""
        self._iteration = 0
        """Iterations that the algorithm had done when something was logged last."""

    @property
    def run(self) -> RunDirectory:
        """The run's directory."""
        assert self._run is not None, "the algorithm is not built yet"
        return self._run

    @override(RLlibCallback)
    def on_algorithm_init(self, *, algorithm, metrics_logger=None, **kwargs) -> None:
        """Makes the run's directory, or opens the one to continue.

        A trial that Tune starts again with other settings, as `PopulationBasedTraining` does, is another run:
        its folder is the trial's name and a number from 2.

        Raises:
            InputError: the directory cannot be made, or the one of `run_id` holds a run with another
                configuration.
        """
        keys = {
            "run": ALGORITHM,
            "env": ENVIRONMENT,
            "stop": {},
            "config": resolved_settings(algorithm.config),
            "mlflow": self._mlflow.model_dump(exclude_none=True),
            "storage_path": str(self._runs_dir),
        }
        self._resolved = {self._name: keys}
        run_id = self._run_id or Path(algorithm.logdir).name
        folder = self._runs_dir / self._name
        if self._run_id is None:
            run_id = _newest(folder, run_id)
        if (folder / run_id / METADATA).is_file():
            run = RunDirectory(folder / run_id)
            change = changed_settings(run, self._resolved)
            if not change.refused:
                self._run = run
                with run.lock():
                    take_over(run, self._resolved, change.widened)
                return
            if self._run_id is not None:
                raise InputError(
                    f"{run.path} is a run with other settings: {change.refused} changed; give log_to another "
                    "run_id."
                )
            run_id = _following(run_id, Path(algorithm.logdir).name)
        facts = {"config_hash": config_hash(keys["config"]), **provenance.facts()}
        self._run = RunDirectory.create(
            self._runs_dir, self._name, self._resolved, facts, run_id=run_id, rollout_log=self._rollout_log
        )
        self._is_new = True

    @override(RLlibCallback)
    def on_train_result(self, *, algorithm, metrics_logger=None, result: dict, **kwargs) -> None:
        attempt = self._attempt_after(algorithm.iteration - 1, algorithm)
        attempt.logger.on_train_result(algorithm=algorithm, result=result)
        for sign in attempt.logger.signs:
            logger.warning("iteration %d, %s", sign.iteration, sign.text)
        self._keep(attempt, algorithm.iteration)

    @override(RLlibCallback)
    def on_evaluate_end(self, *, algorithm, metrics_logger=None, evaluation_metrics: dict, **kwargs) -> None:
        attempt = self._attempt_after(algorithm.iteration, algorithm)
        attempt.logger.on_evaluate_end(algorithm=algorithm, evaluation_metrics=evaluation_metrics)
        self._keep(attempt, algorithm.iteration)

    @override(IGPOCallback)
    def on_failure(self, *, algorithm) -> None:
        if algorithm.records:
            attempt = self._attempt_after(algorithm.iteration, algorithm)
            attempt.logger.on_failure(algorithm=algorithm)
        self._close("failed")

    @override(IGPOCallback)
    def on_stop(self, *, algorithm) -> None:
        self._close("finished")
        if self._run is not None and self._is_new:
            self._run.discard_if_unused()
            self._is_new = False

    def _attempt_after(self, iteration: int, algorithm: Any) -> Attempt:
        """Returns the attempt that logs after `iteration` iterations: the open one, else the next."""
        if self._attempt is not None and iteration < self._iteration:
            self._close("interrupted")
        if self._attempt is None:
            is_first = not self.run.metadata["attempts"]
            self._open.enter_context(self.run.lock())
            self._attempt = self._open.enter_context(
                open_attempt(
                    self.run,
                    self._resolved,
                    algorithm.config,
                    None if is_first else iteration,
                    algorithm.task.identity,
                    self._mlflow,
                )
            )
        return self._attempt

    def _keep(self, attempt: Attempt, iteration: int) -> None:
        started = time.perf_counter()
        self._iteration = iteration
        attempt.log.flush()
        attempt.tracker.commit(iteration)
        self.run.note(iteration=iteration)
        attempt.logger.seconds += time.perf_counter() - started

    def _close(self, how: str) -> None:
        if self._attempt is not None:
            self._attempt.how = how
            # Tune gives its last trials five seconds to stop. Report and MLflow may take longer.
            self._attempt.log.close(how)
            self.run.end_attempt(how, self.run.metadata["iteration"])
            self._attempt = None
            self._open.close()


def _newest(folder: Path, trial: str) -> str:
    """The last run of a trial: `TRIAL`, then `TRIAL_2`, and so on."""
    newest = trial
    while (folder / (following := _following(newest, trial)) / METADATA).is_file():
        newest = following
    return newest


def _following(run_id: str, trial: str) -> str:
    number = run_id.removeprefix(trial).removeprefix("_")
    return f"{trial}_{int(number or 1) + 1}"
