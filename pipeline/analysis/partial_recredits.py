"""Says where a recredit does not know the turns that it is set beside: the run went on, or ran some again."""

from __future__ import annotations

from pipeline.analysis.run import Run
from pipeline.analysis.tables_beside import RECREDITS

_KNOWN = f"""
    WITH trained AS (
        SELECT run_id, iteration, episode_id, turn_index, advantage AS trained_advantage
        FROM turns WHERE split = 'train' AND advantage IS NOT NULL
    ),
    counts AS (SELECT run_id, count(*) AS turns FROM trained GROUP BY run_id)
    SELECT estimator, run_id, count(*) FILTER (trained_advantage = advantage_logged) AS known,
        coalesce(any_value(turns), 0) AS turns
    FROM {RECREDITS.view}
    LEFT JOIN trained USING (run_id, iteration, episode_id, turn_index)
    LEFT JOIN counts USING (run_id)
    GROUP BY estimator, run_id
    HAVING known < turns OR known < count(*)
    ORDER BY estimator, run_id
"""


def partial_recredits(run: Run, query: str) -> list[str]:
    """A sentence for each recredit that has other turns than the log; none where `query` asks no recredit."""
    if RECREDITS.view not in query.lower():
        return []
    return [
        f"`{estimator}` knows {known:,} of the {turns:,} turns that run {run_id} has credited, and is "
        "compared with all of them: write it again with `igpo recredit`"
        for estimator, run_id, known, turns in run.sql(_KNOWN).fetchall()
    ]
