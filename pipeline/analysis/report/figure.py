"""A plot of a page, and the plots that answer one question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Figure:
    """A plot: what it shows, how to read it, its Vega-Lite specification."""

    title: str
    reading: str
    spec: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Section:
    """Figures that answer one question."""

    question: str
    figures: list[Figure]
