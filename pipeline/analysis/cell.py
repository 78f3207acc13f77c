"""A value of a query's answer as one short line."""

from __future__ import annotations

import json
from typing import Any

CELL_CHARACTERS = 200


def cell(value: Any) -> str:
    """A value as one short line: four significant digits, no control characters (a model may write any)."""
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value + 0.0:.4g}"  # A zero without sign.
    text = value if isinstance(value, str) else as_json(value) if isinstance(value, list | dict | tuple) else str(value)
    text = "".join(c if c.isprintable() else "↵" if c == "\n" else "\t" if c == "\t" else f"\\x{ord(c):02x}" for c in text)
    return text if len(text) <= CELL_CHARACTERS else text[: CELL_CHARACTERS - 1] + "…"


def as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)
