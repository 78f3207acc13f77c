"""`SearchEnv`: the search task as an RLlib `MultiAgentEnv`. Observations and actions are token ids.

An agent's observation holds the new tokens of its context, at first its prompt. Its action is the decision
that it writes. The observations of a step name exactly one agent, the one that speaks next.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from ray.rllib.env.multi_agent_env import MultiAgentEnv
from ray.rllib.utils.annotations import override
from ray.rllib.utils.typing import MultiAgentDict

from envs.data.question import Question
from envs.errors import InputError
from envs.search.config import SearchEnvSettings
from envs.search.episode import SearchEpisode
from envs.search.task import SearchTask
from envs.search.trajectory import ToolCall

TOKENS = gym.spaces.Sequence(gym.spaces.Discrete(2**31 - 1))


class SearchEnv(MultiAgentEnv):
    """Multi-turn question answering with tools, by one or several roles.

    Args:
        config: `env_config` (a dictionary of `SearchEnvSettings`), or a `SearchTask` to share between
            instances.

    `reset(options={"question": Question, "rollout_id": str, "group_id": str, "split": str})` starts on a
    given question. Without options it draws a training question with the random state that `seed` sets. A
    given question whose prompt leaves no room for a decision raises InputError.
    """

    def __init__(self, config: dict[str, Any] | SearchTask):
        super().__init__()
        self.task = config if isinstance(config, SearchTask) else SearchTask(SearchEnvSettings(**config))
        self.possible_agents = [role.name for role in self.task.settings.roles]
        self.agents = list(self.possible_agents)
        self.observation_spaces = dict.fromkeys(self.possible_agents, TOKENS)
        self.action_spaces = dict.fromkeys(self.possible_agents, TOKENS)
        self._rng: np.random.Generator | None = None
        self._episode: SearchEpisode | None = None

    @property
    def episode(self) -> SearchEpisode:
        """The rollout under way. Raises RuntimeError before the first `reset`."""
        if self._episode is None:
            raise RuntimeError("call reset before step")
        return self._episode

    @override(MultiAgentEnv)
    def reset(self, *, seed: int | None = None, options: dict | None = None):
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        options = options or {}
        question = options.get("question")
        if question is None:
            if self._rng is None:
                # Only now: gathering entropy takes longer than building the rest, and rollouts need none.
                self._rng = np.random.default_rng()
            questions = self.task.train_questions
            question = self.task.playable_from(int(self._rng.integers(len(questions))))
        self._episode = self.begin(
            question,
            rollout_id=options.get("rollout_id", question.id),
            group_id=options.get("group_id", question.id),
            split=options.get("split", "train"),
        )
        prompt = self._episode.start()
        if prompt is None:
            raise InputError(f"question {question.id}: {self.task.lack_of_room(question)}")
        return {prompt.agent: _array(prompt.ids)}, {prompt.agent: {}}

    def begin(self, question: Question, *, rollout_id: str, group_id: str, split: str) -> SearchEpisode:
        """Builds the state machine of one rollout of `question`, without starting it."""
        return SearchEpisode(self.task, question, rollout_id=rollout_id, group_id=group_id, split=split)

    @override(MultiAgentEnv)
    def step(self, action_dict: MultiAgentDict):
        """Takes the speaker's decision, carries out its tool calls and returns the next observation.

        A decision without the protocol's end of turn counts as cut off by the token budget.

        Raises:
            ValueError: `action_dict` holds another agent than the speaker.
        """
        calls = self.decide(action_dict)
        for call in calls:
            self.task.tools(call)
        return self.observe()

    def decide(self, action_dict: MultiAgentDict) -> list[ToolCall]:
        """First half of `step`: returns the tool calls to carry out, in any thread, before `observe`."""
        if set(action_dict) != {self.episode.agent}:
            raise ValueError(f"it is {self.episode.agent}'s turn, got actions of {list(action_dict)}")
        ids = [int(token) for token in action_dict[self.episode.agent]]
        return self.episode.decide(ids, completed=self.task.protocol.is_complete(ids))

    def observe(self):
        """Second half of `step`: `(observations, rewards, terminateds, truncateds, infos)`.

        When the rollout ends, every agent that spoke gets an empty last observation, and the last speaker
        gets the outcome as its reward.
        """
        speaker = self.episode.agent
        seen = self.episode.observe()
        if seen is not None:
            rewards = {speaker: 0.0, seen.agent: 0.0}
            done = {"__all__": False}
            return {seen.agent: _array(seen.ids)}, rewards, done, dict(done), {seen.agent: {}}
        rollout = self.episode.rollout
        spoke = {turn.agent for turn in rollout.turns}
        truncated = rollout.is_truncated
        rewards = {agent: rollout.outcome if agent == speaker else 0.0 for agent in spoke}
        observations = {agent: _array([]) for agent in spoke}
        return (
            observations,
            rewards,
            {"__all__": not truncated},
            {"__all__": truncated},
            {agent: {} for agent in spoke},
        )


def _array(ids: list[int]) -> np.ndarray:
    return np.asarray(ids, dtype=np.int32)
