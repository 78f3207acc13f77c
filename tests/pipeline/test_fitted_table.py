"""Tables on a terminal: what is shown is whole, at any width, and what is not shown is named."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.text import Text

from pipeline.fitted_table import Column, print_fitted
from pipeline.terminal import Console

ID = "heldout/0/heldout-000000/0"


def printed(columns: list[Column], width: int, **options) -> list[str]:
    file = io.StringIO()
    print_fitted(Console(file=file, width=width), columns, **options)
    return file.getvalue().splitlines()


def column(name: str, *cells: object, is_number: bool = False) -> Column:
    return Column(name, [Text(str(cell)) for cell in cells], is_number=is_number)


def wide() -> list[Column]:
    """A row of 42 columns, as `SELECT * FROM turns` has it."""
    return [
        column("run_id", "20261126-193753-e005", "20261126-193753-e005"),
        column("episode_id", ID, ID),
        column("group_id", ID, ID.replace("000000", "000001")),
        column("decision_text", "one two three four five six seven", "eight"),
        *(column(f"measured_{k}", k + 0.25, k + 0.5, is_number=True) for k in range(37)),
        column("tool_error", "", ""),
    ]


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_what_is_shown_is_whole_and_what_is_not_is_named(width):
    lines = printed(wide(), width, more="SELECT the ones you want")
    assert all(cell_len(line.rstrip()) <= width for line in lines)
    text = "\n".join(lines)
    shown = [f"measured_{k}" for k in range(37) if f"{k}.25" in text and f"{k}.5" in text]
    hidden = "".join(text[text.index("more columns") :].split())
    assert all(f"measured_{k}" in hidden for k in range(37) if f"measured_{k}" not in shown)
    assert "…" not in text
    said = " ".join(text.split())
    assert f"the same in every row: run_id 20261126-193753-e005, episode_id {ID}" in said
    assert "empty in every row: tool_error" in text
    assert lines[-1] == "SELECT the ones you want"


def test_all_columns_are_shown_where_they_fit():
    lines = printed([column("id", "a", "a"), column("n", 1, 2, is_number=True)], 80)
    assert lines == ["┏━━━━┳━━━┓", "┃ id ┃ n ┃", "┡━━━━╇━━━┩", "│ a  │ 1 │", "│ a  │ 2 │", "└────┴───┘"]


def test_text_is_folded_before_a_column_is_left_out():
    words = "one two three four five six"
    lines = printed([column("id", "a", "b"), column("text", words, words)], 25)
    first = [line for line in lines if "one" in line]
    assert first == ["│ a  │ one two three    │", "│ b  │ one two three    │"]
    assert "not fit" not in "\n".join(lines)


def test_a_heading_folds_at_its_underscores():
    numbers = [column(f"collapse_share_{k}", 1, 2, is_number=True) for k in "abc"]
    lines = printed(numbers, 40)
    assert [line.split("┃")[1].strip() for line in lines[1:4]] == ["collapse_", "share_", "a"]


def test_one_row_that_does_not_fit_is_written_downwards():
    lines = printed([column("run_id", "x" * 30), column("question", "who ?"), column("answer", "they")], 40)
    assert [line.rstrip() for line in lines] == [
        "run_id    " + "x" * 30,
        "question  who ?",
        "answer    they",
    ]


def test_identities_come_first_but_only_one_of_them():
    columns = [
        column("group_id", "g" * 30, "h" * 30),
        column("question_id", "q" * 30, "r" * 30),
        column("gain", 1.5, 2.5, is_number=True),
    ]
    lines = printed(columns, 60)
    assert "g" * 30 in lines[3] and "1.5" in lines[3] and "qqq" not in lines[3]
    assert lines[-1] == "1 more column does not fit: question_id"


@given(
    st.lists(st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=60), min_size=2, max_size=4)
)
def test_any_text_fits_the_width(cells):
    columns = [column("id", *range(len(cells))), column("text", *cells), column("more_text", *cells[::-1])]
    for width in (20, 80):
        assert all(cell_len(line.rstrip()) <= width for line in printed(columns, width))
