"""Asks the watch about many past runs: where it warned, where they fell, and how often it was wrong."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.analysis.collapse_watch import FELL, NOT_SIGNS, iteration_table, signs_of

TRAIN = "train"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one run, and what the watch said before.

    Attributes:
        run: its name.
        iterations: how many it has.
        fell: the iteration at which it fell; None for a sound one.
        warned: the first iteration with a sign before that, and its signs; None where there was none.
    """

    run: str
    iterations: int
    fell: int | None
    warned: tuple[int, str] | None


def study_cell(path: Path, root: Path) -> pa.Table:
    """A cell of the study as the columns that the watch reads. Entropy, KL, gap and duplicates are not kept
    there.
    """
    rows, tokens, rollouts = [], 0, 0
    for row in pq.read_table(path).to_pylist():
        if row["split"] == TRAIN:
            measured = {
                "em_sampled": row["em"],
                "answered_share": row["answered"],
                "turns_mean": row["turns"],
                "collapse_share_or_faint": row["collapsed"],
                "tokens_sampled": row["tokens"] - tokens,
                "rollouts_sampled": row["rollouts"] - rollouts,
            }
            rows.append({name: float(value) for name, value in measured.items() if value is not None})
            tokens, rollouts = row["tokens"], row["rollouts"]
    return iteration_table(str(path.relative_to(root).with_suffix("")), rows)


def outcomes(tables: Iterable[pa.Table]) -> list[Outcome]:
    """Asks the watch about runs, a table of `iteration_table` each; those too short to warn about are left
    out.
    """
    kept = [table for table in tables if table.num_rows]
    found: dict[str, list[tuple[int, str]]] = {}
    for run, iteration, sign in signs_of(pa.concat_tables(kept)):
        found.setdefault(run, []).append((iteration, sign))
    lengths = {table["run_id"][0].as_py(): table.num_rows for table in kept}
    return [_outcome(run, lengths[run], rows) for run, rows in found.items() if rows[0][1] != NOT_SIGNS[1]]


def _outcome(run: str, iterations: int, rows: list[tuple[int, str]]) -> Outcome:
    fell = next((iteration for iteration, sign in rows if sign == FELL), None)
    signs = [
        (iteration, sign)
        for iteration, sign in rows
        if sign not in (FELL, *NOT_SIGNS) and (fell is None or iteration < fell)
    ]
    if not signs:
        return Outcome(run, iterations, fell, None)
    first = min(iteration for iteration, _ in signs)
    told = ", ".join(sign for iteration, sign in signs if iteration == first)
    return Outcome(run, iterations, fell, (first, told))


def report(found: list[Outcome]) -> str:
    """The runs that fell as a Markdown table, then the false alarms."""
    fallen = [one for one in found if one.fell]
    lines = ["| run | fell at | warned at | sign | ahead |", "|---|---|---|---|---|"]
    for one in fallen:
        at, sign = one.warned or ("", "none")
        ahead = one.fell - at if one.fell and isinstance(at, int) else "missed"
        lines.append(f"| {one.run} | {one.fell} of {one.iterations} | {at} | {sign} | {ahead} |")
    sound = [one for one in found if not one.fell]
    alarms = [one for one in sound if one.warned]
    lines += [
        "",
        f"{len(found)} runs, {len(fallen)} fell, {sum(bool(one.warned) for one in fallen)} of them warned.",
    ]
    lines += [f"False alarms: {len(alarms)} of {len(sound)} sound runs."]
    lines += [
        f"  {one.run}: {one.warned[1]} at {one.warned[0]} of {one.iterations}" for one in alarms if one.warned
    ]
    return "\n".join(lines)
