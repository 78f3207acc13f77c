"""Several agents as RLlib sees them: its own checks, agents that come late or never, and bad speakers."""

import sys
import types

import numpy as np
import pytest
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.utils.pre_checks.env import check_multiagent_environments
from scripted_engine import ScriptedEngine, ids, tiny_task

from envs.runner.job import RolloutJob
from envs.runner.rollout_loop import RolloutLoop
from envs.search.environment import SearchEnv
from envs.search.trajectory import ActionKind, Termination

PAIR = [
    {"name": "searcher", "actions": ["search", "answer", "message"], "to": "critic", "policy": "learning"},
    {"name": "reader", "actions": ["message"], "reads": "searcher", "policy": "frozen"},
    {"name": "critic", "actions": ["message"], "to": "searcher", "policy": "frozen"},
]


def play(env, texts, question):
    """Steps through `texts` by plain reset and step; returns the steps as (agent, rewards, done flags)."""
    observations, _ = env.reset(options={"question": question})
    steps = []
    for text in texts:
        (agent,) = observations
        action = np.array(ids(env.task, text), dtype=np.int32)
        observations, rewards, terminateds, truncateds, _ = env.step({agent: action})
        steps.append((agent, rewards, terminateds["__all__"], truncateds["__all__"]))
    return steps


def test_rllibs_own_check(tmp_path):
    env = SearchEnv(tiny_task(tmp_path, roles=PAIR))
    env._agent_ids = set(env.agents)  # without it RLlib's check returns at once
    env.observation_space = env.action_space = None
    check_multiagent_environments(env)
    assert env.episode.rollout.num_turns == 1  # it was reset, and stepped with a random action


def test_an_agent_that_comes_late_and_one_that_never_does(tmp_path):
    """RLlib's episode has a part for each agent that spoke: the reader, which came later, not the critic."""
    task = tiny_task(tmp_path, roles=PAIR, max_turns=9)
    env, question = SearchEnv(task), task.train_questions[0]
    episode = MultiAgentEpisode(agent_to_module_mapping_fn=task.policy_of)
    observations, infos = env.reset(options={"question": question})
    episode.add_env_reset(observations=observations, infos=infos)
    for text in ("<search> mother <end>", "<message> mother <end>", "<answer> red <end>"):
        (agent,) = observations
        action = {agent: np.array(ids(task, text), np.int32)}
        observations, rewards, terminateds, truncateds, infos = env.step(action)
        episode.add_env_step(
            observations, action, rewards, infos, terminateds=terminateds, truncateds=truncateds
        )
    assert episode.is_done and set(episode.agent_episodes) == {"searcher", "reader"}
    assert [len(episode.agent_episodes[agent]) for agent in ("searcher", "reader")] == [2, 1]
    assert {episode.module_for(agent) for agent in ("searcher", "reader", "critic")} == {"learning", "frozen"}


def test_a_scripted_agent_beside_another(tmp_path):
    """Each policy has an engine of its own; a script is one like any other, and says so by its version."""
    task = tiny_task(tmp_path, roles=PAIR, max_turns=6)
    learning = ScriptedEngine(
        task, lambda context, turn: "<search> mother <end>" if turn == 0 else "<answer> red <end>"
    )
    frozen = ScriptedEngine(task, lambda context, turn: "<message> mother <end>")
    learning.weights_version, frozen.weights_version = 3, 0
    loop = RolloutLoop(task, {"learning": learning, "frozen": frozen})
    [record], _ = loop.run([RolloutJob(task.train_questions[0], "r", "g", (0,))])
    assert [(turn.agent, turn.policy, turn.weights_version) for turn in record.rollout.turns] == [
        ("searcher", "learning", 3),
        ("reader", "frozen", 0),
        ("searcher", "learning", 3),
    ]
    assert not frozen.scored_contexts and learning.scored_contexts  # belief is the answering role's


@pytest.mark.parametrize(
    ("text", "action", "termination", "outcome", "truncated"),
    [
        ("", ActionKind.CUT_OFF, Termination.TOKEN_LIMIT, 0.25, True),
        ("<end>", ActionKind.MALFORMED, Termination.MALFORMED, -1.0, False),
        ("<message> <end>", ActionKind.MALFORMED, Termination.MALFORMED, -1.0, False),
    ],
)
def test_an_agent_that_writes_nothing_ends_its_rollout(
    tmp_path, text, action, termination, outcome, truncated
):
    task = tiny_task(tmp_path, roles=PAIR, truncation_penalty=0.25)
    env = SearchEnv(task)
    (_, (agent, rewards, ended, cut)) = play(env, ["<search> mother <end>", text], task.train_questions[0])
    rollout = env.episode.rollout
    assert agent == "reader" and (ended, cut) == (not truncated, truncated)
    assert (rollout.turns[-1].action, rollout.termination) == (action, termination)
    assert rewards == {"searcher": 0.0, "reader": outcome}


def test_the_second_of_two_that_may_answer_ends_the_rollout_and_is_paid(tmp_path):
    """Belief stays that of the first of them (definitions: Belief and information gain)."""
    duo = [
        {"name": "first", "actions": ["search", "answer", "message"], "to": "second"},
        {"name": "second", "actions": ["answer", "message"], "to": "first", "policy": "other"},
    ]
    task = tiny_task(tmp_path, roles=duo)
    question = task.train_questions[0]
    env = SearchEnv(task)
    texts = ["<message> mother <end>", f"<answer> {question.golds[0]} <end>"]
    *_, (agent, rewards, ended, _) = play(env, texts, question)
    assert agent == "second" and ended and rewards == {"first": 0.0, "second": 1.0}
    prompt = task.prompt(task.roles["first"], question)
    assert task.answering_role.name == "first" and env.episode.history[: len(prompt)] == prompt


def test_a_draft_is_an_answer_that_goes_to_another_as_a_message(tmp_path):
    """The drafter is prompted as one that answers; its answer ends nothing and is not paid."""
    team = [
        {"name": "drafter", "actions": ["search", "draft"], "to": "verifier"},
        {"name": "verifier", "actions": ["answer", "message"], "to": "drafter"},
    ]
    task = tiny_task(tmp_path, roles=team)
    env, question = SearchEnv(task), task.train_questions[0]
    prompt = task.prompt(task.roles["drafter"], question)
    assert prompt == task.protocol.prompt("", question.text, ["search", "answer"])
    observations, _ = env.reset(options={"question": question})
    assert observations["drafter"].tolist() == prompt
    observations, *_ = env.step({"drafter": np.array(ids(task, "<answer> red <end>"))})
    assert task.protocol.text(observations["verifier"].tolist()).endswith("<note> red </note>")
    turn = env.episode.rollout.turns[0]
    assert turn.action is ActionKind.MESSAGE and turn.answer is None
    assert turn.decision_text == "<answer> red <end>"
    *_, (agent, rewards, ended, _) = play(
        env, ["<answer> red <end>", "<message> mother <end>", "<answer> red <end>",
              f"<answer> {question.golds[0]} <end>"], question,
    )  # fmt: skip
    assert agent == "verifier" and ended and rewards == {"drafter": 0.0, "verifier": 1.0}


def test_a_speaker_rule_that_loops_ends_at_the_turn_limit(tmp_path, monkeypatch):
    """A rule of one's own may go round without an answer: that is a truncated rollout; the run goes on."""
    module = types.ModuleType("my_loop")
    module.loop = lambda speaker: "critic" if speaker == "searcher" else "searcher"
    monkeypatch.setitem(sys.modules, "my_loop", module)
    task = tiny_task(tmp_path, roles=PAIR, max_turns=4, next_speaker="my_loop:loop")
    env = SearchEnv(task)
    steps = play(env, ["<message> mother <end>"] * 4, task.train_questions[0])
    assert [agent for agent, *_ in steps] == ["searcher", "critic", "searcher", "critic"]
    assert steps[-1][2:] == (False, True) and env.episode.rollout.termination is Termination.TURN_LIMIT
