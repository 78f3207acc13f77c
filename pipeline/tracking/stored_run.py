"""Finds or creates this run in an MLflow store: parameters, parent, and the steps that arrived."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.tracking.names import HELDOUT_METRIC, STEP_METRIC

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import DatasetInput, Run

KIND_TAG, TRAINING = "mlflow.experimentKind", "custom_model_development"
"""The kind of an experiment. MLflow's UI opens runs first by it, unless it has the switch between GenAI and
Model training, which overrules it (3.17)."""
RUN_TAG = "igpo.run_id"
GRID_TAG = "igpo.grid_id"
PARENT_TAG = "mlflow.parentRunId"
PARAMETERS_PER_REQUEST = 100


@dataclass(frozen=True, slots=True)
class RunInStore:
    """Identity and description of a run."""

    experiment: str
    run_id: str
    tags: Mapping[str, str]
    parameters: Mapping[str, str]
    artifacts: str | None
    """URI for the artifacts of a local store; a server has its own (None)."""
    title: str = ""
    """What the run's name begins with, before its id: preset and label."""
    datasets: tuple[Mapping[str, str], ...] = ()
    """Name, digest, source and profile of what was searched and asked, for MLflow's list of data sets."""
    grid_id: str | None = None
    """Shared by the trials of one grid search; None for a single run."""


@dataclass(frozen=True, slots=True)
class FoundRun:
    run_id: str
    experiment_id: str
    parent_id: str | None
    arrived_up_to: int
    """Last iteration whose training metrics are in the store; -1 for none."""
    heldout_up_to: int


def find_or_create(client: MlflowClient, wanted: RunInStore, resumed_from: int | None) -> FoundRun:
    """Finds or creates the run. Idempotent, so that it can be repeated after a failure."""
    experiment = _experiment(client, wanted)
    parent = None
    if wanted.grid_id is not None:
        found = _tagged(client, experiment, GRID_TAG, wanted.grid_id)
        name = f"grid {wanted.grid_id}"
        parent = (
            found or client.create_run(experiment, tags={GRID_TAG: wanted.grid_id}, run_name=name)
        ).info.run_id
        client.update_run(parent, status="RUNNING")
    tags = {**wanted.tags, RUN_TAG: wanted.run_id} | ({PARENT_TAG: parent} if parent else {})
    found = _tagged(client, experiment, RUN_TAG, wanted.run_id)
    run = found or client.create_run(
        experiment, tags=tags, run_name=f"{wanted.title} {wanted.run_id}".strip()
    )
    run_id = run.info.run_id
    steps = {}
    if found:
        client.update_run(run_id, status="RUNNING")
        for key, value in tags.items():
            client.set_tag(run_id, key, value)
        for metric in (STEP_METRIC, HELDOUT_METRIC):
            steps[metric] = max(
                (point.step for point in client.get_metric_history(run_id, metric)), default=-1
            )
    _send_parameters(client, run, wanted.parameters, resumed_from)
    if wanted.datasets and not (run.inputs and run.inputs.dataset_inputs):
        client.log_inputs(run_id, [_dataset_input(facts) for facts in wanted.datasets])
    return FoundRun(run_id, experiment, parent, steps.get(STEP_METRIC, -1), steps.get(HELDOUT_METRIC, -1))


def _dataset_input(facts: Mapping[str, str]) -> DatasetInput:
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(
        name=facts["name"],
        digest=facts["digest"],
        source_type="igpo",
        source=facts["source"],
        profile=facts.get("profile"),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", facts["context"])])


def configure_mlflow_logging() -> None:
    """Silences MLflow's messages about table creation and about retries, which `Delivery` reports itself."""
    for chatty in ("alembic", "mlflow.system_metrics.system_metrics_monitor"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # a traceback for each attempt


def _tagged(client: MlflowClient, experiment: str, tag: str, value: str) -> Run | None:
    found = client.search_runs([experiment], f"tags.`{tag}` = '{value}'", max_results=1)
    return found[0] if found else None


def _experiment(client: MlflowClient, wanted: RunInStore) -> str:
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(wanted.experiment)
    if experiment is not None:
        return experiment.experiment_id
    try:
        return client.create_experiment(wanted.experiment, wanted.artifacts, tags={KIND_TAG: TRAINING})
    except MlflowException as error:
        experiment = client.get_experiment_by_name(wanted.experiment)  # Another trial may have just made it.
        if experiment is None:
            raise error
        return experiment.experiment_id


def _send_parameters(
    client: MlflowClient, run: Run, parameters: Mapping[str, str], resumed_from: int | None
) -> None:
    """Parameters can be written once: those that a resumed run changed become tags."""
    from mlflow.entities import Param

    run_id, known = run.info.run_id, run.data.params
    new = [Param(key, value) for key, value in parameters.items() if key not in known]
    for start in range(0, len(new), PARAMETERS_PER_REQUEST):
        client.log_batch(run_id, params=new[start : start + PARAMETERS_PER_REQUEST])
    for key, value in parameters.items():
        if key in known and known[key] != value:
            client.set_tag(run_id, f"changed_after_{resumed_from}.{key}"[:250], value)
