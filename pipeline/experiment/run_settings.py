"""The keys of an experiment beside `config`: when a run stops, where it writes, what it keeps."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from envs.settings import Settings


class CheckpointSettings(Settings):
    """`checkpoint_config` of an experiment (the names are Tune's)."""

    checkpoint_frequency: int = Field(
        1, ge=0, description="iterations between checkpoints; 0: only at the end"
    )
    checkpoint_at_end: bool = Field(True, description="also after the last iteration")
    num_to_keep: int | None = Field(
        1, ge=1, description="newest checkpoints kept besides the best; None keeps all"
    )


class RunSettings(Settings):
    """The scalar keys of an experiment."""

    num_samples: int = Field(1, ge=1, description="runs of each point of the grid, with seeds counted up")
    time_budget_s: float | None = Field(None, gt=0, description="seconds after which a run ends")
    storage_path: str = Field("runs", description="folder of the runs")
    rollout_log: str | None = Field(
        None, description="folder or URL of the rollout log; None: in the run's folder"
    )
    restore: str | None = Field(None, description="checkpoint whose weights a new run starts from")


class OtherKeys(Settings):
    """The keys that the reader of experiment files takes itself."""

    run: str = Field("IGPO", description="the algorithm; always IGPO")
    env: str = Field("search", description="the environment; always search")
    extends: str | None = Field(
        None, description="another experiment file, relative to this one or of the package; its keys hold"
    )
    stop: dict[str, Any] = Field(
        {}, description="metric to value: a run ends once one is reached, such as {training_iteration: 40}"
    )
