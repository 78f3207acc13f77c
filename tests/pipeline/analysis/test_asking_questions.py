"""The page of questions: each can be asked of a log, and the script that fills in the answers finds its own
places again.
"""

import datetime
import importlib.util
from pathlib import Path

import pytest
from rollout_log_samples import write_run

from pipeline.analysis import open_run

SCRIPT = Path(__file__).parents[3] / "docs" / "fill_answers.py"
specification = importlib.util.spec_from_file_location("fill_answers", SCRIPT)
fill_answers = importlib.util.module_from_spec(specification)
specification.loader.exec_module(fill_answers)
PAGE = fill_answers.PAGE.read_text(encoding="utf-8")
TODAY = datetime.date(2026, 1, 2)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    config = {"config": {"preset": "igpo"}}
    with open_run(write_run(tmp_path_factory.mktemp("runs"), name="toy", config=config)) as opened:
        yield opened


def test_the_page_has_ten_questions_with_answers():
    assert len(fill_answers.questions(PAGE)) == 10
    assert PAGE.count("```text\n┏") == 10


@pytest.mark.parametrize("sql", fill_answers.questions(PAGE), ids=range(1, 11))
def test_every_question_has_an_answer(run, sql):
    assert run.sql(sql).fetchall()


def test_answers_take_the_place_of_those_before(run):
    page = "# Page\n\n<!-- answers -->\n\n```sql\nSELECT count(*) AS n FROM turns\n```\n\nText.\n"
    filled = fill_answers.fill(page, run, TODAY)
    assert (
        "experiment `toy`, preset `igpo`, 2 iterations, 10 rollouts, 17 turns; filled in on 2026-01-02"
        in filled
    )
    assert "```text\n┏━━━━┓\n┃  n ┃\n┡━━━━┩\n│ 17 │\n└────┘\n```\n\nText.\n" in filled
    assert fill_answers.fill(filled.replace("17", "99"), run, TODAY) == filled
