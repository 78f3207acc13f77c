"""`IGPOCallback`: RLlib's callbacks, with two events that RLlib does not report."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ray.rllib.callbacks.callbacks import RLlibCallback

if TYPE_CHECKING:
    from ray.rllib.algorithms.algorithm import Algorithm


class IGPOCallback(RLlibCallback):
    """Base class of callbacks that must know how an `IGPO` ends. Every hook does nothing by default."""

    def on_failure(self, *, algorithm: Algorithm) -> None:
        """Runs after `train()` or `evaluate()` raised, before the exception leaves the algorithm.

        `algorithm.records` holds the rollouts that were finished by then.
        """

    def on_stop(self, *, algorithm: Algorithm) -> None:
        """Runs at `stop()`, while env runners and learners still run."""
