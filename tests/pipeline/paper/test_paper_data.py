"""`igpo data paper` against a server of small stand-ins: fetched once, checked, gone on with, converted; and
what it says where there is no network, a wrong file, or a damaged one.
"""

import gzip
import hashlib
import io
import json
import signal
import subprocess
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from command import Command
from loopback import FileServer
from typer.testing import CliRunner

from envs.data.questions import load_questions
from envs.errors import InputError
from pipeline.cli.igpo import app
from pipeline.paper.fetch import State, fetch, look
from pipeline.paper.manifest import PublicFile, git_blob_of, load_manifest

UNKNOWN = {"size": None, "sha256": None}
TRAIN = {"questions": "train.jsonl", "without": "test.parquet"}
PASSAGES = [{"id": str(i), "contents": f'"Title {i}"\nPassage {i} of the corpus.'} for i in range(50)]


def parquet(*records):
    rows = [
        {
            "data_source": source,
            "prompt": [{"role": "user", "content": text}],
            "reward_model": {"ground_truth": "<|answer_split|>".join(golds), "style": "rule"},
            "extra_info": {"index": f"{source}-{number}", "split": "x"},
        }
        for number, (source, text, *golds) in enumerate(records)
    ]
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), out)
    return out.getvalue()


def stand_ins():
    return {
        "test.parquet": parquet(("nq", "Who is it?", "Ann", "Anna"), ("popqa", "Where is it?", "Rome")),
        "train.parquet": parquet(("nq", "When was it?", "1999"), ("nq", "who IS it?", "Ann")),
        "wiki.jsonl.gz": gzip.compress("".join(json.dumps(p) + "\n" for p in PASSAGES).encode(), mtime=0),
    }


def entry(name, content, address, **more):
    sha256 = hashlib.sha256(content).hexdigest()
    return {
        "name": name,
        "what": "a stand-in",
        "url": f"{address}/{name}",
        "size": len(content),
        "sha256": sha256,
    } | more


def manifest_of(files, address, path):
    test, train, wiki = files["test.parquet"], files["train.parquet"], files["wiki.jsonl.gz"]
    blob = hashlib.sha1(b"blob %d\0" % len(train) + train).hexdigest()
    listed = [
        entry("test.parquet", test, address, questions="heldout.jsonl", counts={"nq": 1, "popqa": 1}),
        entry("train.parquet", train, address, **UNKNOWN, git_blob=blob, **TRAIN),
        entry("wiki.jsonl.gz", wiki, address, **UNKNOWN, is_corpus=True),
    ]  # fmt: skip
    path.write_text(yaml.safe_dump({"files": listed}))
    return str(path)


def invoke(*words):
    return CliRunner().invoke(app, ["data", "paper", *words])


def said(result):
    return " ".join(f"{result.output} {result.exception or ''}".split())


@pytest.fixture
def served(tmp_path, monkeypatch):
    monkeypatch.setenv("IGPO_CACHE", str(tmp_path / "cache"))
    server = FileServer(stand_ins())
    with server.serving() as address:
        yield server, manifest_of(server.files, address, tmp_path / "manifest.yaml"), tmp_path / "paper_data"


def test_fetched_checked_converted_and_not_fetched_again(served):
    server, manifest, out = served
    first = invoke("--out", str(out), "--manifest", manifest)
    assert first.exit_code == 0, said(first)
    assert server.asked == [("test.parquet", 0), ("train.parquet", 0), ("wiki.jsonl.gz", 0)]
    sha = hashlib.sha256(server.files["wiki.jsonl.gz"]).hexdigest()
    assert f"sha256 {sha} (seen first, and holds from now on)" in said(first)
    assert "heldout.jsonl: 2 questions: nq 1, popqa 1" in said(
        first
    ) and "50 passages, index of BM25" in said(first)
    held, train = load_questions(out / "heldout.jsonl"), load_questions(out / "train.jsonl")
    assert [(q.id, q.data_source, q.golds) for q in held] == [
        ("nq-0", "nq", ["Ann", "Anna"]),
        ("popqa-1", "popqa", ["Rome"]),
    ]
    assert [q.text for q in train] == ["When was it?"], "a question that is tested is not trained on"
    again = invoke("--out", str(out), "--manifest", manifest)
    assert again.exit_code == 0 and len(server.asked) == 3
    assert "train.jsonl: here" in said(again)


@pytest.mark.parametrize("known_size", [True, False])
def test_half_a_download_goes_on_where_it_stopped(served, known_size):
    server, _, out = served
    out.mkdir()
    content = server.files["wiki.jsonl.gz"]
    with server.serving() as address:
        file = PublicFile(
            **entry("wiki.jsonl.gz", content, address, **({} if known_size else {"size": None}))
        )
        (out / "wiki.jsonl.gz.part").write_bytes(content[:100])
        assert look(file, out).state is State.HALF
        fetch(file, out)
        assert server.asked[-1] == ("wiki.jsonl.gz", 100)
        assert (out / "wiki.jsonl.gz").read_bytes() == content
        # Killed between the last byte and the check: the server has nothing more to send.
        (out / "wiki.jsonl.gz").rename(out / "wiki.jsonl.gz.part")
        fetch(file, out)
        assert (out / "wiki.jsonl.gz").read_bytes() == content


def test_a_file_of_the_wrong_hash_is_refused_and_kept_aside(served):
    server, manifest, out = served
    good = server.files["test.parquet"]
    server.files["test.parquet"] = good[:-1] + b"x"
    refused = invoke("--out", str(out), "--manifest", manifest)
    seen = hashlib.sha256(server.files["test.parquet"]).hexdigest()
    assert f"test.parquet.wrong is another file than was expected: sha256 {seen} instead of" in said(refused)
    assert not (out / "test.parquet").exists() and (out / "test.parquet.wrong").exists()
    server.files["test.parquet"] = good
    assert invoke("--out", str(out), "--manifest", manifest).exit_code == 0


def test_the_first_hash_holds_where_none_is_published(served):
    server, manifest, out = served
    assert invoke("--out", str(out), "--manifest", manifest).exit_code == 0
    (out / "wiki.jsonl.gz").unlink()
    server.files["wiki.jsonl.gz"] = gzip.compress(b'{"id": "1", "contents": "another"}\n')
    assert "wiki.jsonl.gz.wrong is another file than was expected" in said(
        invoke("--out", str(out), "--manifest", manifest)
    )


def test_a_file_that_was_changed_on_disk_is_refused(served):
    _, manifest, out = served
    assert invoke("--out", str(out), "--manifest", manifest).exit_code == 0
    (out / "test.parquet").write_bytes(b"short")
    assert "test.parquet has 5 bytes and had" in said(invoke("--out", str(out), "--manifest", manifest))


def test_a_file_put_there_by_hand_is_checked_and_taken(served):
    server, manifest, out = served
    out.mkdir()
    (out / "test.parquet").write_bytes(server.files["test.parquet"])
    assert invoke("--out", str(out), "--manifest", manifest).exit_code == 0
    assert "test.parquet" not in [name for name, _ in server.asked]


def test_without_a_network_it_says_what_is_missing_and_uses_what_is_here(served, monkeypatch):
    server, manifest, out = served
    out.mkdir()
    (out / "test.parquet").write_bytes(server.files["test.parquet"])
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    listed = yaml.safe_load(Path(manifest).read_text())
    for file in listed["files"]:
        file["url"] = f"http://127.0.0.1:9/{file['name']}"  # nothing listens there
    Path(manifest).write_text(yaml.safe_dump(listed))
    result = invoke("--out", str(out), "--manifest", manifest)
    assert "train.parquet was not fetched from http://127.0.0.1:9/train.parquet:" in said(result)
    assert f"Missing in {out}: train.parquet, wiki.jsonl.gz." in said(result)
    assert len(load_questions(out / "heldout.jsonl")) == 2
    assert list(out.glob("*.part")) == []


def test_golds_that_are_tables_are_refused_with_their_place(served):
    server, _, out = served
    record = {"question": "Who?", "golden_answers": [["Ann", "Bob"], ["Cid"]], "data_source": "nq"}
    content = json.dumps(record).encode() + b"\n"
    out.mkdir()
    with server.serving() as address:
        listed = [entry("test.jsonl", content, address, questions="heldout.jsonl")]
        server.files["test.jsonl"] = content
        manifest = out / "manifest.yaml"
        manifest.write_text(yaml.safe_dump({"files": listed}))
        result = invoke("--out", str(out), "--manifest", str(manifest))
    assert "test.jsonl:1" in said(result) and "golden_answers" in said(result)


def test_other_questions_than_the_manifest_counts_are_refused(served):
    _, manifest, out = served
    listed = yaml.safe_load(Path(manifest).read_text())
    listed["files"][0]["counts"] = {"nq": 512}
    Path(manifest).write_text(yaml.safe_dump(listed))
    assert "test.parquet holds nq 1, popqa 1 questions, not nq 512" in said(
        invoke("--out", str(out), "--manifest", manifest)
    )


def test_the_list_says_what_is_here(served):
    server, manifest, out = served
    out.mkdir()
    (out / "wiki.jsonl.gz.part").write_bytes(b"12345")
    listed = said(invoke("--list", "--out", str(out), "--manifest", manifest))
    assert "half" in listed and "5 of" in listed and "missing" in listed
    assert server.asked == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("files: []", "at least 1 item"),
        ("files: [{name: a, what: b, url: c, sise: 1}]", "Did you mean"),
        ("files: [{name: ../a, what: b, url: c}]", "name"),
        ("files: [{name: a, what: b, url: c, without: z}]", "which is not listed"),
        ("[1]", "a manifest has `files`"),
    ],
)
def test_a_manifest_with_a_mistake(tmp_path, content, message):
    path = tmp_path / "m.yaml"
    path.write_text(content)
    with pytest.raises(InputError, match=message):
        load_manifest(path)


def test_the_shipped_manifest():
    test, train, wiki = load_manifest()
    assert sum(test.counts.values()) == 3197 and len(test.counts) == 7
    assert (train.without, wiki.is_corpus) == ("test.parquet", True)
    assert all(file.sha256 or file.git_blob for file in (test, train, wiki))


def test_git_s_hash_of_a_content(tmp_path):
    path = tmp_path / "hello"
    path.write_bytes(b"hello\n")  # `git hash-object` says so
    assert git_blob_of(path) == "ce013625030ba8dba906f756967f9e9ca394464a"


@pytest.mark.slow
def test_killed_in_the_middle_and_run_again(tmp_path):
    files = stand_ins()
    files["wiki.jsonl.gz"] += bytes(24 << 20)  # the client writes 10 MiB at a time
    server = FileServer(files, pause=0.05)
    with server.serving() as address:
        manifest = manifest_of(files, address, tmp_path / "manifest.yaml")
        words = ["data", "paper", "--manifest", manifest, "--no-index"]
        first = Command(tmp_path, *words, module="pipeline.cli.igpo")
        part = tmp_path / "paper_data" / "wiki.jsonl.gz.part"
        deadline = time.monotonic() + 240
        while not (part.is_file() and part.stat().st_size):
            assert first.process.poll() is None and time.monotonic() < deadline, first.said
            time.sleep(0.02)
        first.process.send_signal(signal.SIGKILL)
        first.process.wait()
        half = part.stat().st_size
        assert 0 < half < len(files["wiki.jsonl.gz"])
        server.pause = 0.0
        second = Command(tmp_path, *words, module="pipeline.cli.igpo")
        try:
            assert second.process.wait(240) == 0, second.said
        except subprocess.TimeoutExpired:
            second.process.kill()
            raise
    assert server.asked.count(("test.parquet", 0)) == 1 and server.asked[-1] == ("wiki.jsonl.gz", half)
    assert (tmp_path / "paper_data" / "wiki.jsonl.gz").read_bytes() == files["wiki.jsonl.gz"]
    assert "test.parquet: here" in second.said
