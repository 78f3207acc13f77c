"""One attempt at a run: its entry in the run's metadata, its part of the rollout log, and its MLflow run.

The three are opened together and closed together.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from envs.errors import InputError
from pipeline.analysis import open_run
from pipeline.analysis.collapse_watch import logged_metrics
from pipeline.analysis.locate import AnalysisError
from pipeline.analysis.results import RESULTS, write_results
from pipeline.experiment.resolved import config_hash
from pipeline.rollout_log.folder import RolloutLogError
from pipeline.rollout_log.rows import RunInfo, to_json
from pipeline.rollout_log.writer import RolloutLogWriter
from pipeline.run_directory.checkpoints import Checkpoints, read_note
from pipeline.run_directory.directory import RunDirectory
from pipeline.tracking import MlflowTracker, TrackingSettings
from pipeline.tracking.tracker import MLFLOW_STATUS
from pipeline.training.run_logger import RunLogger

if TYPE_CHECKING:
    from algorithms.igpo.config import IGPOConfig

logger = logging.getLogger(__name__)
DIGEST, DATASET_NAME = 36, 500
"""MLflow's limits for a data set's digest and name, in characters."""


@dataclass
class Attempt:
    """An open attempt. Set `how` (`finished`, `interrupted` or `failed`) before it closes."""

    number: int
    log: RolloutLogWriter
    tracker: MlflowTracker
    logger: RunLogger
    """The callback that writes to both."""
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
    """Opens the next attempt of `run`, and closes all its parts however it ends.

    At the end of an attempt that did not fail, MLflow gets the answers of the named queries and the report.

    Args:
        run: the run's directory.
        resolved: the run as a resolved experiment file.
        config: what the algorithm is built from.
        resumed_from_iteration: iteration of the checkpoint; None: a fresh start; -1: a resume without one.
        identity: `SearchTask.identity`: which documents are searched, how, and which questions are asked.
        tracking: what MLflow gets; None: its defaults.
    """
    number = run.begin_attempt(resumed_from_iteration)
    (keys,) = resolved.values()
    settings_hash = config_hash(keys["config"])
    run.note(config_hash=settings_hash, datasets=datasets_of(identity))
    metadata = run.metadata
    with ExitStack() as stack:
        attempt: Attempt | None = None

        def ending() -> str:
            return attempt.how if attempt else "failed"

        stack.callback(lambda: run.end_attempt(ending(), run.metadata["iteration"]))
        tracker = _tracker(run, keys, resumed_from_iteration, tracking)
        run.note(mlflow_ui=tracker.ui_command)
        stack.callback(lambda: run.note(mlflow_run_id=tracker.mlflow_run_id))
        stack.callback(lambda: tracker.close(ending()))
        tracker.log_artifact(run.config_path)
        info = RunInfo(
            name=run.name,
            config=keys,
            config_hash=settings_hash,
            resumed_from_iteration=resumed_from_iteration,
            seed=config.seed,
            model=config.model_path,
            retriever=to_json(identity["retriever"]),
            corpus=to_json(identity["corpus"]),
            versions=metadata.get("versions", {}),
            hardware={name: str(value) for name, value in metadata.get("hardware", {}).items()},
            mlflow_run_id=metadata.get("mlflow_run_id"),
        )
        try:
            log = RolloutLogWriter(run.rollouts, run.run_id, number, info=info)
        except RolloutLogError as error:
            raise InputError(str(error)) from error
        tracker.when_known(log.note_mlflow_run)
        stack.callback(lambda: _publish_results(run, tracker) if ending() != "failed" else None)
        stack.callback(lambda: log.close(ending()))
        before = _logged_before(run, log)
        attempt = Attempt(number, log, tracker, RunLogger(log, tracker, run.path, *before))
        try:
            yield attempt
        except KeyboardInterrupt:
            attempt.how = "interrupted"
            raise


@dataclass(frozen=True)
class Sent:
    """What `send_rest` did."""

    everything: bool
    """Whether the store has all of the run now."""
    store: str
    """The store's address."""
    iteration: int
    """The iteration up to which it has the run, if it has everything."""
    how: str
    """The status that the run has there."""


def send_rest(run: RunDirectory, timeout: float) -> Sent:
    """Sends MLflow what it did not get of a run that is over: all that training would have sent, but for
    system metrics.

    Of a run that died, everything up to its last checkpoint, beyond which it would be sampled again.

    Args:
        run: the run's directory, locked by the caller.
        timeout: seconds to wait for a store that does not answer.
    """
    from algorithms.igpo.algorithm import HF_FOLDER

    metadata, checkpoints = run.metadata, Checkpoints(run.checkpoints)
    (keys,) = run.resolved.values()
    how = metadata["status"] if metadata["status"] in MLFLOW_STATUS else "failed"
    saved = checkpoints.last
    iteration = (
        metadata["iteration"] if how == "finished" else int(read_note(saved)["iteration"]) if saved else 0
    )
    # No metrics of this machine: another one may have trained.
    wanted: dict[str, Any] = {**keys.get("mlflow", {}), "system_metrics": False}
    tracker = _tracker(run, keys, iteration, TrackingSettings(**wanted))
    for path in [run.config_path, *sorted((run.path / RESULTS).glob("*"))]:
        tracker.log_artifact(path, None if path == run.config_path else RESULTS)
    best = checkpoints.best or saved
    if best is not None and how == "finished":
        tracker.register_model(best / HF_FOLDER)
    complete = tracker.close(how, timeout)
    if tracker.mlflow_run_id is not None:
        run.note(mlflow_run_id=tracker.mlflow_run_id)
    return Sent(complete, tracker.tracking_uri, iteration, how)


def _tracker(
    run: RunDirectory, keys: dict, resumed_from_iteration: int | None, settings: TrackingSettings | None
) -> MlflowTracker:
    """The tracker of an attempt that has begun, with the tags, title and data sets that its `run.json` tells.

    Args:
        run: the run's directory.
        keys: the run's keys in its resolved experiment file.
        resumed_from_iteration: iteration of the checkpoint; None: a fresh start.
        settings: what MLflow gets; None: its defaults.
    """
    metadata, preset = run.metadata, keys["config"].get("preset")
    label = metadata.get("label")
    return MlflowTracker(
        run.path,
        name=run.name,
        run_id=run.run_id,
        config=keys,
        resumed_from_iteration=resumed_from_iteration,
        tags={
            "igpo.attempt": str(len(metadata["attempts"])),
            "igpo.config_hash": config_hash(keys["config"]),
            "igpo.git_commit": str(metadata.get("git_commit")),
            "igpo.rollouts": str(run.rollouts),
            "igpo.preset": str(preset),
            "igpo.label": str(label or ""),
        },
        title=" ".join(str(part) for part in (preset, label) if part),
        datasets=metadata.get("datasets", ()),
        settings=settings,
        grid_id=metadata.get("grid_id"),
    )


def datasets_of(identity: Mapping[str, Any]) -> list[dict[str, str]]:
    """What MLflow lists as the run's data sets: the corpus, and each source of the questions of each split.

    Args:
        identity: `SearchTask.identity`. A corpus that only a server has is no data set.
    """
    corpus = identity["corpus"]
    found = []
    if "content_hash" in corpus:
        found.append(_dataset(corpus, "corpus", "corpus", "documents"))
    for part in identity["questions"]:
        found.append(_dataset(part, f"{part['split']} questions of", part["split"], "questions"))
    return found


def _dataset(facts: Mapping[str, Any], what: str, context: str, counted: str) -> dict[str, str]:
    return {
        "name": f"{what} {facts['source']}"[:DATASET_NAME],
        "digest": facts["content_hash"][:DIGEST],
        "source": facts["source"],
        "profile": to_json({counted: facts.get(counted)}),
        "context": context,
    }


def _logged_before(
    run: RunDirectory, log: RolloutLogWriter
) -> tuple[list[tuple[int, str]], list[tuple[int, dict[str, float]]]]:
    """(iteration, split) of the earlier attempts' rows that this attempt does not supersede, and (iteration,
    metrics) of those of training.
    """
    if not log.has_iterations:
        return [], []
    with open_run(run.path) as opened:
        rows = opened.sql("SELECT DISTINCT iteration, split FROM iterations").fetchall()
        return rows, logged_metrics(opened)


def _publish_results(run: RunDirectory, tracker: MlflowTracker) -> None:
    """Writes answers and report, and gives them and the model to MLflow.

    A failure is logged as a warning: the training is done.
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
