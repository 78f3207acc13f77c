"""What a turn was worth: belief at the end of its rollout, with the turn and without it.

For the gain-bearing turn t of a logged rollout, with s(x) the score of the gold answer after the ids x
(definitions: Belief and information gain) and x_T the view after the last gain-bearing turn:

    worth_t = s(x_T) - s(x_T without turn t)        in nats; above 0: belief would be lower without the turn

This is the difference reward of Wolpert and Tumer (2001), with belief as the team's reward and nothing in
the turn's place. It is computed in two views (`envs.runner.replay`): `worth` in the history that belief is
scored on, which also holds the documents that only another agent read; `told_worth` in the answering role's
own context, so it exists for the turns of others that this role was shown. The other turns stay as they were
sampled, after the turn that is left out too: what they repeat of it counts as theirs. For the last
gain-bearing turn, `worth` is its `log_prob` gain under the policy that scores.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from algorithms.credit import reduce_aliases
from envs.data.question import AliasRule, Question
from envs.durable import write_file
from envs.errors import InputError
from envs.runner.belief import BeliefQuery
from envs.runner.replay import LoggedTurn, Part, Replay, ReplayError, replay, without
from envs.search.trajectory import ToolCall
from pipeline.analysis.answers import rows_of
from pipeline.analysis.tables_beside import COUNTERFACTUALS

if TYPE_CHECKING:
    from envs.search.task import SearchTask
    from pipeline.analysis.run import Run

Scores = Callable[[Sequence[BeliefQuery]], list[np.ndarray]]
"""Scores s_t(a) of each query under the policy of the answering role, float64 [T1, K], in nats."""

TOGETHER = 16
"""Rollouts that are scored at once."""


@dataclass(frozen=True, slots=True)
class TurnWorth:
    """One turn left out. `told_*` are None where the answering role was not shown the turn, or wrote it."""

    turn: int
    belief: float
    """Belief at the end of the rollout."""
    belief_without: float
    worth: float
    told_belief: float | None = None
    told_belief_without: float | None = None
    told_worth: float | None = None


def turn_worths(scores: Scores, replays: list[Replay], alias_rule: AliasRule) -> list[list[TurnWorth]]:
    """Computes what every gain-bearing turn of each rollout was worth."""
    views = [(parts, turns) for one in replays for parts, turns in _views(one)]
    suffixes = [one.templates.suffixes_K for one in replays for _ in range(2)]
    queries = [
        BeliefQuery([np.array(ids, np.int32) for ids in _contexts(parts, turns)], suffixes_K)
        for (parts, turns), suffixes_K in zip(views, suffixes, strict=True)
    ]
    scores_T1 = [reduce_aliases(scores_T1K, alias_rule) for scores_T1K in scores(queries)]
    return [_worths(one, scores_T1[2 * n], scores_T1[2 * n + 1]) for n, one in enumerate(replays)]


def _views(one: Replay) -> list[tuple[list[Part], list[int]]]:
    """Each view, and the turns to leave out of it."""
    return [(one.history, [part.turn for part in one.history[1:]]), (one.told, one.heard)]


def _contexts(parts: list[Part], turns: list[int]) -> list[list[int]]:
    return [without(parts), *(without(parts, turn) for turn in turns)]


def _worths(one: Replay, history_T1: np.ndarray, told_T1: np.ndarray) -> list[TurnWorth]:
    told = dict(zip(one.heard, told_T1[1:].tolist(), strict=True))
    found = []
    for part, score in zip(one.history[1:], history_T1[1:].tolist(), strict=True):
        worth = TurnWorth(part.turn, np.exp(history_T1[0]), np.exp(score), history_T1[0] - score)
        if part.turn in told:
            left = told[part.turn]
            worth = TurnWorth(
                *(worth.turn, worth.belief, worth.belief_without, worth.worth),
                *(np.exp(told_T1[0]), np.exp(left), told_T1[0] - left),
            )
        found.append(worth)
    return found


@dataclass(frozen=True, slots=True)
class LoggedRollout:
    """A rollout of the log, with what names it."""

    keys: dict[str, Any]
    question: Question
    turns_T: list[LoggedTurn]
    actions_T: list[str]


def iteration_with_tokens(run: Run, iteration: int | None) -> int:
    """Returns `iteration`, or the newest training iteration, once the log holds its tokens.

    Raises:
        InputError: it does not.
    """
    which = "" if iteration is None else f"WHERE iteration = {iteration}"
    ((found,),) = run.sql(f"SELECT max(iteration) FROM tokens {which}").fetchall()
    if found is None:
        of = "this run" if iteration is None else f"iteration {iteration}"
        raise InputError(
            f"the log holds no token ids of {of}, and a rollout is played again token for token: train with "
            "`log_tokens: true` to log them."
        )
    return found


def logged_rollouts(run: Run, iteration: int, most: int) -> list[LoggedRollout]:
    """Reads at most `most` training rollouts of an iteration that have a gain-bearing turn and belief.

    Which ones is decided by a hash of their ids, so it is the same at each call.
    """
    where = f"split = 'train' AND iteration = {iteration}"
    episodes = rows_of(
        run.sql(
            f"SELECT * FROM episodes WHERE {where} AND gain_turns > 0 AND len(scored_golds) > 0 "
            f"ORDER BY run_id, md5(episode_id) LIMIT {most}"
        )
    )
    turns = rows_of(
        run.sql(
            f"""
            SELECT run_id, episode_id, turn_index, agent, action,
                list(token_id ORDER BY position) FILTER (WHERE NOT is_decision) AS context_ids,
                list(token_id ORDER BY position) FILTER (WHERE is_decision) AS decision_ids
            FROM tokens JOIN turns USING (run_id, iteration, split, episode_id, turn_index, agent)
            WHERE {where} GROUP BY ALL ORDER BY turn_index
            """
        )
    )
    calls = rows_of(run.sql(f"SELECT * FROM tool_calls WHERE {where} ORDER BY turn_index, call_index"))
    return [_logged(episode, turns, calls) for episode in episodes]


def _logged(
    episode: dict[str, Any], turns: list[dict[str, Any]], calls: list[dict[str, Any]]
) -> LoggedRollout:
    names = ("run_id", "episode_id")

    def own(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [row for row in rows if all(row[name] == episode[name] for name in names)]

    own_turns, own_calls = own(turns), own(calls)
    return LoggedRollout(
        {name: episode[name] for name in ("run_id", "iteration", "group_id", "episode_id")},
        Question(episode["question_id"], episode["question"], episode["golds"]),
        [
            LoggedTurn(
                turn["agent"],
                turn["context_ids"] or [],
                turn["decision_ids"] or [],
                [_call(call) for call in own_calls if call["turn_index"] == turn["turn_index"]],
            )
            for turn in own_turns
        ],
        [turn["action"] for turn in own_turns],
    )


def _call(row: dict[str, Any]) -> ToolCall:
    return ToolCall(
        row["tool"], {}, row["result_text"] or "", row["document_ids"], row["document_scores"], row["error"]
    )


def write_counterfactuals(
    task: SearchTask,
    scores: Scores,
    rollouts: list[LoggedRollout],
    out: Path,
    on_done: Callable[[int], object] = lambda rollouts: None,
) -> int:
    """Writes the table `COUNTERFACTUALS` to `out`, which appears when it is complete.

    Args:
        task: the task that the rollouts were made in.
        scores: whose belief it is.
        rollouts: rollouts of the log.
        out: a Parquet file.
        on_done: called with the number of rollouts that have been scored since the last call.

    Returns:
        The number of turns.

    Raises:
        InputError: a rollout cannot be played again in `task`, or there is none.
    """
    rows: list[dict[str, Any]] = []
    for start in range(0, len(rollouts), TOGETHER):
        batch = rollouts[start : start + TOGETHER]
        replays = [_replayed(task, rollout) for rollout in batch]
        worths = turn_worths(scores, replays, task.settings.alias_rule)
        for rollout, worths_T in zip(batch, worths, strict=True):
            rows += [_row(rollout, worth) for worth in worths_T]
        on_done(len(batch))
    if not rows:
        raise InputError(
            "no rollout of this iteration has a gain-bearing turn and belief: there is nothing to score."
        )
    table = pa.Table.from_pylist(rows, schema=COUNTERFACTUALS.schema)
    write_file(out, lambda file: pq.write_table(table, file, compression="zstd"))
    return len(rows)


def _row(rollout: LoggedRollout, worth: TurnWorth) -> dict[str, Any]:
    facts = asdict(worth)
    turn = facts.pop("turn")
    names = {"turn_index": turn, "agent": rollout.turns_T[turn].agent, "action": rollout.actions_T[turn]}
    return {**rollout.keys, **names, **facts}


def _replayed(task: SearchTask, rollout: LoggedRollout) -> Replay:
    try:
        return replay(task, rollout.question, rollout.turns_T)
    except ReplayError as error:
        raise InputError(
            f"episode {rollout.keys['episode_id']} cannot be played again: {error}. The policy's experiment "
            "is not the one that made it: give the run's own checkpoint with --policy, or the experiment "
            "file with --config."
        ) from error
