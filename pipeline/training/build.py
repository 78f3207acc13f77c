"""Builds a run's algorithm, where needed from a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from envs.loading import without_collecting
from pipeline.run_directory.directory import RunDirectory

if TYPE_CHECKING:
    from algorithms.igpo.config import IGPOConfig


def build_algorithm(
    config: IGPOConfig, folder: Path, checkpoint: Path | None, *, begins_run: bool = False
) -> Any:
    """Builds the algorithm, restored from `checkpoint` if there is one.

    Args:
        config: its settings.
        folder: a folder that RLlib may write into.
        checkpoint: the checkpoint, or None.
        begins_run: whether the checkpoint is of another run, so that training questions may be others.
    """
    from ray.tune.trainable import trainable

    # RLlib would make folders in ~/ray_results, and has no setting for it.
    trainable.DEFAULT_STORAGE_PATH = str(folder / "rllib")
    with without_collecting():
        algorithm: Any = config.build_algo()
    algorithm.begins_run = begins_run
    if checkpoint is not None:
        algorithm.restore_from_path(str(checkpoint.absolute().resolve()))
    return algorithm


def is_of_another(run: RunDirectory, checkpoint: Path | None) -> bool:
    """Whether `run` begins from a checkpoint of another run (`--restore`)."""
    return checkpoint is not None and run.checkpoints.resolve() not in checkpoint.resolve().parents
