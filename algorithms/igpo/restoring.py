"""Whether a checkpoint can be a run's beginning, and whether the learners took it.

RLlib restores what it finds. It passes over a policy that the checkpoint does not hold, which would then
begin with its first weights, without a word. And it drops what a learner's process raises and calls that
learner no more, so the cause would be lost.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from algorithms.igpo.remote import on_learners
from envs.errors import InputError

if TYPE_CHECKING:
    from ray.rllib.core.learner.learner_group import LearnerGroup

LEARNER = Path("learner_group", "learner")
"""RLlib's folder of a checkpoint for the state of the learners."""
MODULES = LEARNER / "rl_module"
"""RLlib's folder of a checkpoint that holds a folder for each policy."""


def check_policies(checkpoint: str | Path, policies: Iterable[str]) -> None:
    """Raises InputError for policies of a run that are not in the checkpoint.

    It may hold more of them.
    """
    folder = Path(checkpoint, MODULES)
    held = sorted(path.name for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    missing = [policy for policy in policies if policy not in held]
    if held and missing:
        raise InputError(
            f"{checkpoint}: this checkpoint holds the policies {', '.join(held)}, but the roles speak "
            f"through {', '.join(missing)} too: give them its policies, or begin without it"
        )


def check_learners(learners: LearnerGroup, checkpoint: str | Path, version: int) -> None:
    """Raises what kept a learner from taking the checkpoint.

    Args:
        learners: the learners, after RLlib restored them.
        checkpoint: its folder.
        version: version of the weights in it.

    Raises:
        Exception: what a learner raised.
        RuntimeError: it holds other weights all the same.
    """

    count = max(1, len(learners))  # a learner in the driver is not counted
    if on_learners(learners, _version) == [version] * count:
        return
    folder = str(Path(checkpoint, LEARNER).absolute())
    on_learners(learners, lambda learner: learner.restore_from_path(folder), healthy_only=False)
    if (held := on_learners(learners, _version, healthy_only=False)) != [version] * count:
        raise RuntimeError(
            f"{checkpoint} holds weights version {version}, but the learners hold {held} after restoring it"
        )


def _version(learner) -> int:
    return learner._weights_seq_no
