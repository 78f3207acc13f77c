"""A value of a query's answer as one short line."""

from __future__ import annotations

import json
import math
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


def as_json(value: Any, indent: int | None = None) -> str:
    """`value` as JSON, which lacks NaN and infinities: they become null."""
    return json.dumps(_finite(value), ensure_ascii=False, default=str, allow_nan=False, indent=indent)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
