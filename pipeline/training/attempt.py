"""One attempt at a run: its entry in the diary, its part of the rollout log, its MLflow run; opened and
closed together.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.analysis.locate import AnalysisError
from pipeline.analysis.results import write_results
from pipeline.rollout_log.rows import RunInfo, to_json
from pipeline.rollout_log.writer import RolloutLogWriter
from pipeline.run_directory.checkpoints import Checkpoints
from pipeline.run_directory.directory import RunDirectory
from pipeline.tracking import MlflowTracker, TrackingSettings

if TYPE_CHECKING:
    from algorithms.igpo.config import IGPOConfig

logger = logging.getLogger(__name__)


@dataclass
class Attempt:
    """What an attempt writes to. Set `how` (`finished`, `interrupted`, `failed`) before it closes."""

    number: int
    log: RolloutLogWriter
    tracker: MlflowTracker
    how: str = "failed"


@contextmanager
def open_attempt(
    run: RunDirectory,
    resolved: dict,
    config: IGPOConfig,
    resumed_from_iteration: int | None,
    identity: Mapping[str, Any],
    tracking: TrackingSettings | None = None,
) -> Generator[Attempt]:
    """Opens the next attempt of `run`. Whatever happens inside, everything is closed and says how it ended.

    `identity` is the task's (`SearchTask.identity`): which documents were searched, and how.
    At the end of an attempt that did not fail, MLflow gets the answers of the named queries and the report.
    """
    number = run.begin_attempt(resumed_from_iteration)
    diary = run.diary
    (keys,) = resolved.values()
    with ExitStack() as stack:
        attempt: Attempt | None = None

        def ending() -> str:
            return attempt.how if attempt else "failed"

        stack.callback(lambda: run.end_attempt(ending(), run.diary["iteration"]))
        tracker = MlflowTracker(
            run.path,
            name=run.name,
            run_id=run.run_id,
            config=keys,
            resumed_from_iteration=resumed_from_iteration,
            tags={
                "igpo.attempt": str(number),
                "igpo.git_commit": str(diary.get("git_commit")),
                "igpo.rollouts": str(run.rollouts),
            },
            settings=tracking,
            grid_id=diary.get("grid_id"),
        )
        run.note(mlflow_ui=tracker.ui_command)
        stack.callback(lambda: run.note(mlflow_run_id=tracker.mlflow_run_id))
        stack.callback(lambda: tracker.close(ending()))
        tracker.log_artifact(run.config_path)
        info = RunInfo(
            name=run.name,
            config=keys,
            resumed_from_iteration=resumed_from_iteration,
            seed=config.seed,
            model=config.model_path,
            retriever=to_json(identity["retriever"]),
            corpus=to_json(identity["corpus"]),
            versions=diary.get("versions", {}),
            hardware={name: str(value) for name, value in diary.get("hardware", {}).items()},
            mlflow_run_id=diary.get("mlflow_run_id"),
        )
        log = RolloutLogWriter(run.rollouts, run.run_id, number, info=info)
        tracker.when_known(log.note_mlflow_run)
        stack.callback(lambda: _hand_over_results(run, tracker) if ending() != "failed" else None)
        stack.callback(lambda: log.close(ending()))
        attempt = Attempt(number, log, tracker)
        try:
            yield attempt
        except KeyboardInterrupt:
            attempt.how = "interrupted"
            raise


def _hand_over_results(run: RunDirectory, tracker: MlflowTracker) -> None:
    """Answers, report and model to MLflow.

    What goes wrong here is said; the training is done and stays so.
    """
    from algorithms.igpo.algorithm import HF_FOLDER

    try:
        for path in write_results(run.path):
            tracker.log_artifact(path, path.parent.name)
        checkpoints = Checkpoints(run.checkpoints)
        best = checkpoints.best or checkpoints.last
        if best is not None:
            tracker.register_model(best / HF_FOLDER)
    except AnalysisError as error:
        logger.warning("there are no results yet: %s", error)
    except Exception:
        logger.warning("the results of %s could not be written", run.path, exc_info=True)
