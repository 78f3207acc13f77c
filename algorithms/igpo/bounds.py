"""What the numbers of an `IGPOConfig` may be. RLlib takes them as they come: lr -1 trains, num_env_runners -1 hangs."""

from __future__ import annotations

from numbers import Integral, Real
from typing import TYPE_CHECKING

from envs.errors import InputError

if TYPE_CHECKING:
    from algorithms.igpo.config import IGPOConfig

WHOLE_FROM = {
    "seed": 0, "prompts_per_iteration": 1, "group_size": 2, "max_resample": 0, "num_epochs": 1, "num_minibatches": 1,
    "tokens_per_micro_batch": 1, "reference_refresh_interval": 0, "num_env_runners": 0, "num_learners": 0,
    "evaluation_interval": 0, "evaluation_questions": 1,
}  # fmt: skip
"""Whole numbers and their least value. A group of one rollout has no baseline."""
REAL_FROM = {"max_logp_gap": 0, "num_cpus_per_env_runner": 0, "num_gpus_per_env_runner": 0, "num_gpus_per_learner": 0}
POSITIVE = ("lr", "grad_clip")
SHARES = ("max_tool_error_share",)
MAY_BE_NONE = {"max_logp_gap", "grad_clip", "evaluation_interval", "evaluation_questions"}


def check_numbers(config: IGPOConfig) -> None:
    """Raises InputError for the first number that is out of its bounds."""
    for name in (*WHOLE_FROM, *REAL_FROM, *POSITIVE, *SHARES):
        value = getattr(config, name)
        if name == "lr" and isinstance(value, list):  # a schedule, which RLlib checks
            continue
        if value is None and name in MAY_BE_NONE:
            continue
        number = isinstance(value, Integral if name in WHOLE_FROM else Real) and not isinstance(value, bool)
        if name in POSITIVE:
            good, wanted = number and value > 0, "above 0"
        elif name in SHARES:
            good, wanted = number and 0 <= value <= 1, "from 0 to 1"
        else:
            least = {**WHOLE_FROM, **REAL_FROM}[name]
            kind = "a whole number, " if name in WHOLE_FROM else ""
            good, wanted = number and value >= least, f"{kind}{least} or more"
        if not good:
            raise InputError(f"{name} is {value!r}; it must be {wanted}{' (or null)' if name in MAY_BE_NONE else ''}")
