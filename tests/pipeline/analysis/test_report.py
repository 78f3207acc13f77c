"""The report of the hand-made log: every number that it shows, its plots' data, several runs, size, no
network, bad input.
"""

import json
import re
import shlex
from dataclasses import replace
from html.parser import HTMLParser

import pytest
import vl_convert
from rollout_log_samples import (
    Q1,
    answer,
    gain,
    message,
    paid,
    records,
    rollout,
    search,
    train_1,
    two_agents,
    write_run,
)
from typer.testing import CliRunner

from algorithms.igpo.iteration_record import IterationRecord
from envs.data.question import Question
from pipeline.analysis import AnalysisError, open_run
from pipeline.analysis.report import write_report
from pipeline.analysis.report.charts import COLOURS, lines, run_colour
from pipeline.analysis.report.health import health_figures
from pipeline.analysis.report.overview import glance
from pipeline.analysis.report.reported_runs import (
    config_differences,
    corpus_in_words,
    reported_runs,
    retriever_in_words,
)
from pipeline.analysis.report.tables import tables
from pipeline.analysis.report.write import mark_golds
from pipeline.analysis.trajectories import instructive_trajectories
from pipeline.cli.igpo import app
from pipeline.rollout_log.rows import RunInfo
from pipeline.rollout_log.writer import RolloutLogWriter
from pipeline.viewer.render import number


class Page(HTMLParser):
    """What of a page matters here: titles of plots with their specifications, visible text, addresses it
    would load.
    """

    def __init__(self, html):
        super().__init__()
        self.plots, self.text, self.loads, self._in = {}, [], [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if tag not in ("meta", "link", "br", "img"):
            self._in.append((tag, attrs))
        self.loads += [
            attrs[key] for key in ("src", "href") if key in attrs and not attrs[key].startswith("#")
        ]

    def handle_endtag(self, tag):
        assert self._in.pop()[0] == tag

    def handle_data(self, data):
        tag, attrs = self._in[-1] if self._in else ("", {})
        if tag == "script" and attrs.get("type") == "application/json":
            title = self._in[-2][1]["aria-label"].split(". ")[0]
            self.plots[title] = json.loads(data)
        elif tag not in ("script", "style"):
            self.text.append(" ".join(data.split()))

    def rows(self, title):
        """The data of a plot, over all its layers."""
        spec = self.plots[title]
        parts = [spec, *spec.get("layer", [])]
        return [row for part in parts for row in part.get("data", {}).get("values", [])]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return write_run(
        tmp_path_factory.mktemp("runs") / "toy", name="toy", config={"config": {"lr": 1e-5, "seed": 0}}
    )


@pytest.fixture(scope="module")
def page(run_folder, tmp_path_factory):
    path = write_report([run_folder], tmp_path_factory.mktemp("out") / "report.html")
    return Page(path.read_text())


def test_glance_has_the_numbers_computed_by_hand(run_folder):
    with open_run(run_folder) as run:
        lines = {line.name: line.values for part in glance(run, reported_runs(run)) for line in part.measures}
    assert lines == {
        "Held-out exact match": ["0.500 ± 0.980 → 0.500 ± 0.980"],
        "Training exact match": ["0.250 ± 0.490 → 0.000"],
        "Gain of turn 0, 1, 2 ...": ["-0.10, +1.50"],
        "Advantage of these turns": ["-0.20, +0.50"],
        "Groups without signal under the outcome alone": ["66.7%"],  # g2 and g3 of three
        "Groups rescued": ["33.3%"],  # g2
        "Does gain find the evidence? (AUROC)": ["0.750"],
        "Gain with, without evidence": ["+1.00, -0.12"],
        "Advantage agrees with evidence": [
            "100.0% (85.7%)"
        ],  # 7 turns of 7; the outcome alone is wrong about r3's
        "Right turns punished": ["33.3% by gain, 0.0% by advantage"],  # r1's first search
        "Gain taken without evidence": ["12.5%"],  # 0.5 of 4
        "Training rollouts that fail, and how": [
            "83.3% of 6: 40% wrong, evidence missing; 20% wrong, all evidence found; 20% malformed"
        ],
        "Turns with a broken format": ["15.4% of 13"],
        "Tool calls that failed": ["14.3% of 7"],
        "Seconds per iteration": ["3.5"],
    }


def test_the_command_of_a_rollout_is_one_that_a_shell_takes(tmp_path):
    folder = write_run(tmp_path, run_id="my run")
    page = Page(write_report([folder], tmp_path / "report.html").read_text())
    commands = [shlex.split(text) for text in page.text if text.startswith("igpo show ")]
    assert commands and all(words[2] == "my run" and len(words) == 6 for words in commands)


def test_plots_draw_the_numbers_computed_by_hand(page):
    def points(title, *columns):
        return [tuple(row[column] for column in columns) for row in page.rows(title)]

    outcome, faint, trained = "under the outcome alone", "as trained, noise counted as none", "as trained"
    assert points("Groups without any signal", "iteration", "series", "value") == [
        *((1, outcome, 0.5), (1, faint, 0.0), (1, trained, 0.0)),
        *((2, outcome, 1.0), (2, faint, 1.0), (2, trained, 1.0)),
    ]
    # Gains of the first turns: -1, -0.5, 0, 0, 1; of the second turns 0.5, 2.5. The axis counts turns from 0.
    assert points("Information gain by turn", "category", "turns", "q25", "q50", "q75") == [
        (0, 5, -0.5, 0.0, 0.0),
        (1, 2, 1.0, 1.5, 2.0),
    ]
    assert points("Gain by what the turn retrieved", "category", "turns", "mean") == [
        ("new gold evidence", 3, 1.0),
        ("nothing new", 4, -0.125),
    ]
    assert points("How rollouts end", "iteration", "ending", "rollouts", "share") == [
        *(
            (1, "wrong, evidence missing", 2, 0.5),
            (1, "right", 1, 0.25),
            (1, "wrong, all evidence found", 1, 0.25),
        ),
        *((2, "malformed", 1, 0.5), (2, "token limit", 1, 0.5)),
    ]
    assert points("Training exact match", "iteration", "em_squad", "low", "high") == [
        (1, 0.25, 0.0, pytest.approx(0.74)),
        (2, 0.0, 0.0, 0.0),
    ]
    assert points("Over- and under-searching", "iteration", "series", "value") == [
        *((1, "more searches than hops", 0.0), (1, "answered after fewer", 0.0)),
        *((2, "more searches than hops", 0.0), (2, "answered after fewer", 0.0)),
    ]
    assert points("Seconds by phase", "phase", "mean_seconds") == [("generate", 2.0), ("learn", 1.0)]
    # r1, the only success: 0.1, then 0.05 and 0.9 after its two searches; r2 is the other rollout of the
    # group.
    chosen = [
        (row["step"], row["belief"], row["retrieved"])
        for row in page.rows("Belief over the turns")
        if row["is_chosen"]
    ]
    assert chosen == [(0, 0.1, "nothing new"), (1, 0.05, "gold evidence"), (2, 0.9, "gold evidence")]
    assert {row["rollout"] for row in page.rows("Belief over the turns")} == {"r1", "r2"}


def test_phases_beyond_the_palette_share_its_last_colour(tmp_path):
    seconds = {f"phase {k}": 10.0 - k for k in range(9)}
    record = replace(train_1(), seconds=seconds | {"total": 60.0})
    page = Page(write_report([write_run(tmp_path, written=[record])], tmp_path / "report.html").read_text())
    colours = [row["colour"] for row in page.rows("Seconds by phase")]
    assert colours == [*(f"phase {k}" for k in range(6)), *["phase 6, phase 7, phase 8"] * 3]


def test_more_runs_than_the_palette_has_get_one_with_more_colours():
    scales = [
        run_colour([f"run {k}" for k in range(runs)]).to_dict()["scale"] for runs in (COLOURS, COLOURS + 1)
    ]
    assert [scale.get("scheme") for scale in scales] == [None, "tableau20"]


def test_rollouts_to_read_are_the_extremes_each_once(run_folder):
    with open_run(run_folder) as run:
        found = instructive_trajectories(run, "run-1")
    assert [(one.reason, one.trajectory.episode["episode_id"], one.turn_index) for one in found] == [
        ("Case study", "r1", 1),
        ("Biggest gain", "r3", 0),
        ("Biggest loss", "r4", 0),
    ]


def test_a_right_turn_in_a_failed_rollout_is_found(tmp_path):
    """r3 stays for it once other rollouts hold the biggest gain and loss."""
    more = train_1()
    more.rollouts.append(
        rollout("r7", "g4", more.rollouts[2].question, [search(0, "bar", False), answer(1, "Bob")])
    )
    more.credit |= {("r7", 0): gain(0.1, 0.9, 4.0, 1.0), ("r7", 1): paid(0.0)}
    with open_run(write_run(tmp_path, written=[more])) as run:
        found = {one.reason: one for one in instructive_trajectories(run, "run-1")}
    assert found["Biggest gain"].trajectory.episode["episode_id"] == "r7"
    assert found["Right turn in a failed rollout"].trajectory.episode["episode_id"] == "r3"
    assert found["Right turn in a failed rollout"].turn_index == 0


def test_the_case_study_has_several_searches_whoever_speaks_in_between(tmp_path):
    """One search and a message raise belief more than two searches do."""
    told = [search(0, "x", True), message(1, "rome"), answer(2, "Rome")]
    asked = [search(0, "x", True), search(1, "y", True), answer(2, "Rome")]
    rollouts = [
        rollout(name, "g", Q1, turns, text="Rome", em=1.0) for name, turns in (("a", told), ("b", asked))
    ]
    credit = {
        ("a", 0): gain(0.1, 0.5, 1.0, 1.0),
        ("a", 1): gain(0.5, 0.9, 1.0, 1.0),
        ("a", 2): paid(1.0),
        ("b", 0): gain(0.1, 0.2, 1.0, 1.0),
        ("b", 1): gain(0.2, 0.6, 1.0, 1.0),
        ("b", 2): paid(1.0),
    }
    with open_run(write_run(tmp_path, written=[IterationRecord(1, "train", 0, rollouts, credit)])) as run:
        case = instructive_trajectories(run, "run-1")[0]
    assert (case.reason, case.trajectory.episode["episode_id"], case.turn_index) == ("Case study", "b", 0)


@pytest.mark.parametrize("left_out, words", [(1, "has 1 row more."), (2, "has 2 rows more.")])
def test_a_table_says_how_many_rows_are_left_out(tmp_path, left_out, words):
    searches = [search(i, f"query {i:02}", False) for i in range(12 + left_out)]
    record = IterationRecord(1, "train", 0, [rollout("r", "g", Q1, [*searches, answer(99, "x")], text="x")])
    record.credit |= {("r", i): gain(0.1, 0.1, 7.0 - i, 0.0) for i in range(len(searches))}
    page = Page(write_report([write_run(tmp_path, written=[record])], tmp_path / "report.html").read_text())
    assert f"igpo sql RUN --named queries_by_gain {words}" in " ".join(" ".join(page.text).split())


def test_a_zero_has_no_sign(tmp_path):
    """What is below 0 by rounding alone: the mean advantage of first turns."""
    record = train_1()
    record.credit |= {(name, 0): gain(0.1, 0.1, -1e-12, -1e-17) for name in ("r1", "r2", "r3", "r4")}
    path = write_report([write_run(tmp_path, written=[record])], tmp_path / "report.html")
    text = " ".join(Page(path.read_text()).text)
    assert "gain +0.000" in text and not re.search(r"-0\.0+\b", text)
    assert [number(value) for value in (-1e-17, -0.0004, -0.0006)] == ["+0.000", "+0.000", "-0.001"]


def test_golds_are_marked_as_whole_words_and_html_is_escaped():
    marked = mark_golds("<b>Rome</b>, rome & Romeo", ["Rome"])
    assert marked == "&lt;b&gt;<mark>Rome</mark>&lt;/b&gt;, <mark>rome</mark> &amp; Romeo"
    assert mark_golds("New York City", ["York", "New York"]) == "<mark>New York</mark> City"
    assert mark_golds("在北京市", ["北京"]) == "在<mark>北京</mark>市"
    assert mark_golds("在Rome市, Romeo", ["Rome"]) == "在<mark>Rome</mark>市, Romeo"


@pytest.mark.usefixtures("full_disk")
def test_a_report_for_which_the_disk_has_no_room_leaves_the_old_one(run_folder, tmp_path):
    (tmp_path / "report.html").write_text("old")
    with pytest.raises(AnalysisError, match="cannot be written: No space left on device"):
        write_report([run_folder], tmp_path / "report.html")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_text_of_a_model_cannot_become_markup_or_script(tmp_path):
    evil = '</script><script>alert("x")</script>'
    question = Question("q", f"who? {evil}", ["gold"], hops=1)
    turns = [search(0, evil, True), answer(1, evil)]
    record = IterationRecord(1, "train", 0, [rollout("r", "g", question, turns, text=evil, em=1.0)])
    record.credit |= {("r", 0): gain(0.1, 0.5, 1.0, 1.0), ("r", 1): paid(1.0)}
    html = write_report([write_run(tmp_path, written=[record])], tmp_path / "report.html").read_text()
    assert evil not in html
    assert f"who? {evil}" in Page(html).text


def test_one_file_that_loads_nothing(page):
    assert page.loads == []
    assert set(page.plots) >= {
        "Held-out exact match",
        "Does gain find the evidence?",
        "Advantage against evidence",
    }


def test_every_plot_compiles_to_vega(page):
    for spec in page.plots.values():
        assert vl_convert.vegalite_to_vega(spec | {"width": 400})["marks"]


@pytest.mark.slow  # 600 files are written and synced
def test_a_hundred_iterations_stay_below_five_megabytes(tmp_path):
    written = [replace(train_1(), iteration=iteration) for iteration in range(100)]
    path = write_report([write_run(tmp_path, written=written)], tmp_path / "report.html")
    assert len(Page(path.read_text()).rows("Groups without any signal")) == 300
    assert path.stat().st_size < 5e6


def test_several_runs_are_told_apart_and_compared(tmp_path):
    folders = [
        write_run(
            tmp_path / "igpo",
            f"run-{preset}",
            name="igpo",
            config={"config": {"preset": preset, "lr": lr, "engine": engine}, "run": "IGPO"},
        )
        for preset, lr, engine in (("igpo", 1e-5, {}), ("grpo", 2e-5, {"kv_cache_gib": 1}))
    ]
    page = Page(write_report(folders, tmp_path / "report.html").read_text())
    assert "Groups without any signal: igpo preset=igpo" in page.plots
    assert "Groups without any signal: igpo preset=grpo" in page.plots
    with open_run(*folders) as run:
        assert config_differences(reported_runs(run)) == [
            ("engine.kv_cache_gib", ["", "1"]),
            ("lr", ["1e-05", "2e-05"]),
            ("preset", ['"igpo"', '"grpo"']),
        ]


def test_gains_in_different_units_are_drawn_apart(tmp_path):
    folders = [
        write_run(tmp_path / name, name, name=name, config={"config": {"gain_basis": basis}})
        for name, basis in (("b", "prob"), ("a", "log_prob"), ("c", "prob"))
    ]
    page = Page(write_report(folders, tmp_path / "report.html").read_text())
    titles = [title for title in page.plots if title.startswith(("Information gain", "Gain by what"))]
    assert titles == [
        "Information gain by turn, in probability",
        "Information gain by turn, in nats",
        "Gain by what the turn retrieved, in probability",
        "Gain by what the turn retrieved, in nats",
    ]
    assert {row["run"] for row in page.rows(titles[0]) if "run" in row} == {"b", "c"}
    assert {row["run"] for row in page.rows(titles[1]) if "run" in row} == {"a"}
    assert '"gain (nats)"' in json.dumps(page.plots[titles[1]])
    assert {"-0.10, +1.50 (probability)", "-0.10, +1.50 (nats)"} <= set(page.text)
    alone = Page(write_report(folders[:1], tmp_path / "report.html").read_text())
    assert '"gain (probability)"' in json.dumps(alone.plots["Information gain by turn"])


def test_labels_of_an_axis_differ_where_its_ticks_do(tmp_path):
    label = lines([], [], "loss", is_share=False)["layer"][0]["encoding"]["y"]["axis"]["labelExpr"]
    values = [0, 5e-7, 2.5e-6, 0.02, 0.1, 0.12, 0.3, 2.5, 1500]
    axis = {"orient": "left", "scale": "y", "values": values, "encode": {"labels": {"update": {}}}}
    axis["encode"]["labels"]["update"]["text"] = {"signal": label}
    scale = {"name": "y", "type": "linear", "domain": [0, 2000], "range": [0, 400]}
    drawn = vl_convert.vega_to_svg({"width": 9, "height": 400, "scales": [scale], "axes": [axis]})
    shown = re.findall(r"<text[^>]*>([^<]+)</text>", drawn)
    assert shown == ["0", "5e-7", "2.5e-6", "0.02", "0.1", "0.12", "0.3", "2.5", "1500"]


@pytest.mark.parametrize("typed", [["a", "b", "c"], ["c", "a", "b"]])
def test_runs_stand_in_the_order_in_which_they_are_named(tmp_path, typed):
    for run_id in "bca":  # the order in which they started
        write_run(tmp_path / "runs" / run_id, run_id, name=run_id)
    page = Page(write_report(typed, tmp_path / "report.html", tmp_path / "runs").read_text())
    assert " · ".join(typed) in page.text
    with open_run(*typed, runs_dir=tmp_path / "runs") as run:
        assert [one.run_id for one in reported_runs(run)] == typed


def test_runs_of_equal_settings_are_told_apart_by_their_ids(tmp_path):
    folders = [write_run(tmp_path, run_id, name="igpo") for run_id in ("a", "b")]
    with open_run(*folders) as run:
        reported = reported_runs(run)
    assert [one.label for one in reported] == ["igpo a", "igpo b"]
    assert config_differences(reported) == []


def test_a_resumed_run_that_goes_on_is_not_as_its_attempt_before_ended(tmp_path):
    folder = write_run(tmp_path)
    info = RunInfo(resumed_from_iteration=2)
    with RolloutLogWriter(folder / "rollouts", "run-1", 2, info=info), open_run(folder) as run:
        (one,) = reported_runs(run)
    assert (one.status, one.attempts) == ("under way or killed", 2)


def test_a_run_without_gain_and_evidence_has_a_report(tmp_path):
    """Evaluation alone: no credit, no groups. What needs them is left out, not drawn empty."""
    heldout = [record for record in records() if record.split == "heldout"]
    page = Page(write_report([write_run(tmp_path, written=heldout)], tmp_path / "report.html").read_text())
    assert "Held-out exact match" in page.plots and "Information gain by turn" not in page.plots
    assert "No training turn has a gain, so there is none to single out." in page.text


def test_long_tables_are_cut_and_say_so(tmp_path):
    """14 queries, each with its own gain: the table shows six from either end."""
    turns = [search(i, f"query {i:02}", False) for i in range(14)] + [answer(14, "x")]
    record = IterationRecord(1, "train", 0, [rollout("r", "g", Q1, turns, text="x")])
    record.credit |= {("r", i): gain(0.1, 0.1, 7.0 - i, 0.0) for i in range(14)} | {("r", 14): paid(0.0)}
    with open_run(write_run(tmp_path, written=[record])) as run:
        found = {table.name: table for table in tables(run, reported_runs(run))}
    queries = found["queries_by_gain"]
    shown = [i for i in range(14) if i < 6 or i >= 8]
    assert [row[:3] for row in queries.rows] == [[f"query {i:02}", "1", f"{7 - i}"] for i in shown]
    assert queries.columns[:3] == ["query", "uses", "total_gain"] and queries.numeric[:3] == [
        False,
        True,
        True,
    ]
    assert queries.left_out == 2
    assert "tool_errors" in found and "format_failures" not in found


def test_command_line(run_folder, tmp_path):
    out = tmp_path / "r.html"
    result = CliRunner().invoke(app, ["report", str(run_folder), "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert re.search(r"r\.html \(1\.\d MB\): open it in a browser", result.output)
    assert out.read_text().startswith("<!DOCTYPE html>")


def test_bad_input_is_one_sentence(run_folder, tmp_path):
    def error(*arguments):
        result = CliRunner().invoke(app, ["report", *map(str, arguments)])
        assert result.exit_code == 2
        (line,) = result.stderr.strip().splitlines()
        return line

    assert "no run 'nope'" in error("nope", "--runs-dir", tmp_path)
    assert "is empty" in error(write_run(tmp_path, written=[]))
    assert f"there is no folder {tmp_path / 'no'}" in error(run_folder, "--out", tmp_path / "no" / "r.html")
    with pytest.raises(AnalysisError, match="the same run was given twice"):
        write_report([run_folder, run_folder], tmp_path / "r.html")


def test_the_learners_health_is_drawn_per_metric(run_folder):
    with open_run(run_folder) as run:
        drawn = {figure.title for figure in health_figures(run, {"run-1": "toy"})}
        logged = run.sql(
            "SELECT avg(decision_tokens) FROM episodes WHERE split = 'train' AND iteration = 1"
        ).fetchall()[0][0]
        (lengths,) = [f for f in health_figures(run, {"run-1": "toy"}) if f.title == "Tokens per rollout"]
    assert "Tokens per rollout" in drawn
    rows = [row for part in lengths.spec["layer"] for row in part.get("data", {}).get("values", [])]
    rows = rows or lengths.spec["data"]["values"]
    assert [row["value"] for row in rows if row["iteration"] == 1][0] == logged


@pytest.mark.parametrize(
    ("identity", "words"),
    [
        ('{"content_hash": "91f6ab0a55", "documents": 1200, "source": "world"}',
         "1,200 documents of the generated world (91f6ab0a)"),
        ('{"source": "corpus.jsonl", "documents": 3}', "3 documents of corpus.jsonl"),
        ("wiki", "wiki"),
        ("", ""),
        ("[1]", "[1]"),
    ],
)  # fmt: skip
def test_a_corpus_is_told_in_words(identity, words):
    assert corpus_in_words(identity) == words


def test_a_retriever_is_told_in_words():
    facts = {
        "corpus_hash": "91f6",
        "documents": 100,
        "kind": "bm25",
        "parameters": {"b": 0.75, "k1": 1.5, "nested": {"a": 1}},
        "top_k": 1,
    }
    assert retriever_in_words(json.dumps(facts)) == "bm25, 1 document per search; b 0.75, k1 1.5"
    assert retriever_in_words(json.dumps({"kind": "http", "url": "http://x", "top_k": 3})) == (
        "http, 3 documents per search; url http://x"
    )


def test_several_agents_have_a_line_each_and_a_lane_each(tmp_path, page):
    """By hand from `two_agents`: gains 1, 1, 0 of the searcher and 0.5, -1, 0.25 of the reader."""
    path = write_report([write_run(tmp_path, written=[two_agents()])], tmp_path / "report.html")
    drawn = Page(path.read_text())

    def points(title):
        return [(row["series"], row["value"]) for row in drawn.rows(title)]

    assert points("Gain by agent") == [
        ("reader", pytest.approx(-0.25 / 3)),
        ("searcher", pytest.approx(2 / 3)),
    ]
    # 2, -2, -4 and 1, 3, -1, -3, -3, -3
    assert points("Advantage by agent") == [("reader", pytest.approx(-4 / 3)), ("searcher", -1.0)]
    assert "turn 0 searcher → reader" in drawn.text and "turn 1 reader → searcher" in drawn.text
    assert 'style="--lane: 1"' in path.read_text()
    assert "Gain by agent" not in page.plots  # one agent
