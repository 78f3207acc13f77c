"""The report's plots, by the question that they answer: from named queries and views to `marks`."""

from __future__ import annotations

from collections import Counter

import altair as alt

from pipeline.analysis.answers import rows_of
from pipeline.analysis.report.agents import agent_figures
from pipeline.analysis.report.charts import (
    COLOURS,
    QUANTILES,
    Row,
    boxes,
    chart,
    learning_curve,
    lines,
    run_colour,
    spec,
)
from pipeline.analysis.report.figure import Figure, Section
from pipeline.analysis.report.health import health_figures
from pipeline.analysis.report.reported_runs import ReportedRun
from pipeline.analysis.run import Run

ENDINGS = (
    "right",
    "wrong",
    "wrong, evidence missing",
    "wrong, all evidence found",
    "turn limit",
    "token limit",
    "malformed",
)
"""Endings of the query `endings` in the order in which they are stacked."""
KEY = "run_id, iteration, split, episode_id"
"""What names a rollout in `turns` and `episodes`."""
BOX = "Box: middle half, with the median; line: 5% to 95%; dot: mean."


def sections(run: Run, runs: list[ReportedRun]) -> list[Section]:
    """Draws every figure that the log has data for, in reading order.

    A figure of several lines is drawn once per run.
    """
    plots = _Plots(run, runs)
    found = [
        Section("Does it learn?", plots.learning_curves()),
        Section("How much signal does information gain rescue?", plots.collapse()),
        Section("Which turns earn reward?", plots.gain_by_turn()),
        Section("Which agent earns it?", agent_figures(run, {one.run_id: one.label for one in runs})),
        Section("Is the credit deserved?", [*plots.gain_by_evidence(), *plots.auroc(), *plots.agreement()]),
        Section("What goes wrong?", [*plots.endings(), *plots.searching(), *plots.turns_per_rollout()]),
        Section("Is the learner healthy?", health_figures(run, {one.run_id: one.label for one in runs})),
        Section("Where does the time go?", plots.phases()),
    ]
    return [section for section in found if section.figures]


class _Plots:
    """The figures of `runs`; every row that they draw has its run's label under `run`."""

    def __init__(self, run: Run, runs: list[ReportedRun]):
        self._run = run
        self._label_of = {one.run_id: one.label for one in runs}
        self._labels = list(self._label_of.values())
        self._unit_of = {one.label: one.gain_unit for one in runs}

    def learning_curves(self) -> list[Figure]:
        rows = [row for row in self._named("learning_curve") if row["em_squad"] is not None]
        reading = "Band: 95% interval over questions (a question's rollouts count as one observation)."
        figures = []
        for split, title in (("heldout", "Held-out exact match"), ("train", "Training exact match")):
            if own := [row for row in rows if row["split"] == split]:
                figures.append(Figure(title, reading, learning_curve(own, self._labels)))
        return figures

    def collapse(self) -> list[Figure]:
        return self._lines(
            "Groups without any signal",
            "Share of groups whose advantages are all 0. What lies between the lines is what the estimator "
            "rescued, by information gain or what else it pays.",
            self._named("advantage_collapse"),
            {
                "collapsed_outcome": "under the outcome alone",
                "collapsed_or_faint": "as trained, noise counted as none",
                "collapsed": "as trained",
            },
            "share of groups",
        )

    def gain_by_turn(self) -> list[Figure]:
        gains = self._gains(
            "Information gain by turn",
            "Training turns with a gain, so no final ones.",
            "turn_index",
            "gain IS NOT NULL",
            "turn (from 0)",
        )
        figures = []
        if rows := self._quantiles("advantage", "turn_index", "advantage + gain IS NOT NULL"):
            reading = f"What training gave each token, of the same turns. {BOX}"
            drawn = boxes(rows, self._labels, "turn (from 0)", "advantage")
            figures.append(Figure("Advantage by turn", reading, drawn))
        what = "CASE WHEN em_squad = 1 THEN 'right' ELSE 'not right' END"
        rows = self._quantiles("advantage", what, "is_final AND advantage IS NOT NULL", of_rollouts=True)
        if rows:
            reading = f"What training gave each token of a rollout's final turn, mostly its answer. {BOX}"
            drawn = boxes(rows, self._labels, "the rollout was", "advantage")
            figures.append(Figure("Advantage of the final turn", reading, drawn))
        return gains + figures

    def gain_by_evidence(self) -> list[Figure]:
        return self._gains(
            "Gain by what the turn retrieved",
            "Deserved credit sets the two apart.",
            "CASE WHEN gold_hit THEN 'new gold evidence' ELSE 'nothing new' END",
            "gain IS NOT NULL AND gold_hit IS NOT NULL",
            "the turn retrieved",
        )

    def _gains(self, title: str, reading: str, category: str, condition: str, axis: str) -> list[Figure]:
        """Boxes of gains: a figure for each unit in which runs count them, since these do not compare."""
        rows = self._quantiles("gain", category, condition)
        of_unit: dict[str, list[Row]] = {}
        for label, own in self._per_run(rows):
            of_unit.setdefault(self._unit_of[label], []).extend(own)
        figures = []
        for unit, own in of_unit.items():
            named = f"{title}, in {unit}" if unit and len(of_unit) > 1 else title
            drawn = boxes(own, self._labels, axis, f"gain ({unit})" if unit else "gain")
            figures.append(Figure(named, f"{reading} {BOX}", drawn))
        return figures

    def auroc(self) -> list[Figure]:
        rows = [row for row in self._named("credit_auroc_by_hop") if row["auroc"] is not None]
        if not rows:
            return []
        points = chart(rows).encode(
            x=alt.X("hops:O", title="hops of the question", axis=alt.Axis(labelAngle=0)),
            xOffset=alt.XOffset("run:N", scale=alt.Scale(domain=self._labels)),
            y=alt.Y("auroc:Q", title="AUROC", scale=alt.Scale(domain=[0, 1])),
            color=run_colour(self._labels),
            tooltip=["run:N", "hops:O", alt.Tooltip("auroc:Q", format=".3f"), "hit_turns:Q", "other_turns:Q"],
        )
        coin = chart([{"auroc": 0.5}]).mark_rule(strokeDash=[4, 4]).encode(y="auroc:Q")
        reading = (
            "Chance that a turn with new gold evidence gains more than one without; "
            "the dashed line is a coin."
        )
        drawn = coin + points.mark_point(filled=True, size=130, opacity=1)
        return [Figure("Does gain find the evidence?", reading, spec(drawn))]

    def agreement(self) -> list[Figure]:
        return self._lines(
            "Advantage against evidence",
            "Share of turns whose advantage is positive exactly where new gold evidence was retrieved.",
            self._named("advantage_agreement"),
            {"agreement": "advantage as trained", "outcome_agreement": "outcome alone"},
            "share of turns",
        )

    def endings(self) -> list[Figure]:
        rows = [row for row in self._named("endings") if row["split"] == "train"]
        found = {row["ending"] for row in rows}
        order = [ending for ending in ENDINGS if ending in found] + sorted(found - set(ENDINGS))
        rows = [row | {"rank": order.index(row["ending"])} for row in rows]
        figures = []
        for label, own in self._per_run(rows):
            bars = (
                chart(own)
                .mark_bar()
                .encode(
                    x=alt.X("iteration:O", axis=alt.Axis(labelOverlap=True, labelAngle=0)),
                    y=alt.Y(
                        "share:Q",
                        title="share of rollouts",
                        axis=alt.Axis(format="%"),
                        scale=alt.Scale(domain=[0, 1]),
                    ),
                    color=alt.Color("ending:N", title=None, scale=alt.Scale(domain=order)),
                    order="rank:Q",
                    tooltip=["ending:N", "iteration:O", alt.Tooltip("share:Q", format=".1%"), "rollouts:Q"],
                )
            )
            reading = "Training rollouts. Evidence: whether every gold document had been retrieved."
            figures.append(Figure(self._titled("How rollouts end", label), reading, spec(bars)))
        return figures

    def searching(self) -> list[Figure]:
        return self._lines(
            "Over- and under-searching",
            "Searches against the hops of the question, over training rollouts of questions whose hops are "
            "known.",
            [row for row in self._named("search_length") if row["split"] == "train"],
            {"over_searching": "more searches than hops", "under_searching": "answered after fewer"},
            "share of rollouts",
        )

    def turns_per_rollout(self) -> list[Figure]:
        return self._lines(
            "Turns per rollout",
            "Mean over right and over wrong training rollouts, the final turn included.",
            [row for row in self._named("search_length") if row["split"] == "train"],
            {"mean_turns_right": "right", "mean_turns_wrong": "wrong"},
            "turns",
            is_share=False,
        )

    def phases(self) -> list[Figure]:
        rows = [
            row
            for row in self._named("phase_seconds")
            if row["split"] == "train" and row["share"] is not None
        ]
        if not rows:
            return []
        seconds = Counter[str]()
        for row in rows:
            seconds[row["phase"]] += row["mean_seconds"]
        ranked = [phase for phase, _ in seconds.most_common()]
        # As many phases as there are distinct colours; the shortest ones share the last.
        order = (
            ranked if len(ranked) <= COLOURS else [*ranked[: COLOURS - 1], ", ".join(ranked[COLOURS - 1 :])]
        )
        rank = {phase: place for place, phase in enumerate(ranked)}
        rows = [
            row | {"rank": rank[row["phase"]], "colour": order[min(rank[row["phase"]], len(order) - 1)]}
            for row in rows
        ]
        bars = (
            chart(rows, height=60 + 50 * len({row["run"] for row in rows}))
            .mark_bar()
            .encode(
                y=alt.Y("run:N", title=None, sort=self._labels, axis=alt.Axis(labelLimit=140)),
                x=alt.X("mean_seconds:Q", title="seconds per iteration", axis=alt.Axis(tickCount=6)),
                color=alt.Color("colour:N", title=None, scale=alt.Scale(domain=order)),
                order="rank:Q",
                tooltip=["run:N", "phase:N"]
                + [alt.Tooltip(f"{name}:Q", format=".2f") for name in ("mean_seconds", "max_seconds")]
                + [alt.Tooltip("share:Q", format=".1%")],
            )
        )
        return [Figure("Seconds by phase", "Mean over training iterations.", spec(bars))]

    def _lines(
        self,
        title: str,
        reading: str,
        rows: list[Row],
        names: dict[str, str],
        axis: str,
        is_share: bool = True,
    ) -> list[Figure]:
        """Draws columns of `rows` (`names`: column -> what it is called) as lines over iterations, one
        figure per run.
        """
        long = [
            {"run": row["run"], "iteration": row["iteration"], "series": name, "value": row[column]}
            for row in rows
            for column, name in names.items()
            if row[column] is not None
        ]
        order = list(names.values())
        return [
            Figure(self._titled(title, label), reading, lines(own, order, axis, is_share))
            for label, own in self._per_run(long)
        ]

    def _quantiles(
        self, column: str, category: str, condition: str, *, of_rollouts: bool = False
    ) -> list[Row]:
        """Computes the mean and `QUANTILES` of a column of training turns per run and category.

        `of_rollouts`: the category reads columns of `episodes` too.
        """
        source = f"turns JOIN episodes USING ({KEY})" if of_rollouts else "turns"
        names = ", ".join(f"quantiles[{i}] AS {name}" for i, name in enumerate(QUANTILES, start=1))
        return self._rows(
            f"""
            SELECT * EXCLUDE (quantiles), {names}
            FROM (
                SELECT
                    run_id, {category} AS category, count(*) AS turns, avg({column}) AS mean,
                    quantile_cont({column}, {list(QUANTILES.values())}) AS quantiles
                FROM {source} WHERE split = 'train' AND {condition} GROUP BY run_id, category
            )
            ORDER BY run_id, category
            """
        )

    def _named(self, name: str) -> list[Row]:
        return self._with_labels(rows_of(self._run.named(name)))

    def _rows(self, query: str) -> list[Row]:
        return self._with_labels(rows_of(self._run.sql(query)))

    def _with_labels(self, rows: list[Row]) -> list[Row]:
        return [{"run": self._label_of[row["run_id"]], **row} for row in rows]

    def _per_run(self, rows: list[Row]) -> list[tuple[str, list[Row]]]:
        groups = [(label, [row for row in rows if row["run"] == label]) for label in self._labels]
        return [(label, own) for label, own in groups if own]

    def _titled(self, title: str, label: str) -> str:
        return f"{title}: {label}" if len(self._labels) > 1 else title
