"""The paper's table layout: published rows, rows that were measured, and files that are no evaluation."""

import json

import pytest
from typer.testing import CliRunner

from envs.errors import InputError
from pipeline.cli.igpo import app
from pipeline.paper.table import MODELS, paper_tables, published

SCORE = {"mean": 0.5, "low": 0.4, "high": 0.6, "questions": 10}


def write(path, **scores):
    by_set = {name: SCORE | {"mean": mean} for name, mean in scores.items()} | {"Avg": SCORE}
    path.write_text(json.dumps({"summary": {"by_data_source": {"f1_paper": by_set}}}))
    return path


def rows(files, model="7b"):
    table = next(paper_tables(files, model))
    columns = [column.header for column in table.columns]
    cells = [list(column.cells) for column in table.columns]
    return columns, list(zip(*cells, strict=True))


def test_published_averages_are_the_paper_s():
    _, of_7b = rows([])
    _, of_3b = rows([], "3b")
    averages = {row[0]: row[8] for row in of_7b} | {f"3b {row[0]}": row[8] for row in of_3b}
    assert averages == {
        "paper: IGPO": "60.2",
        "paper: IG only": "53.5",
        "paper: IGPO v1 (prob, joint)": "58.7",
        "paper: GRPO": "51.9",
        "paper: RLOO": "49.7",
        "paper: PPO": "51.5",
        "paper: Reinforce++": "47.3",
        "paper: GSPO": "52.0",
        "a user: the official code as it is": "",
        "3b paper: IGPO": "48.9",
        "3b paper: IG only": "34.6",
        "3b paper: IGPO v1 (prob, joint)": "47.6",
        "3b paper: GRPO": "32.3",
        "3b the authors' log of early code, step 28": "47.3",
    }


def test_every_published_row_has_a_source():
    known = published()
    assert set(known["rows"]) == set(MODELS)
    assert all(row["source"] and len(row["values"]) == 7 for rows in known["rows"].values() for row in rows)
    assert all(other["source"] for other in known["others"])


def test_an_evaluation_of_all_seven_has_an_average(tmp_path):
    sets = dict(zip(published()["columns"], (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7), strict=True))
    _, found = rows([write(tmp_path / "mine.json", **sets)])
    assert found[-2][1:] == ("10.0", "20.0", "30.0", "40.0", "50.0", "60.0", "70.0", "40.0")
    assert found[-1][0].strip() == "70 questions" and found[-1][1] == "40.0-60.0"


def test_other_data_sets_stand_behind_and_a_part_has_no_average(tmp_path):
    columns, found = rows([write(tmp_path / "mine.json", nq=0.25, world=0.75)])
    assert columns[8:] == ["Avg", "world"]
    assert found[-2][1] == "25.0" and found[-2][8:] == ("", "75.0")


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"summary": {}}', '{"summary": {"by_data_source": {"f1_paper": 3}}}']
)
def test_a_file_that_is_no_evaluation(tmp_path, content):
    path = tmp_path / "mine.json"
    path.write_text(content)
    with pytest.raises(InputError, match="rllib evaluate CHECKPOINT"):
        list(paper_tables([path], "7b"))


def test_the_advice_names_a_file_with_blanks(tmp_path):
    path = tmp_path / "my scores.json"
    path.write_text("{")
    with pytest.raises(InputError, match="--out 'my scores.json'`"):
        list(paper_tables([path], "7b"))


def test_bad_input_is_one_sentence(tmp_path):
    for words in (["paper-table", "--model", "8b"], ["paper-table", str(tmp_path / "none.json")]):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 2 and result.output.startswith("error: "), result.output
