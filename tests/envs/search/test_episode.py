from dataclasses import replace

import numpy as np
import pytest
from scripted_engine import ids, tiny_task

from envs.data.question import Question
from envs.errors import InputError
from envs.search.environment import SearchEnv
from envs.search.episode import SearchEpisode
from envs.search.protocols.base import Action
from envs.search.tools.base import MAX_RESULT_CHARACTERS, Tool, Toolbox
from envs.search.trajectory import ActionKind, Termination, ToolCall

TWO_ROLES = [
    {"name": "searcher", "actions": ["search", "answer"]},
    {"name": "reader", "actions": ["message"], "reads": "searcher", "policy": "reading"},
]


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return tiny_task(tmp_path_factory.mktemp("tokenizer"), max_turns=3)


def episode_of(task, question=None):
    return SearchEpisode(task, question or task.train_questions[0], rollout_id="r", group_id="g")


def act(task, episode, text, completed=True):
    for call in episode.decide(ids(task, text), completed=completed):
        task.tools(call)
    return episode.observe()


def test_a_search_then_an_answer(task):
    question = next(q for q in task.train_questions if q.hops == 1)
    episode = episode_of(task, question)
    prompt = episode.start()
    assert prompt.agent == "searcher" and prompt.ids == episode.history
    name = question.metadata["entity"]
    seen = act(task, episode, f"<search> {name} <end>")
    turn = episode.rollout.turns[0]
    assert turn.action is ActionKind.TOOL and turn.query == name and turn.gold_hit is True
    assert turn.tool_calls[0].document_ids == question.gold_document_ids
    assert episode.history == prompt.ids + ids(task, f"<search> {name} <end>") + seen.ids
    assert act(task, episode, f"<answer> {question.golds[0]} <end>") is None
    rollout = episode.rollout
    assert rollout.termination is Termination.ANSWERED and rollout.outcome == 1.0
    assert rollout.metrics == dict.fromkeys(("f1_paper", "em_paper", "f1_squad", "em_squad", "f1_chars"), 1.0)
    assert rollout.gain_bearing_turns == [turn]


def test_a_wrong_answer_is_an_outcome_of_zero(task):
    episode = episode_of(task)
    episode.start()
    act(task, episode, "<answer> unknown <end>")
    assert (episode.rollout.termination, episode.rollout.outcome) == (Termination.ANSWERED, 0.0)


def test_a_repeated_search_is_no_second_gold_hit(task):
    question = task.train_questions[0]
    episode = episode_of(task, question)
    episode.start()
    for _ in range(2):
        act(task, episode, f"<search> {question.metadata['entity']} <end>")
    assert [turn.gold_hit for turn in episode.rollout.turns] == [True, False]


def test_the_turn_limit_truncates_and_keeps_earlier_gains(task):
    episode = episode_of(task)
    episode.start()
    for _ in range(2):
        assert act(task, episode, "<search> mother <end>") is not None
    assert act(task, episode, "<search> mother <end>") is None
    rollout = episode.rollout
    assert (rollout.termination, rollout.outcome) == (Termination.TURN_LIMIT, 0.0)
    assert [turn.index for turn in rollout.gain_bearing_turns] == [0, 1]


def test_a_turn_cut_off_has_no_observation_and_no_gain(task):
    episode = episode_of(task)
    episode.start()
    assert act(task, episode, "<search> mother", completed=False) is None
    rollout = episode.rollout
    assert rollout.termination is Termination.TOKEN_LIMIT and rollout.gain_bearing_turns == []
    assert rollout.turns[0].action is ActionKind.CUT_OFF and rollout.turns[0].num_observation_tokens == 0


def test_no_action_ends_the_rollout_with_the_format_penalty(task):
    episode = episode_of(task)
    episode.start()
    assert act(task, episode, "mother <end>") is None
    assert (episode.rollout.termination, episode.rollout.outcome) == (Termination.MALFORMED, -1.0)


def test_an_action_that_the_role_lacks_gets_an_error_or_ends_as_malformed(task):
    episode = episode_of(task)
    episode.start()
    assert act(task, episode, "<message> mother <end>") is None
    assert episode.rollout.turns[0].parse_error == "searcher may not message, only search, answer"


def test_the_context_budget_reserves_the_scoring_suffix(tmp_path):
    task = tiny_task(tmp_path, max_turns=50, max_context_tokens=120, max_turn_tokens=16)
    episode = episode_of(task)
    episode.start()
    longest = episode.templates.longest
    while not episode.done:
        act(task, episode, "<search> mother <end>")
        if not episode.done:
            assert len(episode.history) + episode.max_decision_tokens + longest <= 120
    assert episode.rollout.termination is Termination.TOKEN_LIMIT
    assert len(episode.history) + longest <= 120
    assert any(turn.observation_cut for turn in episode.rollout.turns)


def test_a_prompt_without_room_ends_the_rollout_unanswered(tmp_path):
    task = tiny_task(tmp_path, max_context_tokens=48)
    question = Question("long", "mother of " * 20 + "?", ["red"])
    episode = episode_of(task, question)
    assert episode.start() is None and episode.done
    rollout = episode.rollout
    assert (rollout.termination, rollout.outcome, rollout.turns) == (Termination.TOKEN_LIMIT, 0.0, [])
    assert set(rollout.metrics.values()) == {0.0}
    with pytest.raises(InputError, match="question long: its prompt of 43 tokens") as said:
        SearchEnv(task).reset(options={"question": question})
    needed = int(str(said.value).split("raise it to ")[1].split()[0])
    for limit, room in ((needed - 1, 0), (needed, 1)):
        task = tiny_task(tmp_path, max_context_tokens=limit)
        assert task.room(question) == room and (episode_of(task, question).start() is not None) == (room == 1)


def test_random_questions_are_those_that_can_be_played(tmp_path):
    task = tiny_task(tmp_path, world={"train_questions": 2, "heldout_questions": 10})
    task.train_questions[0] = Question("long", "mother of " * 500 + "?", ["red"])
    env, short = SearchEnv(task), task.train_questions[1]
    for seed in range(4):
        env.reset(seed=seed)
        assert env.episode.rollout.question is short
    sampler = task.prompt_sampler(seed=0)
    assert sampler.next(3) == [1, 1, 1]
    task.train_questions[1] = task.train_questions[0]
    with pytest.raises(InputError, match="no training question can be played: its prompt of 1003 tokens"):
        env.reset(seed=0)


def test_a_role_has_a_context_of_its_own(tmp_path):
    """Alone, a searcher with room for one document gets nothing of a second; a reader tells it of three."""
    usual = tiny_task(tmp_path)
    question = next(q for q in usual.train_questions if q.hops == 3)
    search = f"<search> {question.metadata['entity']} <end>"
    prompt = usual.prompt(usual.answering_role, question)
    episode = episode_of(usual, question)
    episode.start()
    seen = act(usual, episode, search)
    one_document = len(prompt) + len(ids(usual, search)) + len(seen.ids)
    limit = one_document + len(ids(usual, search)) + usual.observation_overhead + 1
    searcher = TWO_ROLES[0] | {"max_context_tokens": limit}

    alone = tiny_task(tmp_path, roles=[searcher])
    assert alone.room(question) == limit - alone.observation_overhead - len(prompt)
    episode = episode_of(alone, question)
    episode.start()
    assert act(alone, episode, search).ids == seen.ids
    assert act(alone, episode, search) is None
    second = episode.rollout.turns[1]
    assert second.observation_cut and second.num_observation_tokens == 1 + alone.observation_overhead
    assert episode.rollout.termination is Termination.TOKEN_LIMIT

    team = tiny_task(tmp_path, roles=[searcher, TWO_ROLES[1]], max_turns=9)
    episode = episode_of(team, question)
    episode.start()
    for _ in range(3):
        act(team, episode, search)
        act(team, episode, "<message> mother <end>")
    assert not any(turn.observation_cut for turn in episode.rollout.turns)
    act(team, episode, f"<answer> {question.golds[0]} <end>")
    assert episode.rollout.outcome == 1.0
    assert len(episode.history) > limit, "belief is scored on what both have seen"


def test_a_prompt_longer_than_its_roles_context_is_told(tmp_path):
    question = Question("long", "mother of " * 20 + "?", ["red"])
    roles = [TWO_ROLES[0] | {"max_context_tokens": 40}]
    task = tiny_task(tmp_path, roles=roles)
    lack = task.lack_of_room(question)
    assert lack.startswith("its prompt of 43 tokens and the 2 reserved for observation leave no room in ")
    needed = int(lack.split("roles.0.max_context_tokens=40: raise it to ")[1].split()[0])
    for limit, room in ((needed - 1, 0), (needed, 1)):
        assert tiny_task(tmp_path, roles=[roles[0] | {"max_context_tokens": limit}]).room(question) == room
    reads = tiny_task(tmp_path, roles=[TWO_ROLES[0], TWO_ROLES[1] | {"max_context_tokens": 40}])
    assert reads.room(question) == reads.rooms(question)["roles.1.max_context_tokens"] < 1, (
        "and no other lacks"
    )
    with pytest.raises(ValueError, match="role searcher: its max_context_tokens .600. is more than"):
        tiny_task(tmp_path, roles=[roles[0] | {"max_context_tokens": 600}])


def test_a_question_without_belief_reserves_no_room_and_bears_no_gain(tmp_path):
    task = tiny_task(tmp_path, max_turns=3)
    question = task.train_questions[0]
    long = replace(question, golds=["red " * 129])
    episode, usual = episode_of(task, long), episode_of(task, question)
    assert episode.templates.longest == 0 and episode.rollout.without_belief
    assert task.room(long) == task.room(question) + usual.templates.longest
    episode.start()
    act(task, episode, "<search> mother <end>")
    act(task, episode, "<answer> red <end>")
    assert episode.rollout.gain_bearing_turns == [] and episode.rollout.metrics["f1_paper"] == 1.0
    kept = episode_of(task, replace(question, golds=["red " * 129, "red"])).rollout
    assert kept.scored_golds_K == ["red"] and not kept.without_belief


def retryable(monkeypatch, task):
    """Makes every decision malformed in a way that the policy may mend."""
    action = Action(ActionKind.MALFORMED, error="mother " * 40, ends_rollout=False)
    monkeypatch.setattr(task.protocol, "parse", lambda ids: action)


@pytest.mark.parametrize("limit", [{"max_context_tokens": 90}, {"max_turns": 2}])
def test_a_malformed_turn_that_nothing_is_left_to_mend_is_malformed(tmp_path, monkeypatch, limit):
    task = tiny_task(tmp_path, **{"max_turns": 50, "max_turn_tokens": 16, **limit})
    retryable(monkeypatch, task)
    episode = episode_of(task)
    episode.start()
    while not episode.done:
        act(task, episode, "<search> mother <end>")
    assert 1 < episode.rollout.num_turns < 50
    assert (episode.rollout.termination, episode.rollout.outcome) == (Termination.MALFORMED, -1.0)
    assert not episode.rollout.is_truncated


def test_a_turn_that_is_cut_off_is_truncated_whatever_it_holds(tmp_path, monkeypatch):
    task = tiny_task(tmp_path)
    retryable(monkeypatch, task)
    episode = episode_of(task)
    episode.start()
    act(task, episode, "<search> mother", completed=False)
    assert (episode.rollout.termination, episode.rollout.outcome) == (Termination.TOKEN_LIMIT, 0.0)


def test_reader_gets_the_documents_and_the_searcher_its_note(tmp_path):
    task = tiny_task(tmp_path, roles=TWO_ROLES, max_turns=6)
    question = task.train_questions[0]
    name = question.metadata["entity"]
    episode = episode_of(task, question)
    searcher_prompt = episode.start()
    to_reader = act(task, episode, f"<search> {name} <end>")
    assert to_reader.agent == "reader"
    reader_prompt = task.protocol.prompt("", question.text, ["message"])
    documents = to_reader.ids[len(reader_prompt) :]
    assert to_reader.ids[: len(reader_prompt)] == reader_prompt
    to_searcher = act(task, episode, f"<message> {name} mother <end>")
    assert to_searcher.agent == "searcher"
    assert task.protocol.text(to_searcher.ids) == f"<note> {name} mother </note>"
    # Belief sees turns and observations in time order, each token once.
    search, message = ids(task, f"<search> {name} <end>"), ids(task, f"<message> {name} mother <end>")
    assert episode.history == searcher_prompt.ids + search + documents + message
    assert [turn.policy for turn in episode.rollout.turns] == ["default_policy", "reading"]


def test_the_environment_through_plain_reset_and_step(tmp_path):
    env = SearchEnv(
        {"tokenizer": str(tiny_task(tmp_path).settings.tokenizer), "roles": TWO_ROLES, "max_turns": 6}
    )
    question = env.task.train_questions[3]
    observations, infos = env.reset(seed=1, options={"question": question})
    assert list(observations) == list(infos) == ["searcher"]
    script = {
        "searcher": iter(
            [f"<search> {question.metadata['entity']} <end>", f"<answer> {question.golds[0]} <end>"]
        ),
        "reader": iter(["<message> mother <end>"]),
    }
    agents = []
    done = False
    while not done:
        (agent,) = observations
        agents.append(agent)
        assert env.observation_spaces[agent].contains(tuple(int(i) for i in observations[agent]))
        action = np.array(ids(env.task, next(script[agent])), dtype=np.int32)
        observations, rewards, terminateds, truncateds, _ = env.step({agent: action})
        done = terminateds["__all__"] or truncateds["__all__"]
    assert agents == ["searcher", "reader", "searcher"]
    assert rewards == {"searcher": 1.0, "reader": 0.0} and terminateds["__all__"]


def test_it_is_one_agents_turn(task):
    env = SearchEnv(task)
    env.reset(seed=0)
    with pytest.raises(ValueError, match="it is searcher's turn, got actions of \\['reader'\\]"):
        env.step({"reader": np.array([1])})


def test_reset_by_seed_is_reproducible(task):
    first, second = SearchEnv(task), SearchEnv(task)
    a, b = first.reset(seed=5)[0]["searcher"], second.reset(seed=5)[0]["searcher"]
    np.testing.assert_array_equal(a, b)


def test_half_a_surrogate_pair_from_a_server_is_shown_as_a_question_mark(task):
    episode = episode_of(task)
    episode.start()
    (call,) = episode.decide(ids(task, "<search> mother <end>"), completed=True)
    call.result_text = "red \ud800 food"
    episode.observe()
    assert episode.rollout.turns[0].observation_text == "red ? food"


def test_a_text_of_megabytes_is_cut_before_it_is_tokenised(task, monkeypatch):
    """A document of 100 MB took 100 s and 5.8 GiB."""
    seen, observe = [], type(task.protocol).observation
    monkeypatch.setattr(
        type(task.protocol),
        "observation",
        lambda self, text, **options: seen.append(len(text)) or observe(self, text, **options),
    )
    episode = episode_of(task)
    episode.start()
    (call,) = episode.decide(ids(task, "<search> mother <end>"), completed=True)
    task.tools(call)
    call.result_text, call.error = "red " * 3_000_000, None
    episode.observe()
    turn = episode.rollout.turns[0]
    assert turn.observation_cut and turn.num_observation_tokens <= task.settings.max_observation_tokens + 8
    assert max(seen) == 256 * task.settings.max_observation_tokens


def test_a_result_that_no_observation_can_show_is_cut_where_it_is_kept():
    def huge() -> str:
        """Answers at length."""
        return "x" * 5_000_000

    call = Toolbox([Tool(huge, "huge")])(ToolCall("huge", {}))
    assert len(call.result_text) == MAX_RESULT_CHARACTERS
