"""Demonstrated rows: token for token what the rollout loop would show and the learner would train on."""

import pytest
from scripted_engine import ScriptedEngine, ids, tiny_task
from scripted_retriever import ScriptedRetriever

from algorithms.igpo.learner.token_batch import join_rows, turn_tokens
from algorithms.warm_start.demonstrated import play_all
from envs.demonstrations.demonstration import Demonstration
from envs.errors import InputError
from envs.retrieval.base import RetrieverError
from envs.runner.job import RolloutJob
from envs.runner.rollout_loop import RolloutLoop


@pytest.fixture
def task(tmp_path):
    return tiny_task(tmp_path, max_turns=4)


def demonstration(task, index=0):
    """A question of the generated world, with the names of its documents to search for."""
    question = task.train_questions[index]
    return Demonstration(
        question, [task.corpus.by_id(document).title for document in question.gold_document_ids]
    )


def test_a_row_is_what_a_rollout_of_the_same_decisions_would_be(task):
    demonstrations = [demonstration(task, k) for k in range(5)]
    rows, dropped = play_all(task, demonstrations)
    assert len(rows) == 5 and not dropped
    for row, one in zip(rows, demonstrations, strict=True):
        words = [f"<search> {query} <end>" for query in one.searches] + [
            f"<answer> {one.question.golds[0]} <end>"
        ]
        loop = RolloutLoop(
            task, {"default_policy": ScriptedEngine(task, lambda context, turn, words=words: words[turn])}
        )
        [record], _ = loop.run([RolloutJob(one.question, "r", "g", (0, 0, 0, 0))])
        assert record.rollout.metrics["em_squad"] == 1.0
        tokens = turn_tokens([record.episode(task.policy_of)])
        expected = [
            (one_turn.context_ids_C, one_turn.decision_ids_L) for _, one_turn in sorted(tokens.items())
        ]
        assert [(part.ids.tolist(), part.decision) for part in row.parts] == [
            (ids.tolist(), bool(k)) for pair in expected for k, ids in enumerate(pair)
        ]


def test_only_decisions_are_learned(task):
    one = demonstration(task)
    columns = join_rows(play_all(task, [one])[0])
    learned = columns["token_ids"][columns["loss_mask"]].tolist()
    decisions = (
        " ".join(f"<search> {query} <end>" for query in one.searches)
        + f" <answer> {one.question.golds[0]} <end>"
    )
    assert learned == ids(task, decisions)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"max_turns": 1}, "it takes more than max_turns or max_context_tokens"),
        ({"max_turn_tokens": 2}, "a decision is longer than max_turn_tokens"),
        ({"max_observation_tokens": 2}, "the answer is cut off by max_observation_tokens"),
        ({"max_context_tokens": 32}, "the question leaves no room in max_context_tokens"),
    ],
)
def test_what_the_limits_do_not_allow_is_dropped_and_said(tmp_path, settings, reason):
    task = tiny_task(tmp_path, **settings)
    one = demonstration(task)
    if "max_context_tokens" in settings:
        one.question.text = "color of " + "mother of " * 30 + "?"
    with pytest.raises(InputError, match=rf"none of the 1 demonstrations can be played \(1: {reason}\)"):
        play_all(task, [one])


def test_a_decision_that_the_protocol_reads_otherwise_is_dropped(task):
    good, bad = demonstration(task, 0), demonstration(task, 1)
    bad.searches[0] = "Zanzibar"  # no word of the tokenizer
    rows, dropped = play_all(task, [bad, good])
    assert len(rows) == 1 and dropped == {"the protocol does not read its decision as tool": 1}
    assert rows[0].sequence_id == 0


def test_a_search_that_fails_ends_it(task):
    task.retriever = ScriptedRetriever({demonstration(task).searches[0]: RetrieverError("server down")})
    with pytest.raises(InputError, match="could not be played: the search failed: server down"):
        play_all(task, [demonstration(task)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tools": ["calculator"]}, "call the tool `search`"),
        (
            {
                "roles": [
                    {"name": "searcher"},
                    {"name": "reader", "actions": ["message"], "reads": "searcher"},
                ]
            },
            "played by one role",
        ),
    ],
)
def test_an_environment_without_a_lone_searcher_is_refused(tmp_path, settings, message):
    task = tiny_task(tmp_path, **settings)
    with pytest.raises(InputError, match=message):
        play_all(task, [demonstration(task)])
