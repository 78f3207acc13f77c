"""The `search_r1` protocol: a single assistant turn into which search results are inserted.

    user        ... Question: Who wrote The Silent Orchard?
    assistant   <think> ... </think> <search> The Silent Orchard author </search>

                <information>The Silent Orchard: a 1921 novel by Marta Lindqvist ...</information>

                <think> ... </think> <answer> Marta Lindqvist </answer>

A closing tag ends a decision: the engine stops at that string, and the sampled tokens stay as they are. If
the chat template opens ``<think>``, it is opened after ``</information>`` too, so all decisions begin alike.
The prompt is this project's own. For a policy trained elsewhere, set the prompt of its training as the role's
`instruction`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from envs.search.protocols.base import Action
from envs.search.protocols.chat_template import TemplatePieces
from envs.search.protocols.tagged import THOUGHT, TaggedProtocol
from envs.search.protocols.tags import Block, Tags
from envs.search.trajectory import ActionKind

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TASK = "Answer the question. Whenever you learn something new, reason first inside <think> and </think>."
HOW = {
    "search": (
        "If you lack knowledge, search with <search> query </search>; what is found comes back between "
        "<information> and </information>. Search as often as you like."
    ),
    "answer": "When you know enough, answer in as few words as possible with <answer> answer </answer>.",
    "message": "Write to your colleague with <message> text </message>.",
}
LONGEST_STOP_IN_TOKENS = 16
"""Number of last tokens to search for a stop string, which has at most 10 bytes and so at most 10 tokens."""


class SearchR1Protocol(TaggedProtocol):
    """`envs.search.protocols.base.Protocol` in Search-R1's tags. An error is shown as information."""

    name = "search_r1"
    tags = Tags(actions=("search", "answer", "message"), observations=("information",))
    answer_prefix = f"<think> {THOUGHT} </think> <answer> "
    answer_suffix = " </answer>"
    call_tags = ("<search> ", " </search>")
    stop_strings = ["</search>", "</answer>", "</message>"]

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        super().__init__(tokenizer)
        ids, begun = self.template.control_ids, self.template.begun
        self.result = self.error = TemplatePieces(ids("\n\n<information>"), ids(f"</information>\n\n{begun}"))
        self.message = TemplatePieces(ids("\n\n<message>"), ids(f"</message>\n\n{begun}"))

    def prompt(self, system: str, question: str, actions: list[str]) -> list[int]:
        """One user message. An `instruction` that holds ``{question}`` places the question itself."""
        text = system or " ".join([TASK, *(HOW[action] for action in actions)])
        if "{question}" not in text:
            text += " Question: {question}"
        return self.template.prompt([("user", text)], question)

    def is_complete(self, decision_ids: list[int]) -> bool:
        if super().is_complete(decision_ids):
            return True
        # The engine looks for the string in what can be read.
        end = self.text(self.template.visible(decision_ids)[-LONGEST_STOP_IN_TOKENS:])
        return any(string in end for string in self.stop_strings)

    def action(self, block: Block) -> Action:
        return Action(ActionKind.TOOL, tool="search", arguments={"query": block.text})

    def decision(self, action: Action) -> list[int]:
        """Without the end-of-turn token: the closing tag ends a turn."""
        return super().decision(action)[:-1]

    def call(self, action: Action) -> str:
        return action.arguments["query"]

    def reopen(self, decision_ids: list[int]) -> list[int]:
        """A blank line: the turn goes on, in a thought where the template begins turns in one."""
        return self.template.control_ids(f"\n\n{self.template.begun}")
