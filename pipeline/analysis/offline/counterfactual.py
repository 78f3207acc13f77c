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
from math import exp
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
    queries = []
    for one in replays:
        all_turns = [part.turn for part in one.history[1:]]
        queries += [_query(one, one.history, all_turns), _query(one, one.told, one.heard)]
    scores_T1 = [reduce_aliases(scores_T1K, alias_rule) for scores_T1K in scores(queries)]
    return [_worths(one, scores_T1[2 * n], scores_T1[2 * n + 1]) for n, one in enumerate(replays)]


def _query(one: Replay, parts: list[Part], turns: list[int]) -> BeliefQuery:
    """Asks for the scores after all `parts`, then after those without each of `turns`."""
    contexts = [without(parts), *(without(parts, turn) for turn in turns)]
    return BeliefQuery([np.array(ids, np.int32) for ids in contexts], one.templates.suffixes_K)


def _worths(one: Replay, history_T1: np.ndarray, told_T1: np.ndarray) -> list[TurnWorth]:
    whole, *less = history_T1.tolist()
    told_whole, *told_less = told_T1.tolist()
    told = {
        turn: {
            "told_belief": exp(told_whole),
            "told_belief_without": exp(score),
            "told_worth": told_whole - score,
        }
        for turn, score in zip(one.heard, told_less, strict=True)
    }
    return [
        TurnWorth(part.turn, exp(whole), exp(score), whole - score, **told.get(part.turn, {}))
        for part, score in zip(one.history[1:], less, strict=True)
    ]


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
            "`log_tokens: true` to log them; what was imported has none."
        )
    return found


def logged_rollouts(run: Run, iteration: int, most: int) -> list[LoggedRollout]:
    """Reads at most `most` training rollouts of an iteration that have a gain-bearing turn and belief.

    Which ones is decided by a hash of their ids, so it is the same at each call. `run` is one run.
    """
    of_iteration = f"split = 'train' AND iteration = {iteration}"
    chosen = f"""
        {of_iteration} AND episode_id IN (
            SELECT episode_id FROM episodes
            WHERE {of_iteration} AND gain_turns > 0 AND len(scored_golds) > 0
            ORDER BY md5(episode_id) LIMIT {most}
        )
    """
    turns = run.sql(
        f"""
        SELECT episode_id, turn_index, agent, action,
            list(token_id ORDER BY position) FILTER (WHERE NOT is_decision) AS context_ids,
            list(token_id ORDER BY position) FILTER (WHERE is_decision) AS decision_ids
        FROM tokens JOIN turns USING (run_id, iteration, split, episode_id, turn_index, agent)
        WHERE {chosen} GROUP BY ALL ORDER BY turn_index
        """
    )
    calls = run.sql(f"SELECT * FROM tool_calls WHERE {chosen} ORDER BY turn_index, call_index")
    turns_of, calls_of = _by_episode(rows_of(turns)), _by_episode(rows_of(calls))
    episodes = rows_of(run.sql(f"SELECT * FROM episodes WHERE {chosen} ORDER BY episode_id"))
    return [
        _logged(episode, turns_of[episode["episode_id"]], calls_of.get(episode["episode_id"], []))
        for episode in episodes
    ]


def _by_episode(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["episode_id"], []).append(row)
    return found


def _logged(
    episode: dict[str, Any], turns: list[dict[str, Any]], calls: list[dict[str, Any]]
) -> LoggedRollout:
    return LoggedRollout(
        {name: episode[name] for name in ("run_id", "iteration", "group_id", "episode_id")},
        Question(episode["question_id"], episode["question"], episode["golds"]),
        [
            LoggedTurn(
                turn["agent"],
                turn["context_ids"] or [],
                turn["decision_ids"] or [],
                [_call(call) for call in calls if call["turn_index"] == turn["turn_index"]],
            )
            for turn in turns
        ],
        [turn["action"] for turn in turns],
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
