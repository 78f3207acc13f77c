"""Single rollouts out of the log: found by what a person would ask for, and the most instructive ones of a
run.

The report, `igpo show` and `igpo browse` all read rollouts through this module.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from algorithms.credit import CreditConfig
from envs.data.unspaced import whole_words
from pipeline.analysis.answers import rows_of
from pipeline.analysis.credit_parts import UNITS, credit_parts, logged_credit
from pipeline.analysis.locate import AnalysisError
from pipeline.analysis.run import Run
from pipeline.analysis.sandbox import sql_text

KEY = ("run_id", "iteration", "split", "episode_id")
"""Columns that name one rollout among all visible rows."""


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One rollout: its row of `episodes` and its rows of `turns` in time order (column name -> value)."""

    episode: dict[str, Any]
    turns_T: list[dict[str, Any]]
    calls: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    """Turn index to its rows of `tool_calls`, in order."""
    credit: CreditConfig | None = None
    """The settings that training credited it with; None where they are not logged."""

    @property
    def is_right(self) -> bool:
        return self.episode["em_squad"] == 1

    @property
    def beliefs_T(self) -> list[float | None]:
        """Belief before the first turn, then after each turn; None where a turn bears no gain."""
        return [self.episode["belief_initial"], *(turn["belief_after"] for turn in self.turns_T)]

    @property
    def unit(self) -> str:
        """What gains are counted in, after a space; empty where it is not known."""
        return "" if self.credit is None else f" {UNITS[self.credit.gain_basis]}"

    @property
    def parts_T(self) -> list[tuple[float, float] | None]:
        """Of each turn's advantage the part of the gains and the part of the outcome; None: not known."""
        return credit_parts(self.turns_T, self.credit)

    @property
    def agents(self) -> list[str]:
        """The agents that spoke, in the order of their first turns."""
        return list(dict.fromkeys(turn["agent"] for turn in self.turns_T))

    @property
    def listeners_T(self) -> list[str | None]:
        """The agent that reads what came of each turn; None where its writer does, and for the last turn."""
        agents = [turn["agent"] for turn in self.turns_T]
        return [
            after if after != agent else None
            for agent, after in zip(agents, [*agents[1:], *agents[-1:]], strict=True)
        ]


@dataclass(frozen=True, slots=True)
class Instructive:
    """A rollout worth reading, and the turn that makes it so."""

    reason: str
    explanation: str
    trajectory: Trajectory
    turn_index: int


def select_episodes(
    run: Run,
    *,
    episode: str | None = None,
    question: str | None = None,
    iteration: int | None = None,
    split: str | None = None,
    order: str = "iteration DESC, split DESC, group_id, episode_id",
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """Returns rows of `episodes` that fit every given condition, newest iteration and training first unless
    `order` (SQL) says otherwise.

    `question` fits where the question's text contains it, letter case ignored; `episode` where the id is
    equal. Raises AnalysisError naming the nearest episode, question or iteration if nothing fits.
    """
    conditions = []
    if episode is not None:
        conditions.append(_is_episode(episode))
    if question is not None:
        conditions.append(_has_words(question))
    if iteration is not None:
        conditions.append(f"iteration = {iteration}")
    if split is not None:
        conditions.append(f"split = {sql_text(split)}")
    where = f"WHERE {' AND '.join(conditions)}" if conditions else ""
    bound = "" if limit is None else f"LIMIT {limit}"
    found = rows_of(run.sql(f"SELECT * FROM episodes {where} ORDER BY {order} {bound}"))
    if not found:
        raise AnalysisError(_nothing_fits(run, episode, question, iteration, split))
    return found


def load_trajectory(run: Run, episode: dict[str, Any]) -> Trajectory:
    """Returns the turns of a row of `episodes`."""
    turns_T = rows_of(run.sql(f"SELECT * FROM turns WHERE {_is(episode)} ORDER BY turn_index"))
    return Trajectory(
        episode, turns_T, _calls(run, _is(episode))[episode["episode_id"]], _credit(run, episode)
    )


def load_group(run: Run, episode: dict[str, Any]) -> list[Trajectory]:
    """Returns the rollouts of the same prompt in the same iteration, `episode` among them, in the order of
    their ids.
    """
    same = " AND ".join(
        f"{key} = {_literal(episode[key])}" for key in ("run_id", "iteration", "split", "group_id")
    )
    turns: dict[str, list[dict[str, Any]]] = {}
    for turn in rows_of(run.sql(f"SELECT * FROM turns WHERE {same} ORDER BY turn_index")):
        turns.setdefault(turn["episode_id"], []).append(turn)
    rows = rows_of(run.sql(f"SELECT * FROM episodes WHERE {same} ORDER BY episode_id"))
    calls, credit = _calls(run, same), _credit(run, episode)
    return [
        Trajectory(row, turns.get(row["episode_id"], []), calls[row["episode_id"]], credit) for row in rows
    ]


def instructive_trajectories(run: Run, run_id: str) -> list[Instructive]:
    """Returns a case study and the extremes among a run's training rollouts, no rollout twice; what the run
    does not have is left out.
    """
    found: list[Instructive] = []
    for reason, explanation, condition, order in _INSTRUCTIVE:
        taken = [f"NOT ({_is(one.trajectory.episode)})" for one in found]
        of_run = f"run_id = {sql_text(run_id)} AND split = 'train' AND gain IS NOT NULL"
        best = run.sql(
            f"""
            SELECT {", ".join(KEY)}, turn_index
            FROM turns JOIN episodes USING ({", ".join(KEY)})
            WHERE {" AND ".join([of_run, condition, *taken])}
            ORDER BY {order}, iteration DESC, episode_id, turn_index
            LIMIT 1
            """
        )
        for row in rows_of(best):
            (episode,) = rows_of(run.sql(f"SELECT * FROM episodes WHERE {_is(row)}"))
            found.append(Instructive(reason, explanation, load_trajectory(run, episode), row["turn_index"]))
    return found


CASE_STUDY = "Case study"

_INSTRUCTIVE = (
    (
        CASE_STUDY,
        "A success, of several searches where there is one, whose belief in the gold answer rose most from "
        "first to last turn.",
        "em_squad = 1",
        "(episodes.tool_calls > 1) DESC, belief_final - belief_initial DESC, gain DESC",
    ),
    ("Biggest gain", "The turn that raised belief in the gold answer most.", "gain > 0", "gain DESC"),
    ("Biggest loss", "The turn that lowered belief in the gold answer most.", "gain < 0", "gain"),
    (
        "Right turn in a failed rollout",
        "New gold evidence and a large gain for it, but no right answer in the end: the outcome alone does "
        "not reward it.",
        "gold_hit AND gain > 0 AND em_squad < 1",
        "gain DESC",
    ),
    (
        "Right turn that lost belief",
        "New gold evidence, and belief in the gold answer fell: gain punishes what the evidence says was "
        "right.",
        "gold_hit AND gain < 0",
        "gain",
    ),
)  # reason, explanation, condition on turn and episode, order


def gold_spans(text: str, golds: list[str]) -> list[tuple[int, int]]:
    """Finds the gold answers in `text` as whole words in any case: disjoint (start, end), in order. Where a
    script has no blanks, each character is a word.
    """
    words = sorted({gold.strip() for gold in golds if gold.strip()}, key=len, reverse=True)
    if not words:
        return []
    pattern = "|".join(re.escape(word) for word in words)
    return [match.span() for match in re.finditer(whole_words(pattern), text, re.IGNORECASE)]


def _calls(run: Run, condition: str) -> defaultdict[str, dict[int, list[dict[str, Any]]]]:
    """Rows of `tool_calls` by episode and turn, in order."""
    found: defaultdict[str, dict[int, list[dict[str, Any]]]] = defaultdict(dict)
    for call in rows_of(
        run.sql(f"SELECT * FROM tool_calls WHERE {condition} ORDER BY turn_index, call_index")
    ):
        found[call["episode_id"]].setdefault(call["turn_index"], []).append(call)
    return found


def _credit(run: Run, episode: dict[str, Any]) -> CreditConfig | None:
    """The settings of credit of the attempt that wrote `episode`."""
    attempt = f"run_id = {_literal(episode['run_id'])} AND attempt = {episode['attempt']}"
    found = run.sql(f"SELECT config FROM runs WHERE {attempt}").fetchall()
    return logged_credit(found[0][0]) if found else None


def _is(row: dict[str, Any]) -> str:
    return " AND ".join(f"{key} = {_literal(row[key])}" for key in KEY)


def _literal(value: str | int) -> str:
    return sql_text(value) if isinstance(value, str) else str(value)


def _is_episode(episode: str) -> str:
    return f"episode_id = {sql_text(episode)}"


def _has_words(question: str) -> str:
    return f"contains(lower(question), lower({sql_text(question)}))"


def _from_episode(asked: str) -> str:
    """How far an id is from `asked`, in [0, 1]: the share of letters to change, and 0 where it contains it.

    The mean of two shares, with and without zeros before numbers: `8/train-933/7` is `000008/train-000933/7`.
    """
    whole = [f"lower({text})" for text in ("episode_id", sql_text(asked))]
    short = [rf"regexp_replace({text}, '\b0+(\d)', '\1', 'g')" for text in whole]
    shares = [
        f"damerau_levenshtein({one}, {other}) / greatest(length({one}), length({other}), 1)"
        for one, other in (whole, short)
    ]
    return f"CASE WHEN contains({short[0]}, {short[1]}) THEN 0 ELSE ({' + '.join(shares)}) / 2 END"


def _from_question(asked: str) -> str:
    return f"1 - jaro_winkler_similarity(lower(question), lower({sql_text(asked)}))"


def _nothing_fits(
    run: Run, episode: str | None, question: str | None, iteration: int | None, split: str | None
) -> str:
    """Returns one sentence: what was asked for, the nearest that exists, and how to list what does."""
    ((first, last, splits),) = run.sql(
        "SELECT min(iteration), max(iteration), string_agg(DISTINCT split, ' and ' ORDER BY split) FROM "
        "episodes"
    ).fetchall()
    if first is None:
        return "the log has no episodes yet: the first iteration has not ended"
    for asked, what, column, fits, distance in (
        (episode, "episode", "episode_id", _is_episode, _from_episode),
        (question, "question like", "question", _has_words, _from_question),
    ):
        if asked is None:
            continue
        ((nearest, far, is_there),) = run.sql(
            f"""
            SELECT {column}, {distance(asked)} AS far, {fits(asked)} AS fits
            FROM episodes ORDER BY fits DESC, far, iteration DESC, {column} LIMIT 1
            """
        ).fetchall()
        if not is_there:
            hint = f", the nearest is {nearest!r}" if far < 0.4 else ""
            return f"no {what} {asked!r}{hint}; `igpo show RUN` lists the newest"
    where = [f"iteration {iteration}"] if iteration is not None else []
    where += [f"split {split!r}"] if split is not None else []
    return f"no such episode in {' and '.join(where)}; the log has iterations {first} to {last} of {splits}"
