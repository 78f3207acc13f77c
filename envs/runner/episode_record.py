"""What a rollout showed its agents and what they wrote, and RLlib's episode made of it.

The episode is built when the rollout is over: RLlib checks a whole episode after each of its steps, and the engine would wait
for that. The result is what `MultiAgentEpisode.add_env_step` would have made of the steps of `SearchEnv`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, SupportsFloat

import numpy as np
from ray.rllib.env.multi_agent_episode import MultiAgentEpisode
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.env.utils.infinite_lookback_buffer import InfiniteLookbackBuffer

from envs.runner.engine import Generated
from envs.search.roles import RolePolicies
from envs.search.trajectory import Rollout

NOTHING = np.zeros(0, dtype=np.int32)
"""What every agent that spoke sees when the rollout is over."""


@dataclass(slots=True)
class _AgentRecord:
    observations: list[list[int]] = field(default_factory=list)
    seen_at: list[int] = field(default_factory=list)
    """The environment's step of each observation."""
    actions: list[list[int]] = field(default_factory=list)
    logps: list[np.ndarray] = field(default_factory=list)
    versions: list[int] = field(default_factory=list)


class EpisodeRecord:
    """Call `see` and `write` in turn as the rollout goes on, then `episode`. An agent that saw something writes next."""

    def __init__(self) -> None:
        self._agents: dict[str, _AgentRecord] = {}
        self._steps = 0

    def see(self, agent: str, ids: list[int]) -> None:
        record = self._agents.get(agent)
        if record is None:
            record = self._agents[agent] = _AgentRecord()
        record.observations.append(ids)
        record.seen_at.append(self._steps)

    def write(self, agent: str, decision: Generated, weights_version: int) -> None:
        record = self._agents[agent]
        record.actions.append(decision.ids)
        record.logps.append(decision.logprobs_L)
        record.versions.append(weights_version)
        self._steps += 1

    def episode(self, rollout: Rollout, policy_of: RolePolicies) -> MultiAgentEpisode:
        """The episode of the finished `rollout`, which it carries. The last speaker earns the outcome."""
        episode_id: Any = rollout.id  # RLlib's annotations disagree about its type
        episode = MultiAgentEpisode(id_=episode_id, agent_to_module_mapping_fn=policy_of)
        episode.env_t = self._steps
        episode.is_terminated, episode.is_truncated = not rollout.is_truncated, rollout.is_truncated
        for agent, record in self._agents.items():
            rewards: list[SupportsFloat] = [0.0] * len(record.actions)
            if agent == rollout.turns[-1].agent:
                rewards[-1] = rollout.outcome
            episode.agent_episodes[agent] = SingleAgentEpisode(
                observations=[*_arrays(record.observations), NOTHING],
                actions=_arrays(record.actions),
                rewards=rewards,
                extra_model_outputs={"action_logp": record.logps, "weights_version": record.versions},
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
        return episode


def _arrays(parts: list[list[int]]) -> list[np.ndarray]:
    return [np.asarray(ids, dtype=np.int32) for ids in parts]
