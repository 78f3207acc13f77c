"""Parts of a question file that share no evidence."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from envs.data.split import evidence_titles, split_by_evidence
from envs.errors import InputError
from pipeline.cli.igpo import app


def record(n: int, *titles: str) -> dict:
    return {"id": str(n), "question": f"question {n}?", "metadata": {"supporting_titles": list(titles)}}


def titles_of(part: list[dict]) -> set[str]:
    return {title for one in part for title in one["metadata"]["supporting_titles"]}


def test_a_chain_of_shared_passages_stays_together():
    chain = [record(0, "A", "B"), record(1, "B", "C"), record(2, "c", "D")]  # C and c are one title
    alone = [record(3, "E"), record(4, "F")]
    for seed in range(8):
        first, rest = split_by_evidence(chain + alone, [2, None], seed)
        assert len(first) == 2 and len(rest) in (1, 2, 3)
        together = [part for part in (first, rest) if {"0", "1", "2"} & {one["id"] for one in part}]
        assert len(together) == 1


@settings(deadline=None, max_examples=40)
@given(
    st.lists(st.lists(st.sampled_from("ABCDEFGHIJ"), max_size=3), min_size=6, max_size=30), st.integers(0, 9)
)
def test_no_two_parts_share_a_title(evidence, seed):
    records = [record(n, *titles) for n, titles in enumerate(evidence)]
    try:
        parts = split_by_evidence(records, [2, 1, None], seed)
    except InputError as error:
        assert "bundles that share no evidence; ask for fewer" in str(error)
        return
    assert [len(part) for part in parts[:2]] == [2, 1]
    for one in range(3):
        for other in range(one):
            assert not titles_of(parts[one]) & titles_of(parts[other])
    assert parts == split_by_evidence(records, [2, 1, None], seed)


def test_questions_without_titles_stand_alone():
    first, rest = split_by_evidence([{"id": "a"}, {"id": "b", "metadata": None}, record(2)], [1, None])
    assert len(first) == 1 and len(rest) == 2


def test_evidence_is_read_in_the_form_of_the_data_set():
    facts = [["Rome", 0], ["Italy", 2]]
    plain = {"question": "q", "answer": "a"}
    assert evidence_titles(plain | {"metadata": {"supporting_titles": ["Rome"]}}) == ["Rome"]
    assert evidence_titles(plain | {"supporting_facts": facts}) == ["Rome", "Italy"]
    assert evidence_titles(plain | {"metadata": {"supporting_facts": facts}}) == ["Rome", "Italy"]
    assert evidence_titles(plain) == []
    shared = [{"id": name, **plain, "metadata": {"supporting_facts": facts}} for name in "abcd"]
    with pytest.raises(InputError, match="ask for fewer"):
        split_by_evidence(shared, [2, 2])


def test_the_command_counts_questions_whose_evidence_is_not_known(tmp_path):
    source = tmp_path / "all.jsonl"
    source.write_text("".join(json.dumps({"question": f"q{n}", "answer": "a"}) + "\n" for n in range(4)))
    parts = [f"{tmp_path / 'a.jsonl'}=2", str(tmp_path / "b.jsonl")]
    done = CliRunner().invoke(app, ["data", "split", str(source), "--part", parts[0], "--part", parts[1]])
    assert done.exit_code == 0, done.output
    assert "4 of 4 questions name no supporting passage" in " ".join(done.output.split())


def test_the_command_writes_the_parts(tmp_path):
    source = tmp_path / "all.jsonl"
    source.write_text("".join(json.dumps(record(n, f"T{n // 2}")) + "\n" for n in range(10)))
    heldout, train = tmp_path / "heldout.jsonl", tmp_path / "train.jsonl"
    command = ["data", "split", str(source), "--part", f"{heldout}=3", "--part", str(train)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "1 left out" in done.output.replace("\n", " ")
    sizes = [len(file.read_text().splitlines()) for file in (heldout, train)]
    assert sizes == [3, 6]


def test_the_command_reads_titles_by_a_name_of_ones_own(tmp_path):
    source = tmp_path / "all.jsonl"
    mine = [{"question": f"q{n}", "answer": "a", "pages": [f"T{n // 2}"]} for n in range(6)]
    source.write_text("".join(json.dumps(one) + "\n" for one in mine))
    first, rest = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    command = ["data", "split", str(source), "--part", f"{first}=2", "--part", str(rest), "--field"]
    refused = CliRunner().invoke(app, [*command, "titles=pgaes"])
    assert refused.exit_code == 2 and not first.exists()
    assert "`--field titles=pgaes` names 'pgaes', which no record of" in " ".join(refused.output.split())
    done = CliRunner().invoke(app, [*command, "titles=pages"])
    assert done.exit_code == 0 and "name no supporting passage" not in done.output
    pages = [
        {json.loads(line)["pages"][0] for line in file.read_text().splitlines()} for file in (first, rest)
    ]
    assert not pages[0] & pages[1] and len(pages[0]) == 1


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (["a.jsonl=x"], "'x' is no number of questions"),
        (["a.jsonl", "b.jsonl=1"], "only the last part may leave out its number"),
        (["a.jsonl=1", "a.jsonl"], "named twice"),
        (["a.jsonl=9"], "make 2 bundles"),
    ],
)
def test_bad_parts_are_one_sentence(tmp_path, monkeypatch, parts, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "all.jsonl").write_text("".join(json.dumps(record(n, f"T{n}")) + "\n" for n in range(2)))
    done = CliRunner().invoke(app, ["data", "split", "all.jsonl", *[x for p in parts for x in ("--part", p)]])
    assert done.exit_code == 2 and message in " ".join(done.output.replace("│", " ").split())
    assert not (tmp_path / "a.jsonl").exists()
