"""Files of rollouts, alone and in folders."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from envs.errors import InputError
from pipeline.importing.conversation import read_conversations
from pipeline.importing.files import read_files

ASK = {"role": "user", "content": "Who wrote Dune?"}
ANSWER = {"role": "assistant", "content": "Frank Herbert"}
PLAIN = {"messages": [ASK, ANSWER], "golds": ["Frank Herbert"]}


def calling(name, arguments):
    call = {"type": "function", "function": {"name": name, "arguments": arguments}}
    turn = {"role": "assistant", "content": "", "tool_calls": [call]}
    return PLAIN | {"messages": [ASK, turn, {"role": "tool", "content": "found"}, ANSWER]}


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


def test_parquet_gives_what_jsonl_gives(tmp_path):
    """A struct has the arguments of all tools, and the schemas' fields of all of them, null where absent."""

    def schema(name, argument):
        properties = {argument: {"type": "string"}}
        return {"type": "function", "function": {"name": name, "parameters": {"properties": properties}}}

    tools = [schema("search", "query"), schema("open", "page")]
    records = [
        calling("search", {"query": "Dune", "where": {"title": "Dune"}}) | {"tools": tools},
        calling("open", {"page": 3, "where": {"url": "u"}}) | {"tools": tools[1:]},
    ]
    (tmp_path / "a.jsonl").write_text(lines(*records))
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "a.parquet")
    read = {end: read_conversations(tmp_path / f"a.{end}") for end in ("jsonl", "parquet")}
    for parts in zip(*read.values(), strict=True):
        one, two = ((c.prompt, c.exchanges, c.tools, c.question, c.id) for c in parts)
        assert one == two


def test_a_null_that_was_written_is_kept(tmp_path):
    (tmp_path / "a.jsonl").write_text(lines(calling("search", {"query": "Dune", "page": None})))
    (one,) = read_conversations(tmp_path / "a.jsonl")
    (call,) = one.exchanges[0].decision["tool_calls"]
    assert call["function"]["arguments"] == {"query": "Dune", "page": None}


def test_all_files_of_a_folder_are_read_in_the_order_of_their_numbers(tmp_path):
    """Also those that are named as splits, and those with a field that others lack."""
    for name in ("1", "2", "10", "test_1", "train_1"):
        extra = {"reward": 1.0, "note": {"a": 1}} if name == "2" else {"note": "text"} if name == "10" else {}
        (tmp_path / f"{name}.jsonl").write_text(lines(PLAIN | extra))
    pq.write_table(pa.Table.from_pylist([PLAIN]), tmp_path / "11.parquet")
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / ".cache.json").write_text("[")
    names = ["1.jsonl:1", "2.jsonl:1", "10.jsonl:1", "11.parquet row 0", "test_1.jsonl:1", "train_1.jsonl:1"]
    assert [one.where for one in read_conversations(tmp_path)] == [f"{tmp_path}/{name}" for name in names]


def test_an_error_within_a_folder_names_file_and_line(tmp_path):
    (tmp_path / "1.jsonl").write_text(lines(PLAIN))
    (tmp_path / "2.jsonl").write_text(lines(PLAIN, PLAIN | {"step": "x"}))
    with pytest.raises(InputError, match=r"2.jsonl:2: `step` .*\(1 of 3 records are bad"):
        read_conversations(tmp_path)


def test_a_folder_without_rollouts_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(InputError, match="the folder holds no file that ends in .jsonl"):
        read_conversations(tmp_path)


def cut_jsonl(folder):
    (folder / "a.jsonl").write_text(lines(PLAIN, PLAIN)[:-20])
    return folder / "a.jsonl"


def cut_gzip(folder):
    packed = gzip.compress(lines(PLAIN).encode()) + gzip.compress(lines(PLAIN).encode())
    (folder / "a.jsonl.gz").write_bytes(packed[:-30])
    return folder / "a.jsonl.gz"


def odd_item(folder):
    (folder / "a.json").write_text(json.dumps([3, PLAIN]))
    return folder / "a.json"


@pytest.mark.parametrize("make", [cut_jsonl, cut_gzip, odd_item])
def test_what_is_whole_of_a_damaged_file_can_be_read(tmp_path, make):
    file = make(tmp_path)
    with pytest.raises(InputError, match=r"\(1 of 2 records are bad: `--skip-bad` reads the others\)"):
        read_conversations(file)
    bad = []
    assert len(read_conversations(file, bad.append)) == len(bad) == 1
    assert str(file) in str(bad[0])


def test_a_file_of_which_nothing_can_be_read_is_no_bad_record(tmp_path):
    (tmp_path / "a.parquet").write_text("no")
    for name in ("a.parquet", "gone.jsonl"):
        with pytest.raises(InputError, match=name):
            list(read_files(tmp_path / name, lambda error: None)[1])
