"""Compares another estimator's credit with the logged one, in the table that `recredit` writes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from pipeline.analysis.sandbox import sql_files

MOST_CHANGED = 10
_CREDIT = """
    CREATE VIEW credit AS
    SELECT *, round(advantage_logged, 9) AS logged, round(advantage, 9) AS new FROM read_parquet({path})
"""
"""Beyond nine digits there is only rounding, which must neither flip a sign nor break a tie."""
_GROUPS = """
    WITH ranked AS (
        SELECT iteration, group_id, logged, new,
            rank() OVER by_logged + (count(*) OVER same_logged - 1) / 2 AS rank_logged,
            rank() OVER by_new + (count(*) OVER same_new - 1) / 2 AS rank_new
        FROM credit
        WINDOW by_logged AS (PARTITION BY iteration, group_id ORDER BY logged),
            by_new AS (PARTITION BY iteration, group_id ORDER BY new),
            same_logged AS (PARTITION BY iteration, group_id, logged),
            same_new AS (PARTITION BY iteration, group_id, new)
    ),
    groups AS (
        SELECT bool_and(logged = 0) AS collapsed_logged, bool_and(new = 0) AS collapsed_new,
            CASE WHEN min(logged) < max(logged) AND min(new) < max(new)
                THEN corr(rank_logged, rank_new) END AS correlation
        FROM ranked GROUP BY iteration, group_id
    )
    SELECT count(*), count(correlation), avg(correlation), quantile_cont(correlation, [0.1, 0.5, 0.9]),
        avg(collapsed_logged::DOUBLE), avg(collapsed_new::DOUBLE)
    FROM groups
"""
_TURNS = (
    "SELECT count(*), avg((logged * new < 0)::DOUBLE), max(abs(advantage - advantage_logged)) FROM credit"
)
_MOST_CHANGED = f"""
    SELECT iteration, episode_id, turn_index, agent, logged, new, gain FROM credit
    WHERE logged <> new
    ORDER BY abs(new - logged) DESC, iteration, episode_id, turn_index LIMIT {MOST_CHANGED}
"""


@dataclass(frozen=True, slots=True)
class CreditChanges:
    """The differences between another estimator's credit and the logged one. Shares are in [0, 1]."""

    turns: int
    groups: int
    sign_flips: float
    """Share of turns whose advantage changes from above 0 to below or back."""
    largest_difference: float
    """Largest |new - logged advantage| of a turn."""
    ranked_groups: int
    """Groups in which the advantages of both estimators vary: only these have a rank correlation."""
    rank_correlation: float | None
    """Mean over these groups of Spearman's rank correlation of the turns' advantages; None without one."""
    rank_correlation_quantiles: list[float] | None
    """Its 10%, 50% and 90% quantiles over the groups."""
    collapsed_logged: float
    """Share of groups whose logged advantages are all 0."""
    collapsed: float
    """Share of groups whose new advantages are all 0."""
    most_changed: list[dict[str, Any]]
    """The turns whose advantage differs most, most first, as `logged` and `new`; fewer than ten where fewer
    differ."""


def credit_changes(table: Path) -> CreditChanges:
    """Compares the two columns of advantages in the Parquet file `table`."""
    with duckdb.connect() as connection:
        connection.execute(_CREDIT.format(path=sql_files([str(table)])))
        turns = connection.execute(_TURNS).fetchall()[0]
        groups = connection.execute(_GROUPS).fetchall()[0]
        most_changed = connection.sql(_MOST_CHANGED).to_arrow_table().to_pylist()
    return CreditChanges(
        turns=turns[0],
        groups=groups[0],
        sign_flips=turns[1],
        largest_difference=turns[2],
        ranked_groups=groups[1],
        rank_correlation=groups[2],
        rank_correlation_quantiles=groups[3],
        collapsed_logged=groups[4],
        collapsed=groups[5],
        most_changed=most_changed,
    )
