"""The paper's case-study figure: belief in the gold answer over the turns of one rollout, its group behind
it.
"""

from __future__ import annotations

import altair as alt

from pipeline.analysis.report.charts import WHOLE, Row, chart, spec
from pipeline.analysis.report.figure import Figure
from pipeline.analysis.run import Run
from pipeline.analysis.trajectories import Trajectory, load_group

GOLD, NOTHING = "gold evidence", "nothing new"


def case_study_figure(run: Run, chosen: Trajectory) -> Figure:
    """Draws belief after each turn of `chosen`, a diamond where the turn retrieved new gold evidence."""
    chosen_id = chosen.episode["episode_id"]
    rows = [
        row | {"is_chosen": row["rollout"] == chosen_id}
        for one in load_group(run, chosen.episode)
        for row in _steps(one)
    ]
    base = chart(rows).encode(
        x=alt.X("step:Q", title="turns so far", axis=alt.Axis(tickMinStep=1, format="d", labelExpr=WHOLE)),
        y=alt.Y("belief:Q", title="belief in the gold answer", scale=alt.Scale(domain=[0, 1])),
        detail="rollout:N",
        tooltip=["step:Q", "did:N", alt.Tooltip("belief:Q", format=".4f"), "retrieved:N", "answered:N"],
    )
    others, own = base.transform_filter("!datum.is_chosen"), base.transform_filter("datum.is_chosen")
    shape = alt.Shape(
        "retrieved:N", title="retrieved", scale=alt.Scale(domain=[GOLD, NOTHING], range=["diamond", "circle"])
    )
    drawn = (
        others.mark_line(opacity=0.4, strokeWidth=1.5, color="gray")
        + own.mark_line(strokeWidth=2.5)
        + own.mark_point(filled=True, size=110, opacity=1).encode(shape=shape)
    )
    reading = "Thin grey lines: the other rollouts of this prompt in that iteration."
    return Figure("Belief over the turns", reading, spec(drawn))


def _steps(trajectory: Trajectory) -> list[Row]:
    """Returns the belief after each number of turns, where the log has one."""
    episode = trajectory.episode
    before = {"did": "nothing but the question", "retrieved": NOTHING}
    after_T = [
        {"did": turn["query"] or turn["action"], "retrieved": GOLD if turn["gold_hit"] else NOTHING}
        for turn in trajectory.turns_T
    ]
    facts = {"rollout": episode["episode_id"], "answered": episode["answer"] or episode["termination"]}
    return [
        facts | what | {"step": step, "belief": belief}
        for step, (belief, what) in enumerate(zip(trajectory.beliefs_T, [before, *after_T], strict=True))
        if belief is not None
    ]
