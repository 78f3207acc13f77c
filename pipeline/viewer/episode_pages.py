"""The episodes of a log, filtered, sorted and cut into pages by DuckDB: what `igpo browse` lists."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.analysis.answers import rows_of
from pipeline.analysis.run import Run
from pipeline.analysis.sandbox import sql_text

PAGE = 100
"""Episodes on a page."""

COLUMNS = ("iteration", "split", "outcome", "gain_total", "turns", "answer", "question")
"""The columns of the list, by each of which it can be sorted."""


@dataclass(frozen=True, slots=True)
class EpisodeFilter:
    """A choice of episodes and their order.

    `words` is text in question, answer or episode id, or `where` and a condition in SQL.
    """

    words: str = ""
    sort: str = "iteration"
    descending: bool = True

    @property
    def condition(self) -> str:
        words = self.words.strip()
        if words.lower().startswith("where "):
            return words[len("where ") :]
        fields = "concat_ws(' ', question, answer, episode_id)"
        return f"contains(lower({fields}), lower({sql_text(words)}))" if words else "true"


def count_episodes(run: Run, wanted: EpisodeFilter) -> int:
    """Raises AnalysisError if the condition is no condition on `episodes`."""
    ((count,),) = run.sql(f"SELECT count(*) FROM episodes WHERE ({wanted.condition})").fetchall()
    return count


def episode_page(run: Run, wanted: EpisodeFilter, page: int) -> list[dict[str, Any]]:
    """Rows of `episodes` on page `page`, from 0. Ties keep the rollouts of a group together."""
    direction = "DESC" if wanted.descending else "ASC"
    return rows_of(
        run.sql(
            f"""
            SELECT * FROM episodes WHERE ({wanted.condition})
            ORDER BY {wanted.sort} {direction} NULLS LAST, iteration DESC, split DESC, group_id, episode_id
            LIMIT {PAGE} OFFSET {page * PAGE}
            """
        )
    )
