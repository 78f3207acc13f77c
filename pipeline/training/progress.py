"""Progress of a run for its user: a line for each iteration; on a terminal, what goes on below them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Self

from rich.live import Live
from rich.table import Table
from rich.text import Text

from pipeline.evaluation.heldout_scores import Scores, hop_counts, mean_score
from pipeline.evaluation.intervals import paired_difference
from pipeline.terminal import Console


class Progress:
    """The display of one run. As a context it shows the live line; messages go above the line and stay.

    Args:
        console: where it is shown.
        total: iteration at which the run stops; None if unknown.
    """

    def __init__(self, console: Console, total: float | None):
        self._console = console
        self._total = total
        self._live: Live | None = None
        self._started: float | None = None
        self._first: int | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(console=self._console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(self, *_) -> None:
        if self._live:
            self._live.stop()
            self._live = None

    def message(self, text: str | Text, *, style: str | None = None) -> None:
        """Prints a line that stays."""
        self._console.print(text, style=style, soft_wrap=True)

    def busy(self, text: str) -> None:
        """Shows the current activity before there are numbers; prints it where there is no terminal."""
        if self._live:
            self._live.update(_spinning(text))
        else:
            self.message(text)

    def starting(self, iteration: int) -> None:
        """Training begins after `iteration` finished iterations (0 for a fresh run)."""
        self._started, self._first = time.monotonic(), iteration
        if self._live:
            self._live.update(_spinning(f"iteration {iteration + 1}{self._of_total} ..."))

    def iteration(self, iteration: int, metrics: dict[str, float]) -> None:
        """One iteration is done; `metrics` is `result["igpo"]`."""
        line = f"iteration {iteration}{self._of_total} · {describe(metrics)}{self._eta(iteration)}"
        self.message(line)
        if self._live:
            self._live.update(_spinning(f"iteration {iteration + 1}{self._of_total} ..."))

    def evaluation(self, when: str, scores: Mapping[str, float], *, best: bool = False) -> None:
        """Held-out scores (`result["evaluation"]`); `when` says after how much training."""
        parts = [f"EM {scores['em_squad']:.3f}", f"F1 {scores['f1_squad']:.3f}"]
        hops = {int(name.rsplit("_", 1)[1]): value for name, value in scores.items() if "_hops_" in name}
        parts += [f"EM {hop}-hop {value:.2f}" for hop, value in sorted(hops.items())]
        questions = f", {scores['questions']:.0f} questions" if "questions" in scores else ""
        mark = ("  best so far", "green") if best and scores["em_squad"] > 0 else ""
        self.message(Text.assemble(f"held-out {when}{questions}: {' · '.join(parts)}", mark))

    @property
    def _of_total(self) -> str:
        return f"/{self._total:g}" if self._total else ""

    def _eta(self, iteration: int) -> str:
        if self._total is None or self._started is None or self._first is None or iteration <= self._first:
            return ""
        seconds = (time.monotonic() - self._started) / (iteration - self._first) * (self._total - iteration)
        return f" · ETA {duration(seconds)}"


def describe(metrics: dict[str, float]) -> str:
    """EM, F1, mean gain, share of collapsed groups (outcome alone -> final) and speed; missing metrics left
    out.
    """
    parts = []
    for name, text in (("em", "EM {:.3f}"), ("f1", "F1 {:.3f}"), ("gain_mean", "gain {:+z.3f}")):
        if name in metrics:
            parts.append(text.format(metrics[name]))
    if "collapse_share_outcome" in metrics and "collapse_share" in metrics:
        parts.append(f"collapsed {metrics['collapse_share_outcome']:.0%} → {metrics['collapse_share']:.0%}")
    if "tokens_per_second" in metrics:
        parts.append(f"{metrics['tokens_per_second']:,.0f} tok/s")
    return " · ".join(parts)


def duration(seconds: float) -> str:
    """`42s`, `3:05`, `1:02:03`."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02d}:{rest % 60:02d}" if hours else f"{rest // 60}:{rest % 60:02d}"


def before_and_after(before: Scores, after: Scores) -> Table:
    """Held-out scores before and after training, and their paired difference with a 95% interval."""
    table = Table(title="Held-out questions, greedy", title_justify="left")
    for column in ("", "questions", "before", "after", "difference", "95% interval"):
        table.add_column(column, justify="left" if not column else "right")
    rows: list[tuple[str, str, int | None]] = [("EM", "em", None), ("F1", "f1", None)]
    rows += [(f"EM, {hop}-hop", "em", hop) for hop in hop_counts(after)]
    for label, metric, hops in rows:
        old = {q: s for q, s in before.items() if hops is None or s.hops == hops}
        new = {q: s for q, s in after.items() if hops is None or s.hops == hops}
        difference = paired_difference(old, new, metric=metric)
        cells = [
            f"{value:.3f}" if value is not None else "-"
            for value in (mean_score(old, metric), mean_score(new, metric))
        ]
        if difference is None:
            table.add_row(label, str(len(new)), *cells, "-", "-")
        else:
            interval = f"[{difference.low:+z.3f}, {difference.high:+z.3f}]"
            table.add_row(label, str(difference.questions), *cells, f"{difference.mean:+z.3f}", interval)
    return table


def nothing_learned(before: Scores, after: Scores, model: str | None) -> str | None:
    """What to do about a run whose held-out scores did not rise; None where they rose beyond chance.

    Args:
        before: held-out scores before training.
        after: those after it.
        model: the run's `model_path`.
    """
    difference = paired_difference(before, after)
    if difference is None or difference.low > 0:
        return None
    if not mean_score(after, "em"):
        return (
            "no held-out question was answered right, so nothing that counts was learned: `igpo doctor` "
            f"shows whether {model} finds documents, writes what can be read and believes right answers; "
            "`igpo warm-start` teaches it the protocol first"
        )
    return (
        "held-out EM did not rise beyond chance: train longer, or let `igpo doctor` measure whether belief "
        "in right answers moves with evidence at all"
    )


def _spinning(text: str) -> Table:
    from rich.spinner import Spinner

    grid = Table.grid(padding=(0, 1))
    grid.add_row(Spinner("dots"), Text(text, overflow="ellipsis"))
    return grid
