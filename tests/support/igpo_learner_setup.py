"""A tiny random Llama, hand-made episodes and a learner for the tests."""

from __future__ import annotations

from dataclasses import asdict

import gymnasium as gym
import numpy as np
import torch
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode

from algorithms.igpo.config import IGPOConfig
from algorithms.igpo.learner.groups import BATCH_WIDE, batch_wide_numbers
from algorithms.igpo.learner.learner import IGPOTorchLearner
from algorithms.igpo.loss_settings import LossSettings
from algorithms.igpo.model.causal_lm import HFCausalLM
from envs.data.question import Question
from envs.search.trajectory import ActionKind, Rollout, Termination, Turn

VOCAB = 61
TOKENS = gym.spaces.Sequence(gym.spaces.Discrete(VOCAB))


def save_tiny_llama(folder, *, seed=0, tied=True, hidden=32):
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=tied,
        attention_dropout=0.1,
        initializer_range=0.2,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)


def learner_config(*, loss=None, **settings):
    """An `IGPOConfig` without KL; `loss` is a `LossSettings`, `settings` are other attributes."""
    config, loss = IGPOConfig(), loss or LossSettings(kl_coeff=0.0)
    for name, value in {"model_path": "tiny", "lr": 1e-3, **asdict(loss), **settings}.items():
        if not hasattr(config, name):
            raise AttributeError(name)
        setattr(config, name, value)
    return config


def module_spec(paths, **model_config):
    return MultiRLModuleSpec(
        rl_module_specs={
            module_id: RLModuleSpec(
                module_class=HFCausalLM,
                observation_space=TOKENS,
                action_space=TOKENS,
                model_config={"path": path, **model_config},
            )
            for module_id, path in paths.items()
        }
    )


def make_learner(paths, *, model_config=None, **settings):
    paths = paths if isinstance(paths, dict) else {"default_policy": paths}
    learner = IGPOTorchLearner(
        config=learner_config(**settings), module_spec=module_spec(paths, **(model_config or {}))
    )
    learner.build()
    return learner


def make_episode(
    rollout_id, group, agents, *, outcome, scores, rng, policy=lambda agent: "default_policy", tokens=None
):
    """An episode whose turns are written by `agents` in this order; `scores` are s_0, s_1, ... of the
    gain-bearing turns.
    """
    turns = [
        Turn(
            index=k,
            agent=agent,
            policy=policy(agent),
            decision_text="",
            action=ActionKind.TOOL,
            scores_K=None,
        )
        for k, agent in enumerate(agents)
    ]
    rollout = Rollout(
        id=rollout_id,
        group_id=group,
        question=Question(id=f"q-{group}", text="?", golds=["a"]),
        turns=turns,
        scored_golds_K=["a"],
        initial_scores_K=np.array([scores[0]]),
        termination=Termination.ANSWERED,
        outcome=outcome,
    )
    for turn, score in zip(rollout.gain_bearing_turns, scores[1:], strict=True):
        turn.scores_K = np.array([score])
    episode = MultiAgentEpisode(agent_to_module_mapping_fn=lambda agent, _episode, **_kwargs: policy(agent))

    def ids(low=2, high=9):
        return rng.integers(0, VOCAB, rng.integers(low, high)).astype(np.int32)

    if agents:
        episode.add_env_reset(observations={agents[0]: ids(5, 12)}, infos={agents[0]: {}})
    for k, agent in enumerate(agents):
        decision = ids() if tokens is None else np.asarray(tokens[k], np.int32)
        logp = np.log(rng.uniform(0.01, 0.05, len(decision))).astype(np.float32)
        last = k == len(agents) - 1
        following = {} if last else {agents[k + 1]: ids()}
        if last:
            following = {agent: np.zeros(0, np.int32)}
        episode.add_env_step(
            observations=following,
            actions={agent: decision},
            rewards={agent: 0.0},
            infos={key: {} for key in following},
            terminateds={"__all__": last},
            extra_model_outputs={agent: {"action_logp": logp}},
        )
    episode.custom_data["rollout"] = rollout
    return episode


def make_batch(*, groups=3, size=3, seed=0, agents=("searcher",), policy=lambda agent: "default_policy"):
    rng = np.random.default_rng(seed)
    return [
        make_episode(
            f"{group}-{member}",
            f"g{group}",
            [agents[k % len(agents)] for k in range(num_turns)],
            outcome=float(rng.uniform()),
            scores=list(-rng.uniform(0.1, 3, num_turns)),
            rng=rng,
            policy=policy,
        )
        for group in range(groups)
        for member in range(size)
        for num_turns in [int(rng.integers(1, 5))]
    ]


def stamp(episodes):
    """Puts the numbers of the whole batch into every episode, in place and in this order."""
    numbers = batch_wide_numbers(episodes)
    for episode in episodes:
        episode.custom_data[BATCH_WIDE] = numbers


def update(learner, episodes):
    stamp(episodes)
    return learner.update(episodes=episodes, timesteps={"num_env_steps_sampled_lifetime": 100})


def random_rows(lengths=(9, 5, 12), seed=0):
    """`token_ids`, `loss_mask` and `row_id` of rows of these lengths; every second token is a target."""
    generator = torch.Generator().manual_seed(seed)
    token_ids = torch.randint(0, VOCAB, (sum(lengths),), generator=generator)
    mask = torch.rand(token_ids.shape, generator=generator) < 0.5
    start = np.cumsum(lengths) - lengths
    mask[start], mask[start + 1] = False, True
    return token_ids, mask, torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))


def gradients(learner, module_id="default_policy"):
    """The gradient left by the last update (after clipping)."""
    module = learner.module[module_id].unwrapped()
    return {name: p.grad.clone() for name, p in module.hf.named_parameters() if p.grad is not None}
