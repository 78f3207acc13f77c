"""Reading corpora: titles, identity, and errors that name file and line."""

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from envs.data.corpus import Corpus, Document, load_corpus, split_contents
from envs.errors import InputError


@pytest.fixture
def write(tmp_path):
    def write_corpus(text: str | bytes) -> Path:
        path = tmp_path / "corpus.jsonl"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write_corpus


def test_reads_titles_and_texts_and_skips_blank_lines(write):
    path = write(
        '\ufeff{"id": "0", "contents": "\\"Blic\\"\\nBlic is a daily.\\nSecond line."}\n'
        "\n"
        '{"id": 1, "contents": "\\"\\"Heroes\\" (song)\\"\\nA song.\\u2028More."}\n'
        '{"id": "x", "contents": "No title here."}\n'
    )
    corpus = load_corpus(path)
    assert list(corpus) == [
        Document("0", "Blic", "Blic is a daily.\nSecond line."),
        Document("1", '"Heroes" (song)', "A song.\u2028More."),
        Document("x", "", "No title here."),
    ]
    assert corpus.by_id("1") is corpus[1]
    assert corpus.source == str(path)


def test_titles_are_looked_up_exactly_then_folded():
    corpus = Corpus(
        [
            Document("a", "Café", "1"),
            Document("b", "CAFÉ", "2"),
            Document("c", "Café", "3"),
            Document("d", "", "4"),
        ]
    )
    assert corpus.ids_with_title("Café") == ["a", "c"]
    assert corpus.ids_with_title("cafe\u0301") == ["a", "b", "c"]
    assert corpus.ids_with_title("Tea") == corpus.ids_with_title("") == []


@pytest.mark.parametrize(
    ("held", "asked"),
    [
        ("Salt & Pepper", "Salt &amp; Pepper"),
        ("Salt &amp; Pepper", "Salt & Pepper"),
        ("Salt &amp;amp; Pepper", "salt &#38; pepper"),
        ('"Heroes" (song)', "&quot;Heroes&quot; (song)"),
        ("Hawai'i", "Hawai&#x27;i"),
        ("AT&T", "AT&T"),
    ],
)
def test_titles_match_without_html_entities_and_stay_as_they_are(held, asked):
    corpus = Corpus([Document("a", held, "1"), Document("b", "Oslo", "2")])
    assert corpus.ids_with_title(asked) == ["a"] and corpus[0].title == held
    assert corpus.ids_with_title("Salt amp Pepper") == []


def test_hash_is_the_content_and_its_order():
    one, two = Document("1", "A", "x"), Document("2", "B", "y")
    fields = b"".join(
        len(field).to_bytes(8, "little") + field for field in (b"1", b"A", b"x", b"2", b"B", b"y")
    )
    assert Corpus([one, two]).content_hash == hashlib.sha256(fields).hexdigest()
    assert Corpus([one, two], source="elsewhere").content_hash == Corpus([one, two]).content_hash
    others = [[two, one], [one], [Document("1", "Ax", ""), two], [Document("1", "", "Ax"), two]]
    assert len({Corpus(documents).content_hash for documents in [[one, two], *others]}) == 5


@given(title=st.text(max_size=20), text=st.text(max_size=40))
def test_contents_survive_a_round_trip(title, text):
    title, text = " ".join(title.split()), text.strip()
    if title and text:
        assert split_contents(Document("0", title, text).contents) == (title, text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"corpus\.jsonl holds no documents"),
        ("\n\n", "holds no documents"),
        ('{"id": "0", "contents": "a"}\n{"id": "1", ', r"corpus\.jsonl:2: not valid JSON"),
        ('{"id": "0", "contents": "a"}\n["1"]', r"corpus\.jsonl:2: expected a JSON object, found list"),
        ('{"id": "0", "words": "a"}', r"corpus\.jsonl:1: no `contents` or `text` \(found 'id', 'words'\)"),
        ('{"id": true, "contents": "a"}', r"corpus\.jsonl:1: `id` must be text, found bool"),
        ('{"id": "0", "contents": null}', r"corpus\.jsonl:1: `contents` must be text, found NoneType"),
        ('{"id": "0", "contents": " \\n "}', r"corpus\.jsonl:1: document '0' has empty `contents`"),
        (r'{"id": "0", "contents": "\ud800"}', r"corpus\.jsonl:1: `contents` is not valid Unicode"),
        ('{"id": "0", "contents": "a"}\n{"id": "0", "contents": "b"}', "documents 1 and 2 share the id '0'"),
        (b'{"id": "0", "contents": "a"}\n{"id": "1", "contents": "\xff"}', r"corpus\.jsonl:2: not UTF-8"),
        ('{"id": "0", "contents": ' + "[" * 100_000, r"corpus\.jsonl:1: not valid JSON"),
    ],
)
def test_bad_corpora_are_refused_with_file_and_line(write, content, message):
    with pytest.raises(InputError, match=message):
        load_corpus(write(content))


def test_missing_file_and_folder_are_refused(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load_corpus(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="doesn't contain any data files"):
        load_corpus(tmp_path)


@pytest.mark.skipif(
    "IGPO_TEST_DATA" not in os.environ, reason="IGPO_TEST_DATA (folder of real data) is not set"
)
def test_real_passages():
    corpus = load_corpus(Path(os.environ["IGPO_TEST_DATA"]) / "wikipedia_passages.jsonl")
    assert len(corpus) == 7119
    assert corpus.by_id("3").title == "Blic"
    assert not any(document.title.startswith('"') and document.title.endswith('"') for document in corpus)


@pytest.mark.parametrize("text", ["version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 1\n"])
def test_a_git_lfs_pointer_is_named(tmp_path, text):
    path = tmp_path / "corpus.jsonl"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_corpus(path)
    assert str(caught.value) == (
        f"corpus {path} is a Git LFS pointer, not the file itself: run `git lfs pull` in its repository"
    )
