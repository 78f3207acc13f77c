"""`igpo show`: which rollout is picked, what is printed of it, and what bad input is answered with."""

import pytest
from rich.cells import cell_len
from rich.console import Console
from rollout_log_samples import Q1, answer, gain, paid, rollout, search, two_agents, write_run
from typer.testing import CliRunner

from algorithms.igpo.iteration_record import IterationRecord
from envs.search.trajectory import Termination
from pipeline.analysis import open_run
from pipeline.analysis.trajectories import load_group, load_trajectory, select_episodes
from pipeline.cli.igpo import app
from pipeline.viewer.pieces import GOLD, belief_bar
from pipeline.viewer.render import render_trajectory


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "toy")


def show(*arguments):
    result = CliRunner().invoke(app, ["show", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    return result.output


def test_a_rollout_whose_prompt_left_no_room_has_no_turns(tmp_path):
    unplayed = rollout("long", "g", Q1, [], termination=Termination.TOKEN_LIMIT, split="heldout")
    record = IterationRecord(1, "heldout", 7, [unplayed])
    folder = write_run(tmp_path / "toy", written=[record])
    assert "no answer (token limit)" in show(folder, "long")
    with open_run(folder) as run:
        columns = "turns, gain_turns, termination, outcome, weights_version"
        ((*row,),) = run.sql(f"SELECT {columns} FROM episodes").fetchall()
    assert row == [0, 0, "token_limit", 0.0, None]


def error(*arguments):
    result = CliRunner().invoke(app, ["show", *map(str, arguments)])
    assert result.exit_code == 2, result.output
    (line,) = result.stderr.strip().splitlines()
    return line.removeprefix("error: ")


def test_the_best_is_that_of_all_iterations_as_the_help_says(run_folder, monkeypatch):
    """Iteration 2 is the newest."""
    assert "(run-1, iteration 1, train)" in show(run_folder, "--best", "--split", "train")
    assert "(run-1, iteration 2, train)" in show(run_folder, "--best", "--split", "train", "--iteration", "2")
    monkeypatch.setenv("COLUMNS", "200")
    assert "Only rollouts of this iteration. [default: all]" in " ".join(show("--help").split())


def test_a_rollout_is_printed_turn_by_turn(run_folder):
    lines = [line.strip() for line in show(run_folder, "r1").splitlines()]
    assert lines == [
        "episode   r1  (run-1, iteration 1, train)",
        "question  Where was the author of Foo born?",
        "gold      Rome / Roma",
        "answer    ✓ right  Rome",
        "worth     outcome +1.00, F1 1.00, gain in all +2.000, 2 hops",
        "turn 0 searcher  search: author of foo  ● evidence ─────────────────────────────",
        "<search>author of foo</search>",
        "a document",
        "belief 0.100 █░······················ 0.050",  # 2.4 and 1.2 of 24 cells
        "gain -0.500   advantage +0.500   generate 0.00, tool 0.10, score 0.00 s, 4",
        "tokens",
        "turn 1 searcher  search: Jane birthplace  ● evidence ───────────────────────────",
        "<search>Jane birthplace</search>",
        "a document",
        "belief 0.050 █▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓▓·· 0.900",
        "gain +2.500   advantage +2.000   generate 0.00, tool 0.10, score 0.00 s, 4",
        "tokens",
        "turn 2 searcher  answer: Rome ──────────────────────────────────────────────────",
        "Rome",
        "advantage +1.000   generate 0.00, tool 0.00, score 0.00 s, 6 tokens",
        "─" * 80,
        "1.50 s from prompt to end",
    ]


def test_several_agents_are_shown_in_lanes(tmp_path):
    output = show(write_run(tmp_path, written=[two_agents()]), "t2")
    lanes = output.splitlines()[5:11]
    assert [line.rstrip() for line in lanes] == [
        "turn  searcher                    reader                      belief",
        "   0  → bar ●                                                 █▓▓▓▓······· 0.400",
        "   1                              ← bar has a mayor           ██░░░······· 0.200",
        "   2  → foo                                                   ██·········· 0.200",
        "   3                              ← nothing                   ██·········· 0.205",
        "   4  Bob",
    ]
    titles = [line.rstrip(" ─") for line in output.splitlines() if line.endswith("──")]
    assert titles[:3] == [
        "turn 0 searcher → reader  search: bar  ● evidence",
        "turn 1 reader → searcher  message",
        "turn 2 searcher → reader  search: foo",
    ]
    assert "belief" not in show(tmp_path / "run-1", "t3")  # one agent spoke: no lanes


def test_what_went_wrong_is_said(run_folder):
    assert "unclosed tag" in show(run_folder, "r5")
    assert "no answer (token limit)" in show(run_folder, "r6")
    assert "timeout" in show(run_folder, "r4")


@pytest.mark.parametrize(
    ("options", "episode", "iteration"),
    [
        (["--best"], "r1", 1),  # outcome 1 as eq1 and eq2, which have no gain
        (["--best", "--split", "train"], "r1", 1),
        (["--worst"], "r5", 2),  # outcome -1 as r6, which has no gain
        (["--worst", "--iteration", "1", "--split", "train"], "r4", 1),  # outcome 0, gain -1
        (["--question", "MAYOR of"], "eq2", 2),
        (["--question", "mayor", "--split", "train", "--best"], "r3", 1),
        (["eq1", "--iteration", "1"], "eq1", 1),
        (["eq1"], "eq1", 2),
    ],
)
def test_which_rollout(run_folder, options, episode, iteration):
    assert show(run_folder, *options).startswith(f"episode   {episode}  (run-1, iteration {iteration}, ")


def test_without_a_choice_the_newest_are_listed_training_first(run_folder):
    lines = show(run_folder).splitlines()
    rows = [[cell.strip() for cell in line.strip("│").split("│")] for line in lines if line.startswith("│")]
    assert [(row[6], row[7], row[0]) for row in rows[:4]] == [
        ("2", "train", "r5"),
        ("2", "train", "r6"),
        ("2", "heldout", "eq1"),
        ("2", "heldout", "eq2"),
    ]
    assert len(rows) == 10


def test_gold_answers_are_marked_in_the_evidence(tmp_path):
    turn = search(0, "q", True)
    turn.observation_text = "Rome, not Romania; ROMA."
    record = IterationRecord(1, "train", 0, [rollout("r", "g", Q1, [turn, answer(1, "x")], text="x")])
    record.credit |= {("r", 0): gain(0.1, 0.5, 1.0, 1.0), ("r", 1): paid(0.0)}
    with open_run(write_run(tmp_path, written=[record])) as run:
        drawn = render_trajectory(load_trajectory(run, select_episodes(run)[0]))
    segments = Console(width=80).render(drawn)
    marked = [segment.text for segment in segments if str(segment.style) == GOLD]
    assert marked == ["Rome / Roma", "Rome", "ROMA"]


def test_control_characters_of_a_model_do_not_reach_the_terminal(tmp_path):
    turns = [answer(0, "\x1b[2Jwiped")]
    write_run(
        tmp_path,
        written=[IterationRecord(1, "train", 0, [rollout("r", "g", Q1, turns, text="\x1b[2Jwiped")])],
    )
    output = show(tmp_path / "run-1", "r")
    assert "\x1b" not in output and "\\x1b[2Jwiped" in output


@pytest.mark.parametrize(
    ("before", "after", "bar"),
    [(0.0, 0.0, "··········"), (0.2, 0.7, "██▓▓▓▓▓···"), (0.7, 0.2, "██░░░░░···"), (1.0, 1.0, "██████████")],
)
def test_belief_bar(before, after, bar):
    assert belief_bar(before, after, cells=10).plain == bar
    assert cell_len(bar) == 10


def test_a_group_is_the_rollouts_of_one_prompt_in_one_iteration(run_folder):
    with open_run(run_folder) as run:
        (r2,) = select_episodes(run, episode="r2")
        group = load_group(run, r2)
        assert [(one.episode["episode_id"], len(one.turns_T)) for one in group] == [("r1", 3), ("r2", 3)]
        (e1,) = select_episodes(run, episode="eq1", iteration=1)
        assert len(load_group(run, e1)) == 1  # the evaluation of iteration 2 has the same group_id


def test_bad_input_is_one_sentence(run_folder, tmp_path):
    assert error("nope", "--runs-dir", tmp_path).startswith("no run 'nope', and")
    assert "is empty: the run has not finished its first iteration yet" in error(
        write_run(tmp_path, written=[])
    )
    lists = "`igpo show RUN` lists the newest"
    assert error(run_folder, "eq3") == f"no episode 'eq3', the nearest is 'eq1'; {lists}"
    assert error(run_folder, "zzz") == f"no episode 'zzz'; {lists}"
    nearest = "the nearest is 'Who is the mayor of Bar?'"
    assert (
        error(run_folder, "--question", "mayer of Bar")
        == f"no question like 'mayer of Bar', {nearest}; {lists}"
    )
    missing = (
        "no such episode in iteration 9 and split 'train'; the log has iterations 1 to 2 of heldout and train"
    )
    assert error(run_folder, "--iteration", "9", "--split", "train") == missing
    assert error(run_folder, "--split", "test") == "--split test: it must be train or heldout."
    assert (
        error(run_folder, "--best", "--worst") == "--best and --worst were both given: ask for one of them."
    )
    assert "names one rollout already" in error(run_folder, "r1", "--best")


@pytest.mark.parametrize(
    ("typed", "nearest"),
    [
        ("000003/train-000051/8", "000003/train-000051/0"),  # as near as .../7, the first by name
        ("3/train-51/7", "000003/train-000051/7"),
        ("3/train-51/8", "000003/train-000051/0"),
        ("train-000095/7", "000001/train-000095/7"),
        ("000003/train-000095/9", "000001/train-000095/7"),  # two letters; three for 000003/train-000999/0
        ("000003/train-000051", "000003/train-000051/0"),
        ("000003/tarin-000957/7", "000003/train-000957/7"),
        ("heldout/0/heldout-7/0", "heldout/0/heldout-000007/0"),
        ("the weather of tomorrow", None),
    ],
)
def test_the_nearest_episode_is_that_with_the_fewest_letters_to_change(tmp_path, typed, nearest):
    ids = ["000001/train-000095/7", "heldout/0/heldout-000007/0"]
    ids += [f"000003/train-{group:06d}/{k}" for group in (51, 957, 999) for k in (0, 7)]
    played = [rollout(one, "g", Q1, [answer(0, "x")], split="heldout") for one in ids]
    folder = write_run(tmp_path / "toy", written=[IterationRecord(1, "heldout", 0, played)])
    hint = f", the nearest is {nearest!r}" if nearest else ""
    assert error(folder, typed) == f"no episode {typed!r}{hint}; `igpo show RUN` lists the newest"


def test_browse_needs_a_terminal(run_folder):
    result = CliRunner().invoke(app, ["browse", str(run_folder)])
    assert result.exit_code == 2
    assert (
        result.stderr
        == "error: igpo browse needs a terminal; `igpo show` prints a rollout, `igpo sql` a table.\n"
    )


def trained_with(folder, advantages_T, **settings):
    """`igpo show` of a rollout of three turns, with gains 1 and 2 that were halved, and these advantages."""
    turns = [search(0, "a", False), search(1, "b", False), answer(2, "Rome")]
    first, second, last = advantages_T
    credit = dict(
        zip(
            [("e", 0), ("e", 1), ("e", 2)],
            [gain(0.1, 0.2, 1.0, first), gain(0.2, 0.4, 2.0, second), paid(last)],
            strict=True,
        )
    )
    record = IterationRecord(1, "train", 7, [rollout("e", "g", Q1, turns)], credit)
    return show(write_run(folder, written=[record], config={"config": settings}), "e")


def test_an_advantage_is_split_into_gains_and_outcome(tmp_path):
    settings = {"preset": "igpo", "gamma": 0.5, "outcome_gamma": 0.5}
    # 0.5 + 0.5 * 1, 1, 0 of the gains; 0.25 of the outcome, back from the last turn
    lines = trained_with(tmp_path / "a", [1.0625, 1.125, 0.25], **settings).splitlines()
    assert [line.strip() for line in lines if "advantage" in line] == [
        "gain +1.000 nats   advantage +1.062   = +1.000 gains from here on, +0.062",
        "gain +2.000 nats   advantage +1.125   = +1.000 gains from here on, +0.125",
        "advantage +0.250   = +0.000 gains from here on, +0.250 outcome",
    ]
    assert "+1.000 of probability" in trained_with(
        tmp_path / "b", [1.0625, 1.125, 0.25], gain_basis="prob", **settings
    )


@pytest.mark.parametrize(
    ("advantages", "settings"),
    [
        ([1.0625, 1.126, 0.25], {"preset": "igpo", "gamma": 0.5}),  # no outcome gives this
        ([1.0625, 1.125, 0.25], {"preset": "my_code:mine", "gamma": 0.5}),
        ([1.0625, 1.125, 0.25], {"preset": "trace"}),
        ([1.0625, 1.125, 0.25], {}),
    ],
)
def test_where_the_log_does_not_hold_the_split_it_is_left_out(tmp_path, advantages, settings):
    said = trained_with(tmp_path, advantages, **settings)
    assert "advantage +0.250" in said and "from here on" not in said
