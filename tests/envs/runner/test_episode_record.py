"""The loop builds an episode at the end of its rollout: it must be the one that RLlib's own bookkeeping makes
step by step.
"""

import pickle
from collections import defaultdict

import pytest
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from scripted_engine import ScriptedEngine, tiny_task
from two_roles import PAIR, in_turn

from envs.engine.base import Generate
from envs.runner.job import RolloutJob
from envs.runner.rollout_loop import RolloutLoop
from envs.search.environment import SearchEnv


def alone(context, turn):
    return "<search> mother <end>" if turn < 2 else "<answer> red <end>"


def stepped(task, engine, job) -> MultiAgentEpisode:
    """The rollout of `job`, driven through the environment and RLlib's episode."""
    env = SearchEnv(task)
    policy_of = {role.name: role.policy for role in task.settings.roles}
    episode = MultiAgentEpisode(
        id_=job.rollout_id, agent_to_module_mapping_fn=lambda agent, _: policy_of[agent]
    )
    observations, infos = env.reset(options={"question": job.question, "rollout_id": job.rollout_id})
    episode.add_env_reset(observations=observations, infos=infos)
    contexts = {agent: ids.tolist() for agent, ids in observations.items()}
    while not episode.is_done:
        agent = env.episode.agent
        request_id = f"turn/{job.rollout_id}/{env.episode.rollout.num_turns}"
        engine.submit(Generate(request_id, contexts[agent], env.episode.max_decision_tokens, [], 1.0, 0))
        [decision] = engine.step()
        contexts[agent] += decision.ids
        actions = {agent: decision.ids}
        observations, rewards, terminateds, truncateds, infos = env.step(actions)
        extra = {agent: {"action_logp": decision.logprobs_L, "weights_version": engine.weights_version}}
        episode.add_env_step(
            observations,
            actions,
            rewards,
            infos,
            terminateds=terminateds,
            truncateds=truncateds,
            extra_model_outputs=extra,
        )
        for other, ids in observations.items():
            contexts[other] = [*contexts.get(other, []), *ids.tolist()]
    return episode


def plain(value):
    """Without identities that are drawn at random, clocks, zeros that a defaultdict makes up, and the kinds
    of containers.
    """
    if isinstance(value, defaultdict) and value.default_factory is int:
        return {key: item for key, item in value.items() if item}
    if isinstance(value, dict):
        dropped = (
            "id_",
            "_start_time",
            "_last_step_time",
            "custom_data",
            "_custom_data",
            "agent_to_module_mapping_fn",
        )
        return {key: plain(item) for key, item in value.items() if key not in dropped}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "get_state"):
        return plain(value.get_state())
    return value.tolist() if hasattr(value, "tolist") else value


@pytest.mark.parametrize(
    ("script", "settings"),
    [
        (alone, {}),
        (alone, {"max_turns": 2}),
        (lambda context, turn: "<search> " + "mother " * 60 + "<end>", {}),
        (lambda context, turn: "mother <end>", {}),
        (in_turn(4), {"roles": PAIR, "max_turns": 8}),
        (in_turn(4), {"roles": PAIR, "max_turns": 2}),
        (in_turn(4), {"roles": PAIR, "max_turns": 3}),
    ],
    ids=[
        "answered",
        "turn_limit",
        "cut_off",
        "malformed",
        "two_roles",
        "ends_with_reader",
        "ends_with_searcher",
    ],
)
def test_an_episode_built_at_the_end_is_the_one_built_step_by_step(tmp_path, script, settings):
    task = tiny_task(tmp_path, **settings)
    job = RolloutJob(task.train_questions[0], "r", "g", (0, 1, 0, 0), score_beliefs=False)
    loop = RolloutLoop(task, {"default_policy": ScriptedEngine(task, script)})
    [record], _ = loop.run([job])
    episode = pickle.loads(pickle.dumps(record)).episode(task.policy_of)
    expected = stepped(task, ScriptedEngine(task, script), job)
    assert plain(episode.get_state()) == plain(expected.get_state())
    assert episode.id_ == expected.id_ == "r"
    assert len(episode) == episode.custom_data["rollout"].num_turns
    assert episode.get_return() == expected.get_return() == episode.custom_data["rollout"].outcome
