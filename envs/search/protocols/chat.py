"""The `chat` protocol: the model's own way to call tools, through its chat template.

Two forms are known. The protocol recognises them by how the template renders a tool call:

- Qwen and Hermes: ``<tool_call>{"name": ..., "arguments": ...}</tool_call>``
- Llama 3: the turn is ``{"name": ..., "parameters": ...}``, perhaps after ``<|python_tag|>``

The template shows the tools' schemas and frames their results (role `tool`). The answer is written in
``<answer>`` tags.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from envs.search.protocols.base import Action
from envs.search.protocols.chat_template import TemplatePieces
from envs.search.protocols.tagged import READ, TaggedProtocol, read_tool_call
from envs.search.protocols.tags import Block, Tags

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TASK = "Answer the question. Call the tools until what they return contains the answer."
HOW = {
    "search": "Call one tool a turn.",
    "answer": "Write the final answer in as few words as possible inside <answer> and </answer>.",
    "message": "Write to your colleague inside <message> and </message>.",
}
PYTHON_TAG = "<|python_tag|>"


class ChatProtocol(TaggedProtocol):
    """`envs.search.protocols.base.Protocol` in a model's own tool calls.

    Args:
        tokenizer: a chat model's tokenizer.
        tools: JSON schemas of the tools, as `Toolbox.schemas`.

    Raises:
        ValueError: the template shows no tools, or calls them in neither form.
    """

    name = "chat"
    tags = Tags(actions=("tool_call", "answer", "message"), observations=("tool_response",))
    answer_prefix = "<answer>"
    answer_suffix = "</answer>"

    def __init__(self, tokenizer: PreTrainedTokenizerBase, tools: list[dict]):
        super().__init__(tokenizer)
        self._tools = tools
        self.calls_in_tags = self._calls_in_tags()
        if not self.calls_in_tags:
            self.call_tags = (self.template.end_of_thought, "")
        self.result = self.error = self._result_pieces()
        self.message = self.template.pieces("user", "<message>\n{}\n</message>")
        self._python_tag_id = next(
            (i for i, string in self.template.plain.control.items() if string == PYTHON_TAG), None
        )

    def prompt(self, system: str, question: str, actions: list[str]) -> list[int]:
        text = " ".join(
            [system or (READ if actions == ["message"] else TASK), *(HOW[action] for action in actions)]
        )
        tools = self._tools if "search" in actions else None
        return self.template.prompt([("system", text), ("user", "{question}")], question, tools)

    def read(self, ids: list[int]) -> Action:
        if self.calls_in_tags:
            return super().read(ids)
        begun = self.template.begun
        for k, i in enumerate(ids):
            if i == self._python_tag_id:
                if (k == 0 and not begun) or self._after_thought(begun + self.text(ids[:k])) == "":
                    ids = ids[:k] + ids[k + 1 :]
                break
        whole = begun + self.text(ids)
        text = self._after_thought(whole) or whole.strip()
        if text.startswith("{") and not self.template.fault(ids):
            return read_tool_call(text, "parameters")
        return super().read(ids)

    def _after_thought(self, text: str) -> str | None:
        """What follows the thought that `text` begins with; None where it does not begin with a whole one."""
        text = text.lstrip()
        thought, end, rest = text.removeprefix("<think>").partition("</think>")
        is_whole = text.startswith("<think>") and end and not self.tags.any_in(thought)
        return rest.strip() if is_whole else None

    def action(self, block: Block) -> Action:
        return read_tool_call(block.text)

    def call(self, action: Action) -> str:
        if self.calls_in_tags:
            return super().call(action)
        return json.dumps({"name": action.tool, "parameters": action.arguments}, ensure_ascii=False)

    def _result_pieces(self) -> TemplatePieces:
        try:
            return self.template.pieces("tool")
        except ValueError as error:
            raise ValueError(
                f"protocol `chat`: {error}; or use protocol `igpo`, which needs no tool messages"
            ) from error

    def _calls_in_tags(self) -> bool:
        """Renders a tool call and looks at its form: True for Qwen and Hermes, False for Llama 3."""
        call = {"type": "function", "id": "call00000", "function": {"name": "qzcall", "arguments": {}}}
        user = {"role": "user", "content": "?"}
        about = {"name": "qztool", "description": "?", "parameters": {"type": "object", "properties": {}}}
        tool = {"type": "function", "function": about}
        turns = [
            user,
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "?"},
        ]
        without = f"the chat template of {self.tokenizer.name_or_path}"
        if "qztool" not in self.template.render([user], [tool]):
            raise ValueError(
                f"protocol `chat`: {without} shows no tools: use protocol `igpo`, which needs no template "
                "for them"
            )
        try:
            called = self.template.render(turns)
        except ValueError as error:
            raise ValueError(
                f"protocol `chat`: {error}; or use protocol `igpo`, which needs no tool messages"
            ) from error
        if "<tool_call>" in called and "qzcall" in called:
            return True
        if '"parameters"' in called and "qzcall" in called:
            return False
        raise ValueError(
            f"protocol `chat`: {without} calls tools neither as Qwen and Hermes nor as Llama 3: use `igpo`"
        )
