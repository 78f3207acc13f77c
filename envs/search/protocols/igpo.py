"""The paper's protocol `igpo`: a thought, then a tool call in JSON or the answer, all in tags.

(arXiv 2510.14967, section 3)

    assistant   <think> ... </think>
                <tool_call>
                {"name": "search", "arguments": {"query": "author of The Silent Orchard"}}
                </tool_call>
    user        <tool_response>
                The Silent Orchard: a 1921 novel by Marta Lindqvist ...
                </tool_response>
    assistant   <think> ... </think>
                <answer>
                Marta Lindqvist
                </answer>

The tags are text, so the protocol works with any model that has a chat template.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from envs.search.protocols.base import Action
from envs.search.protocols.tagged import READ, TaggedProtocol, read_tool_call
from envs.search.protocols.tags import Block, Tags

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TASK = "Answer the question. Use the tools until what they return contains the answer."
THINK = "In each turn, reason first inside <think> and </think>. Then do one thing only:"
HOW = {
    "search": (
        '- call a tool, with <tool_call>{"name": tool, "arguments": {...}}</tool_call>; what it returns '
        "comes back inside "
        "<tool_response> and </tool_response>"
    ),
    "answer": "- give the final answer in as few words as possible, with <answer>answer</answer>",
    "message": "- write to your colleague, with <message>text</message>",
}


def instruction(system: str, actions: list[str]) -> str:
    """The role's own instruction, else one that fits its actions; then how to write each action."""
    return "\n".join(
        [system or (READ if actions == ["message"] else TASK), THINK, *(HOW[action] for action in actions)]
    )


class IGPOProtocol(TaggedProtocol):
    """`envs.search.protocols.base.Protocol` in the paper's tags."""

    name = "igpo"
    tags = Tags(actions=("tool_call", "answer", "message"), observations=("tool_response",))

    def __init__(self, tokenizer: PreTrainedTokenizerBase, tools: list[dict]):
        super().__init__(tokenizer)
        self._tools = tools
        self.result = self.error = self.template.pieces("user", "<tool_response>\n{}\n</tool_response>")
        self.message = self.template.pieces("user", "<message>\n{}\n</message>")

    def prompt(self, system: str, question: str, actions: list[str]) -> list[int]:
        text = instruction(system, actions)
        if "search" in actions:
            text += "\nTools:\n" + "\n".join(json.dumps(tool, ensure_ascii=False) for tool in self._tools)
        return self.template.prompt([("system", text), ("user", "Question: {question}")], question)

    def action(self, block: Block) -> Action:
        return read_tool_call(block.text)
