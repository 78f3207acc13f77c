"""`igpo data chunk`: text, Markdown, HTML and PDF become passages; what is left out is counted."""

import json
import sys

import pytest
from typer.testing import CliRunner

import pipeline.cli.igpo
from envs.data.chunk.extract import Extracted, extract
from envs.data.chunk.folder import chunk
from envs.data.chunk.passages import passages
from envs.data.corpus import load_corpus
from envs.errors import InputError

HTML = """<html><head><title>Blue Lake</title></head><body><nav>home menu</nav><article><h1>Blue Lake</h1>
<p>The blue lake lies in Peru, high in the mountains. It is very deep and cold.</p>
<p>Many people visit the lake in the summer months of each year.</p></article></body></html>"""


def full_stops(paragraph):
    return [f"{part.strip()}." for part in paragraph.split(".") if part.strip()]


def test_sentences_stay_whole():
    words = "one two three. four five. six seven eight nine. ten."
    assert list(passages([words], 5, full_stops)) == [
        "one two three. four five.",
        "six seven eight nine. ten.",
    ]
    assert list(passages(["a b. c", "d."], 9, full_stops)) == ["a b. c. d."]


def test_a_sentence_longer_than_a_passage_is_cut():
    assert list(passages(["a b c d e f g."], 3, lambda text: [text])) == ["a b c", "d e f", "g."]
    assert list(passages(["東京都水日"], 2, lambda text: [text])) == ["東京", "都水", "日"]


def write_pdf(path, text, title=None):
    pypdf = pytest.importorskip("pypdf")
    from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

    writer = pypdf.PdfWriter()
    page, stream, name = writer.add_blank_page(300, 300), DecodedStreamObject(), NameObject
    stream.set_data(f"BT /F1 12 Tf 10 100 Td ({text}) Tj ET".encode())
    page[name("/Contents")] = writer._add_object(stream)
    font = {
        name("/Type"): name("/Font"),
        name("/Subtype"): name("/Type1"),
        name("/BaseFont"): name("/Helvetica"),
    }
    fonts = DictionaryObject({name("/F1"): DictionaryObject(font)})
    page[name("/Resources")] = DictionaryObject({name("/Font"): fonts})
    if title:
        writer.add_metadata({"/Title": title})
    writer.write(path)


@pytest.fixture
def folder(tmp_path):
    for name in ("pysbd", "pypdf", "markdown_it", "trafilatura"):
        pytest.importorskip(name)
    home = tmp_path / "documents"
    (home / "below").mkdir(parents=True)
    (home / "fort.txt").write_text("Dr. Tal built the\nred fort. It is red.\n\nIt was built in 1710.")
    (home / "below" / "tal.md").write_text(
        "# Mira *Tal*\n\nMira Tal was [born](x) in `Oslo`.\n\n## Work\n\n- She built\n  the red fort.\n"
    )
    (home / "lake.html").write_text(HTML)
    write_pdf(home / "peru.pdf", "Peru is a land.", "Peru")
    write_pdf(home / "untitled.pdf", "No title here.")
    (home / "again.txt").write_text("")
    (home / "copy.docx").write_bytes(b"PK")
    (home / "cut.pdf").write_bytes(b"%PDF-1.7 no")
    (home / "latin.txt").write_bytes("caf\xe9".encode("latin-1"))
    (home / ".hidden.txt").write_text("hidden")
    return home


def test_a_folder_of_many_kinds(folder, tmp_path):
    out = tmp_path / "passages.jsonl"
    result = CliRunner().invoke(pipeline.cli.igpo.app, ["data", "chunk", str(folder), "--out", str(out)])
    assert result.exit_code == 0, result.output
    found = {document.id: (document.title, document.text) for document in load_corpus(out)}
    assert found.pop("lake.html#0") == (
        "Blue Lake",
        "Blue Lake The blue lake lies in Peru, high in the mountains. It is very deep and cold. "
        "Many people visit the lake in the summer months of each year.",
    )
    assert found == {
        "below/tal.md#0": ("Mira Tal", "Mira Tal was born in Oslo. Work. She built the red fort."),
        "fort.txt#0": ("fort", "Dr. Tal built the red fort. It is red. It was built in 1710."),
        "peru.pdf#0": ("Peru", "Peru is a land."),
        "untitled.pdf#0": ("untitled", "No title here."),
    }
    said = " ".join(result.output.split())
    assert "5 passages of 5 documents" in said
    for line in (
        "left out: 1 files without text (first: again.txt)",
        "left out: 1 files of another kind (.docx) (first: copy.docx)",
        "left out: 1 files damaged (first: cut.pdf)",
        "left out: 1 files not UTF-8 (first: latin.txt)",
    ):
        assert line in said


def test_passages_that_repeat_are_left_out_and_short_ones_are_wanted(folder, tmp_path):
    (folder / "zz").mkdir()
    (folder / "zz" / "fort.txt").write_text("It was built in 1710.\n\nIt is blue.")
    out = tmp_path / "passages.jsonl"
    arguments = ["data", "chunk", str(folder), "--out", str(out), "--words", "10"]
    result = CliRunner().invoke(pipeline.cli.igpo.app, arguments)
    ids = [json.loads(line)["id"] for line in out.read_text().splitlines()]
    assert ids.count("fort.txt#1") == 1 and "zz/fort.txt#0" in ids
    assert all(len(document.text.split()) <= 11 for document in load_corpus(out))
    (folder / "zz" / "fort.txt").write_text((folder / "fort.txt").read_text())
    result = CliRunner().invoke(pipeline.cli.igpo.app, arguments)
    assert "passages repeated (the same title and text) (first: zz/fort.txt#0)" in " ".join(
        result.output.split()
    )


def test_a_folder_without_documents_writes_nothing(folder, tmp_path):
    for path in sorted(folder.rglob("*"), reverse=True):
        path.unlink() if path.is_file() and path.suffix != ".docx" else None
    out = tmp_path / "passages.jsonl"
    result = CliRunner().invoke(pipeline.cli.igpo.app, ["data", "chunk", str(folder), "--out", str(out)])
    assert result.exit_code == 2 and "has no file with text: 1 files of another kind (.docx)" in result.output
    assert not out.exists()
    result = CliRunner().invoke(
        pipeline.cli.igpo.app, ["data", "chunk", str(folder / "none"), "--out", str(out)]
    )
    assert result.exit_code == 2 and "does not exist: give a document, or the folder that holds them" in (
        " ".join(result.output.split())
    )


def test_one_document_is_a_corpus_too(folder, tmp_path):
    out = tmp_path / "passages.jsonl"
    made = chunk(folder / "below" / "tal.md", out)
    assert (made.documents, made.passages) == (1, 1)
    assert [json.loads(line)["id"] for line in out.read_text().splitlines()] == ["tal.md#0"]


def test_a_short_page_gives_no_menus_but_keeps_an_article_s_header(tmp_path):
    pytest.importorskip("trafilatura")
    around = "<header>Acme Home</header><nav><ul><li>Prices</li></ul></nav>{}<aside>Related</aside>"
    page = "<html><head><title>Guide</title></head><body>" + around + "<footer>Acme</footer></body></html>"
    path = tmp_path / "guide.html"
    path.write_text(page.format("<p>The engine runs on rails.</p>"))
    assert extract(path) == Extracted("Guide", ["The engine runs on rails."])
    path.write_text(page.format("<article><header><p>By Ann.</p></header><p>It runs on rails.</p></article>"))
    assert extract(path).paragraphs == ["By Ann.", "It runs on rails."]


def test_a_library_that_is_missing_is_named(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("Text.")
    monkeypatch.setitem(sys.modules, "pysbd", None)
    with pytest.raises(InputError, match=r"needs pysbd, .*: pip install 'igpo-rllib\[documents\]'"):
        chunk(tmp_path, tmp_path / "out.jsonl")
