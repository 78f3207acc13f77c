"""The `search_r1` protocol: one assistant turn that goes on, with what was found written into it.

    user        ... Question: Who wrote The Silent Orchard?
    assistant   <think> ... </think> <search> The Silent Orchard author </search>

                <information>The Silent Orchard: a 1921 novel by Marta Lindqvist ...</information>

                <think> ... </think> <answer> Marta Lindqvist </answer>

A closing tag ends a turn: the engine stops at that string, and the tokens sampled so far stay as they are.
The prompt is this project's own; a policy trained elsewhere wants the prompt it was trained with as its
role's `instruction`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from envs.search.protocols.base import Action
from envs.search.protocols.chat_template import Glue
from envs.search.protocols.tagged import TaggedProtocol
from envs.search.protocols.tags import Block, Tags
from envs.search.trajectory import ActionKind

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TASK = "Answer the question. Whenever you learn something new, reason first inside <think> and </think>."
HOW = {
    "search": (
        "If you lack knowledge, search with <search> query </search>; what is found comes back between "
        "<information> and "
        "</information>. Search as often as you like."
    ),
    "answer": "When you know enough, answer in as few words as possible with <answer> answer </answer>.",
    "message": "Write to your colleague with <message> text </message>.",
}
LONGEST_STOP_IN_TOKENS = 16
"""The stop strings have at most 10 bytes, so at most 10 tokens end in one."""


class SearchR1Protocol(TaggedProtocol):
    """`envs.search.protocols.base.Protocol` in Search-R1's tags. An error is shown as information."""

    name = "search_r1"
    tags = Tags(actions=("search", "answer", "message"), observations=("information",))
    answer_prefix = "<think> Now there's enough information to answer </think> <answer> "
    answer_suffix = " </answer>"
    call_frame = ("<search> ", " </search>")
    stop_strings = ["</search>", "</answer>", "</message>"]

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        super().__init__(tokenizer)
        ids = self.frame.control_ids
        self.result = self.error = Glue(ids("\n\n<information>"), ids("</information>\n\n"))
        self.message = Glue(ids("\n\n<message>"), ids("</message>\n\n"))

    def prompt(self, system: str, question: str, actions: list[str]) -> list[int]:
        """One user message; an `instruction` that says ``{question}`` places the question itself."""
        text = system or " ".join([TASK, *(HOW[action] for action in actions)])
        if "{question}" not in text:
            text += " Question: {question}"
        return self.frame.prompt([("user", text)], question)

    def is_complete(self, decision_ids: list[int]) -> bool:
        if super().is_complete(decision_ids):
            return True
        end = self.text(decision_ids[-LONGEST_STOP_IN_TOKENS:])
        return any(string in end for string in self.stop_strings)

    def action(self, block: Block) -> Action:
        return Action(ActionKind.TOOL, tool="search", arguments={"query": block.text})

    def decision(self, action: Action) -> list[int]:
        """Without the end-of-turn token: the closing tag ends a turn."""
        return super().decision(action)[:-1]

    def call(self, action: Action) -> str:
        return action.arguments["query"]

    def reopen(self, decision_ids: list[int]) -> list[int]:
        """A blank line: the turn goes on."""
        return self.frame.control_ids("\n\n")
