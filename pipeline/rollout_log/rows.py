"""From one iteration's record to rows: pure functions, one per table.

Arrow's `from_pylist` drops unknown keys and fills missing ones with null without a word; `table` here raises
instead.
"""

from __future__ import annotations

import json
import math
import platform
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from algorithms.igpo.iteration_record import GroupCredit, IterationRecord, TurnCredit
from envs.search.trajectory import Rollout, Turn
from pipeline.rollout_log.schema import SCHEMA_VERSION, TABLES
from pipeline.rollout_log.token_rows import token_table

REPORTED_METRICS = ("f1_paper", "em_paper", "f1_squad", "em_squad")


@dataclass(frozen=True, slots=True)
class RunInfo:
    """One attempt's row in `runs`. Values of `config` that JSON does not know become text."""

    name: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    """The run's resolved experiment."""
    config_hash: str | None = None
    """`pipeline.experiment.resolved.config_hash` of its settings."""
    resumed_from_iteration: int | None = None
    seed: int | None = None
    model: str | None = None
    retriever: str | None = None
    corpus: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    hardware: Mapping[str, str] = field(default_factory=lambda: {"machine": platform.machine()})
    mlflow_run_id: str | None = None

    @property
    def config_json(self) -> str:
        return to_json(self.config)


def to_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False, default=str)


def now() -> datetime:
    """UTC without a zone: what the log's time columns hold."""
    return datetime.now(UTC).replace(tzinfo=None)


def table(name: str, rows: list[dict[str, Any]]) -> pa.Table:
    """Returns rows as an Arrow table of the named schema.

    Raises ValueError if a row lacks a column or has one too many.
    """
    schema = TABLES[name]
    expected = set(schema.names)
    for row in rows:
        if row.keys() != expected:
            raise ValueError(
                f"a row of `{name}` does not fit its schema: missing {sorted(expected - row.keys())}, "
                f"unknown {sorted(row.keys() - expected)}; change pipeline/rollout_log/schema.py and "
                "rows.py together"
            )
    try:
        return pa.Table.from_pylist(rows, schema=schema)
    except UnicodeEncodeError:  # A model may write half of a surrogate pair ("\\ud800") into its JSON.
        return pa.Table.from_pylist([_valid_unicode(row) for row in rows], schema=schema)


def run_row(run_id: str, attempt: int, info: RunInfo, started_at: datetime) -> dict[str, Any]:
    """Returns the row of `runs` of an attempt that is under way."""
    return {
        "run_id": run_id,
        "attempt": attempt,
        "schema_version": SCHEMA_VERSION,
        "name": info.name,
        "resumed_from_iteration": info.resumed_from_iteration,
        "started_at": started_at,
        "ended_at": None,
        "status": None,
        "seed": info.seed,
        "model": info.model,
        "retriever": info.retriever,
        "corpus": info.corpus,
        "config_hash": info.config_hash,
        "config": info.config_json,
        "versions": list(info.versions.items()),
        "hardware": list(info.hardware.items()),
        "mlflow_run_id": info.mlflow_run_id,
    }


def tables_of(
    record: IterationRecord, metrics: Mapping[str, float], run_id: str, attempt: int, info: RunInfo
) -> dict[str, pa.Table]:
    """Returns every table but `runs` for one iteration and split; tables without rows are left out."""
    keys = {
        "run_id": run_id,
        "attempt": attempt,
        "iteration": record.iteration,
        "split": record.split,
        "schema_version": SCHEMA_VERSION,
    }
    rows: dict[str, list[dict[str, Any]]] = {
        "iterations": [_iteration_row(record, metrics, keys)],
        "episodes": [],
        "turns": [],
        "groups": [_group_row(group, keys) for group in record.groups],
        "tool_calls": [],
    }
    for rollout in record.rollouts:
        episode_keys = keys | {
            "episode_id": rollout.id,
            "group_id": rollout.group_id,
            "question_id": rollout.question.id,
        }
        credit_T = [record.credit.get((rollout.id, turn.index)) for turn in rollout.turns]
        rows["episodes"].append(_episode_row(rollout, credit_T, info, episode_keys))
        written: Counter[str] = Counter()
        for turn, credit in zip(rollout.turns, credit_T, strict=True):
            is_final = turn is rollout.turns[-1]
            rows["turns"].append(
                _turn_row(turn, credit, rollout.scorer, written[turn.agent], is_final, episode_keys)
            )
            rows["tool_calls"].extend(_tool_call_rows(turn, episode_keys))
            written[turn.agent] += 1
    tables = {name: table(name, table_rows) for name, table_rows in rows.items() if table_rows}
    return tables | {"tokens": token_table(record, keys)} if record.tokens else tables


def _iteration_row(record: IterationRecord, metrics: Mapping[str, float], keys: dict) -> dict[str, Any]:
    return keys | {
        "written_at": now(),
        "weights_version": record.weights_version,
        "rollouts": len(record.rollouts),
        "groups": len({rollout.group_id for rollout in record.rollouts}),
        "seconds": [(phase, float(seconds)) for phase, seconds in record.seconds.items()],
        "metrics": [(name, None if value is None else float(value)) for name, value in metrics.items()],
    }


def _group_row(group: GroupCredit, keys: dict) -> dict[str, Any]:
    values = {column: _plain(value) for column, value in asdict(group).items()}
    if not group.gain_count:
        values["gain_mean"] = None  # NaN in the group's credit, and in every average over groups
    return keys | values


def _episode_row(
    rollout: Rollout, credit_T: list[TurnCredit | None], info: RunInfo, keys: dict
) -> dict[str, Any]:
    question = rollout.question
    gains = [credit.gain for credit in credit_T if credit is not None and credit.gain is not None]
    first = credit_T[0] if credit_T else None
    after = [c.belief_after for c in credit_T if c is not None and c.belief_after is not None]
    calls = [call for turn in rollout.turns for call in turn.tool_calls]
    return keys | {
        "question": question.text,
        "golds": question.golds,
        "data_source": question.data_source,
        "hops": question.hops,
        "gold_document_ids": question.gold_document_ids,
        "question_metadata": to_json(question.metadata),
        "answer": rollout.answer,
        "termination": None if rollout.termination is None else str(rollout.termination),
        "outcome": _plain(rollout.outcome),
        **{name: _plain(rollout.metrics.get(name)) for name in REPORTED_METRICS},
        "other_metrics": [(k, float(v)) for k, v in rollout.metrics.items() if k not in REPORTED_METRICS],
        "turns": len(rollout.turns),
        "gain_turns": len(rollout.gain_bearing_turns),
        "tool_calls": len(calls),
        "tool_errors": sum(call.error is not None for call in calls),
        "decision_tokens": sum(turn.num_decision_tokens for turn in rollout.turns),
        "observation_tokens": sum(turn.num_observation_tokens for turn in rollout.turns),
        "scored_golds": rollout.scored_golds_K,
        "initial_scores": _numbers(rollout.initial_scores_K),
        "belief_initial": None if first is None else _plain(first.belief_before),
        "belief_final": _plain(after[-1]) if after else None,
        "gain_total": float(sum(gains)) if gains else None,
        "scorer": rollout.scorer,
        "weights_version": rollout.turns[0].weights_version if rollout.turns else None,
        "config_hash": info.config_hash,
        "retriever": info.retriever,
        "seconds": _measured(rollout.seconds),
    }


def _turn_row(
    turn: Turn, credit: TurnCredit | None, scorer: str, agent_turn_index: int, is_final: bool, keys: dict
) -> dict[str, Any]:
    errors = [call.error for call in turn.tool_calls if call.error is not None]
    columns = "belief_before", "belief_after", "gain", "normalised_gain", "advantage", "logp_gap_mean"
    return keys | {
        "turn_index": turn.index,
        "agent": turn.agent,
        "agent_turn_index": agent_turn_index,
        "policy": turn.policy,
        "is_final": is_final,
        "action": str(turn.action),
        "decision_text": turn.decision_text,
        "tool": turn.tool_calls[0].tool if turn.tool_calls else None,
        "query": turn.query,
        "answer": turn.answer,
        "parse_error": turn.parse_error,
        "observation_text": turn.observation_text,
        "observation_cut": turn.observation_cut,
        "neutralised_tags": turn.neutralised_tags,
        "document_ids": [document for call in turn.tool_calls for document in call.document_ids],
        "document_scores": [float(score) for call in turn.tool_calls for score in call.document_scores],
        "gold_hit": _plain(turn.gold_hit),
        "scores": _numbers(turn.scores_K),
        "scorer": scorer,
        "weights_version": turn.weights_version,
        **{column: None if credit is None else _plain(getattr(credit, column)) for column in columns},
        "decision_tokens": turn.num_decision_tokens,
        "observation_tokens": turn.num_observation_tokens,
        "tool_calls": len(turn.tool_calls),
        "tool_errors": len(errors),
        "tool_error": errors[0] if errors else None,
        "seconds_generate": _measured(turn.seconds_generate),
        "seconds_tool": _measured(turn.seconds_tool),
        "seconds_score": _measured(turn.seconds_score),
    }


def _tool_call_rows(turn: Turn, keys: dict) -> list[dict[str, Any]]:
    return [
        keys
        | {
            "turn_index": turn.index,
            "call_index": index,
            "agent": turn.agent,
            "tool": call.tool,
            "arguments": to_json(call.arguments),
            "result_text": call.result_text,
            "document_ids": call.document_ids,
            "document_scores": [float(score) for score in call.document_scores],
            "error": call.error,
            "failed": call.failed,
            "credits": float(call.credits),
            "seconds": _measured(call.seconds),
        }
        for index, call in enumerate(turn.tool_calls)
    ]


def _valid_unicode(value: Any) -> Any:
    """`value` with characters that UTF-8 cannot hold replaced by `?`, in strings at any depth."""
    match value:
        case str():
            return value.encode("utf-8", "replace").decode()
        case dict():
            return {key: _valid_unicode(item) for key, item in value.items()}
        case list() | tuple():
            return [_valid_unicode(item) for item in value]
        case _:
            return value


def _plain(value: Any) -> Any:
    """NumPy scalars as Python's, which Arrow converts without loss."""
    return value.item() if isinstance(value, np.generic) else value


def _measured(seconds: float) -> float | None:
    return None if math.isnan(seconds) else float(seconds)


def _numbers(values: np.ndarray | None) -> list[float] | None:
    return None if values is None else np.asarray(values, dtype=np.float64).tolist()
