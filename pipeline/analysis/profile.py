"""A run's time in the terminal: a stacked bar of seconds per phase for each stretch of iterations."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rich.console import Group
from rich.table import Table
from rich.text import Text

from pipeline.analysis.answers import rows_of
from pipeline.analysis.locate import AnalysisError
from pipeline.analysis.run import Run
from pipeline.terminal import Console

PHASES = {
    "generate": "blue",
    "score": "cyan",
    "tools": "yellow",
    "host": "bright_black",
    "swap": "bright_red",
    "credit": "magenta",
    "learn": "green",
    "push": "red",
    "log": "white",
    "other": "bright_white",
}
"""Phases in the order of an iteration, and their colours. `other` is what none of them accounts for."""
MEANING = {
    "generate": "the engine writes turns",
    "score": "belief in the gold answers",
    "tools": "every rollout waits for its tools",
    "host": "parsing, tokenising, bookkeeping of rollouts",
    "swap": "engine and learner change places on one GPU",
    "credit": "rewards to advantages",
    "learn": "forward, backward, optimizer step",
    "push": "weights to the engines",
    "log": "rollout log, tracker and checkpoint of the iteration before",
    "other": "not in any phase",
}
BARS = 20
WIDTH = 60
MEMORY = {"peak_gib_sample": "sampling", "peak_gib_learn": "learning"}


@dataclass(frozen=True)
class Profile:
    """Seconds per phase of a run's training iterations."""

    iterations: list[int]
    seconds: list[dict[str, float]]
    """Of each iteration: every phase of `PHASES`, and `total` by the clock, logging included."""
    tokens_per_second: float
    """Sampled tokens by seconds of sampling, mean."""
    peak_gib: dict[str, float]
    """Highest memory of each phase that was measured."""
    overlapped: bool
    """Sampling ran beside learning, so the phases add up to more than the total."""

    @property
    def means(self) -> dict[str, float]:
        return {
            phase: sum(row[phase] for row in self.seconds) / len(self.seconds) for phase in (*PHASES, "total")
        }

    @property
    def largest(self) -> str:
        means = self.means
        return max(PHASES, key=means.__getitem__)


def profile(run: Run) -> Profile:
    """Returns the profile of the finished training iterations in `run` (of one run).

    Raises AnalysisError if there are none.
    """
    finished = (
        "split = 'train' AND seconds['total'] IS NOT NULL"  # one that stopped the run left its rollouts alone
    )
    rows = rows_of(
        run.sql(f"SELECT iteration, seconds, metrics FROM iterations WHERE {finished} ORDER BY iteration")
    )
    if not rows:
        raise AnalysisError("this run has no training iteration yet, or its rollouts were imported")
    seconds = [_by_phase(row["seconds"]) for row in rows]
    metrics = [row["metrics"] or {} for row in rows]
    speeds = [m["tokens_per_second"] for m in metrics if "tokens_per_second" in m]
    peaks = {label: [m[name] for m in metrics if name in m] for name, label in MEMORY.items()}
    return Profile(
        iterations=[row["iteration"] for row in rows],
        seconds=seconds,
        tokens_per_second=sum(speeds) / len(speeds) if speeds else math.nan,
        peak_gib={label: max(values) for label, values in peaks.items() if values},
        overlapped=any(m.get("weight_lag") for m in metrics),
    )


def _by_phase(seconds: dict[str, float]) -> dict[str, float]:
    phases = {phase: seconds.get(phase, 0.0) for phase in PHASES}
    total = seconds["total"] + phases["log"]
    return phases | {"other": max(0.0, total - sum(phases.values())), "total": total}


def show(found: Profile, console: Console) -> None:
    """Prints the chart, the table, and which phase is the largest."""
    console.print(Group(_chart(found), Text(), _table(found)))
    means, largest = found.means, found.largest
    console.print(
        f"largest: {largest} ({MEANING[largest]}), {means[largest]:.2f} of {means['total']:.2f} s per "
        f"iteration ({means[largest] / means['total']:.0%}); {found.tokens_per_second:,.0f} sampled tokens/s"
    )
    if found.peak_gib:
        console.print("peak memory: " + ", ".join(f"{p} {gib:.2f} GiB" for p, gib in found.peak_gib.items()))
    if found.overlapped:
        console.print("sampling ran beside learning (max_weight_lag): its phases are not part of the total")


def _chart(found: Profile) -> Table:
    """Draws a bar for each of at most `BARS` stretches of iterations: their mean seconds, one scale for
    all.
    """
    step = math.ceil(len(found.iterations) / BARS)
    table = Table.grid(padding=(0, 1))
    stretches = []
    for start in range(0, len(found.iterations), step):
        rows = found.seconds[start : start + step]
        label = str(found.iterations[start])
        if len(rows) > 1:
            label += f"-{found.iterations[start + len(rows) - 1]}"
        stretches.append(
            (label, {phase: sum(row[phase] for row in rows) / len(rows) for phase in (*PHASES, "total")})
        )
    scale = WIDTH / max(sum(mean[phase] for phase in PHASES) for _, mean in stretches)
    for label, mean in stretches:
        table.add_row(Text(label, justify="right"), _bar(mean, scale), f"{mean['total']:.2f} s")
    return table


def _bar(mean: dict[str, float], scale: float) -> Text:
    bar, drawn, exact = Text(), 0, 0.0
    for phase, colour in PHASES.items():
        exact += mean[phase] * scale
        cells = round(exact) - drawn
        bar.append("█" * cells, style=colour)
        drawn += cells
    return bar


def _table(found: Profile) -> Table:
    means = found.means
    table = Table(header_style="bold")
    for name in ("phase", "s / iteration", "share", "what it is"):
        table.add_column(name, justify="right" if name in ("s / iteration", "share") else "left")
    for phase, colour in sorted(PHASES.items(), key=lambda item: -means[item[0]]):
        if not means[phase]:
            continue
        label = Text.assemble(("█ ", colour), phase)
        table.add_row(label, f"{means[phase]:.3f}", f"{means[phase] / means['total']:.1%}", MEANING[phase])
    return table
