"""A tiny random Llama, hand-made episodes and a minimal RLlib config for the tests of the learner."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.rl_module.multi_rl_module import MultiRLModuleSpec
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode

from algorithms.credit import CreditConfig
from algorithms.igpo.learner.connectors import build_learner_pipeline_pieces
from algorithms.igpo.learner.learner import IGPOTorchLearner
from algorithms.igpo.learner.loss import LossSettings
from algorithms.igpo.model.causal_lm import HFCausalLM
from envs.data.question import Question
from envs.runner.belief import BeliefScoring
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


class LearnerConfig(AlgorithmConfig):
    """What the learner reads of `IGPOConfig`."""

    def __init__(self, algo_class=None):
        super().__init__(algo_class)
        self.credit = CreditConfig()
        self.loss = LossSettings(kl_coeff=0.0)
        self.num_epochs = 1
        self.num_minibatches = 1
        self.tokens_per_micro_batch = 4096
        self.shard_learner = False
        self.offload_optimizer = False
        self.torch_skip_nan_gradients = True
        self.belief_scoring = BeliefScoring("current", "vllm_prefix")
        self.reference_scored_policy = None
        self.reference_refresh_interval = 0
        self.lr = 1e-3
        self.grad_clip = 1.0
        self.log_tokens = False

    def loss_settings(self):
        return self.loss

    def build_learner_connector(self, input_observation_space, input_action_space, device=None):
        self.add_default_connectors_to_learner_pipeline = False
        pipeline = super().build_learner_connector(input_observation_space, input_action_space, device=device)
        for piece in build_learner_pipeline_pieces(self.credit, self.loss, num_learners=self.num_learners):
            pipeline.append(piece)
        return pipeline


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
    config = LearnerConfig()
    paths = paths if isinstance(paths, dict) else {"default_policy": paths}
    for name, value in settings.items():
        if not hasattr(config, name):
            raise AttributeError(name)
        setattr(config, name, value)
    learner = IGPOTorchLearner(config=config, module_spec=module_spec(paths, **(model_config or {})))
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


def update(learner, episodes):
    return learner.update(episodes=episodes, timesteps={"num_env_steps_sampled_lifetime": 100})


def gradients(learner, module_id="default_policy"):
    """The gradient left by the last update (after clipping)."""
    module = learner.module[module_id].unwrapped()
    return {name: p.grad.clone() for name, p in module.hf.named_parameters() if p.grad is not None}
