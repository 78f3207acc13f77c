"""Compares finished runs of a real model on real text: sampled exact match by update, and held-out scores.

    python -m benchmarks.real_text keep RUN... --start rare --method grpo --scores scores.json
    python -m benchmarks.real_text show --baseline grpo --svg docs/images/real_text.svg

`keep` reads a run's log, and what `rllib evaluate RUN/checkpoints/last --out scores.json` wrote. Of a run
that went on from another's checkpoint name both, the earlier first. It keeps two tables beside this module:
`updates.csv`, a row per update, and `heldout.csv`, a row per question. What they have of the same start,
method and seed is replaced. `show` reads these tables alone.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import altair as alt
import duckdb
import numpy as np
import pyarrow as pa
from rich.table import Table

from pipeline.analysis import open_run
from pipeline.evaluation.intervals import percentile_interval
from pipeline.terminal import Console

UPDATES, HELDOUT = (Path(__file__).with_name(name) for name in ("updates.csv", "heldout.csv"))
UPDATES_OF_RUN = """
WITH trained AS (
    SELECT
        iteration,
        avg(em_squad) AS em,
        avg(gain_turns) AS searches,
        avg((termination <> 'answered')::INT) AS unanswered,
        count(*) AS rollouts,
        sum(decision_tokens) AS tokens
    FROM episodes WHERE split = 'train' GROUP BY iteration
)
SELECT
    (SELECT any_value(seed) FROM runs) AS seed,
    run_id,
    iteration AS update,
    coalesce(metrics['em_sampled'], trained.em) AS em,
    searches,
    unanswered,
    sum(coalesce(metrics['rollouts_sampled'], trained.rollouts)) OVER upto::BIGINT AS rollouts,
    sum(coalesce(metrics['tokens_sampled'], trained.tokens)) OVER upto::BIGINT AS tokens
FROM trained JOIN iterations USING (iteration)
WHERE split = 'train'
WINDOW upto AS (ORDER BY iteration)
ORDER BY iteration
"""
"""EM, rollouts and tokens are of all that was sampled, searches of the groups that were trained on (`dapo`
replaces others).
"""
SMOOTHED = 3
"""Updates over which sampled EM is averaged: one update has eight questions only."""
RESAMPLES = 10_000


def keep(runs: Sequence[Path], start: str, method: str, scores: Path | None) -> None:
    """Puts a run's updates, and its held-out scores where there are some, into the tables.

    Args:
        runs: the run; before it those whose checkpoints it went on from, in order.
        start: name of the warm start.
        method: its name in the tables.
        scores: the file of held-out scores.
    """
    about = {"start": start, "method": method}
    updates: list[dict[str, Any]] = []
    for run in runs:
        rows = open_run(run).sql(UPDATES_OF_RUN).to_arrow_table().to_pylist()
        before = updates[-1] if updates else {"update": 0, "rollouts": 0, "tokens": 0}
        if rows[0]["update"] != before["update"] + 1:
            sys.exit(
                f"{run} begins at update {rows[0]['update']}, and {before['update']} are there before it"
            )
        counted = ("rollouts", "tokens")
        updates += [about | row | {name: row[name] + before[name] for name in counted} for row in rows]
    _replace(UPDATES, updates, "start, method, seed, update")
    if scores is not None:
        about |= {name: updates[-1][name] for name in ("seed", "run_id")}
        names = ("question_id", "em_squad", "f1_squad", "em_paper", "f1_paper")
        episodes = json.loads(scores.read_text(encoding="utf-8"))["episodes"]
        rows = [
            about | {name: episode[name] for name in names} | {"read_gold": _has_read_gold(episode)}
            for episode in episodes
        ]
        _replace(HELDOUT, rows, "start, method, seed, question_id")


def _has_read_gold(episode: dict[str, Any]) -> int:
    """1 where a text that the rollout read names a gold answer, in any case, else 0."""
    read = " ".join(turn["observation"] for turn in episode["turns"]).lower()
    return int(any(gold.lower() in read for gold in episode["golden_answers"]))


def _replace(path: Path, rows: list[dict[str, Any]], order: str) -> None:
    """Writes `rows` in the place of those of the same start, method and seed, in `order`."""
    table = duckdb.from_arrow(pa.Table.from_pylist(rows))
    if path.exists():
        same = " AND ".join(f"{name} = '{rows[0][name]}'" for name in ("start", "method", "seed"))
        others = duckdb.read_csv(str(path)).filter(f"NOT ({same})")
        table = others.union(table.project(", ".join(others.columns)))
    written = table.order(order).to_arrow_table()
    duckdb.from_arrow(written).write_csv(str(path))


def show(baseline: str, svg: Path | None, console: Console) -> None:
    """Prints, per start, how fast each method rose and its held-out scores against `baseline`'s."""
    for (start,) in duckdb.sql(f"SELECT DISTINCT start FROM '{UPDATES}' ORDER BY 1").fetchall():
        console.print(_by_update(start), _rise(start, baseline), _held_out(start, baseline), _by_kind(start))
    if svg is not None:
        draw().save(str(svg))


def _by_update(start: str) -> Table:
    """Means over the seeds of a method: searches a rollout, share without an answer, EM."""
    rows = duckdb.sql(
        f"""SELECT update, method, avg(searches), avg(unanswered), avg(em), count(*)
        FROM '{UPDATES}' WHERE start = '{start}' GROUP BY ALL ORDER BY ALL"""
    ).fetchall()
    methods = sorted({(method, seeds) for _, method, *_, seeds in rows})
    table = Table(title=f"{start}: searches a rollout, without an answer, EM; mean over seeds")
    for heading in ("update", *(f"{method}, seeds: {seeds}" for method, seeds in methods)):
        table.add_column(heading)
    for update in sorted({row[0] for row in rows}):
        cells = {row[1]: f"{row[2]:.2f}, {row[3]:.0%}, {row[4]:.3f}" for row in rows if row[0] == update}
        table.add_row(str(update), *(cells.get(method, "") for method, _ in methods))
    return table


def _rise(start: str, baseline: str) -> Table:
    """Updates until rollouts make 1.5 searches on average, until EM is 0.6, and until it is at the baseline's
    end; EM of the last updates and of all.
    """
    curves = _curves(start)
    table = Table(title=f"{start}: updates needed")
    to, last = f"to {baseline}'s last EM", f"EM of the last {SMOOTHED}"
    for column in ("method", "seed", "to 1.5 searches", "to EM 0.6", to, last, "mean EM of all updates"):
        table.add_column(column)
    for (method, seed), columns in curves.items():
        smooth = _smooth(columns["em"])
        goal = _smooth(curves[baseline, seed]["em"])[-1] if (baseline, seed) in curves else np.inf
        searches, high, reached = (
            _first(columns["searches"], 1.5),
            _first(smooth, 0.6),
            _first(smooth, goal),
        )
        table.add_row(
            method,
            str(seed),
            "never" if searches is None else str(searches),
            "never" if high is None else str(high + SMOOTHED - 1),
            "never" if reached is None else f"{reached + SMOOTHED - 1} (EM {goal:.3f})",
            f"{smooth[-1]:.3f}",
            f"{columns['em'].mean():.3f}",
        )
    return table


def _held_out(start: str, baseline: str) -> Table:
    """Scores per method over its seeds, and the difference to the baseline over the seeds of both."""
    scores = _scores(start)
    table = Table(title=f"{start}: greedy, held out; 95% intervals over seeds (of several) and questions")
    for column in ("method", "seeds", "EM of each", "EM", "F1", f"EM - {baseline}'s"):
        table.add_column(column)
    for method in dict.fromkeys(method for method, _ in scores):
        seeds = [seed for name, seed in scores if name == method]
        em_SQ = np.stack([scores[method, seed]["em_squad"] for seed in seeds])
        f1_SQ = np.stack([scores[method, seed]["f1_squad"] for seed in seeds])
        both = [seed for seed in seeds if (baseline, seed) in scores]
        difference = ""
        if both and method != baseline:
            difference_SQ = np.stack(
                [scores[method, seed]["em_squad"] - scores[baseline, seed]["em_squad"] for seed in both]
            )
            difference = _with_interval(difference_SQ)
        each = ", ".join(f"{mean:.3f}" for mean in em_SQ.mean(axis=1))
        table.add_row(
            method, ", ".join(map(str, seeds)), each, _with_interval(em_SQ), _with_interval(f1_SQ), difference
        )
    return table


def _by_kind(start: str) -> Table:
    """Held-out EM of each run by kind of question, and where it is known (older rows lack it) the share of
    questions for which it read a gold answer.
    """
    kind = "split_part(question_id, '/', 1)"
    held_out = duckdb.read_csv(str(HELDOUT)).filter(f"start = '{start}'")
    kinds = [name for (name,) in held_out.project(kind).distinct().order("1").fetchall()]
    table = Table(title=f"{start}: EM by kind of question, greedy, held out; gold answer read")
    for column in ("method", "seed", *kinds, "gold answer read"):
        table.add_column(column)
    ems = "".join(f"avg(em_squad) FILTER ({kind} = '{name}'), " for name in kinds)
    rows = held_out.aggregate(f"method, seed, {ems} avg(read_gold)", "method, seed").order("method, seed")
    for method, seed, *shares in rows.fetchall():
        table.add_row(method, str(seed), *("" if share is None else f"{share:.2f}" for share in shares))
    return table


def _with_interval(values_SQ: np.ndarray) -> str:
    """The mean of [seeds, questions] with its 95% interval, both resampled."""
    generator = np.random.default_rng(0)
    seeds, questions = values_SQ.shape
    means_X = np.empty(RESAMPLES)
    for draw_index in range(RESAMPLES):
        by_question_Q = values_SQ[generator.integers(0, seeds, seeds)].mean(axis=0)
        means_X[draw_index] = by_question_Q[generator.integers(0, questions, questions)].mean()
    low, high = percentile_interval(means_X)
    return f"{values_SQ.mean():.3f} [{low:.3f}, {high:.3f}]"


def _curves(start: str) -> dict[tuple[str, int], dict[str, np.ndarray]]:
    return _by_run(UPDATES, start, "update", ("em", "searches"))


def _scores(start: str) -> dict[tuple[str, int], dict[str, np.ndarray]]:
    """Scores by method and seed, in the order of the questions' ids."""
    if not HELDOUT.exists():
        return {}
    scores = _by_run(HELDOUT, start, "question_id", ("question_id", "em_squad", "f1_squad"))
    ids = [columns["question_id"] for columns in scores.values()]
    if any(not np.array_equal(ids[0], other) for other in ids):
        sys.exit(f"{HELDOUT.name}: the runs of start {start} were asked different questions")
    return scores


def _by_run(
    path: Path, start: str, order: str, names: tuple[str, ...]
) -> dict[tuple[str, int], dict[str, np.ndarray]]:
    """The columns `names` of a table by method and seed, each in the order of the column `order`."""
    rows = duckdb.read_csv(str(path)).filter(f"start = '{start}'").order(f"method, seed, {order}")
    table = rows.to_arrow_table().to_pylist()
    keys = dict.fromkeys((row["method"], row["seed"]) for row in table)
    return {
        key: {
            name: np.array([row[name] for row in table if (row["method"], row["seed"]) == key])
            for name in names
        }
        for key in keys
    }


def _smooth(values_U: np.ndarray) -> np.ndarray:
    return np.convolve(values_U, np.ones(SMOOTHED) / SMOOTHED, mode="valid")


def _first(values_U: np.ndarray, goal: float) -> int | None:
    """The first update, from 1, at which the value is `goal` or more."""
    reached = np.flatnonzero(values_U >= goal)
    return int(reached[0]) + 1 if len(reached) else None


def draw() -> alt.FacetChart:
    """Draws sampled exact match by tokens, a thin line per seed and a thick one for their mean.

    A method with one seed is left out: its line beside means over several would mislead.
    """
    values = duckdb.sql(
        f"""
        WITH by_update AS (
            SELECT *, avg(tokens) OVER together / 1000 AS mean_tokens, avg(em) OVER together AS mean
            FROM '{UPDATES}'
            WHERE (start, method) IN (
                SELECT (start, method) FROM '{UPDATES}' GROUP BY start, method HAVING count(DISTINCT seed) > 1
            )
            WINDOW together AS (PARTITION BY start, method, update)
        )
        SELECT
            start, method, seed, mean_tokens AS tokens,
            avg(em) OVER smooth AS em, avg(mean) OVER smooth AS mean
        FROM by_update
        WINDOW smooth AS (PARTITION BY start, method, seed ORDER BY update ROWS 2 PRECEDING)
        ORDER BY start, method, seed, update
        """
    ).to_arrow_table()
    base: Any = alt.Chart(width=300, height=220).encode(
        x=alt.X("tokens:Q", title="thousand tokens sampled, mean over seeds"),
        color=alt.Color("method:N", title=None, legend=alt.Legend(orient="top", symbolOpacity=1)),
    )
    seeds = base.mark_line(opacity=0.3, strokeWidth=1).encode(y="em:Q", detail="seed:N")
    mean = base.mark_line(strokeWidth=2.5).encode(
        y=alt.Y("mean:Q", title="exact match of sampled rollouts, 3 updates")
    )
    return alt.layer(seeds, mean, data=alt.Data(values=values.to_pylist())).facet(
        facet=alt.Facet("start:N", title=None), columns=3
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    keeping = commands.add_parser("keep", help="put a finished run into the tables")
    keeping.add_argument("runs", type=Path, nargs="+", metavar="RUN")
    keeping.add_argument("--start", required=True, help="name of the warm start")
    keeping.add_argument("--method", required=True)
    keeping.add_argument("--scores", type=Path, help="what rllib evaluate --out wrote of the last checkpoint")
    showing = commands.add_parser("show", help="print the comparison")
    showing.add_argument("--baseline", default="grpo")
    showing.add_argument("--svg", type=Path, help="file to draw the curves to")
    args = parser.parse_args()
    if args.command == "keep":
        keep(args.runs, args.start, args.method, args.scores)
    else:
        show(args.baseline, args.svg, Console())


if __name__ == "__main__":
    main()
