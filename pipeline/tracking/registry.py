"""A run's policy in MLflow's model registry."""

from __future__ import annotations

from pathlib import Path

from pipeline.tracking.delivery import Connection

ARTIFACTS = "model"


def register(connection: Connection, name: str, folder: Path) -> None:
    """Uploads `folder` (a Hugging Face folder per policy) to the run's artifacts and makes it a version of
    model `name`.

    A run makes one version, however often it is asked.
    """
    from mlflow.exceptions import MlflowException

    client, run_id = connection.client, connection.run_id
    client.log_artifacts(run_id, str(folder), ARTIFACTS)
    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    if not client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'"):
        client.create_model_version(name, f"{client.get_run(run_id).info.artifact_uri}/{ARTIFACTS}", run_id)
