"""The first minute: a dozen numbers per run that say whether it learnt, whether credit was deserved, and what
went wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import duckdb

from pipeline.analysis.answers import rows_of
from pipeline.analysis.report.reported_runs import ReportedRun
from pipeline.analysis.run import Run


@dataclass(frozen=True, slots=True)
class Measure:
    """One line of the overview: what it is, how to read it, one text per run (`–` where the log
    cannot say).
    """

    name: str
    reading: str
    values: list[str]


@dataclass(frozen=True, slots=True)
class Part:
    """The lines that answer one question."""

    question: str
    measures: list[Measure]


def glance(run: Run, runs: list[ReportedRun]) -> list[Part]:
    """Returns the overview, a value per run in the order of `runs`."""
    named = {name: _by_run(run.named(name)) for name in _QUERIES} | {"unearned": _by_run(run.sql(_UNEARNED))}

    def line(name: str, reading: str, text) -> Measure:
        return Measure(
            name,
            reading,
            [text({key: rows.get(one.run_id, []) for key, rows in named.items()}) for one in runs],
        )

    def gains(name: str, reading: str, text) -> Measure:
        found = line(name, reading, text)
        units = [one.gain_unit for one in runs]
        return replace(
            found,
            values=[
                f"{value} ({unit})" if unit and value != "–" else value
                for value, unit in zip(found.values, units, strict=True)
            ],
        )

    seconds = line("Seconds per iteration", "training, mean", lambda q: _seconds(q["phase_seconds"]))
    was_timed = any(value != "–" for value in seconds.values)  # imported rollouts were not
    return [
        Part(
            "Does it learn?",
            [
                line(
                    "Held-out exact match",
                    "first → last evaluation, ± 95% interval over questions",
                    lambda q: _first_last(q, "heldout"),
                ),
                line("Training exact match", "first → last iteration", lambda q: _first_last(q, "train")),
            ],
        ),
        Part(
            "Which turns earn reward?",
            [
                gains(
                    "Gain of turn 0, 1, 2 ...",
                    "mean rise of belief in the gold answer over training turns that have a gain; the final "
                    "turn of a rollout has none",
                    lambda q: _by_turn(q["gain_by_turn"], "mean_gain"),
                ),
                line(
                    "Advantage of these turns",
                    "mean of what training gave each of their tokens, over the same turns, so answers are "
                    "not in it",
                    lambda q: _by_turn(q["gain_by_turn"], "mean_advantage"),
                ),
                line(
                    "Groups without signal under the outcome alone",
                    "all rollouts of the prompt were worth the same, so GRPO would learn nothing from them",
                    lambda q: _share(_mean(q["advantage_collapse"], "collapsed_outcome", "groups")),
                ),
                line(
                    "Groups rescued",
                    "no signal under the outcome, yet one as trained, above noise: by information gain, or "
                    "by what else an estimator of one's own pays; 0% where it pays the outcome alone",
                    lambda q: _share(_mean(q["advantage_collapse"], "rescued", "groups")),
                ),
            ],
        ),
        Part(
            "Is the credit deserved?",
            [
                line(
                    "Does gain find the evidence? (AUROC)",
                    "chance that a turn with new gold evidence gains more than one without; 0.5 is a coin",
                    lambda q: _number(_only(q["credit_auroc"], "auroc"), ".3f"),
                ),
                gains(
                    "Gain with, without evidence",
                    "mean gain of turns that retrieved new gold evidence, and of the others",
                    lambda q: _pair(q["credit_auroc"], "mean_gain_hit", "mean_gain_other"),
                ),
                line(
                    "Advantage agrees with evidence",
                    "sign of a turn's advantage against its retrieval; in brackets what the outcome alone "
                    "would have paid",
                    lambda q: _agreement(q["advantage_agreement"]),
                ),
                line(
                    "Right turns punished",
                    "new gold evidence, and yet a negative gain; and yet a negative advantage",
                    lambda q: _punished(q["bridge_turns_punished"]),
                ),
                line(
                    "Gain taken without evidence",
                    "share of all positive gain that went to turns without new gold evidence",
                    lambda q: _share(_only(q["unearned"], "share")),
                ),
            ],
        ),
        Part(
            "What goes wrong?",
            [
                line(
                    "Training rollouts that fail, and how",
                    "commonest first; evidence: the question's gold documents",
                    lambda q: _failures([row for row in q["endings"] if row["split"] == "train"]),
                ),
                line(
                    "Turns with a broken format",
                    "training turns that were malformed or cut off",
                    _format_failures,
                ),
                line(
                    "Tool calls that failed",
                    "all tools, held-out questions included",
                    lambda q: _ratio(q["tool_errors"], "errors", "calls"),
                ),
                *([seconds] if was_timed else []),
            ],
        ),
    ]


_QUERIES = (
    "learning_curve",
    "gain_by_turn",
    "advantage_collapse",
    "credit_auroc",
    "advantage_agreement",
    "bridge_turns_punished",
    "endings",
    "format_failures",
    "search_length",
    "tool_errors",
    "phase_seconds",
)
_TURNS = 6
_FAILURES = 3
"""A line names at most this many turns, and this many kinds of failure."""

# `gain_without_evidence` over all iterations: shares of iterations cannot be averaged, their denominators
# differ.
_UNEARNED = """
    SELECT run_id, coalesce(sum(gain) FILTER (WHERE NOT gold_hit), 0) / sum(gain) AS share
    FROM turns WHERE gain > 0 AND gold_hit IS NOT NULL AND split = 'train' GROUP BY run_id
"""

Row = dict[str, Any]


def _by_run(relation: duckdb.DuckDBPyRelation) -> dict[str, list[Row]]:
    rows: dict[str, list[Row]] = {}
    for row in rows_of(relation):
        rows.setdefault(row["run_id"], []).append(row)
    return rows


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _share(value: float | None) -> str:
    return _number(value, ".1%")


def _only(rows: list[Row], column: str) -> float | None:
    return rows[0][column] if rows else None


def _mean(rows: Iterable[Row], column: str, weight: str) -> float | None:
    """Computes the mean of `column` weighted by `weight`; None without a row that has the value."""
    pairs = [(row[column], row[weight]) for row in rows if row[column] is not None]
    total = sum(weight for _, weight in pairs)
    return sum(value * weight for value, weight in pairs) / total if total else None


def _ratio(rows: list[Row], part: str, whole: str) -> str:
    total = sum(row[whole] for row in rows)
    return f"{sum(row[part] for row in rows) / total:.1%} of {total:,}" if total else "–"


def _first_last(queries: dict[str, list[Row]], split: str) -> str:
    rows = [row for row in queries["learning_curve"] if row["split"] == split]
    if not rows:
        return "–"
    shown = [rows[0]] if len(rows) == 1 else [rows[0], rows[-1]]
    return " → ".join(
        f"{row['em_squad']:.3f}" + ("" if row["em_ci95"] is None else f" ± {row['em_ci95']:.3f}")
        for row in shown
    )


def _by_turn(rows: list[Row], column: str) -> str:
    """Returns the column of the first turns, in order; `…` where there are more."""
    values = [_number(row[column], "+z.2f") for row in rows[:_TURNS]]
    return ", ".join(values + ["…"] * (len(rows) > _TURNS)) or "–"


def _pair(rows: list[Row], *columns: str) -> str:
    return ", ".join(_number(_only(rows, column), "+z.2f") for column in columns) if rows else "–"


def _punished(rows: list[Row]) -> str:
    by_gain, by_advantage = (
        _mean(rows, column, "hit_turns") for column in ("punished_share", "negative_advantage_share")
    )
    return f"{by_gain:.1%} by gain, {_share(by_advantage)} by advantage" if by_gain is not None else "–"


def _failures(rows: list[Row]) -> str:
    total, kinds = sum(row["rollouts"] for row in rows), Counter[str]()
    for row in rows:
        kinds[row["ending"]] += row["rollouts"]
    del kinds["right"]
    failed = sum(kinds.values())
    if not failed:
        return f"none of {total:,}" if total else "–"
    named = "; ".join(f"{count / failed:.0%} {kind}" for kind, count in kinds.most_common(_FAILURES))
    return f"{failed / total:.1%} of {total:,}: {named}"


def _agreement(rows: list[Row]) -> str:
    ours, outcome = _mean(rows, "agreement", "turns"), _mean(rows, "outcome_agreement", "turns")
    return "–" if ours is None else f"{ours:.1%} ({_share(outcome)})"


def _format_failures(queries: dict[str, list[Row]]) -> str:
    turns = sum(
        row["mean_turns"] * row["rollouts"] for row in queries["search_length"] if row["split"] == "train"
    )
    failures = sum(row["failures"] for row in queries["format_failures"] if row["split"] == "train")
    return f"{failures / turns:.1%} of {turns:,.0f}" if turns else "–"


def _seconds(rows: list[Row]) -> str:
    return next(
        (f"{row['mean_seconds']:.1f}" for row in rows if row["split"] == "train" and row["phase"] == "total"),
        "–",
    )
