"""The typed trace of one rollout: what happened, turn by turn, in time order.

A `Rollout` carries facts (texts, tool calls, beliefs, outcome). The token ids and sampler log-probs that
training uses stand beside it in its `EpisodeRecord`, and in the RLlib episode made of that (observations,
actions, ``extra_model_outputs``), whose `custom_data["rollout"]` is the `Rollout`. Timestep k of an agent's
sub-episode is the k-th of `Rollout.turns` that this agent wrote.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from envs.data.question import Question


class Termination(StrEnum):
    """Why a rollout ended (SPEC §3: the first that applies decides the outcome)."""

    ANSWERED = "answered"
    """The last turn carries a well-formed answer."""
    MALFORMED = "malformed"
    """The turn that ended the rollout had unbalanced or misplaced tags, no action, or more than one answer.
    """
    TURN_LIMIT = "turn_limit"
    """`max_turns` turns were spent without an answer (SPEC: truncated)."""
    TOKEN_LIMIT = "token_limit"
    """A turn or the context ran out of tokens before an answer (SPEC: truncated)."""

    @property
    def is_truncated(self) -> bool:
        return self in (Termination.TURN_LIMIT, Termination.TOKEN_LIMIT)


class ActionKind(StrEnum):
    """What a turn's decision asks for."""

    TOOL = "tool"
    ANSWER = "answer"
    MESSAGE = "message"
    """Words for another role."""
    MALFORMED = "malformed"
    CUT_OFF = "cut_off"
    """The turn ran out of tokens before its end: no observation, no gain."""


@dataclass(slots=True)
class ToolCall:
    """One call of a tool and what came back. `error` is None for a call that worked. `seconds` is wall-clock.

    `failed` is True where the error was not the policy's own: server down, time out. `credits` is what a paid
    service took.
    """

    tool: str
    arguments: dict
    result_text: str = ""
    document_ids: list[str] = field(default_factory=list)
    document_scores: list[float] = field(default_factory=list)
    error: str | None = None
    failed: bool = False
    credits: float = 0.0
    seconds: float = 0.0


@dataclass(slots=True)
class Turn:
    """One decision of one agent and the observation that answered it.

    `scores_K` are s_t(a^k) of SPEC §2, float64, one per scored alias, taken after this turn's observation;
    None where the turn is not gain-bearing (the final turn, a turn that was cut off).
    """

    index: int
    """Position in the episode in time order, from 0, whoever wrote it."""
    agent: str
    policy: str
    decision_text: str
    action: ActionKind
    query: str | None = None
    answer: str | None = None
    parse_error: str | None = None
    tool_calls: list[ToolCall] = field(default_factory=list)
    observation_text: str = ""
    num_decision_tokens: int = 0
    num_observation_tokens: int = 0
    observation_cut: bool = False
    """True where the observation was shortened to the token limit."""
    neutralised_tags: int = 0
    """How many protocol tags inside the observation were made harmless."""
    gold_hit: bool | None = None
    """Whether a gold document that no earlier turn retrieved was retrieved; None where gold evidence is not
    known."""
    scores_K: np.ndarray | None = None
    weights_version: int = 0
    seconds_generate: float = 0.0
    seconds_tool: float = 0.0
    seconds_score: float = 0.0

    @property
    def is_cut_off(self) -> bool:
        return self.action is ActionKind.CUT_OFF


@dataclass(slots=True)
class Rollout:
    """One rollout of a prompt: turns in time order, and how it ended.

    `initial_scores_K` is s_0: the score of each scored alias after the prompt alone. `scored_golds_K` are
    those aliases. `answering_tokens` etc. are counts over the whole rollout.
    """

    id: str
    group_id: str
    question: Question
    split: str = "train"
    turns: list[Turn] = field(default_factory=list)
    scored_golds_K: list[str] = field(default_factory=list)
    initial_scores_K: np.ndarray | None = None
    scorer: str = "current"
    answer: str | None = None
    termination: Termination | None = None
    outcome: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    """`f1_paper`, `em_paper`, `f1_squad`, `em_squad`."""
    seconds: float = 0.0

    @property
    def num_turns(self) -> int:
        return len(self.turns)

    @property
    def is_truncated(self) -> bool:
        """Whether turns or tokens ran out before an answer."""
        return self.termination is not None and self.termination.is_truncated

    @property
    def gain_bearing_turns(self) -> list[Turn]:
        """Every completed turn except the final one (SPEC §2)."""
        return [turn for turn in self.turns[:-1] if not turn.is_cut_off]
