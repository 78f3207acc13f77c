"""The rollout log: every row once, whatever is killed when; rows that fit the schema; descriptions for every
column.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rollout_log_samples import Q1, answer, heldout, records, rollout, search, train_1

from algorithms.igpo.iteration_record import GroupCredit, IterationRecord, TurnCredit, TurnTokens
from pipeline.rollout_log import folder as folder_module
from pipeline.rollout_log import store as store_module
from pipeline.rollout_log.folder import RolloutLogError
from pipeline.rollout_log.manifest import MANIFEST, Manifest, load_manifest
from pipeline.rollout_log.rows import RunInfo, now, run_row, table, tables_of
from pipeline.rollout_log.schema import SCHEMA_VERSION, TABLES, VERSION_KEY, describe
from pipeline.rollout_log.store import RolloutLogStore, compact
from pipeline.rollout_log.writer import RolloutLogWriter


def read(directory, name):
    """Rows of a table in the order of the manifest, which is how readers see them."""
    files = load_manifest(directory).of(name)
    return [row for file in files for row in pq.ParquetFile(directory / file.path).read().to_pylist()]


def record_of(iteration):
    """One rollout of one turn."""
    return IterationRecord(
        iteration, "train", iteration, [rollout(f"r{iteration}", "g", Q1, [search(0, "q", True)])]
    )


def write_all(directory, *, attempt=1, resumed_from=None, iterations=None, **options):
    info = RunInfo("toy", {"lr": 1e-3}, "ab12", resumed_from_iteration=resumed_from, retriever="bm25")
    with RolloutLogWriter(directory, "run-1", attempt, info=info, **options) as writer:
        for record in [record_of(i) for i in iterations] if iterations else records():
            writer.write(record, {"kl": 0.5})


# The rows.


def test_every_column_has_a_description_and_a_version():
    for name, schema in TABLES.items():
        description, columns = describe(name)
        assert description.endswith(".") and schema.metadata[VERSION_KEY] == str(SCHEMA_VERSION).encode()
        assert all(column.description.endswith(".") for column in columns), name
        assert {"run_id", "attempt", "schema_version"} <= set(schema.names)
        if name != "runs":
            assert {"iteration", "split"} <= set(schema.names)


def test_a_turn_row_holds_the_decision_the_evidence_and_the_credit(tmp_path):
    write_all(tmp_path)
    turn = read(tmp_path, "turns")[1]
    assert turn == {
        "run_id": "run-1",
        "attempt": 1,
        "iteration": 1,
        "split": "train",
        "schema_version": SCHEMA_VERSION,
        "episode_id": "r1",
        "group_id": "g1",
        "question_id": "q1",
        "turn_index": 1,
        "agent": "searcher",
        "agent_turn_index": 1,
        "policy": "default_policy",
        "is_final": False,
        "action": "tool",
        "decision_text": "<search>Jane birthplace</search>",
        "tool": "search",
        "query": "Jane birthplace",
        "answer": None,
        "parse_error": None,
        "observation_text": "a document",
        "observation_cut": False,
        "neutralised_tags": 0,
        "document_ids": ["author"],
        "document_scores": [2.5],
        "gold_hit": True,
        "scores": [-0.125],
        "scorer": "current",
        "weights_version": 7,
        "belief_before": 0.05,
        "belief_after": 0.9,
        "gain": 2.5,
        "normalised_gain": 1.25,
        "advantage": 2.0,
        "logp_gap_mean": 1e-6,
        "decision_tokens": 4,
        "observation_tokens": 10,
        "tool_calls": 1,
        "tool_errors": 0,
        "tool_error": None,
        "seconds_generate": 0.0,
        "seconds_tool": 0.1,
        "seconds_score": 0.0,
    }


def test_an_episode_row_sums_its_turns(tmp_path):
    write_all(tmp_path)
    episode = read(tmp_path, "episodes")[0]
    assert (episode["turns"], episode["gain_turns"], episode["tool_calls"], episode["tool_errors"]) == (
        3,
        2,
        2,
        0,
    )
    assert (episode["decision_tokens"], episode["observation_tokens"]) == (14, 20)
    assert (episode["belief_initial"], episode["belief_final"], episode["gain_total"]) == (0.1, 0.9, 2.0)
    assert (episode["em_squad"], episode["outcome"], episode["termination"]) == (1.0, 1.0, "answered")
    assert episode["initial_scores"] == [-2.0, -2.0] and episode["scored_golds"] == ["Rome", "Roma"]
    assert episode["question_metadata"] == '{"type": "bridge"}' and episode["retriever"] == "bm25"
    assert dict(episode["other_metrics"]) == {"politeness": 0.5}
    evaluated = [row for row in read(tmp_path, "episodes") if row["split"] == "heldout"]
    assert [row["gain_total"] for row in evaluated] == [None] * 4


def test_belief_before_the_only_turn_is_logged():
    one = rollout("r7", "g", Q1, [answer(0, "Rome")], text="Rome", outcome=1.0)
    record = IterationRecord(1, "train", 7, [one], {("r7", 0): TurnCredit(0.1, None, None, None, 1.0)})
    tables = tables_of(record, {}, "run-1", 1, RunInfo())
    (episode,), (turn,) = (tables[name].to_pylist() for name in ("episodes", "turns"))
    assert (episode["belief_initial"], episode["belief_final"], episode["gain_total"]) == (0.1, None, None)
    assert (turn["belief_before"], turn["belief_after"], turn["gain"]) == (0.1, None, None)


def test_a_group_without_a_gain_has_no_mean_gain():
    group = GroupCredit("g", "q1", 2, 1.0, 0.0, 0, float("nan"), 0.0, True, True, True, False)
    tables = tables_of(IterationRecord(1, "train", 7, [], groups=[group]), {}, "run-1", 1, RunInfo())
    (row,) = tables["groups"].to_pylist()
    assert (row["gain_count"], row["gain_mean"], row["gain_std"]) == (0, None, 0.0)


def test_iterations_groups_tool_calls_and_runs(tmp_path):
    write_all(tmp_path)
    first = read(tmp_path, "iterations")[0]
    assert dict(first["seconds"]) == {"generate": 3.0, "learn": 1.0, "total": 4.5} and dict(
        first["metrics"]
    ) == {"kl": 0.5}
    assert (first["rollouts"], first["groups"], first["weights_version"]) == (4, 2, 7)
    assert [row["collapsed_outcome"] for row in read(tmp_path, "groups")] == [False, True, True]
    failed = [row for row in read(tmp_path, "tool_calls") if row["error"]]
    assert [(row["episode_id"], row["arguments"], row["seconds"]) for row in failed] == [
        ("r4", '{"query": "bar mayr"}', 2.0)
    ]
    (run,) = read(tmp_path, "runs")
    assert (run["name"], run["status"], run["config"]) == ("toy", "finished", '{"lr": 0.001}')
    assert run["ended_at"] >= run["started_at"] and run["config_hash"] == "ab12"


def test_agents_count_their_own_turns():
    turns = [search(0, "a", None), search(1, "b", None, agent="reader"), search(2, "c", None)]
    tables = tables_of(
        IterationRecord(1, "train", 0, [rollout("r", "g", Q1, turns)]), {}, "run", 1, RunInfo()
    )
    assert tables["turns"]["agent_turn_index"].to_pylist() == [0, 0, 1]


def test_full_precision_and_numpy_values_survive():
    turn = search(0, "q", np.bool_(True), scores=(-1 / 3, np.nextafter(-1.0, 0)))
    tables = tables_of(
        IterationRecord(1, "train", 0, [rollout("r", "g", Q1, [turn])]), {}, "run", 1, RunInfo()
    )
    assert tables["turns"]["scores"].to_pylist() == [[-1 / 3, float(np.nextafter(-1.0, 0))]]
    assert tables["turns"]["gold_hit"].to_pylist() == [True]


def test_half_a_surrogate_pair_in_a_models_json_does_not_stop_the_log():
    tables = tables_of(
        IterationRecord(1, "train", 0, [rollout("r", "g", Q1, [search(0, "\ud800x", None)])]),
        {},
        "r",
        1,
        RunInfo(),
    )
    assert tables["turns"]["query"].to_pylist() == ["?x"]


def test_tokens_on_request(tmp_path):
    record = train_1()
    record.rollouts = record.rollouts[:1]
    for index, (context, decision) in enumerate([([7, 8], [9]), ([1], [5, 6]), ([2], [4])]):
        logp_L = np.array([-0.5] * len(decision), np.float32)
        record.tokens["r1", index] = TurnTokens(np.array(context), np.array(decision), logp_L)
    record.token_texts = {i: f"t{i}" for i in range(10)}
    record.credit["r1", 1].logp_gap_L = np.array([0.25, -0.25])
    with RolloutLogWriter(tmp_path, "run-1", 1) as writer:
        writer.write(record)
    rows = read(tmp_path, "tokens")
    shown = ("turn_index", "position", "is_decision", "token_id", "text", "sampler_logp", "learner_logp")
    assert [tuple(row[name] for name in shown) for row in rows] == [
        (0, 0, False, 7, "t7", None, None),
        (0, 1, False, 8, "t8", None, None),
        (0, 2, True, 9, "t9", -0.5, None),
        (1, 3, False, 1, "t1", None, None),
        (1, 4, True, 5, "t5", -0.5, -0.25),
        (1, 5, True, 6, "t6", -0.5, -0.75),
        (2, 6, False, 2, "t2", None, None),
        (2, 7, True, 4, "t4", -0.5, None),
    ]
    assert {row["episode_id"] for row in rows} == {"r1"} and {row["agent"] for row in rows} == {"searcher"}


def test_a_row_that_does_not_fit_the_schema_is_refused():
    row = run_row("run", 1, RunInfo(), now())
    with pytest.raises(ValueError, match=r"missing \['model'\], unknown \['modle'\]"):
        table("runs", [{("modle" if key == "model" else key): value for key, value in row.items()}])


# The writer.


def test_parts_merge_every_n_iterations_and_at_the_end(tmp_path):
    info = RunInfo()
    writer = RolloutLogWriter(tmp_path, "run-1", 1, info=info, merge_every=3)
    counts = []
    for iteration in range(1, 8):
        writer.write(record_of(iteration))
        writer.flush()
        counts.append(len(load_manifest(tmp_path).of("turns")))
    assert counts == [1, 2, 1, 2, 3, 2, 3]
    writer.close()
    (merged,) = load_manifest(tmp_path).of("turns")
    assert [row["iteration"] for row in read(tmp_path, "turns")] == list(range(1, 8))
    schema = pq.read_schema(tmp_path / merged.path)
    assert schema.names == TABLES["turns"].names
    assert (schema.metadata[VERSION_KEY], schema.field("gain").metadata) == (
        b"3",
        TABLES["turns"].field("gain").metadata,
    )
    assert pq.ParquetFile(tmp_path / merged.path).metadata.row_group(0).column(0).compression == "ZSTD"
    assert sorted(path.name for path in (tmp_path / "turns").iterdir()) == [
        merged.path.removeprefix("turns/")
    ]


def test_merged_parts_stay_for_queries_under_way_then_go(tmp_path, monkeypatch):
    writer = RolloutLogWriter(tmp_path, "run-1", 1, merge_every=2)
    writer.write(record_of(1))
    writer.write(record_of(2))
    writer.flush()
    assert len(list((tmp_path / "turns").iterdir())) == 3
    monkeypatch.setattr(
        store_module, "monotonic", lambda: time.monotonic() + store_module.READER_GRACE_SECONDS
    )
    writer.write(record_of(3))
    writer.flush()
    assert len(list((tmp_path / "turns").iterdir())) == 2
    writer.close()


def test_a_record_is_written_once(tmp_path):
    with RolloutLogWriter(tmp_path, "run-1", 1) as writer:
        writer.write(record_of(1))
        writer.write(heldout(1, q1_right=True, q2_right=True))
        with pytest.raises(ValueError, match="iteration 1 of split 'train' was already written by attempt 1"):
            writer.write(record_of(1))
    assert [row["split"] for row in read(tmp_path, "iterations")] == ["train", "heldout"]
    with pytest.raises(RolloutLogError, match="is closed"):
        writer.write(record_of(2))


def test_a_failure_in_the_background_is_raised_by_the_next_call(tmp_path):
    writer = RolloutLogWriter(tmp_path, "run-1", 1)
    bad = record_of(1)
    bad.rollouts[0].outcome = "not a number"
    writer.write(bad)
    with pytest.raises(RolloutLogError, match="could not be written"):
        writer.flush()
    with pytest.raises(RolloutLogError, match="could not be written"):
        writer.write(record_of(2))
    with pytest.raises(RolloutLogError, match="could not be written"):
        writer.close()
    RolloutLogWriter(tmp_path, "run-1", 2, info=RunInfo(resumed_from_iteration=0)).close()


def test_writing_returns_at_once(tmp_path, monkeypatch):
    append = RolloutLogStore.append
    monkeypatch.setattr(RolloutLogStore, "append", lambda *a: (time.sleep(0.2), append(*a)))
    with RolloutLogWriter(tmp_path, "run-1", 1) as writer:
        start = time.perf_counter()
        writer.write(train_1())
        assert time.perf_counter() - start < 0.1
        writer.flush()
        assert time.perf_counter() - start > 0.2
    assert len(read(tmp_path, "episodes")) == 4


def test_the_end_of_an_attempt_says_how_it_ended(tmp_path):
    with pytest.raises(KeyboardInterrupt), RolloutLogWriter(tmp_path, "run-1", 1) as writer:
        writer.write(record_of(1))
        raise KeyboardInterrupt
    assert [row["status"] for row in read(tmp_path, "runs")] == ["interrupted"]
    assert len(read(tmp_path, "turns")) == 1


def test_the_mlflow_run_is_entered_as_soon_as_it_is_known(tmp_path):
    writer = RolloutLogWriter(tmp_path, "run-1", 1)
    writer.note_mlflow_run("abc")
    writer.write(record_of(1))
    writer.flush()
    assert [(row["mlflow_run_id"], row["status"]) for row in read(tmp_path, "runs")] == [("abc", None)]
    writer.close()
    writer.note_mlflow_run("too late")
    assert [(row["mlflow_run_id"], row["status"]) for row in read(tmp_path, "runs")] == [("abc", "finished")]


def test_attempts_follow_each_other_in_one_log(tmp_path):
    write_all(tmp_path, iterations=[1, 2, 3])
    with pytest.raises(RolloutLogError, match="attempt 1 of .* was written before; the next is 2"):
        write_all(tmp_path)
    with pytest.raises(RolloutLogError, match="holds the log of run run-1, not of other"):
        RolloutLogWriter(tmp_path, "other", 1)
    with pytest.raises(ValueError, match="every later one from the iteration of its checkpoint"):
        RolloutLogWriter(tmp_path, "run-1", 2)
    write_all(tmp_path, attempt=2, resumed_from=2, iterations=[3, 4])
    assert [(row["attempt"], row["iteration"]) for row in read(tmp_path, "turns")] == [
        (1, 1),
        (1, 2),
        (1, 3),
        (2, 3),
        (2, 4),
    ]
    assert [(row["attempt"], row["resumed_from_iteration"]) for row in read(tmp_path, "runs")] == [
        (1, None),
        (2, 2),
    ]


def test_one_writer_at_a_time(tmp_path):
    with RolloutLogWriter(tmp_path, "run-1", 1) as writer:
        writer.write(record_of(1))
        with pytest.raises(RolloutLogError, match="being written by another process"):
            compact(tmp_path)
    compact(tmp_path)


# Crashes.


class KilledError(BaseException):
    """Stands for `kill -9`: nothing in the code under test catches it."""


def small_tables(iteration):
    tables = tables_of(record_of(iteration), {}, "run-1", 1, RunInfo())
    return {name: tables[name] for name in ("iterations", "turns")}


def scenario(directory, stop_at, monkeypatch):
    """Append, merge, append, finish; die at the `stop_at`-th step that touches the disk. True if it died."""
    steps = iter(range(10_000))

    def dying(function):
        def step(*args, **kwargs):
            if next(steps) == stop_at:
                raise KilledError
            return function(*args, **kwargs)

        return step

    with monkeypatch.context() as patch:
        patch.setattr(folder_module.os, "replace", dying(os.replace))
        patch.setattr(folder_module.os, "fsync", dying(os.fsync))
        patch.setattr(folder_module.Path, "unlink", dying(folder_module.Path.unlink))
        patch.setattr(pq, "write_table", dying(pq.write_table))
        store = RolloutLogStore(directory, "run-1")
        try:
            row = run_row("run-1", 1, RunInfo(), now())
            store.begin_attempt(1, "2026-01-01", table("runs", [row]))
            for iteration in (1, 2):
                store.append(small_tables(iteration), f"i{iteration}")
            store.merge()
            store.append(small_tables(3), "i3")
            store.replace_run_row(1, table("runs", [row | {"status": "finished"}]))
            store.merge(everything=True)
            store.delete_retired(at_once=True)
        except KilledError:
            return True
        finally:
            store._lock.release()  # As the operating system does.
    return False


def test_killed_at_any_step_a_reader_sees_every_row_once_and_the_log_can_be_mended(tmp_path, monkeypatch):
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: None
    )  # The steps count; waiting for the disk does not.
    stop_at, seen = 0, set()
    while True:
        directory = tmp_path / str(stop_at)
        died = scenario(directory, stop_at, monkeypatch)
        stop_at += 1
        if not (directory / MANIFEST).exists():
            assert died
            continue
        for name in ("iterations", "turns"):
            rows = [row["iteration"] for row in read(directory, name)]
            assert rows == list(range(1, len(rows) + 1)), (stop_at, name)
        seen.add(len(rows))
        assert len(read(directory, "runs")) == 1
        compact(directory)
        assert [row["iteration"] for row in read(directory, "turns")] == rows
        on_disk = {str(path.relative_to(directory)) for path in directory.rglob("*.parquet*")}
        assert on_disk == {file.path for file in load_manifest(directory).files}
        if not died:
            break
    assert seen == {0, 1, 2, 3} and stop_at > 60


def test_kill_9_while_writing(tmp_path):
    """The same with a real process, killed at whatever instant it has reached."""
    code = (
        "import sys; from pathlib import Path; sys.path[:0] = sys.argv[2:]\n"
        "from test_rollout_log import record_of, RolloutLogWriter\n"
        "writer = RolloutLogWriter(Path(sys.argv[1]), 'run-1', 1, merge_every=3)\n"
        "for iteration in range(1, 100_000):\n"
        "    writer.write(record_of(iteration)); print(iteration, flush=True)\n"
    )
    here = Path(__file__).parent
    helpers = here.parents[1] / "support"
    process = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path, here, helpers], stdout=subprocess.PIPE, text=True
    )
    while int(process.stdout.readline()) < 20:
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    rows = [row["iteration"] for row in read(tmp_path, "turns")]
    assert rows == list(range(1, len(rows) + 1)) and len(rows) > 5
    compact(tmp_path)
    assert [row["iteration"] for row in read(tmp_path, "turns")] == rows
    assert len(load_manifest(tmp_path).of("turns")) == 1


# Versions.


def test_files_of_an_older_schema_read_as_null_and_merge(tmp_path):
    write_all(tmp_path, iterations=[1])
    manifest = load_manifest(tmp_path)
    (file,) = manifest.of("turns")
    old = pq.read_table(tmp_path / file.path).drop_columns(["logp_gap_mean"])
    store = RolloutLogStore(tmp_path, "run-1")
    store.append({"turns": old}, "old")
    store.close()
    compact(tmp_path)
    assert [row["logp_gap_mean"] for row in read(tmp_path, "turns")] == [None, None]
    assert pa.types.is_float64(
        pq.read_schema(tmp_path / load_manifest(tmp_path).of("turns")[0].path).field("logp_gap_mean").type
    )


def test_a_log_of_version_1_is_read_and_mended(tmp_path):
    write_all(tmp_path, iterations=[1])
    text = (tmp_path / MANIFEST).read_text()
    assert '"schema_version": 3' in text  # Version 1 had the same tables but `tokens`, and rows that say 1.
    (tmp_path / MANIFEST).write_text(text.replace('"schema_version": 3', '"schema_version": 1'))
    store = RolloutLogStore(tmp_path, "run-1")
    for name in ("turns", "episodes"):
        (file,) = store.manifest.of(name)
        old = pq.read_table(tmp_path / file.path)
        column = old.schema.get_field_index("schema_version")
        store.append(
            {name: old.set_column(column, "schema_version", pa.array([1] * old.num_rows, pa.int32()))}, "v1"
        )
    store.close()
    compact(tmp_path)
    assert [row["schema_version"] for row in read(tmp_path, "turns")] == [3, 1]
    assert load_manifest(tmp_path).schema_version == 3 and read(tmp_path, "tokens") == []


def test_groups_of_version_2_have_no_third_count_of_collapse(tmp_path):
    write_all(tmp_path)
    store = RolloutLogStore(tmp_path, "run-1")
    (file,) = store.manifest.of("groups")
    old = pq.read_table(tmp_path / file.path).drop_columns(["collapsed_or_identical"])
    store.append({"groups": old}, "v2")
    store.close()
    compact(tmp_path)
    values = [row["collapsed_or_identical"] for row in read(tmp_path, "groups")]
    assert None not in values[: old.num_rows] and values[old.num_rows :] == [None] * old.num_rows


def test_a_log_of_a_newer_version_is_refused(tmp_path):
    Manifest("run-1", schema_version=SCHEMA_VERSION + 1).save(tmp_path)
    with pytest.raises(RolloutLogError, match="install the version that wrote the run"):
        load_manifest(tmp_path)


def test_large_logs_merge_in_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(store_module, "ROW_GROUP_ROWS", 4)
    write_all(tmp_path, iterations=range(1, 11))
    metadata = pq.ParquetFile(tmp_path / load_manifest(tmp_path).of("turns")[0].path).metadata
    assert [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)] == [4, 4, 2]
