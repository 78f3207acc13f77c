"""Whether a checkpoint can be a run's beginning.

RLlib restores what it finds. It passes over a policy that the checkpoint does not hold, which would then
begin with its first weights, without a word.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from envs.errors import InputError

MODULES = Path("learner_group", "learner", "rl_module")
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
