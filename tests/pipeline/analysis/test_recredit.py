"""Offline re-credit: the run's own estimator gives the logged advantages, another one gives those of its
definition.
"""

import json
from dataclasses import replace
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

import pipeline.cli.igpo
from algorithms.credit import advantages, find_preset, get_preset
from algorithms.igpo.iteration_record import IterationRecord
from algorithms.igpo.learner.connectors import BatchNotes, TurnLevelAdvantages
from algorithms.igpo.learner.groups import BATCH_WIDE, batch_wide_numbers
from envs.data.question import Question
from envs.search.trajectory import ActionKind, Rollout, Termination, Turn
from envs.user_code import code_hash
from pipeline.analysis import AnalysisError, open_run
from pipeline.analysis.offline.credit_changes import credit_changes
from pipeline.analysis.offline.recredit import choose_estimator, recredit
from pipeline.analysis.tables_beside import RECREDITS
from pipeline.analysis.trajectories import load_trajectory, select_episodes
from pipeline.rollout_log.rows import RunInfo
from pipeline.rollout_log.writer import RolloutLogWriter

ENV = {"alias_rule": "max", "format_penalty": -1.0, "truncation_penalty": 0.0}


def make_rollout(name, group, scores, *, outcome, agents=("searcher",), termination=Termination.ANSWERED):
    """`scores` are s_0, s_1, ... of two aliases each; the last turn bears no gain."""
    turns = [
        Turn(
            k,
            agents[k % len(agents)],
            "default_policy",
            f"turn {k}",
            ActionKind.TOOL,
            scores_K=np.array(score),
        )
        for k, score in enumerate(scores[1:])
    ]
    turns.append(Turn(len(turns), agents[0], "default_policy", "answer", ActionKind.ANSWER))
    question = Question(f"q-{group}", "?", ["red", "crimson"])
    return Rollout(
        name,
        group,
        question,
        turns=turns,
        scored_golds_K=["red", "crimson"],
        initial_scores_K=np.array(scores[0]),
        termination=termination,
        outcome=outcome,
    )


def random_rollouts(iteration, seed):
    """Three groups of four: several agents, ragged, malformed and out of turns; the last group has one
    rollout left.
    """
    rng = np.random.default_rng(seed)
    rollouts = []
    for group, size in (("a", 4), ("b", 4), ("c", 1)):
        for k in range(size):
            scores = -rng.uniform(0.1, 4.0, size=(int(rng.integers(1, 6)), 2))
            ending = [
                Termination.ANSWERED,
                Termination.MALFORMED,
                Termination.TURN_LIMIT,
                Termination.ANSWERED,
            ][k]
            outcome = {Termination.MALFORMED: -1.0, Termination.TURN_LIMIT: 0.0}.get(
                ending, float(rng.uniform())
            )
            name = f"{iteration}/{group}/{k}"
            rollouts.append(
                make_rollout(
                    name,
                    f"{iteration}/{group}",
                    scores,
                    outcome=outcome,
                    agents=("s", "r"),
                    termination=ending,
                )
            )
    return rollouts


def write_log(folder, rollouts_of, *, preset="igpo", env=ENV, damage=lambda rollouts: None, **settings):
    """The log of a run whose credit was made by the learner's own connector; `damage` is done to the rollouts
    afterwards.
    """
    credit = replace(find_preset(preset).credit, **settings)
    keys = {"preset": preset, "env_config": env, **settings}
    with RolloutLogWriter(folder / "rollouts", folder.name, 1, info=RunInfo(config={"config": keys})) as log:
        for iteration, rollouts in enumerate(rollouts_of, 1):
            notes = BatchNotes()
            connector = TurnLevelAdvantages(
                credit,
                notes,
                alias_rule=env["alias_rule"],  # ty: ignore[invalid-argument-type]
                preset=find_preset(preset),
            )
            episodes = [
                SimpleNamespace(custom_data={"rollout": rollout}, agent_episodes={}) for rollout in rollouts
            ]
            numbers = batch_wide_numbers(episodes)
            for episode in episodes:
                episode.custom_data[BATCH_WIDE] = numbers
            with patch("algorithms.igpo.learner.connectors.are_identical", return_value=False):  # no tokens
                connector(rl_module=None, batch={}, episodes=episodes, shared_data={})
            damage(rollouts)
            log.write(
                IterationRecord(iteration, "train", 0, rollouts, notes.credit, notes.groups),
                {"kl": 0.0},
            )
    return folder


def recredited(folder, preset=None, **changes):
    out = folder / "out.parquet"
    with open_run(folder) as run:
        estimator = choose_estimator(run, preset, changes, trust=True)
        recredit(run, estimator, out)
    return estimator, pq.read_table(out)


def by_rollout(table):
    rows = table.to_pylist()
    return {
        name: [row["advantage"] for row in rows if row["episode_id"] == name]
        for name in dict.fromkeys(row["episode_id"] for row in rows)
    }


@pytest.mark.parametrize(
    "preset", ["igpo", "igpo_v1", "igpo_official", "a2tgpo", "dr_venus", "rloo", "reinforce_pp"]
)
def test_the_run_s_own_preset_gives_the_logged_advantages(tmp_path, preset):
    env = ENV | get_preset(preset).env
    rollouts_of = [random_rollouts(i, seed=i) for i in (1, 2)]
    for rollout in (rollout for rollouts in rollouts_of for rollout in rollouts):
        if rollout.termination is not Termination.ANSWERED:
            name = "format_penalty" if rollout.termination is Termination.MALFORMED else "truncation_penalty"
            rollout.outcome = env[name]
    folder = write_log(tmp_path / "run", rollouts_of, preset=preset, env=env)
    for chosen in (None, preset):
        _, table = recredited(folder, chosen)
        assert table.schema.equals(RECREDITS.schema) and set(table["group_id"].to_pylist()) == {
            "1/a",
            "1/b",
            "2/a",
            "2/b",
        }
        logged, new = (np.array(table[name]) for name in ("advantage_logged", "advantage"))
        assert len(set(logged.tolist())) > 3 and np.abs(new - logged).max() <= 1e-6


def test_settings_that_the_run_changed_are_its_own_but_not_its_preset_s(tmp_path):
    folder = write_log(tmp_path / "run", [random_rollouts(1, seed=1)], gain_basis="prob", ig_weight=2.0)
    _, own = recredited(folder)
    _, preset = recredited(folder, "igpo")
    assert own["advantage"].to_pylist() == pytest.approx(own["advantage_logged"].to_pylist(), abs=1e-6)
    assert preset["advantage"].to_pylist() != pytest.approx(own["advantage"].to_pylist(), abs=1e-3)


def two_rollouts():
    """Gains of the likeliest alias: [1, 0.5] and [0.5]; of the first: [1, 0] and [-1]."""
    first = make_rollout("x", "g", [[-3, -4], [-2, -2.5], [-2, -1.5]], outcome=1.0)
    second = make_rollout("y", "g", [[-2, -3], [-3, -1.5]], outcome=-1.0, termination=Termination.MALFORMED)
    return [first, second]


@pytest.mark.parametrize("preset", ["igpo", "igpo_v1", "a2tgpo", "belief_critic", "rloo"])
def test_questions_without_belief_are_credited_by_their_outcome_as_in_training(tmp_path, preset):
    def forget_scores(rollouts):
        for rollout in rollouts:
            if rollout.group_id == "1/a":
                rollout.scored_golds_K, rollout.initial_scores_K = [], None
                for turn in rollout.turns:
                    turn.scores_K = None
        return rollouts

    env = ENV | get_preset(preset).env
    folder = write_log(tmp_path / "run", [forget_scores(random_rollouts(1, seed=1))], preset=preset, env=env)
    for chosen in (None, preset):
        _, table = recredited(folder, chosen)
        logged, new = (np.array(table[name]) for name in ("advantage_logged", "advantage"))
        assert len(set(logged.tolist())) > 3 and np.abs(new - logged).max() <= 1e-6


def test_another_estimator_by_hand(tmp_path):
    folder = write_log(tmp_path / "run", [two_rollouts()])
    _, table = recredited(folder, "igpo", gamma=0.5)
    expected = advantages([1.0, -1.0], [[1.0, 0.5], [0.5]], "igpo", gamma=0.5)
    assert by_rollout(table)["x"] == pytest.approx(expected[0].tolist())
    assert by_rollout(table)["y"] == pytest.approx(expected[1].tolist())
    assert table["gain"].to_pylist() == [1.0, 0.5, None, 0.5, None]


def test_a_preset_s_aliases_and_penalties_are_replayed_and_its_loss_is_named(tmp_path):
    folder = write_log(tmp_path / "run", [two_rollouts()])
    estimator, table = recredited(folder, "igpo_official", outcome_baseline="rloo")
    expected = advantages([1.0, -2.0], [[1.0, 0.0], [-1.0]], "igpo_official", outcome_baseline="rloo")
    assert by_rollout(table)["x"] == pytest.approx(expected[0].tolist())
    assert by_rollout(table)["y"] == pytest.approx(expected[1].tolist())
    assert estimator.not_replayed == {
        "loss_aggregation": "seq_mean_token_sum",
        "dual_clip": 3.0,
        "entropy_coeff": 0.001,
    }
    with open_run(folder) as run:
        assert choose_estimator(run, "gspo").not_replayed["updates_per_batch"] == "several"
        assert choose_estimator(run).not_replayed == {}


def unscored_turn(rollouts):
    rollouts[0].turns[1].scores_K = None


def unscored_prompt(rollouts):
    rollouts[0].initial_scores_K = None


def long_first_alias(rollouts):
    rollouts[0].scored_golds_K = ["crimson"]


def nothing(rollouts):
    pass


@pytest.mark.parametrize(
    ("lacking", "preset", "message"),
    [
        (
            unscored_turn,
            "igpo",
            r"igpo needs `turns.scores`, which is null for episode x of iteration 1, turn 1: train with",
        ),
        (unscored_prompt, "igpo", r"needs `episodes.initial_scores`, which is null for episode x"),
        (
            long_first_alias,
            "igpo_official",
            r"not in `episodes.scored_golds` .* `env_config.alias_rule: first`",
        ),
        (
            nothing,
            "trace",
            r"scored by the reference policy, but `episodes.scorer` is 'current' .*"
            r"`belief_policy: reference`",
        ),
    ],
)
def test_what_the_log_lacks_is_named_with_the_setting_that_logs_it(tmp_path, lacking, preset, message):
    folder = write_log(tmp_path / "run", [two_rollouts()], damage=lacking)
    with pytest.raises(AnalysisError, match=message):
        recredited(folder, preset)
    assert not (folder / "out.parquet").exists()
    recredited(folder, "rloo")  # the outcome alone needs no belief


def test_an_outcome_against_the_belief_needs_scores_without_any_weight_on_gains(tmp_path):
    changes = {"ig_weight": 0.0, "outcome_baseline": "belief"}
    folder = write_log(tmp_path / "run", [two_rollouts()], **changes)
    _, table = recredited(folder)
    assert by_rollout(table)["x"] == pytest.approx([1.0 - np.exp(-1.5)] * 3)
    assert table["advantage"].to_pylist() == pytest.approx(table["advantage_logged"].to_pylist(), abs=1e-6)
    folder = write_log(tmp_path / "lacking", [two_rollouts()], damage=unscored_prompt)
    with pytest.raises(AnalysisError, match="needs `episodes.initial_scores`, which is null for episode x"):
        recredited(folder, "grpo", **changes)


def test_an_impossible_score_names_episode_and_turn(tmp_path):
    def damage(rollouts):
        rollouts[1].turns[0].scores_K[0] = np.nan

    folder = write_log(tmp_path / "run", [two_rollouts()], damage=damage)
    with pytest.raises(
        AnalysisError,
        match="iteration 1 cannot be credited: episode y, after gain-bearing turn 0: the score of alias",
    ):
        recredited(folder)


def test_belief_of_the_reference_is_enough_for_trace(tmp_path):
    rollouts = two_rollouts()
    for rollout in rollouts:
        rollout.scorer = "reference"
    folder = write_log(tmp_path / "run", [rollouts], preset="trace")
    _, table = recredited(folder, "trace")
    assert table["advantage"].to_pylist() == pytest.approx(table["advantage_logged"].to_pylist(), abs=1e-6)
    with pytest.raises(AnalysisError, match="igpo needs belief scored by the current policy"):
        recredited(folder, "igpo")


@pytest.mark.parametrize(
    ("preset", "changes", "message"),
    [
        ("igpoo", {}, "preset 'igpoo' is unknown; did you mean 'igpo'?"),
        ("igpo", {"ig_weigth": 0.2}, "unknown credit setting 'ig_weigth'; did you mean 'ig_weight'?"),
        ("igpo", {"gamma": 2.0}, r"gamma=2.0 must lie in \[0, 1\]"),
        (
            "igpo",
            {"gain_basis": "logits"},
            "gain_basis='logits': Input should be 'log_prob', 'prob' or 'log_ratio'",
        ),
        ("igpo", {"ig_weight": "much"}, "ig_weight='much': Input should be a valid number"),
    ],
)
def test_estimators_that_do_not_exist(tmp_path, preset, changes, message):
    folder = write_log(tmp_path / "run", [two_rollouts()])
    with pytest.raises(AnalysisError, match=message):
        recredited(folder, preset, **changes)


def test_a_log_of_an_older_version_may_hold_a_removed_setting(tmp_path):
    rollouts, settings = [random_rollouts(1, seed=1)], {"preset": "igpo", "env_config": ENV}
    for value in (False, None, True):
        folder = tmp_path / str(value)
        info = RunInfo(config={"config": {**settings, "truncated_pays_back": value}})
        with RolloutLogWriter(folder / "rollouts", folder.name, 1, info=info) as log:
            log.write(IterationRecord(1, "train", 0, *rollouts), {"kl": 0.0})
        with open_run(folder) as run:
            if not value:
                assert choose_estimator(run).credit == get_preset("igpo").credit
                continue
            with pytest.raises(AnalysisError, match="`truncated_pays_back: true` was removed during"):
                choose_estimator(run)


def test_a_log_without_its_settings_is_refused(tmp_path):
    with RolloutLogWriter(tmp_path / "rollouts", "r", 1) as log:
        log.write(IterationRecord(1, "train", 0, two_rollouts()), {})
    with (
        open_run(tmp_path) as run,
        pytest.raises(AnalysisError, match="`runs.config` does not hold the settings"),
    ):
        choose_estimator(run, "igpo")


def test_changes_by_hand(tmp_path):
    """Group a: one flip of four, ranks (2.5, 2.5, 1, 4) against (4, 2, 1, 3).

    Group b collapses under the new estimator.
    """
    rows = [
        ("a", 1.0, 3.0),
        ("a", 1.0, 0.5),
        ("a", -1.0, -2.0),
        ("a", 2.0, 1.0),
        ("b", 1.0, 0.0),
        ("b", -1.0, 0.0),
    ]
    rows += [("c", 0.0, 0.0), ("c", 0.0, -1e-17)]
    rows[1] = ("a", 1.0, -0.5)
    table = pa.table(
        {
            "iteration": [1] * 8,
            "group_id": [row[0] for row in rows],
            "episode_id": [f"e{k}" for k in range(8)],
            "turn_index": [0] * 8,
            "agent": ["s"] * 8,
            "gain": [None] * 8,
            "advantage_logged": [row[1] for row in rows],
            "advantage": [row[2] for row in rows],
        }
    )
    pq.write_table(table, tmp_path / "it's.parquet")
    changes = credit_changes(tmp_path / "it's.parquet")
    assert (changes.turns, changes.groups, changes.ranked_groups) == (8, 3, 1)
    assert changes.sign_flips == 1 / 8 and changes.largest_difference == 2.0
    # centred ranks (0, 0, -1.5, 1.5) and (1.5, -0.5, -1.5, 0.5): 3.0 / sqrt(4.5 * 5)
    assert changes.rank_correlation == pytest.approx(3.0 / np.sqrt(4.5 * 5.0))
    assert changes.collapsed_logged == pytest.approx(1 / 3) and changes.collapsed == pytest.approx(2 / 3)
    assert [row["episode_id"] for row in changes.most_changed] == ["e0", "e1", "e2", "e3", "e4", "e5"]


@pytest.mark.parametrize(
    ("preset", "settings"),
    [
        ("igpo", {"gamma": 0.9, "ig_weight": 0.5, "outcome_gamma": 0.7}),
        ("igpo_v1", {}),
        ("a2tgpo", {"outcome_weight": 2.0}),
        ("grpo", {}),
    ],
)
def test_a_logged_advantage_is_split_as_the_estimator_adds_it_up(tmp_path, preset, settings):
    folder = write_log(tmp_path / "r", [random_rollouts(1, seed=3)], preset=preset, **settings)
    parts = []
    for removed in ({"outcome_weight": 0.0}, {"ig_weight": 0.0}):
        _, table = recredited(folder, **removed)
        parts.append({(row["episode_id"], row["turn_index"]): row["advantage"] for row in table.to_pylist()})
    with open_run(folder) as run:
        shown = {
            (turn["episode_id"], turn["turn_index"]): split
            for episode in select_episodes(run)
            for one in [load_trajectory(run, episode)]
            for turn, split in zip(one.turns_T, one.parts_T, strict=True)
        }
    for key, split in shown.items():
        both = (parts[0][key], parts[1][key]) if key in parts[0] else None  # a group of one is not trained on
        assert split == (both and pytest.approx(both, abs=1e-12)), key


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    folder = write_log(tmp_path / "runs" / "demo" / "r1", [random_rollouts(i, seed=i) for i in (1, 2)])

    def call(*arguments):
        result = CliRunner().invoke(
            pipeline.cli.igpo.app, ["recredit", "demo", "--runs-dir", str(tmp_path / "runs"), *arguments]
        )
        return result.exit_code, " ".join(result.output.split())

    code, said = call("--preset", "a2tgpo", "--gamma", "0.9", "--set", "ig_weight=0.5")
    assert code == 0, said
    target = folder / "recredit" / "a2tgpo,gamma=0.9,ig_weight=0.5.parquet"
    assert "turns whose sign flips" in said and "ratio_level=turn" in said and "turn 0" in said
    headings = said.split("turns that differ most")[1].split("┡")[0]
    assert [word for word in headings.split() if word.isidentifier()] == [
        *("iteration", "episode", "turn_index", "agent", "logged", "new", "gain", "decision")
    ]  # a narrow terminal shows both advantages before what is cut
    metadata = pq.read_schema(target).metadata
    assert (
        json.loads(metadata[b"credit"])["gamma"] == 0.9
        and metadata[b"estimator"] == b"a2tgpo,gamma=0.9,ig_weight=0.5"
    )
    code, said = call()
    assert (
        code == 0
        and "turns that differ most" not in said
        and (folder / "recredit" / "run_settings.parquet").exists()
    )
    assert "credit under the run's own settings against the log" in said
    with open_run(folder) as run:
        rows = run.sql(
            "SELECT estimator, count(*), count(turns.advantage) FROM recredits JOIN turns"
            " USING (run_id, iteration, episode_id, turn_index) GROUP BY 1 ORDER BY 1"
        ).fetchall()
        ((turns,),) = run.sql("SELECT count(advantage) FROM turns").fetchall()
    assert rows == [("a2tgpo,gamma=0.9,ig_weight=0.5", turns, turns), ("run_settings", turns, turns)]
    file = folder / "recredit" / "run_settings.parquet"
    pq.write_table(pq.read_table(file).slice(0, 5), file)
    asked = ["sql", "demo", "--runs-dir", str(tmp_path / "runs"), "--named", "credit_by_turn_kind"]
    result = CliRunner().invoke(pipeline.cli.igpo.app, asked)
    assert result.stderr.splitlines()[1:] == [
        f"`run_settings` knows 5 of the {turns} turns that run r1 has credited, and is compared with all of "
        "them: write it again with `igpo recredit`"
    ]
    assert call("--preset", "trace")[0] == call("--set", "gamma")[0] == call("--preset", "x")[0] == 2


OWN = """
def f(group):
    assert group.golds == ["red", "crimson"] == list(group.scored_golds_K)
    assert group.decisions_M[0] == "turn 0" or group.is_final_M[0]
    advantages = []
    for scores_TK, agents_T, end, z in zip(
        group.split(group.scores_MK), group.split(group.agents_M), group.terminations_N,
        group.normalised_outcomes_N,
    ):
        advantages.append([
            z + group.settings.gamma * (0.0 if s[0] != s[0] else s[0] + 10 * s[1]) + (agent == "r") + len(end)
            for s, agent in zip(scores_TK, agents_T)
        ])
    return advantages
"""


def test_an_estimator_of_ones_own_gives_in_recredit_what_it_gave_in_training(tmp_path, monkeypatch):
    (tmp_path / "own_in_log.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    rollouts = [random_rollouts(1, 0), random_rollouts(2, 1)]
    run = write_log(tmp_path / "run", rollouts, preset="own_in_log:f")
    rows = recredited(run)[1].to_pylist()
    assert len(rows) > 20 and [row["advantage"] for row in rows] == [row["advantage_logged"] for row in rows]
    # ... and over the log of another run, with a setting changed.
    plain = write_log(tmp_path / "plain", [random_rollouts(1, 0), random_rollouts(2, 1)])
    assert [r["advantage"] for r in recredited(plain, "own_in_log:f")[1].to_pylist()] == [
        row["advantage"] for row in rows
    ]
    half = recredited(plain, "own_in_log:f", gamma=0.5)[1].to_pylist()
    assert [row["advantage"] for row in half] != [row["advantage"] for row in rows]


def test_an_estimator_of_ones_own_that_has_changed_is_told(tmp_path, monkeypatch, run):
    (tmp_path / "own_changing.py").write_text(OWN)
    monkeypatch.chdir(tmp_path)
    folder = write_log(tmp_path / "run", [random_rollouts(1, 0)], preset="own_changing:f")
    facts = {"schema_version": 1, "name": "demo", "run_id": "run", "status": "finished", "attempts": []}
    for code, trained, told in (
        (code_hash("own_changing:f"), "run", False),
        ("0" * 12, "run", True),
        ("0" * 12, "another run's id", False),
    ):
        noted = {**facts, "run_id": trained, "own_code": {"own_changing:f": code}}
        (folder / "run.json").write_text(json.dumps(noted))
        code, said = run("recredit", folder, "--trust", app=pipeline.cli.igpo.app)
        sentence = "the file of `own_changing:f`, or one that it imports, has changed since the run began"
        assert (code, sentence in said) == (0, told), said
    named = run("recredit", folder, "--preset", "own_changing:f", app=pipeline.cli.igpo.app)
    assert named[0] == 0 and "has changed" not in named[1]
