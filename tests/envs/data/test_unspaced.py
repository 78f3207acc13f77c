"""Scripts without blanks: pairs and single characters by hand, and other text left as it is."""

import re
import unicodedata

import pytest
from bm25s import tokenize
from hypothesis import given
from hypothesis import strategies as st

from envs.data.unspaced import is_unspaced, paired, split_unspaced

SPACED = st.text(
    st.characters(codec="utf-8").filter(lambda c: not is_unspaced(c)), max_size=60
) | st.sampled_from(
    [
        "Who built the Red Fort in 1639?",
        "naïve Café, Kraków — 3.14",
        "Ελλάδα Россия",
        "서울 시",
        "हिन्दी",
        "عربي",
        "«№ 5»",
    ]
)


@given(SPACED)
def test_other_text_passes_through_unchanged(text):
    assert not is_unspaced(text) and paired(text) is text
    assert split_unspaced(text) == text.split()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("红堡是谁建造的？", ["红堡", "堡是", "是谁", "谁建", "建造", "造的"]),
        ("GDP of 东京2023年", ["gdp", "东京", "2023", "年_"]),
        ("東京タワー、ﾎﾟｰﾙ", ["東京", "京タ", "タワ", "ワー", "ポー", "ール"]),
        ("水", ["水_"]),
        ("กุ", ["ก_e38_"]),
        ("𠮷野", ["𠮷野"]),
    ],
)
def test_pairs_become_words_of_bm25(text, words):
    assert tokenize([paired(text)], return_ids=False, show_progress=False) == [words]


@pytest.mark.parametrize("name", ["ภาษาไทย", "ພາສາລາວ", "ភាសាខ្មែរ", "မြန်မာ", "日本語の", "中文维基"])
def test_each_pair_of_neighbours_is_one_word(name):
    words = paired(name).split()
    assert is_unspaced(name) and len(words) == len(unicodedata.normalize("NFKC", name)) - 1
    assert [word for word in words if re.fullmatch(r"\w\w+", word)] == words
    assert split_unspaced(f"x {name}y") == ["x", *name, "y"]
