"""Bounds of the settings that are numbers, without Ray."""

import math
from numbers import Integral, Real
from typing import Any

from envs.errors import InputError

WHOLE_FROM = {
    "seed": 0,
    "prompts_per_iteration": 1,
    "group_size": 2,
    "max_resample": 0,
    "num_epochs": 1,
    "num_minibatches": 1,
    "tokens_per_micro_batch": 1,
    "reference_refresh_interval": 0,
    "num_env_runners": 0,
    "num_learners": 0,
    "evaluation_interval": 0,
    "evaluation_questions": 1,
    "lr_warmup_iterations": 0,
    "lr_decay_iterations": 1,
}
"""Whole numbers and the least value of each. A group of one rollout would have no baseline."""
REAL_FROM = {
    "max_logp_gap": 0,
    "num_cpus_per_env_runner": 0,
    "num_gpus_per_env_runner": 0,
    "num_gpus_per_learner": 0,
    "weight_decay": 0,
}
"""Other numbers and the least value of each."""
POSITIVE = ("lr", "grad_clip", "adam_eps")
SHARES = ("max_tool_error_share", "lr_final_share")
"""Numbers from 0 to 1."""
MAY_BE_NONE = {
    "max_logp_gap",
    "grad_clip",
    "evaluation_interval",
    "evaluation_questions",
    "lr_decay_iterations",
}
LARGEST_SEED = 2**32 - 1
"""NumPy's global generator, which RLlib seeds, takes no larger one."""


def bounds(name: str) -> str:
    """Says between which values a number lies; empty where nothing bounds it."""
    if name in WHOLE_FROM:
        wanted = f"a whole number, {WHOLE_FROM[name]} or more"
    elif name in REAL_FROM:
        wanted = f"{REAL_FROM[name]} or more"
    else:
        wanted = "above 0" if name in POSITIVE else "from 0 to 1" if name in SHARES else ""
    return f"{wanted}, at most {LARGEST_SEED}" if name == "seed" else wanted


def check_number(name: str, value: Any) -> None:
    """Raises InputError for a value outside the bounds of setting `name`; one without bounds may be any."""
    if not bounds(name) or (value is None and name in MAY_BE_NONE):
        return
    good = isinstance(value, Integral if name in WHOLE_FROM else Real) and not isinstance(value, bool)
    good = good and (isinstance(value, Integral) or math.isfinite(value))
    if name in POSITIVE:
        good = good and value > 0
    elif name in SHARES:
        good = good and 0 <= value <= 1
    else:
        good = good and value >= {**WHOLE_FROM, **REAL_FROM}[name]
    if name == "seed" and good and value > LARGEST_SEED:
        good = False
    if not good:
        raise InputError(
            f"{name} is {value!r}; it must be {bounds(name)}{' (or null)' if name in MAY_BE_NONE else ''}"
        )
