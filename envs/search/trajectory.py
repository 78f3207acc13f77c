"""The typed trace of one rollout, turn by turn in time order.

A `Rollout` holds texts, tool calls, beliefs and the outcome. The token ids and the sampler's log-probs, which
training uses, are in its `EpisodeRecord` and in the RLlib episode made from that (observations, actions,
`extra_model_outputs`). That episode holds the `Rollout` as `custom_data["rollout"]`. Timestep k of an agent's
sub-episode is the k-th of `Rollout.turns` that this agent wrote.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from envs.data.question import Question


class Termination(StrEnum):
    """Why a rollout ended; the first that applies decides the outcome (definitions: Outcome)."""

    ANSWERED = "answered"
    """The last turn carries a well-formed answer."""
    MALFORMED = "malformed"
    """The turn that ended the rollout had unbalanced or misplaced tags, no action, or more than one answer;
    or no turn or room was left to try it again."""
    TURN_LIMIT = "turn_limit"
    """`max_turns` turns passed without an answer. Counts as truncated."""
    TOKEN_LIMIT = "token_limit"
    """A turn or the context ran out of tokens before an answer; where the prompt leaves no room, before the
    first turn. Counts as truncated."""

    @property
    def is_truncated(self) -> bool:
        return self in (Termination.TURN_LIMIT, Termination.TOKEN_LIMIT)


class ActionKind(StrEnum):
    """The kind of action that a turn's decision asks for."""

    TOOL = "tool"
    ANSWER = "answer"
    MESSAGE = "message"
    """Text for another role."""
    MALFORMED = "malformed"
    CUT_OFF = "cut_off"
    """The turn ran out of tokens before its end: no observation, no gain."""


@dataclass(slots=True)
class ToolCall:
    """One call of a tool and its result.

    Attributes:
        tool: the tool's name.
        arguments: the arguments, as the policy wrote them.
        result_text: the text that the policy reads.
        document_ids: the documents that the call retrieved.
        document_scores: one score per document where the tool has scores, else empty.
        error: the message of a call that did not work, else None.
        failed: whether the error is the tool's (server down, time out) and not the policy's.
        credits: the price that a paid service took.
        seconds: wall-clock time of the call; NaN where it was not measured.
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
    """One decision of one agent and the observation that answered it."""

    index: int
    """Position in the rollout in time order, from 0, over all agents."""
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
    """Number of protocol tags inside the observation that were made harmless."""
    gold_hit: bool | None = None
    """Whether the turn retrieved a gold document that no earlier turn had; None where gold evidence is not
    known."""
    scores_K: np.ndarray | None = None
    """s_t(a^k), float64, one score per scored alias, taken after this turn's observation (definitions: Belief
    and information gain). None where the turn bears no gain: the final turn, or a turn that was cut off."""
    weights_version: int = 0
    seconds_generate: float = 0.0
    """NaN where it was not measured, as the other two."""
    seconds_tool: float = 0.0
    seconds_score: float = 0.0

    @property
    def is_cut_off(self) -> bool:
        return self.action is ActionKind.CUT_OFF


@dataclass(slots=True)
class Rollout:
    """One rollout of a prompt: its turns in time order, and its end.

    Attributes:
        id: unique id of the rollout.
        group_id: id of the group, which shares the prompt.
        question: the prompt.
        split: "train" or "heldout".
        turns: the turns in time order, over all agents.
        scored_golds_K: the gold answers (aliases) whose belief is scored; empty where the question is played
            without belief.
        initial_scores_K: s_0, float64, the score of each of them after the prompt alone; None where belief is
            not scored (yet).
        scorer: whose belief it is, "current" or "reference".
        answer: the answer; None where the rollout ended without one.
        termination: why the rollout ended; None while it runs.
        outcome: the reward of the answer, or the penalty.
        metrics: `f1_paper`, `em_paper`, `f1_squad`, `em_squad` and `f1_chars` of the answer, each in [0, 1].
        seconds: wall-clock time of the rollout; NaN where it was not measured.
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
    seconds: float = 0.0

    @property
    def num_turns(self) -> int:
        return len(self.turns)

    @property
    def without_belief(self) -> bool:
        """Whether no gold answer is short enough to score, so that no turn has a gain."""
        return not self.scored_golds_K

    @property
    def is_truncated(self) -> bool:
        """Whether turns or tokens ran out before an answer."""
        return self.termination is not None and self.termination.is_truncated

    @property
    def gain_bearing_turns(self) -> list[Turn]:
        """Every completed turn except the final one, where the question has belief (definitions: Belief and
        information gain).
        """
        return [] if self.without_belief else [turn for turn in self.turns[:-1] if not turn.is_cut_off]
