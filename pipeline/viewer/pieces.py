"""What renderings of rollouts share: belief as a bar, and text with its gold answers marked."""

from __future__ import annotations

from rich.text import Text

from pipeline.analysis.trajectories import gold_spans

BAR_CELLS = 24
GOLD = "bold black on yellow"


def belief_bar(before: float, after: float, cells: int = BAR_CELLS) -> Text:
    """Belief in [0, 1] on a bar: what stayed (`█`), what the turn won (green `▓`) or lost (red `░`), what is
    missing (`·`).
    """
    low, high = sorted((round(before * cells), round(after * cells)))
    moved = ("▓" * (high - low), "green") if after >= before else ("░" * (high - low), "red")
    return Text.assemble(("█" * low, "cyan"), moved, ("·" * (cells - high), "dim"))


def with_golds(text: str, golds: list[str]) -> Text:
    """Marks the gold answers in `text`."""
    marked = Text(text)
    for start, end in gold_spans(text, golds):
        marked.stylize(GOLD, start, end)
    return marked
