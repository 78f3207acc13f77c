"""The interface of a protocol: prompt, parser, observation format and scoring template.

A protocol turns text into token ids and back. It knows no tools, engines or learners, and every method is
pure. Token-in, token-out: ids that the policy sampled are never decoded and tokenised again (definitions:
Objects).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from typing import Protocol as TypingProtocol

import numpy as np

from envs.search.trajectory import ActionKind


@dataclass(slots=True)
class Action:
    """A parsed decision.

    Attributes:
        kind: the kind of action.
        tool: the name of the tool to call; None for other kinds.
        arguments: the tool's arguments.
        text: the content of an answer or a message.
        error: the fault of a MALFORMED decision. With TOOL: the fault inside a well-formed call, which is
            then not carried out.
        ends_rollout: for MALFORMED: whether the rollout is over (no action at all, a broken or a second
            answer) or the policy may try again.
    """

    kind: ActionKind
    tool: str | None = None
    arguments: dict = field(default_factory=dict)
    text: str = ""
    error: str = ""
    ends_rollout: bool = True


@dataclass(slots=True)
class Observation:
    """The tokens to append after a decision.

    Attributes:
        ids: token ids that close the decision if the engine did not, carry the text, and open the next turn.
        text: the text, uncut.
        cut: whether the text was cut to the token limit.
        neutralised_tags: number of control tokens and protocol tags in the text that were made harmless.
    """

    ids: list[int]
    text: str
    cut: bool = False
    neutralised_tags: int = 0


@dataclass(slots=True)
class ScoringSuffix:
    """The answer template for one gold answer, to append to a history with an open turn.

    (definitions: Belief and information gain)

    Attributes:
        ids: L token ids: template prefix, gold answer, template suffix, tokenised once as a whole.
        gold_mask_L: bool [L], marks the tokens that overlap any character of the gold answer.
    """

    ids: list[int]
    gold_mask_L: np.ndarray


class Protocol(TypingProtocol):
    """One way of talking to a policy."""

    name: str
    tokenizer: Any
    """The Hugging Face tokenizer; saved with checkpoints."""
    stop_token_ids: list[int]
    """Tokens that end a turn when sampled; such a token belongs to the decision."""
    stop_strings: list[str]
    """Strings that end a turn when the decision's text ends in one; empty where only tokens end turns."""

    def prompt(self, system: str, question: str, actions: list[str]) -> list[int]:
        """Token ids of an agent's first context, up to where its first decision begins.

        Args:
            system: the role's own instruction; empty for the protocol's.
            question: the question, as plain text.
            actions: what the role may do: "search", "answer", "message".
        """
        ...

    def parse(self, decision_ids: list[int]) -> Action:
        """The action that a completed decision asks for.

        Takes linear time and never raises: bad text gives `ActionKind.MALFORMED`.
        """
        ...

    def is_complete(self, decision_ids: list[int]) -> bool:
        """Whether the policy ended the decision itself, and did not run out of tokens."""
        ...

    def decision(self, action: Action) -> list[int]:
        """The ids by which a policy asks for `action` (TOOL or ANSWER), with the end of the turn.

        `parse` gives `action` back.
        """
        ...

    def text(self, decision_ids: list[int]) -> str:
        """The decision as text, for people and logs."""
        ...

    def reopen(self, decision_ids: list[int]) -> list[int]:
        """The ids that close `decision_ids` and open the next turn, without text in between."""
        ...

    def observation(self, text: str, *, decision_ids: list[int], sender: str, max_tokens: int) -> Observation:
        """Renders an observation as plain text after a decision.

        Control-token strings and the protocol's own tags inside `text` are made harmless and counted.

        Args:
            text: the text to show.
            decision_ids: the decision before it; empty at the start of a context.
            sender: "tool", "error" or a role's name.
            max_tokens: limit on the tokens of `text`; the tokens around it come on top.
        """
        ...

    def scoring_suffix(self, answer: str) -> ScoringSuffix:
        """The answer template for `answer`.

        Raises:
            ValueError: the answer has no tokens to score.
        """
        ...
