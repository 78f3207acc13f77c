"""Every shape of questions and documents: named, counted, loaded, and the same content out of all of them."""

import csv
import gzip
import hashlib
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from data_shapes import (
    ALL,
    ANSWERS,
    BORN,
    CORPUS_SOURCES,
    DOCUMENTS,
    FORT,
    OWN_CORPUS_NAMES,
    OWN_NAMES,
    QUESTION_SOURCES,
    TITLES,
    beir,
    contents_jsonl,
    flashrag,
    lines,
    musique,
    own_corpus_csv,
    own_csv,
    saved_data_set,
)

from envs.data.corpus import load_corpus
from envs.data.describe import describe
from envs.data.questions import load_questions, resolve_gold_documents
from envs.data.sources.field_names import DocumentFieldNames, FieldNames
from envs.errors import InputError

OWN = FieldNames(**OWN_NAMES)


@pytest.mark.parametrize("writer", QUESTION_SOURCES, ids=lambda writer: writer.__name__)
def test_every_shape_holds_the_same_questions(tmp_path, writer, caplog):
    shape, aliases, evidence, left_out = QUESTION_SOURCES[writer]
    source = writer(tmp_path)
    found = load_questions(source)
    golds = [ANSWERS[q] if aliases == ALL else ANSWERS[q][:1] for q in (FORT, BORN)]
    assert [(question.text, question.golds) for question in found] == list(
        zip((FORT, BORN), golds, strict=True)
    )
    titles = [question.metadata.get("supporting_titles", []) for question in found]
    assert titles == (
        [TITLES[FORT], TITLES[BORN]] if evidence else [["Red Fort"]] * 2 if evidence is None else [[]] * 2
    )
    assert bool(left_out) == ("left out of" in caplog.text)
    said = describe(source)
    assert set(said.shapes) == {shape} and said.left_out.total() == left_out
    assert [q.id for q in said.questions] == [q.id for q in found] and not said.refused


def test_hops_and_ids_come_from_the_record(tmp_path):
    first, second = load_questions(musique(tmp_path))
    assert (first.id, first.hops, second.id, second.hops) == ("1hop__0", 1, "2hop__1", 2)
    short = {"id": "3hop2__5_6", "question": "Q?", "answer": "A", "answer_aliases": [], "answerable": True}
    assert load_questions(lines(tmp_path / "m.jsonl", [short]))[0].hops == 3


def test_names_of_ones_own(tmp_path):
    source = own_csv(tmp_path)
    first, second = load_questions(source, OWN)
    assert [(q.id, q.text, q.golds) for q in (first, second)] == [
        ("0", FORT, ANSWERS[FORT]),
        ("1", BORN, ANSWERS[BORN]),
    ]
    assert second.metadata["supporting_titles"] == TITLES[BORN] and second.hops == 2
    assert describe(source, names=OWN).shapes == {"named by `fields`": 2}
    with pytest.raises(InputError, match=r"mine\.csv:2: no `question` is among the fields 'uid', 'prompt'"):
        load_questions(source)
    typo = OWN.model_copy(update={"titles": "page"})
    with pytest.raises(
        InputError, match=r"`fields.titles` is 'page', which no record of .*mine.csv has; found uid"
    ):
        load_questions(source, typo)


def test_names_reach_inward_and_leave_the_rest_to_the_usual_names(tmp_path):
    record = {
        "question": "Q?",
        "target": {"value": 1710.0, "others": ["the year 1710"]},
        "uid": 7.0,
        "n": "2",
    }
    names = FieldNames(answers="target.value", aliases="target.others", id="uid", hops="n")
    (found,) = load_questions(lines(tmp_path / "own.jsonl", [record]), names)
    assert (found.id, found.text, found.golds, found.hops) == ("7", "Q?", ["1710", "the year 1710"], 2)


def test_a_source_with_none_of_the_names_is_read_by_its_shape(tmp_path, caplog):
    source = flashrag(tmp_path)
    assert len(load_questions(source)) == 2 and not caplog.text
    assert load_questions(source, FieldNames(hops="n_hops", id="uid")) == load_questions(source)
    assert f"no record of {source} has the named field uid or n_hops: its records are read" in caplog.text


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_missing_ids_are_made_of_the_content(tmp_path, kind, caplog):
    """The same in every order and file, and a repetition is left out and counted."""
    records = [{"question": q, "answers": a} for q, a in ANSWERS.items()]
    path = tmp_path / f"a.{kind}"
    if kind == "jsonl":
        lines(path, [*records, records[0]])
    else:
        pq.write_table(pa.Table.from_pylist([*records, records[0]]), path)
    found = load_questions(path)
    assert "left out of" in caplog.text and ": 1 repeated (the same question and answers" in caplog.text
    turned = load_questions(lines(tmp_path / "b.jsonl", records[::-1]))
    assert [q.id for q in found] == [q.id for q in turned][::-1] and len({q.id for q in found}) == 2
    digest = hashlib.sha256(json.dumps([FORT, ANSWERS[FORT]]).encode()).hexdigest()
    assert found[0].id == f"hash-{digest[:16]}"
    said = describe(path)
    assert (said.hashed, said.left_out.total(), said.refused) == (2, 1, [])


def test_the_same_question_with_other_answers_is_another(tmp_path):
    records = [{"question": FORT, "answers": ["Mira Tal"]}, {"question": FORT, "answers": ["Ann"]}]
    assert len(load_questions(lines(tmp_path / "a.jsonl", records))) == 2


def test_a_record_of_verl_without_a_data_source(tmp_path):
    """JSONL is named after its file, Parquet, whose files are named after splits, is not."""
    record = {"prompt": [{"role": "user", "content": "Q?"}], "reward_model": {"ground_truth": "A"}}
    pq.write_table(pa.Table.from_pylist([record]), tmp_path / "mine.parquet")
    (one,), (other,) = (
        load_questions(lines(tmp_path / "mine.jsonl", [record])),
        load_questions(tmp_path / "mine.parquet"),
    )
    assert [(q.id, q.data_source) for q in (one, other)] == [("mine-0", "mine"), ("row-0", "")]


@pytest.mark.parametrize("index", [float("nan"), None])
def test_an_index_that_pandas_lost_is_the_row(tmp_path, index):
    rows = [
        {
            "data_source": "nq",
            "prompt": [{"role": "user", "content": "Q?"}],
            "reward_model": {"ground_truth": "A"},
            "extra_info": {"index": number},
        }
        for number in (4.0, index)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "x.parquet")
    assert [q.id for q in load_questions(tmp_path / "x.parquet")] == ["nq-4", "nq-1"]


def test_beir_gives_the_ids_of_the_evidence(tmp_path, caplog):
    source = beir(tmp_path)
    corpus = load_corpus(source)
    found = resolve_gold_documents(load_questions(source), corpus)
    assert [q.gold_document_ids for q in found] == [["d0"], ["d0", "d1"]]
    assert [q.id for q in load_questions(f"{source}@test")] == ["b0", "b1"], "b9 is not in the split"
    with pytest.raises(InputError, match=r"has no split 'dev' in its qrels; it has test: add @SPLIT"):
        load_questions(f"{source}@dev")
    fewer = load_corpus(lines(tmp_path / "fewer.jsonl", [{"id": "d1", "contents": "x"}]))
    assert [q.gold_document_ids for q in resolve_gold_documents(found, fewer)] == [[], ["d1"]]
    assert "2 of 3 supporting documents are not in" in caplog.text


def test_splits_of_a_saved_data_set(tmp_path):
    source = saved_data_set(tmp_path)
    assert len(load_questions(f"{source}@validation")) == len(load_questions(f"hf:{source}")) == 2
    with pytest.raises(InputError, match=r"has no split 'test'; it has validation: add @validation"):
        load_questions(f"{source}@test")


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".ndjson", ".jsonl.gz", ".json.gz"])
@pytest.mark.parametrize("array", [True, False])
def test_lines_and_arrays_under_any_ending(tmp_path, ending, array):
    records = [{"id": n, "question": f"{n}?", "golden_answers": ["x"]} for n in range(3)]
    text = json.dumps(records, indent=1) if array else "\n".join(map(json.dumps, records))
    path = tmp_path / f"q{ending}"
    path.write_bytes(gzip.compress(text.encode()) if ending.endswith("gz") else text.encode())
    assert [(q.id, q.data_source) for q in load_questions(path)] == [(str(n), "q") for n in range(3)]


def test_damaged_files_are_refused_by_name(tmp_path):
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b'{"question": "Q?", "answer": "A"}\n' * 9)[:-9])
    (tmp_path / "no.jsonl.gz").write_bytes(b"text")
    (tmp_path / "cut.json").write_text('[{"id": 1},')
    (tmp_path / "wide.csv").write_text("question,answer\nQ?,A,more\n")
    (tmp_path / "latin.csv").write_bytes("question,answer\nQ?,\xe9\n".encode("latin-1"))
    (tmp_path / "number.json").write_text("[1]")
    for name, message in {
        "cut.jsonl.gz": "can't be read: Compressed file ended before",
        "no.jsonl.gz": "can't be read: Not a gzipped file",
        "cut.json": "not valid JSON",
        "wide.csv": "wide.csv:2: more values than the header has names",
        "latin.csv": "latin.csv: not UTF-8",
        "number.json": "number.json record 1: expected a JSON object, found int",
    }.items():
        with pytest.raises(InputError, match=message):
            load_questions(tmp_path / name)


def test_a_table_that_pandas_wrote_with_its_index(tmp_path):
    (tmp_path / "q.csv").write_text(",question,answer\n0,Q?,A\n1,R?,B\n")
    assert [(q.text, q.golds) for q in load_questions(tmp_path / "q.csv")] == [("Q?", ["A"]), ("R?", ["B"])]


def test_lists_in_a_cell_as_json_python_and_numpy_write_them(tmp_path):
    cells = ['["Rome", "Roma"]', "['Rome', 'Roma']", "['Rome' 'Roma']", "['Rome'\n \"Roma\"]"]
    path = tmp_path / "q.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["question", "answer"], *zip("abcd", cells, strict=True)])
    assert [q.golds for q in load_questions(path)] == [["Rome", "Roma"]] * 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('question,answer\nQ?,A\nR?,"B\nS?,C\nT?,D\n', r"csv:3: not valid CSV \(unexpected end of data\)"),
        ('question,answer\nQ?,"So" it is\n', r"csv:2: not valid CSV \(',' expected after '\"'\)"),
        ("question,answer,question\nQ?,A,R?\n", "csv:1: the header has 'question' twice"),
    ],
)
def test_a_table_that_would_be_read_otherwise_than_it_is_meant(tmp_path, text, message):
    (tmp_path / "q.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        load_questions(tmp_path / "q.csv")


@pytest.mark.parametrize("writer", CORPUS_SOURCES, ids=lambda writer: writer.__name__)
def test_every_shape_holds_the_same_documents(tmp_path, writer):
    corpus = load_corpus(writer(tmp_path))
    assert [(d.id, d.title, d.text) for d in corpus] == DOCUMENTS
    plain = load_corpus(contents_jsonl(tmp_path))
    assert corpus.content_hash == plain.content_hash, "one index serves all of them"


def test_a_corpus_with_names_of_ones_own(tmp_path):
    source = own_corpus_csv(tmp_path)
    names = DocumentFieldNames(**OWN_CORPUS_NAMES)
    assert [(d.id, d.title, d.text) for d in load_corpus(source, names)] == DOCUMENTS
    with pytest.raises(InputError, match=r"wiki\.csv:2: no `contents` or `text` \(found 'key', 'page'"):
        load_corpus(source)


def test_documents_without_ids(tmp_path, caplog):
    records = [{"title": t, "text": x} for _, t, x in DOCUMENTS]
    corpus = load_corpus(lines(tmp_path / "c.jsonl", [*records, records[1]]))
    assert len(corpus) == 3 and len(set(corpus.ids)) == 3
    assert ": 1 documents, repeated (the same title and text" in caplog.text


@pytest.mark.parametrize(
    ("cell", "golds"),
    [
        ("3.0", ["3.0"]),
        ("-12.0", ["-12.0"]),
        ("1998", ["1998"]),
        ("[1998, 1999]", ["1998", "1999"]),
        ("[1998 1999]", ["1998", "1999"]),
        ("[3.50, -7]", ["3.50", "-7"]),
        ("[007]", ["007"]),
        ('["Rome", 1998]', ["Rome", "1998"]),
        ("['three', 3.0]", ["three", "3.0"]),
        ("['three', -3]", ["three", "-3"]),
        ("['Catch 22, 23', '24']", ["Catch 22, 23", "24"]),
        ("[citation needed]", ["[citation needed]"]),
        ("[1998", ["[1998"]),
    ],
)
@pytest.mark.parametrize("names", [FieldNames(), FieldNames(question="prompt", answers="label")])
def test_answers_of_a_table_are_what_is_written(tmp_path, cell, golds, names):
    path = tmp_path / "q.csv"
    with path.open("w", newline="") as file:
        header = ["id", names.question or "question", names.answers or "answer"]
        csv.writer(file).writerows([header, ["3.0", "4.0", cell]])
    (question,) = load_questions(path, names)
    assert (question.id, question.text, question.golds) == ("3", "4.0", golds), "pandas' 3.0 is an id's alone"


@pytest.mark.parametrize("cell", ['["Rome", null]', "['Rome', None]", "['Rome', nan]"])
def test_a_list_with_a_null_is_refused_in_a_cell_as_elsewhere(tmp_path, cell):
    with (tmp_path / "q.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["question", "answer"], ["Q?", cell]])
    sources = [
        tmp_path / "q.csv",
        lines(tmp_path / "q.jsonl", [{"question": "Q?", "answer": ["Rome", None]}]),
    ]
    for source in sources:
        with pytest.raises(InputError, match=r"must be a list of texts, found \['Rome', None\]"):
            load_questions(source)


def test_texts_of_a_table_of_documents_are_what_is_written(tmp_path):
    (tmp_path / "c.csv").write_text("id,title,text\n1.0,1984.0,7.0\n")
    assert [(d.id, d.title, d.text) for d in load_corpus(tmp_path / "c.csv")] == [("1", "1984.0", "7.0")]


def test_what_else_a_record_with_names_of_ones_own_says(tmp_path):
    says = {"supporting_titles": ["Rome"], "hops": 3, "searches": ["x"]}
    record = {"prompt": "Q?", "label": "A", "metadata": says}
    path = lines(tmp_path / "q.jsonl", [record, {"prompt": "R?", "label": "B", "metadata": "none"}])
    first, second = load_questions(path, FieldNames(question="prompt", answers="label"))
    assert (first.metadata, first.hops) == (says, 3)
    assert (second.metadata, second.hops) == ({}, None)


def test_a_name_that_no_document_has_is_refused(tmp_path):
    source = own_corpus_csv(tmp_path)
    with pytest.raises(InputError) as error:
        load_corpus(source, DocumentFieldNames(**OWN_CORPUS_NAMES | {"title": "pgae"}))
    assert str(error.value) == (
        f"`corpus_fields.title` is 'pgae', which no record of {source} has; found key, page, content_of_page"
    )
    path = lines(tmp_path / "c.jsonl", [{"id": "1", "head": None, "text": "x"}])
    assert load_corpus(path, DocumentFieldNames(title="head"))[0].title == "", "it has the name"
