"""`mlflow` of an experiment file."""

from __future__ import annotations

from pydantic import Field

from envs.settings import Settings


class TrackingSettings(Settings):
    """Optional data for MLflow, beside metrics, parameters and results."""

    traces_per_iteration: int = Field(
        2, ge=0, description="rollouts per iteration and split that become MLflow traces"
    )
    system_metrics: bool = Field(
        True, description="CPU, memory, disk, network and GPU of the driver's machine, every 10 seconds"
    )
    register_model: str | None = Field(
        None,
        min_length=1,
        description="name in the model registry under which the run's best policy is registered at its end",
    )
