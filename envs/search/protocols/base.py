"""What a protocol is: prompt, parser, observation format and scoring template of one way of talking to the
policy.

A protocol turns text into token ids and back; it knows nothing of tools, engines or learners. Every method is
pure. Token-in, token-out: ids that the policy sampled are never decoded and tokenised again.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any
from typing import Protocol as TypingProtocol

import numpy as np

from envs.search.trajectory import ActionKind


@dataclass(slots=True)
class Action:
    """A parsed decision. `arguments` are the tool's arguments.

    `error` says what was malformed; with a TOOL action, what was wrong inside a well-formed call, which is
    then not carried out.
    """

    kind: ActionKind
    tool: str | None = None
    arguments: dict = field(default_factory=dict)
    text: str = ""
    """The answer's or the message's content."""
    error: str = ""
    ends_rollout: bool = True
    """For MALFORMED: whether the rollout is over (no action at all, a broken or a second answer), or the
    policy may try again."""


@dataclass(slots=True)
class Observation:
    """What is appended after a decision: `ids` close it if the engine did not, carry the text, and open the
    next turn.
    """

    ids: list[int]
    text: str
    cut: bool = False
    neutralised_tags: int = 0


@dataclass(slots=True)
class ScoringSuffix:
    """The answer template of SPEC §2 for one gold answer, to be appended to a history that has an open turn.

    `ids` [L]: template prefix, gold answer, template suffix, tokenised once as a whole. `gold_mask_L` [L]
    bool marks the tokens that overlap any character of the gold answer.
    """

    ids: list[int]
    gold_mask_L: np.ndarray


class Protocol(TypingProtocol):
    """One way of talking to a policy."""

    name: str
    tokenizer: Any
    """The Hugging Face tokenizer; saved with checkpoints."""
    stop_token_ids: list[int]
    """A sampled token of this list ends the turn; it belongs to the decision."""
    stop_strings: list[str]
    """The turn also ends where the decision's text ends in one of these; empty where tokens alone end turns.
    """

    def prompt(self, system: str, question: str, actions: list[str]) -> list[int]:
        """Ids of an agent's first context; ends where its first decision begins.

        `system` is the role's own instruction.
        """
        ...

    def parse(self, decision_ids: list[int]) -> Action:
        """The action that a completed decision asks for.

        Never raises; linear time; bad text gives `ActionKind.MALFORMED`.
        """
        ...

    def is_complete(self, decision_ids: list[int]) -> bool:
        """Whether the decision ends as its policy wanted, and not where its tokens ran out."""
        ...

    def decision(self, action: Action) -> list[int]:
        """What a policy writes to ask for `action` (TOOL or ANSWER), its end included: `parse` gives `action`
        back.
        """
        ...

    def text(self, decision_ids: list[int]) -> str:
        """The decision as text, for people and logs."""
        ...

    def reopen(self, decision_ids: list[int]) -> list[int]:
        """Ids that close `decision_ids` and open the next turn, with no text between."""
        ...

    def observation(self, text: str, *, decision_ids: list[int], sender: str, max_tokens: int) -> Observation:
        """`text` from `sender` ("tool", "error" or a role's name) as plain text after `decision_ids`, cut to
        `max_tokens`.

        Special-token strings and the protocol's own tags inside `text` are made harmless and counted.
        """
        ...

    def scoring_suffix(self, answer: str) -> ScoringSuffix: ...
