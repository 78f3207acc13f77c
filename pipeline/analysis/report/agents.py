"""What several agents earned: gain and advantage over iterations, a line per agent."""

from __future__ import annotations

from pipeline.analysis.answers import rows_of
from pipeline.analysis.report.charts import lines
from pipeline.analysis.report.figure import Figure
from pipeline.analysis.run import Run

SERIES = (
    ("gain", "Gain by agent", "Mean information gain of the agent's turns that have one.", "gain"),
    ("advantage", "Advantage by agent", "Mean of what training gave the agent's turns.", "advantage"),
)
"""Column of `turns`: title, reading, what the axis says."""


def agent_figures(run: Run, label_of: dict[str, str]) -> list[Figure]:
    """Draws gain and advantage over iterations, a line per agent; nothing for runs of one agent.

    Args:
        run: the open runs.
        label_of: run id to the run's label in the report.
    """
    rows = rows_of(
        run.sql(
            """
            SELECT run_id, iteration, agent, avg(gain) AS gain, avg(advantage) AS advantage
            FROM turns WHERE split = 'train'
                AND run_id IN (SELECT run_id FROM turns GROUP BY run_id HAVING count(DISTINCT agent) > 1)
            GROUP BY ALL ORDER BY ALL
            """
        )
    )
    figures = []
    for run_id, label in label_of.items():
        own = [row for row in rows if row["run_id"] == run_id]
        agents = sorted({row["agent"] for row in own})
        for column, title, reading, axis in SERIES:
            points = [
                {"run": label, "iteration": row["iteration"], "series": row["agent"], "value": row[column]}
                for row in own
                if row[column] is not None
            ]
            if points:
                full = f"{title}: {label}" if len(label_of) > 1 else title
                figures.append(Figure(full, reading, lines(points, agents, axis, is_share=False)))
    return figures
