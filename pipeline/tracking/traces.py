"""Sampled rollouts as MLflow traces: a span per turn, and within it one per agent's decision and per tool
call.

The spans go to the store directly: MLflow's own exporters drop a trace that does not get through. Clock times
of a rollout's parts are not kept, only how long each took, so the spans follow each other in the order of the
turns, ending when the trace was made.
"""

from __future__ import annotations

import base64
import hashlib
import json
import random
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from algorithms.igpo.iteration_record import IterationRecord, TurnCredit
from envs.search.trajectory import Rollout, ToolCall, Turn
from pipeline.tracking.delivery import Connection

if TYPE_CHECKING:
    from mlflow.entities import Assessment

SECOND_NS = 1_000_000_000
ASSESSED = {"em": "em_squad", "f1": "f1_squad"}
"""Name of a trace's assessment to the rollout's metric."""


@dataclass(frozen=True, slots=True)
class SampledRollout:
    """A rollout that becomes a trace. `credit_T`: of each turn, None for evaluation."""

    run_id: str
    iteration: int
    split: str
    rollout: Rollout
    credit_T: list[TurnCredit | None]
    ended_ns: int
    """When the trace ends, nanoseconds since 1970."""

    @property
    def trace_hash(self) -> str:
        """32 hex digits that name the rollout: sent twice, it is one trace."""
        key = f"{self.run_id}/{self.iteration}/{self.split}/{self.rollout.id}"
        return hashlib.sha256(key.encode()).hexdigest()[:32]


def sample(record: IterationRecord, size: int, run_id: str) -> list[SampledRollout]:
    """At most `size` rollouts of a record, drawn at random by run, iteration and split."""
    chosen = random.Random(f"{run_id}/{record.iteration}/{record.split}").sample(
        record.rollouts, min(size, len(record.rollouts))
    )
    now = time.time_ns()
    return [
        SampledRollout(
            run_id,
            record.iteration,
            record.split,
            r,
            [record.credit.get((r.id, t.index)) for t in r.turns],
            now,
        )
        for r in chosen
    ]


def trace_of(sampled: SampledRollout) -> dict[str, Any]:
    """The trace as JSON values, to be kept until it is sent."""
    rollout, spans = sampled.rollout, spans_of(sampled)
    return {
        "id": _trace_id(sampled),
        "iteration": sampled.iteration,
        "question": rollout.question.text,
        "answer": rollout.answer or "",
        "tags": {
            "igpo.run_id": sampled.run_id,
            "igpo.iteration": str(sampled.iteration),
            "igpo.split": sampled.split,
            "igpo.episode_id": rollout.id,
            "igpo.question_id": rollout.question.id,
            "igpo.outcome": f"{rollout.outcome:g}",
        },
        "values": {
            "outcome": float(rollout.outcome),
            **{name: rollout.metrics[key] for name, key in ASSESSED.items() if key in rollout.metrics},
        },
        "begin_ns": spans[0]["start_time_unix_nano"],
        "end_ns": sampled.ended_ns,
        "spans": spans,
    }


def send_trace(connection: Connection, trace: Mapping[str, Any]) -> None:
    """Stores the result of `trace_of`, linked to the run. Doing it again changes nothing."""
    from mlflow.entities import Span, TraceInfo, TraceLocation, TraceState
    from mlflow.tracing.client import TracingClient
    from mlflow.tracing.constant import TraceMetadataKey, TraceTagKey

    info = TraceInfo(
        trace_id=trace["id"],
        trace_location=TraceLocation.from_experiment_id(connection.experiment_id),
        request_time=trace["begin_ns"] // 1_000_000,
        execution_duration=(trace["end_ns"] - trace["begin_ns"]) // 1_000_000,
        state=TraceState.OK,
        request_preview=trace["question"],
        response_preview=trace["answer"],
        trace_metadata={TraceMetadataKey.SOURCE_RUN: connection.run_id},
        tags={TraceTagKey.TRACE_NAME: "rollout", **trace["tags"]},
        assessments=_assessments(trace, connection.run_id),
    )
    of_experiment = {"mlflow.experimentId": json.dumps(connection.experiment_id)}
    spans = [span | {"attributes": span["attributes"] | of_experiment} for span in trace["spans"]]
    client = TracingClient(connection.client.tracking_uri)
    client.log_spans(connection.experiment_id, [Span.from_dict(span) for span in spans])
    client.start_trace(info)
    connection.client.link_traces_to_run([info.trace_id], connection.run_id)


def _assessments(trace: Mapping[str, Any], run_id: str) -> list[Assessment]:
    """What the rollout was worth, so that MLflow can filter and average traces by it."""
    from mlflow.entities import AssessmentSource, Feedback

    found = []
    for name, value in trace["values"].items():
        feedback = Feedback(
            name=name,
            value=float(value),
            source=AssessmentSource(source_type="CODE", source_id="igpo"),
            trace_id=trace["id"],
            metadata={"mlflow.assessment.sourceRunId": run_id},
        )
        # Named after trace and measure, so that what is sent twice is one.
        feedback.assessment_id = "a-" + hashlib.sha256(f"{trace['id']}/{name}".encode()).hexdigest()[:32]
        found.append(feedback)
    return found


def spans_of(sampled: SampledRollout) -> list[dict[str, Any]]:
    """Makes the spans as MLflow's dictionaries: the rollout's, then each turn followed by its parts."""
    rollout = sampled.rollout
    spans: list[dict[str, Any]] = []

    def add(
        name: str,
        kind: str,
        parent: int | None,
        start_s: float,
        seconds: float,
        inputs,
        outputs,
        facts,
        error=None,
    ) -> int:
        """Appends a span that starts `start_s` seconds into the rollout; returns its number."""
        own = {"traceRequestId": _trace_id(sampled), "spanType": kind}
        own |= {"spanInputs": inputs, "spanOutputs": outputs}
        attributes = {k: v for k, v in facts.items() if v is not None} | {
            f"mlflow.{k}": v for k, v in own.items()
        }
        number = len(spans) + 1
        spans.append(
            {
                "trace_id": _base64(bytes.fromhex(sampled.trace_hash)),
                "span_id": _base64(number.to_bytes(8, "big")),
                "parent_span_id": "" if parent is None else _base64(parent.to_bytes(8, "big")),
                "name": name,
                "start_time_unix_nano": begin_ns + round(start_s * SECOND_NS),
                "end_time_unix_nano": begin_ns + round((start_s + seconds) * SECOND_NS),
                "status": {
                    "code": "STATUS_CODE_ERROR" if error else "STATUS_CODE_OK",
                    "message": error or "",
                },
                "attributes": {key: json.dumps(value, default=str) for key, value in attributes.items()},
                "events": [],
            }
        )
        return number

    seconds_T = [turn.seconds_generate + turn.seconds_tool + turn.seconds_score for turn in rollout.turns]
    begin_ns = sampled.ended_ns - round(sum(seconds_T) * SECOND_NS)
    asked = {"question": rollout.question.text, "golds": rollout.question.golds}
    root = add(
        "rollout",
        "CHAIN",
        None,
        0.0,
        sum(seconds_T),
        asked,
        {"answer": rollout.answer},
        _rollout_facts(sampled),
    )
    start = 0.0
    next_agents = [turn.agent for turn in rollout.turns[1:]] + [None]
    for turn, credit, seconds, reader in zip(
        rollout.turns, sampled.credit_T, seconds_T, next_agents, strict=True
    ):
        seen = {"observation": turn.observation_text, "answer": turn.answer}
        number = add(
            f"turn {turn.index}",
            "CHAIN",
            root,
            start,
            seconds,
            {"query": turn.query},
            seen,
            _turn_facts(turn, credit),
        )
        tokens = {
            "policy": turn.policy,
            "to": reader if reader != turn.agent else None,
            "decision_tokens": turn.num_decision_tokens,
            "weights_version": turn.weights_version,
        }
        add(
            turn.agent,
            "AGENT",
            number,
            start,
            turn.seconds_generate,
            None,
            {"text": turn.decision_text},
            tokens,
        )
        for call in turn.tool_calls:  # They run at the same time.
            begin = start + turn.seconds_generate
            add(call.tool, "TOOL", number, begin, call.seconds, call.arguments, _found(call), {}, call.error)
        start += seconds
    return spans


def _rollout_facts(sampled: SampledRollout) -> Mapping[str, Any]:
    rollout = sampled.rollout
    return {
        "iteration": sampled.iteration,
        "split": sampled.split,
        "termination": rollout.termination,
        "outcome": rollout.outcome,
        **rollout.metrics,
    }


def _turn_facts(turn: Turn, credit: TurnCredit | None) -> Mapping[str, Any]:
    """Action and evidence, and the credit (belief before and after, gain, advantage) as the log has it."""
    facts = {"action": turn.action, "gold_hit": turn.gold_hit, "parse_error": turn.parse_error}
    if credit is not None:
        facts |= {key: value for key, value in asdict(credit).items() if key != "logp_gap_L"}
    return {key: value.item() if isinstance(value, np.generic) else value for key, value in facts.items()}


def _found(call: ToolCall) -> Mapping[str, Any]:
    return {
        "result": call.result_text,
        "document_ids": call.document_ids,
        "document_scores": call.document_scores,
    }


def _base64(number: bytes) -> str:
    return base64.b64encode(number).decode()


def _trace_id(sampled: SampledRollout) -> str:
    return f"tr-{sampled.trace_hash}"
