"""Generates a rollout log of any size, with the schema, files and row groups of a real one and random values.

Episodes have 2 to 6 turns, all but the last with one search; queries combine 40 relations with 50,000
entities; documents are drawn from 20,000 passages of 40 words. Gains of turns with gold evidence are larger
on average. Every 20 iterations there is an evaluation.
"""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.rollout_log.folder import LocalFolder
from pipeline.rollout_log.manifest import LogFile, Manifest
from pipeline.rollout_log.rows import RunInfo, run_row, table
from pipeline.rollout_log.schema import SCHEMA_VERSION, TABLES
from pipeline.rollout_log.store import ROW_GROUP_ROWS

GROUP_SIZE = 8
HELDOUT = "heldout"
EVALUATION_INTERVAL = 20
TURNS = np.array([2, 3, 4, 5, 6])
RUN_ID = "generated"


def write_generated_log(folder: Path, turns: int, iterations: int, seed: int = 0) -> None:
    """Writes a log of about `turns` turns over `iterations` iterations into `folder` (a run's `rollouts`)."""
    rng = np.random.default_rng(seed)
    pools = _pools(rng)
    groups = max(1, round(turns / iterations / TURNS.mean() / GROUP_SIZE))
    manifest = Manifest(RUN_ID, {1: "2026-01-01"})
    parts: dict[str, list[pa.Table]] = {name: [] for name in TABLES if name not in ("runs", "tokens")}
    writers = {}
    for name in parts:
        (folder / name).mkdir(parents=True, exist_ok=True)
        writers[name] = pq.ParquetWriter(
            folder / name / "merged-000001.parquet", TABLES[name], compression="zstd"
        )
    for iteration in range(1, iterations + 1):
        made = [_iteration(rng, pools, iteration, groups, "train")]
        if iteration % EVALUATION_INTERVAL == 0:
            made.append(_iteration(rng, pools, iteration, groups, HELDOUT))
        for name in parts:
            parts[name] += [tables[name] for tables in made if name in tables]
            if sum(part.num_rows for part in parts[name]) >= ROW_GROUP_ROWS or iteration == iterations:
                writers[name].write_table(pa.concat_tables(parts[name]), row_group_size=ROW_GROUP_ROWS)
                parts[name] = []
    for name, writer in writers.items():
        writer.close()
        path = f"{name}/merged-000001.parquet"
        rows = pq.read_metadata(folder / path).num_rows
        manifest.files.append(LogFile(name, path, rows, (folder / path).stat().st_size, merged=True))
    path = "runs/attempt-1-000001.parquet"
    run = table("runs", [run_row(RUN_ID, 1, RunInfo(name=RUN_ID), datetime(2026, 1, 1))])
    size = LocalFolder(folder).write(path, lambda file: pq.write_table(run, file))
    manifest.files.append(LogFile("runs", path, 1, size))
    manifest.save(folder)


def _pools(rng: np.random.Generator) -> dict[str, pa.Array]:
    syllables = np.array([a + b for a in "bdfgklmnprst" for b in "aeiou"])
    words = ["".join(syllables[row]) for row in rng.integers(len(syllables), size=(20_000, 3))]
    entities = [f"{words[a]} {words[b]}" for a, b in rng.integers(len(words), size=(50_000, 2))]
    relations = [f"{words[k]} of" for k in range(40)]
    documents = [" ".join(words[k] for k in row) for row in rng.integers(len(words), size=(20_000, 40))]
    return {
        "words": pa.array(words),
        "entities": pa.array(entities),
        "relations": pa.array(relations),
        "documents": pa.array(documents),
        "document_ids": pa.array([f"d{k}" for k in range(20_000)]),
        "errors": pa.array(["timeout", "connection refused", "server error 500"]),
    }


def _iteration(
    rng: np.random.Generator, pools: dict[str, pa.Array], iteration: int, groups: int, split: str
) -> dict[str, pa.Table]:
    """Returns every table but `runs` and `tokens` of one iteration and split; evaluations have no groups,
    gains and advantages.
    """
    is_train = split == "train"
    episodes = groups * GROUP_SIZE
    turns_N = rng.choice(TURNS, episodes)
    last_N = np.cumsum(turns_N) - 1
    size = int(turns_N.sum())
    episode_M = np.repeat(np.arange(episodes), turns_N)
    turn_M = np.arange(size) - (last_N - turns_N + 1)[episode_M]
    final_M = np.zeros(size, bool)
    final_M[last_N] = True
    question_P = rng.integers(10_000, size=groups) if is_train else np.arange(groups)
    hops_N = np.repeat(question_P % 3 + 1, GROUP_SIZE)
    ids = [f"{iteration:06d}/q{q}" if is_train else f"{HELDOUT}/q{q}" for q in question_P]
    group_N = pa.array(ids).take(pa.array(np.repeat(np.arange(groups), GROUP_SIZE)))
    question_N = pa.array([f"q{q}" for q in question_P]).take(
        pa.array(np.repeat(np.arange(groups), GROUP_SIZE))
    )
    episode_ids_N = pa.array([f"{ids[n // GROUP_SIZE]}/{n % GROUP_SIZE}" for n in range(episodes)])
    keys = {
        "run_id": RUN_ID,
        "attempt": 1,
        "iteration": iteration,
        "split": split,
        "schema_version": SCHEMA_VERSION,
    }
    question_keys = keys | {"episode_id": episode_ids_N, "group_id": group_N, "question_id": question_N}

    right_N = rng.random(episodes) < 0.2 + 0.5 * iteration / (iteration + 300)
    answered_N = rng.random(episodes) < 0.9
    answers = pools["words"].take(pa.array(rng.integers(20_000, size=episodes)))
    em_N = (right_N & answered_N).astype(float)
    hit_M = (rng.random(size) < 0.4) & ~final_M
    gain_M = rng.normal(0.5 * hit_M, 1.0)
    belief_M = rng.random(size)
    trained_M = np.full(size, is_train)
    bears_gain_M = trained_M & ~final_M
    turn_keys = keys | {
        name: question_keys[name].take(pa.array(episode_M))
        for name in ("episode_id", "group_id", "question_id")
    }
    entity_M = pools["entities"].take(pa.array(rng.zipf(1.3, size) % 50_000))
    relation_M = pools["relations"].take(pa.array(rng.integers(40, size=size)))
    query_M = pc.binary_join_element_wise(relation_M, entity_M, " ")  # ty: ignore[missing-attribute]
    documents_M = rng.integers(20_000, size=size)
    seconds_M = rng.exponential(0.1, size)
    error_M = np.where(rng.random(size) < 0.02, rng.integers(3, size=size), -1)
    errors = pools["errors"].take(pa.array(error_M, mask=error_M < 0))
    action_M = pa.array(["tool", "answer", "cut_off"]).take(
        pa.array(np.where(final_M, np.where(answered_N[episode_M], 1, 2), 0))
    )
    outcome_P = em_N.reshape(groups, GROUP_SIZE)
    gains_N = np.bincount(episode_M, weights=np.where(final_M, 0, gain_M))

    def where(mask, values):
        return pa.array(values, mask=~mask)

    def searches(array: pa.Array) -> pa.Array:
        return pc.if_else(pa.array(~final_M), array, pa.scalar(None, array.type))  # ty: ignore[missing-attribute]

    lists_M = pa.array(np.concatenate([[0], np.cumsum(~final_M)]), pa.int32())
    ids_M = pa.ListArray.from_arrays(lists_M, pools["document_ids"].take(pa.array(documents_M[~final_M])))
    numbers_M = pa.ListArray.from_arrays(lists_M, pa.array(belief_M[~final_M]))
    tables: dict[str, tuple[int, dict[str, Any]]] = {
        "iterations": (1, keys | {"rollouts": episodes, "groups": groups, "weights_version": iteration}),
        "episodes": (
            episodes,
            question_keys
            | {
                "question": question_N,
                "golds": pa.array([["gold"]] * episodes),
                "hops": hops_N,
                "answer": answers,
                "gold_document_ids": pa.array([["d1", "d2"]] * episodes),
                "question_metadata": json.dumps({}),
                "turns": turns_N,
                "gain_turns": turns_N - 1,
                "tool_calls": turns_N - 1,
                "termination": pa.array(["token_limit", "answered"]).take(pa.array(answered_N.astype(int))),
                "outcome": em_N,
                "em_squad": em_N,
                "em_paper": em_N,
                "f1_squad": em_N,
                "f1_paper": em_N,
                "decision_tokens": turns_N * 30,
                "observation_tokens": turns_N * 60,
                "gain_total": gains_N,
                "belief_initial": rng.random(episodes),
                "belief_final": rng.random(episodes),
                "scorer": "current",
                "config_hash": "0" * 12,
                "retriever": "bm25",
                "seconds": rng.random(episodes),
            },
        ),
        "turns": (
            size,
            turn_keys
            | {
                "turn_index": turn_M,
                "agent": "searcher",
                "agent_turn_index": turn_M,
                "policy": "default_policy",
                "is_final": final_M,
                "action": action_M,
                "decision_text": query_M,
                "tool": searches(pa.repeat("search", size)),
                "query": searches(query_M),
                "observation_text": searches(pools["documents"].take(pa.array(documents_M))),
                "document_ids": ids_M,
                "document_scores": numbers_M,
                "gold_hit": where(~final_M, hit_M),
                "scores": numbers_M,
                "scorer": "current",
                "weights_version": iteration,
                "belief_before": where(bears_gain_M, belief_M),
                "belief_after": where(bears_gain_M, belief_M),
                "gain": where(bears_gain_M, gain_M),
                "normalised_gain": where(bears_gain_M, gain_M),
                "advantage": where(trained_M, rng.normal(size=size)),
                "logp_gap_mean": where(trained_M, rng.exponential(1e-6, size)),
                "decision_tokens": rng.integers(10, 50, size),
                "observation_tokens": 60,
                "tool_calls": (~final_M).astype(int),
                "tool_errors": (error_M >= 0).astype(int),
                "tool_error": errors,
                "seconds_generate": seconds_M,
                "seconds_tool": seconds_M,
                "seconds_score": seconds_M,
            },
        ),
        "groups": (
            groups,
            keys
            | {
                "group_id": pa.array(ids),
                "question_id": pa.array([f"q{q}" for q in question_P]),
                "size": GROUP_SIZE,
                "outcome_mean": outcome_P.mean(1),
                "outcome_std": outcome_P.std(1),
                "gain_mean": rng.normal(size=groups),
                "gain_std": rng.random(groups),
                "collapsed_outcome": outcome_P.std(1) == 0,
                "collapsed": rng.random(groups) < 0.01,
                "collapsed_or_faint": rng.random(groups) < 0.02,
                "collapsed_or_identical": outcome_P.std(1) < 0,
            },
        ),
        "tool_calls": (
            int((~final_M).sum()),
            {
                name: value.filter(pa.array(~final_M)) if isinstance(value, pa.Array) else value
                for name, value in turn_keys.items()
            }
            | {
                "turn_index": turn_M[~final_M],
                "call_index": 0,
                "agent": "searcher",
                "tool": "search",
                "arguments": query_M.filter(pa.array(~final_M)),
                "error": errors.filter(pa.array(~final_M)),
                "result_text": pools["documents"].take(pa.array(documents_M[~final_M])),
                "seconds": seconds_M[~final_M],
            },
        ),
    }
    seconds = {"generate": 3.0, "score": 1.0, "learn": 2.0, "push": 0.5, "total": 7.0}
    tables["iterations"][1].update(
        seconds=pa.array([list(seconds.items())], pa.map_(pa.string(), pa.float64())),
        written_at=pa.array([datetime(2026, 1, 1)], pa.timestamp("us")),
    )
    return {name: _table(name, *rows) for name, rows in tables.items() if is_train or name != "groups"}


def _table(name: str, size: int, columns: dict[str, Any]) -> pa.Table:
    """Scalars repeated, columns that are not given null."""
    arrays = []
    for field in TABLES[name]:
        value = columns.get(field.name)
        if value is None:
            arrays.append(pa.nulls(size, field.type))
        elif isinstance(value, pa.Array | np.ndarray):
            arrays.append(pa.array(value).cast(field.type))
        else:
            arrays.append(pa.repeat(pa.scalar(value, field.type), size))
    return pa.table(arrays, schema=TABLES[name])
