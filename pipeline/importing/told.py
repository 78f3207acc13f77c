"""What a reader did with a file, in words: which fields gave what, and what was left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from envs.errors import InputError
from pipeline.importing.conversation import Conversation
from pipeline.importing.record import REWARDS

NAMED = 3
"""Records that were left out and are named."""
_ELSE = {
    "group": "equal questions",
    "step": "none, so all are of step 1",
    "end": "the last turn",
    "outcome": "F1 of the answer",
}
"""What gives a part that no field gives."""


def what_was_read(conversations: Sequence[Conversation]) -> str:
    """One line: for each part of the rollouts, the fields that gave it and for how many.

    Where no field gave the outcome of some, the line ends in the fields that there are: one may be a reward
    under a name of its own.
    """
    counts: dict[str, Counter[str]] = {}
    for one in conversations:
        for part, name in one.sources.items():
            counts.setdefault(part, Counter())[f"`{name}`" if name else _ELSE[part]] += 1
    parts = [
        f"{part}: " + ", ".join(f"{name} ({number})" for name, number in found.most_common())
        for part, found in counts.items()
    ]
    if counts.get("outcome", {}).get(_ELSE["outcome"]):
        without = [one.fields for one in conversations if not one.sources["outcome"]]
        names = ", ".join(
            f"`{name}`" for name in dict.fromkeys(name for fields in without for name in fields)
        )
        *others, last = (f"`{name}`" for name in REWARDS)
        parts.append(f"no {', '.join(others)} or {last} among the fields {names:.300}")
    return f"{len(conversations)} rollouts read; " + "; ".join(parts)


def what_was_left_out(errors: Sequence[InputError]) -> str:
    """How many records were left out, and why the first were: a line for each."""
    more = [f"and {len(errors) - NAMED} more"] * (len(errors) > NAMED)
    return "\n  ".join(
        [f"left out, with the reason: {len(errors)}", *(str(e) for e in errors[:NAMED]), *more]
    )
