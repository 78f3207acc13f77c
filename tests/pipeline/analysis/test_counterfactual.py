"""What turns were worth: by hand with scores that count tokens, and with the embedded policy."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rollout_log_samples import two_agents, write_run
from scripted_engine import ScriptedEngine, tiny_task
from two_roles import PAIR, in_turn, logged_turns
from typer.testing import CliRunner

from algorithms.igpo.iteration_record import IterationRecord, TurnCredit, token_texts
from algorithms.igpo.learner.token_batch import turn_tokens
from envs.runner.job import RolloutJob
from envs.runner.replay import replay
from envs.runner.rollout_loop import RolloutLoop
from pipeline.analysis import open_run
from pipeline.analysis.offline.counterfactual import TurnWorth, turn_worths
from pipeline.analysis.tables_beside import COUNTERFACTUALS
from pipeline.cli.igpo import app
from pipeline.evaluation.saved_policy import Policy, start_policy


def test_by_hand_where_a_score_counts_tokens(tmp_path):
    """`ScriptedEngine` scores a context of L tokens as -L / 100, so a turn of n tokens is worth -n / 100."""
    task = tiny_task(tmp_path, roles=PAIR)
    loop = RolloutLoop(task, {"default_policy": ScriptedEngine(task, in_turn(2))})
    [record], _ = loop.run([RolloutJob(task.train_questions[0], "r", "g", (0,))])
    again = replay(
        task,
        record.rollout.question,
        logged_turns(record.rollout, turn_tokens([record.episode(task.policy_of)])),
    )
    prompt, found = (len(again.history[k].ids) for k in (0, 1))
    history, told = (
        prompt + found + 3,
        prompt + 3 + 3,
    )  # what was told: the searcher's own query, and the note
    (worths,) = turn_worths(Policy("", None, task, {}, loop).scores, [again], "max")
    assert worths == [
        TurnWorth(0, *near(np.exp(-history / 100), np.exp(-(prompt + 3) / 100), -found / 100)),
        TurnWorth(
            1, *near(np.exp(-history / 100), np.exp(-(prompt + found) / 100), -3 / 100),
            *near(np.exp(-told / 100), np.exp(-(prompt + 3) / 100), -3 / 100),
        ),
    ]  # fmt: skip


def near(*values):
    return [pytest.approx(value, abs=1e-12) for value in values]


ROLES = {"roles": PAIR, "max_turns": 8, "max_context_tokens": 512, "max_observation_tokens": 64}


@pytest.fixture(scope="module")
def experiment(tmp_path_factory):
    """An experiment of two roles on the embedded policy, by transformers."""
    from tiny_policy import write_experiment

    folder = tmp_path_factory.mktemp("experiment")
    return write_experiment(folder / "demo.yaml", "tiny", env=ROLES, engine={"kind": "transformers"})


@pytest.fixture(scope="module")
def scorer(experiment):
    from pipeline.experiment.experiment import load_experiment

    return start_policy(load_experiment(str(experiment)).algorithm_config(), "tiny")


@pytest.fixture(scope="module")
def rollouts(scorer):
    jobs = [
        RolloutJob(question, f"{question.id}/{k}", question.id, (0, q, k))
        for q, question in enumerate(scorer.task.train_questions[:4])
        for k in range(2)
    ]
    return scorer.loop.run(jobs)[0]


@pytest.fixture
def run_folder(rollouts, scorer, tmp_path):
    episodes = [record.episode(scorer.task.policy_of) for record in rollouts]
    tokens = turn_tokens(episodes)
    credit = {(r.rollout.id, turn.index): TurnCredit(None, None, None, None, 0.0, 0.0)
              for r in rollouts for turn in r.rollout.turns}  # fmt: skip
    for record in rollouts:
        score = record.rollout.initial_scores_K[0]
        for turn in record.rollout.gain_bearing_turns:
            before, score = score, turn.scores_K[0]
            credit[record.rollout.id, turn.index] = TurnCredit(
                float(np.exp(before)), float(np.exp(score)), float(score - before), 0.0, 0.0, 0.0
            )
    texts = token_texts(tokens.values(), scorer.task.protocol.tokenizer)
    record = IterationRecord(
        3, "train", 0, [r.rollout for r in rollouts], credit, tokens=tokens, token_texts=texts
    )
    return write_run(tmp_path, written=[record])


def test_the_last_turn_is_worth_its_gain(rollouts, scorer):
    tokens = turn_tokens([record.episode(scorer.task.policy_of) for record in rollouts])
    again = [
        replay(scorer.task, record.rollout.question, logged_turns(record.rollout, tokens))
        for record in rollouts
    ]
    spread = []
    for record, worths in zip(rollouts, turn_worths(scorer.scores, again, "max"), strict=True):
        turns = record.rollout.gain_bearing_turns
        scores = [record.rollout.initial_scores_K[0], *(turn.scores_K[0] for turn in turns)]
        assert [worth.turn for worth in worths] == [turn.index for turn in turns]
        assert worths[-1].worth == pytest.approx(scores[-1] - scores[-2], abs=1e-4)
        assert all(worth.belief == pytest.approx(np.exp(scores[-1]), abs=1e-4) for worth in worths)
        told = [worth.turn for worth in worths if worth.told_worth is not None]
        assert told == [turn.index for turn in turns if turn.agent == "reader"]
        spread += [worth.worth for worth in worths]
    assert np.ptp(spread) > 0.5


def counterfactual(*arguments):
    result = CliRunner().invoke(app, ["counterfactual", *map(str, arguments)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, " ".join(result.output.split())


@pytest.fixture
def quiet(monkeypatch):
    monkeypatch.setattr("pipeline.logging.configure_logging", lambda verbosity: None)
    monkeypatch.setattr("pipeline.logging.configure_ray_logging", lambda verbosity: None)


@pytest.mark.slow
def test_the_command_writes_a_view_and_reports_agreement(run_folder, experiment, quiet):
    code, said = counterfactual(run_folder, "--policy", "tiny", "--config", experiment)
    assert code == 0, said
    with open_run(run_folder) as run:
        rows = run.sql(
            """
            SELECT scored_by, iteration, agent, gain, worth, told_worth, is_last
            FROM (SELECT * EXCLUDE (agent, action) FROM counterfactuals) JOIN (
                SELECT *, turn_index = max(turn_index) FILTER (WHERE gain IS NOT NULL)
                    OVER (PARTITION BY episode_id) AS is_last
                FROM turns
            ) USING (run_id, iteration, episode_id, turn_index)
            """
        ).fetchall()
        agreement = run.named("counterfactual_agreement").fetchall()
    assert {row[0] for row in rows} == {"tiny-000003"} and {row[1] for row in rows} == {3}
    assert all(row[3] == pytest.approx(row[4], abs=1e-4) for row in rows if row[6])
    assert all((row[5] is not None) == (row[2] == "reader") for row in rows)
    assert f"{len(rows)} turns of" in said
    assert {row[2:5] for row in agreement} >= {
        ("reader", "as told", "gain"),
        ("searcher", "in the history", "gain"),
    }


@pytest.mark.slow
def test_what_cannot_be_scored_is_told_in_one_sentence(run_folder, experiment, quiet, tmp_path):
    code, said = counterfactual(
        run_folder,
        "--policy",
        "tiny",
        "--config",
        experiment,
        "--set",
        "env_config.max_observation_tokens=20",
    )
    assert code == 2
    assert "cannot be played again: turn 1: reader would have seen other tokens." in said
    assert not list(run_folder.glob("counterfactual/*"))
    assert counterfactual(run_folder) == (
        2,
        f"error: {run_folder} has no checkpoint: name a policy with --policy.",
    )
    without_tokens = write_run(tmp_path / "other", written=[two_agents()])
    for words, of in ((), "this run"), (("--iteration", "9"), "iteration 9"):
        code, said = counterfactual(without_tokens, *words)
        assert code == 2 and said.startswith(f"error: the log holds no token ids of {of}, and a rollout is")


def test_agreement_by_hand(tmp_path):
    """The reader's gains 0.5, -1, 0.25 rank 3, 1, 2, and so do the told worths; its advantages rank 3, 2, 1.

    Rank correlation 1 - 6 * 2 / (3 * 8) of the advantages. Worths in the history are all equal: no rank.
    """
    folder = write_run(tmp_path, written=[two_agents()])
    told = {("t1", 1): 2.0, ("t2", 1): -1.0, ("t2", 3): 0.0}
    rows = [
        dict.fromkeys(COUNTERFACTUALS.schema.names, None)
        | {"run_id": "run-1", "iteration": 1, "episode_id": episode, "turn_index": turn, "agent": "reader",
           "worth": 0.5, "told_worth": worth}
        for (episode, turn), worth in told.items()
    ]  # fmt: skip
    (folder / "counterfactual").mkdir()
    pq.write_table(
        pa.Table.from_pylist(rows, COUNTERFACTUALS.schema), folder / "counterfactual" / "last.parquet"
    )
    with open_run(folder) as run:
        got = run.named("counterfactual_agreement").fetchall()
    assert got == [
        (
            "run-1",
            "last",
            "reader",
            "as told",
            "advantage as trained",
            0.5,
            1.0,
            3,
            1,
            near(1 / 3)[0],
            near(-4 / 3)[0],
        ),
        (
            "run-1",
            "last",
            "reader",
            "as told",
            "gain",
            near(1.0)[0],
            1.0,
            3,
            1,
            near(1 / 3)[0],
            near(-0.25 / 3)[0],
        ),
        (
            "run-1",
            "last",
            "reader",
            "in the history",
            "advantage as trained",
            None,
            None,
            3,
            3,
            0.5,
            near(-4 / 3)[0],
        ),
        ("run-1", "last", "reader", "in the history", "gain", None, None, 3, 3, 0.5, near(-0.25 / 3)[0]),
    ]
