"""`igpo data`: what it says of a question file and of a generated world."""

import json
import re

import pytest
from typer.testing import CliRunner

import pipeline.cli.igpo
from envs.data.questions import load_questions
from envs.errors import InputError


def run(*arguments):
    done = CliRunner().invoke(pipeline.cli.igpo.app, ["data", *(str(argument) for argument in arguments)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, " ".join(done.output.replace("│", " ").split())


def record(number, **changes):
    return {
        "id": f"q{number}",
        "question": f"Who is {number}?",
        "golden_answers": ["Ada", "Ada Lovelace"],
    } | changes


def write(path, *records):
    path.write_text("".join(json.dumps(one) + "\n" for one in records))
    return path


def test_describe_counts(tmp_path):
    titles = {"supporting_titles": ["A", "B"]}
    path = write(
        tmp_path / "mine.jsonl",
        record(1, metadata=titles),
        record(2, golden_answers=["word " * 40]),
        record(3, golden_answers=["yes"], metadata={"hops": 3}),
        record(4, question="who is  1?"),
    )
    code, said = run("describe", path)
    assert code == 0
    for text in (
        *("4 questions", "data sources mine 4", "hops 2: 1 (25%), 3: 1 (25%), unknown: 2 (50%)"),
        *(
            "words: median 1, 90% up to 40, longest 40",
            "at least 1 are longer than max_answer_tokens (32) and not scored",
        ),
        *("1 questions have only such", "yes/no questions 1", "with evidence named 1"),
        "50% of questions have several; 1.50 on average, at most 2",
        *("repeated texts 1", "dropped by the filter none", "refused 0"),
    ):
        assert text in said, (text, said)


def test_describe_counts_questions_without_belief(tmp_path):
    long = ["word " * 129, "word " * 130]
    path = write(tmp_path / "mine.jsonl", record(1), record(2, golden_answers=long))
    assert "at least 1 questions are played without belief" in run("describe", path)[1]
    path = write(tmp_path / "mine.jsonl", record(1), record(2, golden_answers=["word " * 120]))
    assert "without belief" not in run("describe", path)[1]


def test_describe_names_answers_that_normalise_to_nothing(tmp_path):
    golds = (["!!!"], ["The The", "Matt Johnson"], ["Oslo"])
    path = write(tmp_path / "odd.jsonl", *(record(k, golden_answers=gold) for k, gold in enumerate(golds)))
    code, said = run("describe", path)
    assert code == 0
    assert "1 gold answer is nothing but punctuation ('!!!' of q0): f1_paper and f1_squad are 0" in said
    assert "1 gold answer is nothing but articles ('The The' of q1): SQuAD's dialect removes them" in said


def test_describe_goes_on_after_bad_records_and_applies_an_experiment_s_filter(tmp_path):
    path = write(
        tmp_path / "mine.jsonl",
        record(1),
        record(1),
        record(2, golden_answers=[]),
        record(3, metadata={"hops": 3}),
    )
    experiment = tmp_path / "mine.yaml"
    env = {
        "corpus": "passages.jsonl",
        "questions": str(path),
        "protocol": "chat_short",
        "question_filter": {"min_hops": 2},
    }
    experiment.write_text(
        json.dumps({"mine": {"run": "IGPO", "env": "search", "config": {"env_config": env}}})
    )
    code, said = run("describe", path, "--config", experiment)
    assert code == 2
    assert (
        "2 questions" in said
        and "dropped by the filter 1 hops unknown" in said
        and "refused 2: a run refuses the file" in said
    )
    assert "id 'q1' was already used at" in said and "question 'q2' has no golden answers" in said
    code, said = run("describe", tmp_path / "nowhere.jsonl")
    assert code == 2 and "does not exist" in said


def test_describe_goes_on_after_lines_that_are_no_records(tmp_path):
    """What it counts as refused is what a run refuses: training stops at the first of them."""
    path = tmp_path / "mine.jsonl"
    lines = [
        json.dumps(record(1)),
        "{broken",
        "[1]",
        "",
        json.dumps(record(2)),
        '{"id": "q3"}',
        *['"text"'] * 4,
    ]
    path.write_text("\n".join(lines) + "\n")
    with path.open("ab") as file:
        file.write(b"\xff\n")
    code, said = run("describe", path)
    assert (
        code == 2
        and "2 questions" in said
        and "refused 8: a run refuses the file" in said
        and f"{path}:7: expected a JSON object, found str (also 8, 9, 10)" in said
    )
    for place, reason in (
        (2, "not valid JSON"),
        (3, "expected a JSON object, found list"),
        (6, "no `question`"),
    ):
        assert f"{path}:{place}: {reason}" in said
    with pytest.raises(InputError, match=r"mine\.jsonl:2: not valid JSON"):
        load_questions(path)
    path.write_text("no\njson\n")
    code, said = run("describe", path)
    assert code == 2 and "0 questions" in said and f"{path}:1: not valid JSON" in said and "(also 2)" in said
    path.write_text("\n")
    code, said = run("describe", path)
    assert code == 2 and "holds no questions" in said


def test_describe_says_a_refusal_once_and_in_options_of_its_own(tmp_path):
    own = {"prompt": "Who?", "label": "Ada"}
    path = write(tmp_path / "mine.jsonl", *[own] * 7)
    code, said = run("describe", path)
    others = "(also 2, 3, 4, 5, 6 and 1 more)"
    advice = f"say which are which with `--field question=NAME --field answers=NAME` {others}"
    assert code == 2 and said.count("no `question` is among") == 1
    assert said.endswith(f"{path}:1: no `question` is among the fields 'prompt', 'label': {advice}")
    code, said = run("describe", path, "--field", "question=prompt", "--field", "answers=lable")
    assert code == 2
    assert (
        f"`--field answers=lable` names 'lable', which no record of {path} has; found prompt, label" in said
    )


def test_describe_names_a_malformed_line_once(tmp_path):
    path = write(tmp_path / "mine.jsonl", record(1))
    path.write_text(path.read_text() + '{"id": "2", "question": \n')
    said = run("describe", path)[1]
    assert said.endswith(f"{path}:2: not valid JSON (Expecting value, column 24): mend or remove the line")
    path = tmp_path / "whole.json"
    path.write_text('[{"id": "1"},\n {"id": oops}]\n')
    with pytest.raises(
        InputError, match=r"whole\.json:2: not valid JSON \(Expecting value, column 9\): mend"
    ):
        load_questions(path)


def test_world_reports_its_difficulty():
    small = ["--set", "heldout_questions=60", "--set", "train_questions=100"]
    code, said = run("world", *small, "--set", "graded_evidence=1.0", "--set", "hops={2: 1.0}")
    assert code == 0 and "world of 100 documents; held out: 60 chain" in said
    assert (
        "expert (a search per hop) 1.000" in said
        and "an ideal reader, 2 hops: 0.021 -> 0.333 -> 1.000" in said
    )
    assert "as many searches" not in said
    out_of_order = ["--set", "unordered=1.0", "--set", "side_chains=1", "--set", "hops={3: 1.0}"]
    code, said = run("world", *small, *out_of_order)
    assert code == 0 and "held out: 60 unordered" in said and "expert (a search per hop) 1.000" in said
    unplanned = [float(score) for score in re.findall(r"as many searches ([\d.]+)", said)]
    assert len(unplanned) == 2 and unplanned[0] < 0.15 < unplanned[1] < 0.45
    code, said = run("world", "--set", "side_chains=1")
    assert code == 2 and "set world.unordered above 0" in said
    code, said = run("world", "--set", "nois=3")
    assert code == 2 and "Did you mean `world.noise`" in said or "Did you mean `noise`" in said
    code, said = run("world", "--set", "collisions=80")
    assert code == 2 and "100 entities make 50 pairs" in said
