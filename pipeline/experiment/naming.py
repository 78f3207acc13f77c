"""Names of experiments: `--name`, else the file's own and what `--set` changed of the method."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Any

from algorithms.credit import CreditConfig
from algorithms.igpo.loss_settings import LossSettings
from envs.errors import InputError

LONGEST_CHANGE = 80
"""Characters that a name may grow by what `--set` changes."""


@dataclass(frozen=True, slots=True)
class Given:
    """What names an experiment, taken before `--set` is applied."""

    name: str | None
    """`--name`."""
    config: dict[str, Any]
    """The file's own `config`."""

    @classmethod
    def of(cls, keys: dict[str, Any], name: str | None, *, alone: bool) -> Given:
        """Takes the names from a file's experiment.

        Args:
            keys: the experiment as the file has it.
            name: `--name`.
            alone: the file holds no other experiment.

        Raises:
            InputError: several experiments are given one name.
        """
        if name is not None and not alone:
            raise InputError(f"--name {name}: the file holds several experiments, whose names must differ.")
        config = keys.get("config")
        return cls(name, dict(config) if isinstance(config, dict) else {})

    def name_of(self, own: str, keys: dict[str, Any]) -> str:
        """The experiment's name, so that runs of two methods do not share one.

        `igpo-grpo` where `--set` chose another preset, `igpo-gain_basis-prob` where it changed another
        setting of credit or loss. Learning rates, seeds, sizes and limits are no part of the method.

        Args:
            own: the name in the file.
            keys: the experiment, with what `--set` says.
        """
        if self.name is not None:
            return self.name
        after = keys.get("config")
        return own + _changes(self.config, after) if isinstance(after, dict) else own


def _changes(before: dict[str, Any], after: dict[str, Any]) -> str:
    fields = (*dataclasses.fields(CreditConfig), *dataclasses.fields(LossSettings))
    parts = []
    for key in ("preset", *sorted({field.name for field in fields})):
        value, old = after.get(key), before.get(key, "igpo" if key == "preset" else None)
        if value == old or not isinstance(value, str | int | float):
            continue
        shown = f"{value:g}" if isinstance(value, float) else str(value)
        parts.append(shown if key == "preset" else f"{key}-{shown}")
    return re.sub(r"[^\w.+-]", "-", "".join(f"-{part}" for part in parts))[:LONGEST_CHANGE]
