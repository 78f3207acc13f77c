"""Which field of a record is which: what `--field OURS=THEIRS` says."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

from envs.errors import InputError
from pipeline.importing.golds import GOLDS, reach

OURS = (
    "messages",
    "prompt_messages",
    "prompt",
    "completion",
    "golden_answers",
    "question",
    "reward",
    "group",
    "step",
    "rollout_id",
    "hops",
    "tools",
    "termination",
)
"""The names that a record's fields have here."""
_YIELDING = {
    "golden_answers": tuple(name.partition(".")[0] for name in GOLDS[: GOLDS.index("golden_answers")]),
    "prompt": ("messages",),
    "completion": ("messages",),
}
"""Fields that would be read before the one that was named."""


def field_names(assignments: list[str]) -> dict[str, str]:
    """Our names with theirs, of texts `OURS=THEIRS`.

    Raises:
        InputError: one has another form, or names no field of ours.
    """
    names = {}
    for assignment in assignments:
        ours, equals, theirs = assignment.partition("=")
        if not equals or not theirs:
            raise InputError(
                f"--field {assignment:.80}: write OURS=THEIRS, such as --field golden_answers=label"
            )
        if ours not in OURS:
            near = get_close_matches(ours, OURS, n=1)
            meant = f"did you mean `{near[0]}`" if near else f"OURS is one of {', '.join(OURS)}"
            raise InputError(f"--field {assignment:.80}: `{ours:.40}` is no field of a rollout; {meant}")
        names[ours] = theirs
    return names


def renamed(fields: dict[str, Any], names: Mapping[str, str], where: str) -> dict[str, Any]:
    """The record with what `names` says under our names; it wins over what is there.

    Raises:
        InputError: a field is not there; null is missing, as everywhere.
    """
    values = {}
    for ours, theirs in names.items():
        if not has(fields, theirs):
            found = ", ".join(map(repr, fields)) or "nothing"
            raise InputError(f"{where}: no field `{theirs:.60}` (--field {ours}=...), found {found:.140}")
        values[ours] = reach(fields, theirs)
    yielding = {name for ours in names for name in _YIELDING.get(ours, ())} - set(names)
    return {name: value for name, value in fields.items() if name not in yielding} | values


def has(fields: Any, path: str) -> bool:
    """Whether there is a value, null or not, under a name, or a path such as `info.answer`."""
    try:
        reach(fields, path)
    except KeyError:
        return False
    return True
