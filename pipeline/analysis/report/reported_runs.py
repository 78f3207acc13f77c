"""The runs of a report: a distinct name for each, its settings, and how the settings differ."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

from envs.settings import dotted
from pipeline.analysis.credit_parts import UNITS
from pipeline.analysis.run import Run

HASH = 8
"""Digits of a hash that a person compares."""


@dataclass(frozen=True, slots=True)
class ReportedRun:
    """One run, as its latest attempt describes it. `label` is short and unique in the report.

    `settings` maps a key as `rllib train --set` takes it (`preset`, `env_config.max_turns`) to its value.
    """

    run_id: str
    label: str
    name: str
    status: str
    started: str
    model: str
    corpus: str
    """Which documents were searched, in words."""
    retriever: str
    """How, in words."""
    attempts: int
    iterations: int
    rollouts: int
    config_hash: str
    settings: dict[str, Any]

    @property
    def gain_unit(self) -> str:
        """What its gains are counted in (nats, probability, log ratio); empty where it is not logged."""
        return UNITS.get(str(self.settings.get("gain_basis")), "").removeprefix("of ")


def reported_runs(run: Run) -> list[ReportedRun]:
    """Returns the open runs in the order in which they were named."""
    rows = run.sql(
        """
        SELECT
            run_id,
            arg_max(name, attempt) AS name,
            coalesce(arg_max_null(status, attempt), 'under way or killed') AS status,
            strftime(min(started_at), '%Y-%m-%d %H:%M') AS started,
            coalesce(arg_max(model, attempt), '') AS model,
            coalesce(arg_max(corpus, attempt), '') AS corpus,
            coalesce(arg_max(retriever, attempt), '') AS retriever,
            count(*) AS attempts,
            arg_max(config_hash, attempt) AS config_hash,
            arg_max(config, attempt) AS config
        FROM runs GROUP BY run_id
        """
    ).fetchall()
    place = {run_id: at for at, run_id in enumerate(run.run_ids)}
    rows.sort(key=lambda row: place[row[0]])
    counts = {
        run_id: (iterations, rollouts)
        for run_id, iterations, rollouts in run.sql(
            "SELECT run_id, max(iteration), sum(rollouts)::BIGINT FROM iterations GROUP BY run_id"
        ).fetchall()
    }
    settings = [_settings(json.loads(row[-1])) for row in rows]
    labels = _labels([row[0] for row in rows], [row[1] for row in rows], settings)
    found = []
    for (run_id, name, status, started, model, corpus, retriever, attempts, hash_, _), flat, label in zip(
        rows, settings, labels, strict=True
    ):
        searched = corpus_in_words(corpus), retriever_in_words(retriever)
        known = counts.get(run_id, (0, 0))
        found.append(
            ReportedRun(run_id, label, name, status, started, model, *searched, attempts, *known, hash_, flat)
        )
    return found


def corpus_in_words(identity: str) -> str:
    """`100 documents of the generated world (91f6ab0a)`, for the log's JSON; other text as it is."""
    facts = _object(identity)
    if facts is None:
        return identity
    source = str(facts.get("source") or "a corpus")
    what = "the generated world" if source == "world" else source
    count = facts.get("documents")
    number = f"{count:,} documents of " if isinstance(count, int) else ""
    mark = str(facts.get("content_hash") or "")[:HASH]
    return f"{number}{what}" + (f" ({mark})" if mark else "")


def retriever_in_words(identity: str) -> str:
    """`bm25, 1 document per search; b 0.75, k1 1.5`, for the log's JSON; other text as it is."""
    facts = _object(identity)
    if facts is None:
        return identity
    parts = [str(facts.get("kind") or "a retriever")]
    if (top_k := facts.get("top_k")) is not None:
        parts.append(f"{top_k} document{'s' if top_k != 1 else ''} per search")
    known = ("kind", "top_k", "documents", "corpus_hash", "parameters")
    others = {key: value for key, value in facts.items() if key not in known}
    parameters = facts.get("parameters")
    others |= parameters if isinstance(parameters, dict) else {}
    settings = [f"{key} {value}" for key, value in others.items() if isinstance(value, str | int | float)]
    return ", ".join(parts) + ("; " + ", ".join(settings) if settings else "")


def _object(text: str) -> dict[str, Any] | None:
    try:
        facts = json.loads(text)
    except ValueError:
        return None
    return facts if isinstance(facts, dict) else None


def config_differences(runs: list[ReportedRun]) -> list[tuple[str, list[str]]]:
    """Returns the settings that differ between runs: (dotted key, value per run as JSON; empty where the run
    lacks the key). An empty mapping is no setting where another run has keys in it.
    """
    every = {key for run in runs for key in run.settings}
    keys = sorted(key for key in every if not any(other.startswith(f"{key}.") for other in every))
    differences = []
    for key in keys:
        values = [
            json.dumps(run.settings[key], ensure_ascii=False) if key in run.settings else "" for run in runs
        ]
        if len(set(values)) > 1:
            differences.append((key, values))
    return differences


def _settings(config: dict[str, Any]) -> dict[str, Any]:
    return {key.removeprefix("config."): value for key, value in dotted(config).items()}


def _labels(run_ids: list[str], names: list[str], settings: list[dict[str, Any]]) -> list[str]:
    """Returns the runs' names; where several share one, with the preset or seed in which they differ, or the
    id.
    """
    labels = list(names)
    for key in ("preset", "seed"):
        if len(set(labels)) == len(labels):
            return labels
        clashes = {label for label, count in Counter(labels).items() if count > 1}
        differ = {
            label: len({str(s.get(key)) for s, own in zip(settings, labels, strict=True) if own == label})
            for label in clashes
        }
        labels = [
            f"{label} {key}={flat.get(key)}" if differ.get(label, 1) > 1 else label
            for label, flat in zip(labels, settings, strict=True)
        ]
    counts = Counter(labels)
    return [
        label if counts[label] == 1 else f"{label} {run_id}"
        for label, run_id in zip(labels, run_ids, strict=True)
    ]
