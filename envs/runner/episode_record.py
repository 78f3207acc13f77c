"""The record of a rollout (the tokens that its agents saw and wrote), and RLlib's episode made from it.

The driver builds the episode after the rollout has ended, for two reasons. RLlib checks the whole episode
after each step, and the engine would wait for that. And sending an episode to another process is slow,
sending a record is quick. The result equals the episode that `MultiAgentEpisode.add_env_step` would build
from the steps of `SearchEnv`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, SupportsFloat

import numpy as np
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.env.utils.infinite_lookback_buffer import InfiniteLookbackBuffer

from envs.engine.base import Generated
from envs.runner.belief import QUERY, BeliefQuery
from envs.search.roles import RolePolicies
from envs.search.trajectory import Rollout

NOTHING = np.zeros(0, dtype=np.int32)
"""The last observation of every agent that spoke, once the rollout has ended."""


@dataclass(slots=True)
class _AgentRecord:
    observations: list[np.ndarray] = field(default_factory=list)
    seen_at: list[int] = field(default_factory=list)
    """The environment step of each observation."""
    actions: list[np.ndarray] = field(default_factory=list)
    logps: list[np.ndarray] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)


@dataclass(slots=True)
class EpisodeRecord:
    """The tokens of one rollout. Call `see` and `write` in turn during the rollout, then `episode`.

    The agent of the last `see` writes next.

    Attributes:
        rollout: the trace.
        query: the contexts and answers for the learner's side to score; None where the engine scores them.
    """

    rollout: Rollout
    query: BeliefQuery | None = None
    _agents: dict[str, _AgentRecord] = field(default_factory=dict)
    _steps: int = 0

    def see(self, agent: str, ids: list[int]) -> None:
        """Adds an observation of `agent`."""
        record = self._agents.get(agent)
        if record is None:
            record = self._agents[agent] = _AgentRecord()
        record.observations.append(np.asarray(ids, dtype=np.int32))
        record.seen_at.append(self._steps)

    def write(self, agent: str, decision: Generated, weights_version: int) -> None:
        """Adds a decision of `agent`, which ends an environment step."""
        record = self._agents[agent]
        record.actions.append(np.asarray(decision.ids, dtype=np.int32))
        record.logps.append(decision.logprobs_L)
        record.versions.append(weights_version)
        self._steps += 1

    def decisions(self, agent: str) -> list[np.ndarray]:
        """Returns the token ids of each of the agent's turns, int32 [L]."""
        return self._agents[agent].actions

    def episode(self, policy_of: RolePolicies) -> MultiAgentEpisode:
        """Builds RLlib's episode of the finished rollout. The last speaker gets the outcome as its reward.

        Observations and actions are token ids. `action_logp` and `weights_version` are extra model outputs.
        `custom_data["rollout"]` is the `Rollout`, and `custom_data[QUERY]` is `query`, where there is one.

        Args:
            policy_of: agent id to module id.
        """
        rollout = self.rollout
        episode_id: Any = rollout.id  # RLlib's annotations disagree about its type
        episode = MultiAgentEpisode(id_=episode_id, agent_to_module_mapping_fn=policy_of)
        episode.env_t = self._steps
        episode.is_terminated, episode.is_truncated = not rollout.is_truncated, rollout.is_truncated
        for agent, record in self._agents.items():
            rewards: list[SupportsFloat] = [0.0] * len(record.actions)
            if agent == rollout.turns[-1].agent:
                rewards[-1] = rollout.outcome
            episode.agent_episodes[agent] = SingleAgentEpisode(
                observations=[*record.observations, NOTHING],
                actions=list(record.actions),
                rewards=rewards,
                extra_model_outputs={
                    "action_logp": list(record.logps),
                    "weights_version": list(record.versions),
                },
                terminated=episode.is_terminated,
                truncated=episode.is_truncated,
                len_lookback_buffer=0,
                agent_id=agent,
                module_id=episode.module_for(agent),
                multi_agent_episode_id=episode_id,
            )
            agent_steps: list[int | str] = [episode.SKIP_ENV_TS_TAG] * (self._steps + 1)
            for k, step in enumerate((*record.seen_at, self._steps)):
                agent_steps[step] = k
            episode.env_t_to_agent_t[agent] = InfiniteLookbackBuffer(agent_steps)
        episode.custom_data["rollout"] = rollout
        if self.query is not None:
            episode.custom_data[QUERY] = self.query
        return episode
