"""Questions to a small log, with answers computed by hand; several runs, superseded rows, bad input, the
command line.
"""

import csv
import io
import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from math import sqrt
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from rollout_log_samples import Q1, TEAM, answer, message, rollout, search, two_agents, write_run
from typer.testing import CliRunner

from algorithms.igpo.iteration_record import GroupCredit, IterationRecord, TurnCredit
from pipeline.analysis import AnalysisError, locate_run, named_queries, open_run
from pipeline.analysis.named_queries import named_query
from pipeline.cli.app import make_app
from pipeline.cli.log.sql import compact_command, schema_command, schema_markdown, sql_command
from pipeline.cli.output import cell
from pipeline.rollout_log.manifest import Manifest, check_files, load_manifest
from pipeline.rollout_log.schema import TABLES
from pipeline.rollout_log.writer import RolloutLogWriter

app = make_app("SQL")
for name, command in (("sql", sql_command), ("schema", schema_command), ("compact", compact_command)):
    app.command(name)(command)


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory):
    home = tmp_path_factory.mktemp("runs")
    write_run(home / "toy")
    return home


@pytest.fixture(scope="module")
def run(runs_dir):
    with open_run("last", runs_dir=runs_dir) as opened:
        yield opened


def one_turn(iteration):
    return IterationRecord(iteration, "train", 0, [rollout(f"r{iteration}", "g", Q1, [search(0, "q", True)])])


def test_a_better_paid_second_search_is_pushed(tmp_path):
    again = rollout("a", "g", Q1, [search(0, "x", False), search(1, "y", True), answer(2, "Rome")])
    answers = rollout("b", "g", Q1, [search(0, "x", False), answer(1, "Paris")])
    paid = {("a", 0): 0.0, ("a", 1): 2.0, ("a", 2): 0.0, ("b", 0): 0.0, ("b", 1): -2.0}
    credit = {turn: TurnCredit(None, None, None, None, value, 0.0) for turn, value in paid.items()}
    write_run(tmp_path / "toy", written=[IterationRecord(1, "train", 0, [again, answers], credit)])
    with open_run("last", runs_dir=tmp_path) as opened:
        rows = opened.sql(named_query("search_again").sql).fetchall()
    # 2 (1 - 0.5) - 2 (0 - 0.5), over the root mean square of five advantages
    assert rows[1][1:] == (1, "searcher", 1, "as trained", pytest.approx(2 / sqrt(8 / 5)), 2, 1, 2.0, -2.0)


def test_rounding_is_no_sign(tmp_path):
    """Gains whose sum is 0 leave an advantage of about 1e-16, of either sign."""
    turns = [search(0, "x", True), answer(1, "Rome")]
    rollouts = [rollout(name, "g", Q1, turns, outcome=1.0) for name in ("a", "b")]
    credit = {
        ("a", 0): TurnCredit(0.1, 0.2, 0.5, 1.0, -2e-16, 0.0),
        ("b", 0): TurnCredit(0.1, 0.2, 0.5, 1.0, 2e-16, 0.0),
        **{(name, 1): TurnCredit(None, None, None, None, 0.0, 0.0) for name in ("a", "b")},
    }
    groups = [GroupCredit("g", "q1", 2, 1.0, 0.0, 2, 0.5, 0.0, True, False, False, False)]
    record = IterationRecord(1, "train", 0, rollouts, credit, groups)
    write_run(tmp_path / "toy", written=[record])
    with open_run("last", runs_dir=tmp_path) as opened:
        ((_, _, turns_counted, agreement, _, rewarded, _),) = opened.sql(
            named_query("advantage_agreement").sql
        ).fetchall()
        kinds = opened.sql(named_query("credit_by_turn_kind").sql).fetchall()
    assert (turns_counted, agreement, rewarded) == (2, 0.0, 0.0)
    assert [row[-2] for row in kinds] == [0.0] * len(kinds)


@pytest.mark.parametrize("size", [3, 6, 7])
def test_an_outcome_that_equals_its_group_is_not_better(tmp_path, size):
    """The mean of six times 0.1 is below 0.1 in binary."""
    value = 0.7 if size == 3 else 0.1
    assert np.mean([value] * size) < value
    rollouts = [rollout(f"r{k}", "g", Q1, [search(0, "x", True)], outcome=value) for k in range(size)]
    credit = {(f"r{k}", 0): TurnCredit(0.1, 0.2, 0.5, 1.0, 1.0, 0.0) for k in range(size)}
    mean = float(np.mean([value] * size))
    groups = [GroupCredit("g", "q1", size, mean, 0.0, size, 0.5, 0.0, True, False, False, False)]
    write_run(tmp_path / "toy", written=[IterationRecord(1, "train", 0, rollouts, credit, groups)])
    with open_run("last", runs_dir=tmp_path) as opened:
        ((*_, outcome_agreement, _, _),) = opened.sql(named_query("advantage_agreement").sql).fetchall()
    assert outcome_agreement == 0.0


# Named queries. The columns after run_id, in order.

NAMED = {
    "collapse_watch": [
        (
            2,
            "too short",
            None,
            None,
            "2 iterations: a run is compared with its own first 3, so a warning needs 6",
        )
    ],
    # Group g2 collapses under the outcome and is rescued; g3 collapses whatever is done.
    "advantage_collapse": [(1, 2, 0.5, 0.0, 0.0, 0.5, 0.0), (2, 1, 1.0, 1.0, 1.0, 0.0, 1.0)],
    # Half widths: 1.96 * std([1, 0]) / sqrt(2) and 1.96 * std([0.5, 0]) / sqrt(2).
    "learning_curve": [
        ("heldout", 1, 2, 2, 0.5, 1.96 / 2, 0.5, 0.5, 0.5, 0.5),
        ("heldout", 2, 2, 2, 0.5, 1.96 / 2, 0.5, 0.5, 0.5, 0.5),
        ("train", 1, 2, 4, 0.25, 1.96 / 4, 0.375, 0.25, 0.375, 0.25),
        ("train", 2, 1, 2, 0.0, None, 0.0, 0.0, 0.0, -1.0),
    ],
    # Turn 0: gains -0.5, 0, 1, -1, 0; turn 1: 2.5, 0.5.
    "gain_by_turn": [
        (0, 5, -0.1, sqrt(2.2 / 4 / 5), -0.2, 0.2, 0.4, 0.14, -0.05),
        (1, 2, 1.5, 1.0, 0.5, 1.0, 0.5, 0.55, 0.75),
    ],
    "gain_breakdown": [
        ("agent", "searcher", 7, 2.5 / 7, 3 / 7, 3 / 7, 0.0),
        ("outcome", "malformed", 1, 0.0, 0.0, 0.0, 0.0),
        ("outcome", "right", 2, 1.0, 0.5, 1.0, 1.25),
        ("outcome", "wrong", 4, 0.125, 0.5, 0.25, -0.625),
        ("tool", "search", 7, 2.5 / 7, 3 / 7, 3 / 7, 0.0),
    ],
    # Hits -0.5, 2.5, 1 against 0, 0.5, -1, 0: the first beats one, the others all four: 9 of 12 pairs.
    "credit_auroc": [(3, 4, 0.75, 1.0, -0.125, 1.125)],
    # Two hops: -0.5, 2.5 against 0, 0.5, 0 wins 3 of 6 pairs. One hop: 1 against -1.
    "credit_auroc_by_hop": [(1, 1, 1, 1.0, 1.0, -1.0, 2.0), (2, 2, 3, 0.5, 1.0, 1 / 6, 5 / 6)],
    # The outcome alone is wrong about r3's hit turn: its group has no better rollout.
    "advantage_agreement": [(1, 6, 1.0, 5 / 6, 1.0, 1.0), (2, 1, 1.0, 1.0, None, 0.0)],
    "bridge_turns_punished": [
        (1, 0, 1, 0, 0.0, 0.0, 1.0, "r3"),
        (2, 0, 1, 1, 1.0, 0.0, -0.5, "r1"),
        (2, 1, 1, 0, 0.0, 0.0, 2.5, "r1"),
    ],
    # r1 and r2 differ in outcome; r3 and r4 do not, nor do r5 and r6.
    "credit_by_turn_kind": [
        ("as trained", "answer with some of the gold", 1.0, None, 0.0, 1),
        ("as trained", "cut_off", None, 0.0, 0.0, 1),
        ("as trained", "evidence: the last gold document", 2.0, 1.0, 0.0, 2),
        ("as trained", "first search", -0.5, -0.5, 0.5, 4),
        ("as trained", "malformed", None, 0.0, 0.0, 1),
        ("as trained", "search that found nothing new", -1.0, None, 1.0, 1),
        ("as trained", "wrong answer", -1.0, 0.0, 1 / 3, 3),
    ],
    # No document names the answer. First turns: r1 and r3 hit (-0.5, 1), r2, r4 and r5 found nothing
    # (0, -1, 0): 4 of 6 pairs. Second turns: r1 hit (2.5), r2 did not (0.5).
    "gain_by_evidence": [
        (0, 0, 2, 3, None, 0.25, -1 / 3, None, 4 / 6),
        (1, 0, 1, 1, None, 2.5, 0.5, None, 1.0),
    ],
    # Of the positive gain 2.5 + 0.5 + 1, r2's second turn took 0.5 without evidence.
    "gain_without_evidence": [(1, 3, 1 / 3, -1 / 6, 0.125), (2, 1, 0.0, 0.0, None)],
    # Searches of five rollouts and r6's cut-off turn (28 of 63 tokens); then r1's and r2's second searches,
    # two answers of two-turn rollouts and r5's malformed turn; then two answers.
    "gain_by_agent": [
        ("searcher", 0, 6, 5, -0.1, sqrt(2.2 / 4 / 5), -1 / 6, 0.2, 0.14, 28 / 63),
        ("searcher", 1, 5, 2, 1.5, 1.0, 0.2, 1.0, 0.55, 23 / 63),
        ("searcher", 2, 2, 0, None, None, 0.0, None, None, 12 / 63),
    ],
    "lost_evidence": [],
    "counterfactual_agreement": [],
    # Beliefs moved by -0.05, 0.85, 0, 0.1, 0.3, -0.05 and 0.
    "turns_without_effect": [("searcher", "tool", 7, 2, 2 / 7, 2 / 7, 1.15 / 7, 8 / 63)],
    "silent_agents": [("searcher", 6, 1.0, 0.0, 13 / 6, 1 / 6, None, 0.0)],
    "queries_by_gain": [
        ("jane birthplace", 1, 2.5, 2.5, 1.0),
        ("mayor of bar", 1, 1.0, 1.0, 1.0),
        ("foo", 3, 0.5, 1 / 6, 0.0),
        ("author of foo", 1, -0.5, -0.5, 1.0),
        ("bar mayr", 1, -1.0, -1.0, 0.0),
    ],
    # r2 asks "foo", then "FOO ".
    "repeated_queries": [(1, 6, 1 / 6, 0.0, 0.5, None, 0.4), (2, 1, 0.0, 0.0, None, None, 0.0)],
    # r3 has its only gold document, r2 and r4 have none; the evaluations answer without searching.
    "endings": [
        *(("heldout", i, ending, 1, 0.5) for i in (1, 2) for ending in ("right", "wrong, evidence missing")),
        *(("train", 1, "wrong, evidence missing", 2, 0.5), ("train", 1, "right", 1, 0.25)),
        ("train", 1, "wrong, all evidence found", 1, 0.25),
        *(("train", 2, ending, 1, 0.5) for ending in ("malformed", "token limit")),
    ],
    # Train 1: 3, 3, 2, 2 turns and 14, 14, 10, 10 tokens; everyone searches as often as the question has
    # hops.
    "search_length": [
        ("heldout", 1, 2, 1.0, 1.0, 1.0, 6.0, 0.0, 1.0),
        ("heldout", 2, 2, 1.0, 1.0, 1.0, 6.0, 0.0, 1.0),
        ("train", 1, 4, 2.5, 3.0, 7 / 3, 4.8, 0.0, 0.0),
        ("train", 2, 2, 1.5, None, 1.5, 5.0, 0.0, 0.0),
    ],
    # In a group, everyone does the same at the same turn, so nothing is pushed.
    "search_again": [
        (1, "searcher", 0, "as trained", 0.0, 4, 4, -0.25, None),
        (1, "searcher", 1, "as trained", 0.0, 4, 2, 0.5, 0.0),
        (1, "searcher", 2, "as trained", 0.0, 2, 0, None, 0.0),
        (2, "searcher", 0, "as trained", None, 2, 1, 0.0, 0.0),
        (2, "searcher", 1, "as trained", None, 1, 0, None, 0.0),
    ],
    "answer_flips": [(2, 2, 2, 1, 1)],
    "format_failures": [("train", 2, "cut off", 1, 1 / 3, 1), ("train", 2, "unclosed tag", 1, 1 / 3, 1)],
    # Seconds 0.1 five times, 0.3, 2.0: the 95th percentile lies 0.7 of the way from 0.3 to 2.0.
    "tool_errors": [("search", 7, 1, 1 / 7, "timeout", 0.1, 0.3 + 0.7 * 1.7, 2.0)],
    # 44 tokens at 1e-6 and r3's 4 at 5e-6.
    "logp_gap": [
        (1, 64e-6 / 48, pytest.approx(4.64e-6), 5e-6, "r3"),
        (2, 1e-6, pytest.approx(1e-6), 1e-6, "r5"),
    ],
    "phase_seconds": [
        ("heldout", "evaluate", 2, 2.0, 2.0, 1.0),
        ("train", "total", 2, 3.5, 4.5, None),
        ("train", "generate", 2, 2.0, 3.0, 2 / 3),
        ("train", "learn", 2, 1.0, 1.0, 1 / 3),
    ],
    "question_curves": [
        ("heldout", "q1", 1, 1, 1.0, 1.0, 1.0, None),
        ("heldout", "q1", 2, 1, 0.0, 0.0, 0.0, None),
        ("heldout", "q2", 1, 1, 0.0, 0.0, 0.0, None),
        ("heldout", "q2", 2, 1, 1.0, 1.0, 1.0, None),
        ("train", "q1", 1, 2, 0.5, 0.5, 0.5, 0.625),
        ("train", "q1", 2, 2, 0.0, 0.0, -1.0, 0.0),
        ("train", "q2", 1, 2, 0.0, 0.25, 0.0, 0.0),
    ],
    "unsolved_questions": [
        ("train", "q2", "Who is the mayor of Bar?", ["Ann Lee"], 1, 2, 1, 0.5, 0.4, "Bob")
    ],
}


def test_every_named_query_is_checked_and_states_its_question():
    assert set(named_queries()) == set(NAMED)
    for query in named_queries().values():
        assert query.question.endswith("?"), query.name


@pytest.mark.parametrize("name", NAMED)
def test_named_query(run, name):
    answer = run.named(name).fetchall()
    expected = [("run-1", *row) for row in NAMED[name]]
    assert len(answer) == len(expected), answer
    for got, wanted in zip(answer, expected, strict=True):
        assert len(got) == len(wanted)
        for value, right in zip(got, wanted, strict=True):
            assert value == (pytest.approx(right, abs=1e-12) if isinstance(right, float) else right), (
                got,
                wanted,
            )


# The same of `two_agents`. The reader's first messages end at belief 0.6 and 0.2.
OF_TWO_AGENTS = {
    "gain_by_agent": [
        ("reader", 0, 2, 2, -0.25, 0.75, 0.0, 0.5, 0.4, 10 / 45),
        ("reader", 1, 1, 1, 0.25, None, -4.0, 1.0, 0.205, 5 / 45),
        ("searcher", 0, 3, 2, 1.0, 0.0, -1.0, 1.0, 0.4, 14 / 45),
        ("searcher", 1, 2, 1, 0.0, None, 0.0, 0.0, 0.2, 10 / 45),
        ("searcher", 2, 1, 0, None, None, -3.0, None, None, 6 / 45),
    ],
    # t2's second message follows documents without the answer: "joann leeds" is not "ann lee".
    "lost_evidence": [("reader", 3, 1, 1, 0.5, 0.5, -1.0, 1.0, 0.0, "t2")],
    # t1's and t2's first searches return "ann  lee", t2's second "joann leeds".
    "gain_by_evidence": [
        (0, 2, 0, 0, 1.0, None, None, None, None),
        (2, 0, 0, 1, None, None, 0.0, None, None),
    ],
    "turns_without_effect": [
        ("reader", "message", 3, 1, 1 / 3, 1 / 3, 0.005 / 3, 5 / 45),
        ("searcher", "tool", 3, 1, 1 / 3, 0.0, 0.2, 4 / 45),
    ],
    # The reader never searches. First turns: t1 and t2 search (1, -1), t3 answers (-3). Second turns: t2
    # searches (-3), t1 answers (3). The squares of all nine advantages add up to 62.
    "search_again": [
        (1, "searcher", 0, "as trained", 2 / sqrt(62 / 9), 3, 2, 0.0, -3.0),
        (1, "searcher", 1, "as trained", -3 / sqrt(62 / 9), 2, 1, -3.0, 3.0),
        (1, "searcher", 2, "as trained", 0.0, 1, 0, None, -3.0),
    ],
    "silent_agents": [
        ("critic", 3, 0.0, None, None, None, 1 / 3, 1.0),
        ("reader", 3, 2 / 3, 1.0, 1.5, 0.5, 0.0, 0.5),
        ("searcher", 3, 1.0, 0.0, 2.0, 1 / 3, None, 0.0),
    ],
}


@pytest.mark.parametrize("name", OF_TWO_AGENTS)
def test_named_query_of_several_agents(tmp_path, name):
    write_run(tmp_path, written=[two_agents()], config=TEAM)
    with open_run(tmp_path / "run-1") as opened:
        got = [row[1:] for row in opened.named(name).fetchall()]
    assert got == [pytest.approx(row, abs=1e-12) for row in OF_TWO_AGENTS[name]]


def test_what_a_writer_read_counts_since_its_last_message(tmp_path):
    """A searcher that reports to an answerer: the evidence of its first search is in its first message."""
    turns = [search(0, "q", True), search(1, "q", False), message(2, "rome", "searcher"),
             message(3, "more", "answerer"), search(4, "q", False), message(5, "no", "searcher"),
             answer(6, "Rome")]  # fmt: skip
    turns[0].observation_text = "Rome"
    write_run(tmp_path, written=[IterationRecord(1, "train", 7, [rollout("r", "g", Q1, turns)])])
    with open_run(tmp_path / "run-1") as opened:
        ((_, agent, messages, kept, lost, *_),) = opened.named("lost_evidence").fetchall()
    assert (agent, messages, kept, lost) == ("searcher", 2, 1, 0)


def test_a_search_that_names_the_answer_again_names_it_no_more(tmp_path):
    """Gains: 2 where a document first says Rome, 0 where one says so again, 1 and 3 elsewhere."""
    once = [search(0, "q", True), search(1, "q", False)]
    never = [search(0, "q", False), search(1, "q", True)]
    for turn, text in zip(once, ("Born in Rome.", "ROMA"), strict=True):
        turn.observation_text = text
    gains = {("a", 0): 2.0, ("a", 1): 0.0, ("b", 0): 1.0, ("b", 1): 3.0}
    credit = {turn: TurnCredit(0.1, 0.1, value, value, 0.0, 0.0) for turn, value in gains.items()}
    rollouts = [rollout("a", "g", Q1, once), rollout("b", "g", Q1, never)]
    write_run(tmp_path, written=[IterationRecord(1, "train", 0, rollouts, credit)])
    with open_run(tmp_path / "run-1") as opened:
        rows = [row[1:] for row in opened.named("gain_by_evidence").fetchall()]
    assert rows == [(0, 1, 0, 1, 2.0, None, 1.0, 1.0, 1.0), (1, 0, 1, 1, None, 3.0, 0.0, None, 1.0)]


def test_reformulated_queries_are_close_but_not_the_same(tmp_path):
    turns = [
        search(0, "birthplace of jane doe", False),
        search(1, "birthplace of jane d.", False),
        search(2, "rome", False),
    ]
    write_run(tmp_path, written=[IterationRecord(1, "train", 0, [rollout("r", "g", Q1, turns)])])
    ((_, _, queries, repeated, reformulated, *_),) = (
        open_run(tmp_path / "run-1").named("repeated_queries").fetchall()
    )
    assert (queries, repeated, reformulated) == (3, 0.0, pytest.approx(1 / 3))


def test_one_search_may_find_all_the_evidence(tmp_path):
    found = [search(0, "both", True, documents=["author", "foo"]), answer(1, "Paris")]
    half = [search(0, "one", True, documents=["foo", "x"]), answer(1, "Paris")]
    write_run(
        tmp_path,
        written=[IterationRecord(1, "train", 0, [rollout("a", "g", Q1, found), rollout("b", "g", Q1, half)])],
    )
    answers = open_run(tmp_path / "run-1").named("endings").project("ending").fetchall()
    assert answers == [("wrong, all evidence found",), ("wrong, evidence missing",)]


def test_gold_answers_are_found_where_words_have_no_blanks(tmp_path):
    question = replace(Q1, golds=["北京"])
    turns = [search(0, "他", True), message(1, "他在北京出生"), search(2, "京", False), message(3, "京都")]
    turns[0].observation_text = turns[2].observation_text = "鲁迅在北京市工作。"
    turns[0].scores_K = turns[2].scores_K = np.array([-1.0])
    credit = {("r", k): TurnCredit(0.1, 0.1, 1.0, 1.0, 0.0, 0.0) for k in range(4)}
    record = IterationRecord(1, "train", 0, [rollout("r", "g", question, turns)], credit)
    write_run(tmp_path / "toy", written=[record])
    with open_run("last", runs_dir=tmp_path) as opened:
        named = opened.named("gain_by_evidence").project("turn_index, named_turns").fetchall()
        ((kept, lost),) = opened.named("lost_evidence").project("kept, lost").fetchall()
    assert named == [(0, 1), (2, 0)]
    assert (kept, lost) == (1, 1)


def test_kinds_of_searches(tmp_path):
    """A planner speaks first; a search may find several gold documents; a question's may not be known."""
    plan = message(0, "find foo", "planner")
    steps = [plan, search(1, "foo", True, documents=["foo"]), search(2, "author", True, documents=["author"])]
    both = [search(0, "both", True, documents=["x", "author", "foo"]), search(1, "more", False)]
    unknown = [search(0, "what", None)]
    rollouts = [rollout(name, "g", Q1, turns) for name, turns in (("a", steps), ("b", both), ("c", unknown))]
    credit = {
        (one.id, turn.index): TurnCredit(None, None, None, None, 0.0, 0.0)
        for one in rollouts
        for turn in one.turns
    }
    write_run(tmp_path, written=[IterationRecord(1, "train", 0, rollouts, credit)])
    with open_run(tmp_path / "run-1") as opened:
        kinds = opened.named("credit_by_turn_kind").project("kind, turns").fetchall()
    assert kinds == [
        ("evidence: the last gold document", 2),
        ("first search", 1),
        ("message", 1),
        ("search after the evidence", 1),
        ("search, evidence not known", 1),
    ]


# Views.


def test_views_have_the_schemas_columns_and_no_copy(run):
    for name, schema in TABLES.items():
        assert run.table(name).columns == schema.names
    assert run.turns().filter("gold_hit AND gain < 0").fetchall()[0][5] == "r1"
    assert [len(run.table(name).fetchall()) for name in TABLES] == [1, 4, 10, 17, 3, 7, 0]
    assert run.sql("SELECT count(*) FROM duckdb_tables()").fetchall() == [(0,)]
    metrics = run.sql(
        "SELECT metrics['kl'], seconds['learn'] FROM iterations WHERE iteration = 1 AND split = 'train'"
    )
    assert metrics.fetchall() == [(0.5, 1.0)]


def test_relations_become_frames(run):
    assert run.turns().df().shape == (17, len(TABLES["turns"].names))
    assert run.turns().pl().height == run.turns().arrow().read_all().num_rows == 17
    assert run.named("credit_auroc").to_arrow_table().column_names[0] == "run_id"


def test_rows_that_a_later_attempt_ran_again_are_hidden(tmp_path):
    write_run(tmp_path, written=[one_turn(i) for i in (1, 2, 3, 4, 5)])
    write_run(tmp_path, written=[one_turn(i) for i in (4, 5, 6)], attempt=2, resumed_from_iteration=3)
    write_run(tmp_path, written=[one_turn(i) for i in (3, 4)], attempt=3, resumed_from_iteration=2)
    run = open_run(tmp_path / "run-1")
    visible = [(1, 1), (1, 2), (3, 3), (3, 4)]
    for table in ("iterations", "episodes", "turns", "tool_calls"):
        assert run.sql(f"SELECT attempt, iteration FROM {table} ORDER BY ALL").fetchall() == visible
    assert run.runs().filter("attempt < 3").order("attempt").project("resumed_from_iteration").fetchall() == [
        (None,),
        (3,),
    ]


def test_an_attempt_that_resumed_before_the_first_iteration_hides_the_evaluation_before_it(tmp_path):
    write_run(tmp_path, written=[one_turn(0), one_turn(1)])
    write_run(tmp_path, written=[one_turn(0)], attempt=2, resumed_from_iteration=-1)
    assert open_run(tmp_path / "run-1").sql("SELECT attempt, iteration FROM turns").fetchall() == [(2, 0)]


def test_several_runs_at_once_keep_their_own_attempts(tmp_path):
    write_run(tmp_path, "a", written=[one_turn(1), one_turn(2)])
    write_run(tmp_path, "b", written=[one_turn(1), one_turn(2)])
    write_run(tmp_path, "b", written=[one_turn(2)], attempt=2, resumed_from_iteration=1)
    run = open_run(tmp_path / "a", tmp_path / "b")
    assert run.sql("SELECT run_id, attempt, iteration FROM turns ORDER BY ALL").fetchall() == [
        ("a", 1, 1),
        ("a", 1, 2),
        ("b", 1, 1),
        ("b", 2, 2),
    ]
    with pytest.raises(AnalysisError, match="the same run was given twice: a$"):
        open_run(tmp_path / "a", tmp_path / "b", tmp_path / "a" / "rollouts")


def test_a_run_that_is_being_written_is_seen_as_it_grows_and_merges(tmp_path):
    with RolloutLogWriter(tmp_path / "rollouts", "run-1", 1, merge_every=2) as writer:
        with pytest.raises(AnalysisError, match="is empty: the run has not finished its first iteration yet"):
            open_run(tmp_path)
        writer.write(one_turn(1))
        writer.flush()
        run = open_run(tmp_path)
        assert run.sql("SELECT count(*) FROM turns").fetchall() == [(1,)]
        for iteration in (2, 3):
            before = run.turns()
            writer.write(one_turn(iteration))
            writer.flush()
            assert before.count("*").fetchall() == [
                (iteration - 1,)
            ]  # What was asked before a merge can still be answered.
            assert run.turns().count("*").fetchall() == [(iteration,)]
    assert run.sql("SELECT count(*) FROM turns").fetchall() == [(3,)]


def test_a_run_that_ends_while_its_log_is_opened_is_opened_again(tmp_path, monkeypatch):
    """The last merge deletes files between the look at the manifest and DuckDB's look at the files."""
    writer = RolloutLogWriter(tmp_path / "rollouts", "run-1", 1)
    for iteration in (1, 2):
        writer.write(one_turn(iteration))
        writer.flush()
    ends = iter([writer.close])

    def check_then_end(folder, manifest):
        check_files(folder, manifest)
        next(ends, lambda: None)()

    monkeypatch.setattr("pipeline.analysis.run.check_files", check_then_end)
    with open_run(tmp_path) as run:
        assert run.sql("SELECT count(*) FROM turns").fetchall() == [(2,)]


def test_a_run_that_ends_while_its_log_is_asked(tmp_path):
    writer = RolloutLogWriter(tmp_path / "rollouts", "run-1", 1)
    for iteration in (1, 2):
        writer.write(one_turn(iteration))
        writer.flush()
    merged = "^the run merged its log while it was read: ask again$"
    with pytest.raises(AnalysisError, match=merged), open_run(tmp_path) as run:
        asked = run.sql("SELECT count(*), avg(gain) FROM turns")
        writer.close()
        asked.fetchall()
    with open_run(tmp_path) as run:
        assert run.sql("SELECT count(*) FROM turns").fetchall() == [(2,)]


def test_columns_that_older_files_lack_are_null(tmp_path):
    folder = write_run(tmp_path, written=[one_turn(1)]) / "rollouts"
    manifest = load_manifest(folder)
    (file,) = manifest.of("turns")
    path = folder / file.path
    pq.write_table(pq.ParquetFile(path).read().drop_columns(["tool_error", "gain"]), path)
    manifest.files = [f for f in manifest.files if f != file] + [
        type(file)("turns", file.path, 1, path.stat().st_size)
    ]
    manifest.save(folder)
    assert open_run(tmp_path / "run-1").sql("SELECT gain, tool_error, query FROM turns").fetchall() == [
        (None, None, "q")
    ]


# What is refused.


@pytest.mark.parametrize(
    "query",
    [
        "DROP VIEW turns",
        "CREATE TABLE x AS SELECT 1",
        "INSERT INTO turns SELECT * FROM turns",
        "DELETE FROM turns",
        "UPDATE turns SET gain = 0",
        "COPY turns TO 'stolen.csv'",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO 'stolen.csv'",
        "EXPORT DATABASE 'stolen'",
        "ATTACH 'other.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "PRAGMA enable_profiling",
        "CALL pragma_version()",
        "UPDATE EXTENSIONS",
        "UPDATE EXTENSIONS (json)",
        "FORCE CHECKPOINT",
        "COPY FROM DATABASE a TO b",
        "MERGE INTO turns USING episodes ON true WHEN MATCHED THEN DELETE",
        "CREATE SECRET s (TYPE s3)",
    ],
)
def test_statements_that_are_not_questions_are_refused(run, query, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AnalysisError, match="is refused: a run's log is read-only"):
        run.sql(query)
    assert list(tmp_path.iterdir()) == []


def test_a_comment_cannot_hide_a_write_from_the_check(tmp_path):
    folder = write_run(tmp_path, written=[one_turn(1)])
    path = folder / "rollouts" / load_manifest(folder / "rollouts").of("turns")[0].path
    before, run = path.read_bytes(), open_run(folder)
    write = f"COPY (SELECT 1) TO '{path}' (FORMAT parquet, USE_TMP_FILE false)"
    for hidden in (
        f"EXPLAIN (ANALYZE /* ) SELECT 1 -- */) {write}",
        f"EXPLAIN /* */ ANALYZE {write}",
        f"/* EXPLAIN SELECT 1 */ EXPLAIN ANALYZE {write}",
        f"EXPLAIN -- SELECT 1\nANALYZE {write}",
    ):
        with pytest.raises(AnalysisError):
            run.sql(hidden)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    "source",
    ["read_csv('/etc/passwd')", "read_text('{here}')", "'https://example.com/a.parquet'", "glob('/*')"],
)
def test_other_files_and_the_network_are_closed(run, source):
    with pytest.raises(AnalysisError, match="disabled by configuration|does not exist"):
        run.sql(f"SELECT * FROM {source.format(here=__file__)}").fetchall()


def test_python_variables_are_not_tables(run):
    turnips = run.turns().df()  # noqa: F841
    with pytest.raises(AnalysisError, match="there is no table turnips; did you mean turns"):
        run.sql("SELECT * FROM turnips")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT gian FROM turns", r"there is no column gian; did you mean gain \(in turns\)\?"),
        ("SELECT turn, gain FROM turns", r"there is no column turn; did you mean turn_index \(in turns\)\?"),
        (
            "select ending, count(*) from episodes group by 1",
            r"no column ending; episodes has iteration, split, .* termination, .*`igpo schema episodes`",
        ),
        ("SELECT t.gian FROM turns t", "did you mean gain"),
        ("SELECT hops FROM turns", "there is no column hops here; episodes have it"),
        (
            "SELECT * FROM turns JOIN episodes USING (episod)",
            "there is no column episod; did you mean episode_id",
        ),
        ("SELECT * EXCLUDE (gian) FROM turns", "did you mean gain"),
        ('SELECT * FROM turns WHERE split = "qwxyz"', "If it is text, use single quotes: 'qwxyz'"),
        (
            'SELECT * FROM turns WHERE agent = "searcher"',
            "did you mean .* If it is text, use single quotes: 'searcher'",
        ),
        ("SELECT * FROM turn", "there is no table turn; did you mean turns"),
        ("SELEC 1", 'syntax error at or near "SELEC"'),
        ("SELECT 1; SELECT 2", "one statement at a time, this is 2"),
        ("  ", "the query is empty"),
        ("SELECT 1 \udcff", "the query holds bytes that are not UTF-8"),
        ("PIVOT turns ON action USING count(*)", "PIVOT needs its values spelled out"),
    ],
)
def test_mistakes_are_explained(run, query, message):
    with pytest.raises(AnalysisError, match=message):
        run.sql(query)


@pytest.mark.parametrize(
    "query",
    [
        "FROM turns SELECT gain",
        "DESCRIBE turns",
        "SUMMARIZE turns",
        "SHOW TABLES",
        "EXPLAIN SELECT 1",
        "EXPLAIN ANALYZE SELECT 1",
        "PIVOT (SELECT action, gain FROM turns) ON action IN ('tool') USING avg(gain)",
        "SELECT 1; ",
        "-- a comment\nWITH x AS (SELECT 1) FROM x",
    ],
)
def test_every_way_to_ask_is_allowed(run, query):
    assert run.sql(query).fetchall()


# Finding runs.


def test_a_run_is_found_by_folder_name_id_or_last(tmp_path, monkeypatch):
    old = write_run(tmp_path / "runs" / "igpo", "2026-01", written=[one_turn(1)])
    new = write_run(tmp_path / "runs" / "igpo", "2026-02", written=[one_turn(1)])
    other = write_run(tmp_path / "runs" / "grpo", "2026-03", written=[one_turn(1)])
    monkeypatch.chdir(tmp_path)
    assert locate_run(old).folder == old and locate_run(old / "rollouts").folder == old
    assert locate_run(old).choice is None
    found = locate_run("igpo")
    assert found.folder.resolve() == new and "the newest of 2 of runs/igpo" in found.choice
    assert locate_run("runs/igpo").folder.resolve() == new
    assert locate_run("2026-01").folder.resolve() == old
    assert locate_run("last").folder.resolve() == other


def test_a_run_that_does_not_exist_names_the_nearest(runs_dir, tmp_path):
    with pytest.raises(AnalysisError, match=r"no run 'tyo'; did you mean .*/toy\?"):
        open_run("tyo", runs_dir=runs_dir)
    with pytest.raises(AnalysisError, match=r"no run 'runn-1'; did you mean .*/toy/run-1\?"):
        open_run("runn-1", runs_dir=runs_dir)
    with pytest.raises(
        AnalysisError, match="there are runs of .*/toy, and `last` names the newest .`igpo runs` lists"
    ):
        open_run("qqqqqqqq", runs_dir=runs_dir)
    with pytest.raises(AnalysisError, match="holds no run yet"):
        open_run("igpo", runs_dir=tmp_path)
    with pytest.raises(AnalysisError, match="train one"):
        open_run(runs_dir=tmp_path)
    with pytest.raises(AnalysisError, match="no rollout log in"):
        open_run(tmp_path)


def test_a_half_written_file_and_a_missing_one_are_named(tmp_path):
    folder = write_run(tmp_path, written=[one_turn(1)])
    path = folder / "rollouts" / load_manifest(folder / "rollouts").of("turns")[0].path
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(
        AnalysisError, match=rf"{path.name} has \d+ bytes, {len(whole)} were written: it is damaged"
    ):
        open_run(folder)
    path.unlink()
    with pytest.raises(AnalysisError, match=f"{path.name} is missing"):
        open_run(folder)
    (folder / "rollouts" / "manifest.json").write_text('{"run_id": ')
    with pytest.raises(AnalysisError, match="manifest.json is not valid JSON"):
        open_run(folder)


def test_an_unknown_named_query_names_the_nearest():
    with pytest.raises(AnalysisError, match="did you mean 'credit_auroc'"):
        named_query("credit_auoc")
    with pytest.raises(AnalysisError, match="no query is named 'zzz'; `igpo sql --list` lists them"):
        named_query("zzz")


# The command line.


def invoke(runs_dir, *words, stdin=None):
    return CliRunner().invoke(app, ["sql", *map(str, words), "--runs-dir", str(runs_dir)], input=stdin)


def test_an_answer_without_rows_says_so_and_names_its_columns(runs_dir, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    said = invoke(runs_dir, "last", "SELECT run_id, gain AS mean_gain FROM turns WHERE false").stdout
    assert said == "no rows; columns: run_id, mean_gain\n"


def test_a_table_for_people(runs_dir):
    result = invoke(
        runs_dir, "last", "SELECT turn_index, avg(gain) AS mean FROM turns GROUP BY ALL ORDER BY ALL"
    )
    assert result.exit_code == 0
    assert "│          1 │  1.5 │" in result.stdout
    assert "toy/run-1, the only one in" in result.stderr
    many = invoke(runs_dir, "last", "SELECT query FROM turns", "--rows", 3)
    assert "first 3 rows; --rows 0 shows all" in many.stdout
    assert "shows all" not in invoke(runs_dir, "last", "SELECT query FROM turns", "--rows", 0).stdout


def test_formats_for_programs(runs_dir, tmp_path):
    query = "SELECT episode_id, golds, other_metrics FROM episodes ORDER BY ALL LIMIT 1"
    rows = list(csv.reader(io.StringIO(invoke(runs_dir, "toy", query, "--format", "csv").stdout)))
    assert rows == [
        ["episode_id", "golds", "other_metrics"],
        ["eq1", '["Rome", "Roma"]', '{"politeness": 0.5}'],
    ]
    answer = json.loads(invoke(runs_dir, "toy", query, "--format", "json").stdout)
    assert answer == [{"episode_id": "eq1", "golds": ["Rome", "Roma"], "other_metrics": {"politeness": 0.5}}]
    no_numbers = "SELECT 'nan'::FLOAT AS a, [1.5, '-inf'::FLOAT] AS b"
    assert json.loads(invoke(runs_dir, "toy", no_numbers, "--format", "json").stdout) == [
        {"a": None, "b": [1.5, None]}
    ]
    out = tmp_path / "answer.parquet"
    assert "1 rows to" in invoke(runs_dir, "toy", query, "--format", "parquet", "--out", out).stdout
    assert pq.read_table(out)["episode_id"].to_pylist() == ["eq1"]


def test_the_ending_of_a_file_says_how_it_is_written(runs_dir, tmp_path):
    query = "SELECT 42 AS answer"
    for name in ("answer.parquet", "answer.json", "answer.CSV", "answer"):
        assert invoke(runs_dir, "last", query, "--out", tmp_path / name).exit_code == 0
    assert pq.read_table(tmp_path / "answer.parquet").to_pylist() == [{"answer": 42}]
    assert json.loads((tmp_path / "answer.json").read_text()) == [{"answer": 42}]
    assert (tmp_path / "answer.CSV").read_text() == (tmp_path / "answer").read_text() == "answer\n42\n"
    assert (
        invoke(runs_dir, "last", query, "--format", "csv", "--out", tmp_path / "answer.json").exit_code == 0
    )
    assert (tmp_path / "answer.json").read_text() == "answer\n42\n"


def test_queries_from_a_file_a_name_or_stdin(runs_dir, tmp_path):
    file = tmp_path / "question.sql"
    file.write_text("SELECT 41 + 1 AS answer")
    for result in (
        invoke(runs_dir, "last", "--file", file),
        invoke(runs_dir, "last", stdin="SELECT 42 AS answer"),
    ):
        assert result.exit_code == 0 and "42" in result.stdout
    assert "0.75" in invoke(runs_dir, "run-1", "--named", "credit_auroc").stdout
    assert "Is credit deserved" in invoke(runs_dir, "--list").stdout
    listed = json.loads(invoke(runs_dir, "--list", "--format", "json").stdout)
    assert [row["name"] for row in listed] == list(named_queries())
    assert invoke(runs_dir, "--list", "--format", "tsv").exit_code == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["lst", "SELECT 1"], "no run 'lst'; did you mean last?"),
        (["last", "SELECT gian FROM turns"], "did you mean gain"),
        (["last", "DROP VIEW turns"], "DROP is refused"),
        (["last", "SELECT CAST(query AS INT) FROM turns"], "Could not convert string"),
        (["last", "SELECT 1", "--named", "credit_auroc"], "ask one thing at a time"),
        (["last", "--named", "credit"], "no query is named 'credit'"),
        (["last", "--file", "nowhere.sql"], "nowhere.sql: the query cannot be read"),
        (["last", "SELECT 1", "--format", "xml"], "must be one of table, csv, json, parquet"),
        (["last", "SELECT 1", "--format", "parquet"], "needs --out FILE"),
        (["last", "SELECT 1", "--format", "csv", "--out", "no/such/folder.csv"], "cannot be written"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2(runs_dir, words, message):
    result = invoke(runs_dir, *words)
    assert result.exit_code == 2 and message in result.stderr and "Traceback" not in result.output


def test_a_query_that_is_no_utf_8(runs_dir, tmp_path, monkeypatch):
    (tmp_path / "q.sql").write_bytes(b"SELECT '\xff'")
    from_file = invoke(runs_dir, "last", "--file", tmp_path / "q.sql")
    assert from_file.exit_code == 2 and "the query cannot be read" in from_file.stderr
    from_stdin = CliRunner().invoke(app, ["sql", "last", "--runs-dir", str(runs_dir)], input=b"SELECT '\xff'")
    assert from_stdin.exit_code == 2 and "standard input cannot be read" in from_stdin.stderr


ENDLESS = "SELECT count(*) FROM range(100000000) a, range(1000000) b"


@pytest.fixture
def hears_ctrl_c():
    """A shell that starts the tests in the background has them ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("hears_ctrl_c")
def test_ctrl_c_stops_a_query_while_it_computes(runs_dir, monkeypatch):
    from pipeline.cli import output

    timer = threading.Timer(1.5, lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGINT))
    compute = output.interruptibly

    def compute_with_timer(*arguments):
        timer.start()  # not earlier: on a busy machine the run takes seconds to open
        compute(*arguments)

    monkeypatch.setattr(output, "interruptibly", compute_with_timer)
    started = time.monotonic()
    result = invoke(runs_dir, "last", ENDLESS)
    assert result.exit_code == 130 and "stopped" in result.stderr and time.monotonic() - started < 20


@pytest.mark.usefixtures("hears_ctrl_c")
def test_ctrl_c_at_the_prompt_stops_the_question_and_the_prompt_stays(run, monkeypatch, tmp_path):
    from pipeline.cli.log import sql_prompt

    monkeypatch.setattr(sql_prompt, "HISTORY", tmp_path / "history")
    typed = iter([f"{ENDLESS};", "SELECT 41 + 1;", ".quit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(typed))
    console = Console(file=io.StringIO(), width=500, highlight=False)
    timer = threading.Timer(1.5, lambda: signal.pthread_kill(threading.main_thread().ident, signal.SIGINT))
    timer.start()
    sql_prompt.SqlPrompt(run, 50, console).cmdloop()
    assert "42" in console.file.getvalue()


def test_a_query_has_a_limit_of_memory(runs_dir, tmp_path):
    with open_run("last", runs_dir=runs_dir) as run:
        [(limit, disk)] = run.sql(
            "SELECT current_setting('memory_limit'), current_setting('max_temp_directory_size')"
        ).fetchall()
    assert limit != disk and limit.endswith("iB")
    hungry = invoke(runs_dir, "last", "SELECT list(a) FROM range(100000000) t(a)", "--memory", "0.1")
    assert hungry.exit_code == 2 and "needs more memory: raise --memory" in hungry.stderr
    assert invoke(runs_dir, "last", "SELECT 42", "--memory", "0.2").exit_code == 0
    assert "0.1 GiB or more" in invoke(runs_dir, "last", "SELECT 42", "--memory", "nan").stderr


def test_what_a_model_writes_cannot_drive_the_terminal():
    assert cell("a\x1b[31mb\nc\u202e") == "a\\x1b[31mb↵c\\x202e"
    assert cell("x" * 300).endswith("…") and len(cell("x" * 300)) == 200
    assert (cell(-8.078e-18), cell(1e-13), cell(-0.0)) == ("0", "1e-13", "0")
    assert (cell(None), cell(1 / 3), cell(7), cell(["a", 1])) == ("", "0.3333", "7", '["a", 1]')


def test_schema_explains_every_column():
    everything = CliRunner().invoke(app, ["schema"]).stdout
    assert all(name in everything for schema in TABLES.values() for name in schema.names)
    assert "did you mean turns?" in CliRunner().invoke(app, ["schema", "turn"]).stderr
    assert "| `gain` | double | Information gain g_t" in schema_markdown(["turns"])
    assert (
        "\\|learner - sampler\\|"
        in CliRunner().invoke(app, ["schema", "turns", "--format", "markdown"]).stdout
    )


def test_the_documentation_shows_the_schema():
    page = (Path(__file__).parents[3] / "docs" / "rollout_log.md").read_text()
    assert page.split("## Columns\n", 1)[1].strip() == schema_markdown(list(TABLES)).strip()


def test_compact_mends_a_dead_runs_log(tmp_path):
    writer = RolloutLogWriter(tmp_path / "igpo" / "run-1" / "rollouts", "run-1", 1)
    for iteration in (1, 2):
        writer.write(one_turn(iteration))
    writer.flush()
    busy = CliRunner().invoke(app, ["compact", "last", "--runs-dir", str(tmp_path)])
    assert busy.exit_code == 2 and "being written by another process" in busy.stderr
    writer._store._lock.release()  # As if its process had died.
    done = CliRunner().invoke(app, ["compact", "last", "--runs-dir", str(tmp_path)])
    assert done.exit_code == 0 and "9 files before, 5 after" in done.stdout
    assert open_run(tmp_path / "igpo" / "run-1").sql("SELECT count(*) FROM turns").fetchall() == [(2,)]


def test_the_prompt_asks_over_several_lines_and_survives_mistakes(run, monkeypatch, tmp_path):
    from pipeline.cli.log import sql_prompt

    monkeypatch.setattr(sql_prompt, "HISTORY", tmp_path / "history")
    lines = [
        "SELECT 41 + 1",
        "AS answer;",
        "SELECT gian FROM turns;",
        "",
        ".named",
        ".named credit_auroc",
        ".columns groups",
        ".quit",
    ]
    typed = iter(lines)
    monkeypatch.setattr("builtins.input", lambda prompt: next(typed))
    console = Console(file=io.StringIO(), width=500, highlight=False)
    prompt = sql_prompt.SqlPrompt(run, 50, console)
    prompt.cmdloop()
    shown = console.file.getvalue()
    assert (
        "42" in shown and "did you mean gain" in shown and "0.75" in shown and "collapsed_or_faint" in shown
    )
    assert (tmp_path / "history").exists()
    assert prompt.completenames("tool_e") == ["tool_error", "tool_errors"]


def test_ctrl_c_neither_repeats_the_history_nor_the_help(run, monkeypatch, tmp_path):
    import readline

    from pipeline.cli.log import sql_prompt

    history = tmp_path / "history"
    history.write_text("SELECT 1;\nSELECT 2;\n")
    monkeypatch.setattr(sql_prompt, "HISTORY", history)
    monkeypatch.setattr(sql_prompt, "HISTORY_LINES", 3)
    typed = iter(["SELECT 3;", KeyboardInterrupt, "SELECT 4;", KeyboardInterrupt, ".quit"])

    def type_a_line(prompt):
        line = next(typed)
        if line is KeyboardInterrupt:
            raise KeyboardInterrupt
        readline.add_history(line)
        return line

    monkeypatch.setattr("builtins.input", type_a_line)
    readline.clear_history()
    console = Console(file=io.StringIO(), width=500, highlight=False)
    try:
        sql_prompt.SqlPrompt(run, 50, console).cmdloop()
    finally:
        readline.clear_history()
    assert history.read_text() == "SELECT 3;\nSELECT 4;\n.quit\n"
    assert console.file.getvalue().count("`.named` lists the shipped questions") == 1


def test_an_empty_manifest_is_an_empty_log(tmp_path):
    Manifest("run-1").save(tmp_path)
    with pytest.raises(AnalysisError, match="is empty"):
        open_run(tmp_path)


def test_analysis_needs_neither_torch_nor_ray():
    imports = "import sys, pipeline.analysis, pipeline.rollout_log.writer"
    code = f"{imports}; sys.exit(bool({{'torch', 'ray', 'mlflow'}} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.usefixtures("full_disk")
@pytest.mark.parametrize("ending", ["csv", "json", "parquet"])
def test_an_answer_for_which_the_disk_has_no_room_leaves_the_old_file(runs_dir, tmp_path, ending):
    out = tmp_path / f"answer.{ending}"
    out.write_text("old")
    result = invoke(runs_dir, "last", "SELECT 1", "--out", out)
    assert result.exit_code == 2 and "cannot be written: No space left on device" in result.stderr
    assert out.read_text() == "old" and [path.name for path in tmp_path.iterdir()] == [out.name]


def test_a_query_longer_than_a_file_name_may_be_is_a_query():
    from pipeline.cli.log.sql import _runs_and_query

    query = "SELECT " + ", ".join(f"{k} AS column_{k}" for k in range(500))
    assert _runs_and_query(["last", query], None, None) == (["last"], query)
