"""The base of the protocols in tags; `igpo`, `search_r1` and `chat` differ in prompt, tags and pieces."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from envs.search.protocols.base import Action, Observation, ScoringSuffix
from envs.search.protocols.chat_template import ChatTemplate, TemplatePieces
from envs.search.protocols.tags import Block, Tags
from envs.search.trajectory import ActionKind

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

THOUGHT = "Now there's enough information to answer"
READ = (
    "You read what a tool returned for a colleague who answers the question. Pass on the fact that matters."
)
"""The instruction of a role that only writes messages, where it has none of its own."""


class TaggedProtocol(ABC):
    """Base of `envs.search.protocols.base.Protocol` implementations over a chat model's tokenizer.

    A subclass sets the class attributes, and the template pieces of each sender: `result` (a tool), `error`
    and `message` (another role).

    Where the chat template begins every turn inside a thought (`ChatTemplate.begun`), a decision is read as
    begun inside it, and what the protocol writes itself (`answer_prefix`, `call_tags`) goes on from there.

    Attributes:
        tags: the tags that the protocol knows.
        answer_prefix: text before an answer.
        answer_suffix: text after an answer.
        call_tags: text before and after a tool call.
        template: the model's chat template.

    Raises:
        ValueError: the protocol cannot use the tokenizer.
    """

    name: str
    tags: Tags
    answer_prefix = f"<think>\n{THOUGHT}\n</think>\n<answer>\n"
    answer_suffix = "\n</answer>"
    stop_strings: list[str] = []
    call_tags = ("<tool_call>\n", "\n</tool_call>")

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self.tokenizer = tokenizer
        # A tag may be a token of its own (Qwen3's <think>), and the policy may write it.
        self.template = ChatTemplate(tokenizer, self.name, is_tag=self.tags.is_tag)
        if self.template.begun:
            self.answer_prefix = self._after_begun(self.answer_prefix)
            self.call_tags = (self.template.end_of_thought + self.call_tags[0], self.call_tags[1])
        self.stop_token_ids = self.template.stop_token_ids
        self.result = self.error = self.message = self.template.user

    def _after_begun(self, prefix: str) -> str:
        """What is left of `prefix` (a thought, an opening tag) where the template has begun the thought."""
        if not prefix.startswith("<think>"):
            prefix = f"<think>\n{THOUGHT}\n</think>\n\n{prefix}"
        left = prefix.removeprefix("<think>")
        return left.lstrip() if self.template.begun[-1].isspace() else left

    @abstractmethod
    def prompt(self, system: str, question: str, actions: list[str]) -> list[int]: ...

    @abstractmethod
    def action(self, block: Block) -> Action:
        """The action of a well-formed block other than an answer or a message."""

    def text(self, decision_ids: list[int]) -> str:
        return self.template.text(decision_ids)

    def is_complete(self, decision_ids: list[int]) -> bool:
        return len(decision_ids) > 0 and decision_ids[-1] in self.stop_token_ids

    def parse(self, decision_ids: list[int]) -> Action:
        """The one action of a decision. A control token before its end makes it malformed."""
        ids = [int(i) for i in decision_ids]
        if ids and ids[-1] in self.stop_token_ids:
            ids.pop()
        return self.read(ids)

    def read(self, ids: list[int]) -> Action:
        """`parse` for a decision whose stop token has been removed."""
        fault = self.template.fault(ids)
        if fault:
            return Action(ActionKind.MALFORMED, error=fault)
        found = self.tags.read(self.template.begun + self.text(ids))
        if isinstance(found, Action):
            return found
        if found.tag == "answer":
            return Action(ActionKind.ANSWER, text=found.text)
        if found.tag == "message":
            return Action(ActionKind.MESSAGE, text=found.text)
        return self.action(found)

    def decision(self, action: Action) -> list[int]:
        """Ids of an answer in the form that belief is scored on, or of a tool call without a thought."""
        if action.kind is ActionKind.ANSWER:
            return self.template.decision(self.answer_prefix, action.text, self.answer_suffix)
        before, after = self.call_tags
        return self.template.decision(before, self.call(action), after)

    def call(self, action: Action) -> str:
        """The text of a tool call, without its tags."""
        return json.dumps({"name": action.tool, "arguments": action.arguments}, ensure_ascii=False)

    def reopen(self, decision_ids: list[int]) -> list[int]:
        """Closes the decision with an empty user message and opens the next turn."""
        return [*self.template.opening(self.template.user, decision_ids), *self.template.user.closing]

    def observation(self, text: str, *, decision_ids: list[int], sender: str, max_tokens: int) -> Observation:
        pieces: TemplatePieces = {"tool": self.result, "error": self.error}.get(sender, self.message)
        shown, tags = self.tags.disarm(text, self.template.plain)
        return self.template.observation(
            shown, pieces=pieces, decision_ids=decision_ids, max_tokens=max_tokens, neutralised=tags
        )

    def scoring_suffix(self, answer: str) -> ScoringSuffix:
        return self.template.scoring_suffix(self.answer_prefix, answer, self.answer_suffix)


NAME_SLIPS = (
    "name",
    "function",
    "function_name",
    "tool",
    "tool_name",
    "toolname",
    "action",
    "recipient_name",
)
"""Keys, in lower case, that models write for "name"."""
ARGUMENTS_SLIPS = (
    *("arguments", "parameters", "argument", "parameter", "args", "params", "kwargs", "input", "inputs"),
    *("tool_input", "action_input", "tool_args", "tool_arguments", "tool_parameters"),
)
"""Keys, in lower case, that models write for "arguments" (Llama 3: "parameters")."""
AMBIGUOUS = ("input", "inputs")
"""Of these, keys that may also be a tool's own argument, where no object stands under them."""
HARMLESS = ("id", "type")
"""Keys of other formats beside "name", which say nothing about arguments."""


def read_tool_call(text: str, arguments_key: str = "arguments") -> Action:
    """Reads a tool call such as ``{"name": "search", "arguments": {"query": "..."}}``.

    A fault inside well-formed tags is a tool error, which the policy sees and may correct, and not a format
    error (docs/definitions.md).

    Args:
        text: the JSON object.
        arguments_key: the key of the arguments; Llama 3 writes "parameters".

    Returns:
        A TOOL action. Its `error` is set where `text` holds no such call. Never raises.
    """
    try:
        call = json.loads(text)
        json.dumps(call, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        return Action(ActionKind.TOOL, error=f"the tool call is not valid JSON: {reason}")
    form = f'{{"name": tool, "{arguments_key}": {{...}}}}'
    if not isinstance(call, dict):
        found = ", not a list; call one tool a turn" if isinstance(call, list) else ""
        error = f'the tool call must be an object with "name" and "{arguments_key}"{found}: write {form}'
        return Action(ActionKind.TOOL, error=error)
    if not isinstance(call.get("name"), str):
        return Action(ActionKind.TOOL, error=f"{_slip_of_name(call)}: write {form}")
    arguments = call.get(arguments_key, {})
    slip = ""
    if not isinstance(arguments, dict):
        found = {str: "a text", list: "a list", type(None): "null"}.get(type(arguments), "something else")
        slip = f'"{arguments_key}" must be an object, found {found}'
    elif arguments_key not in call:
        slip = _slip_of_arguments(call, arguments_key)
    if slip:
        return Action(ActionKind.TOOL, tool=call["name"], error=f"{slip}: write {form}")
    return Action(ActionKind.TOOL, tool=call["name"], arguments=arguments)


def _slip_of_name(call: dict) -> str:
    """What stands in the place of "name" in a call that has none."""
    for key, value in call.items():
        if key.lower() in NAME_SLIPS and isinstance(value, str):
            return f'the tool\'s name is under "{key}", and belongs under "name"'
        if isinstance(value, dict) and isinstance(value.get("name"), str):
            return f'the tool call is inside "{key}", and belongs at the top'
    if "name" in call:
        return 'the "name" of the tool call must be a text'
    return 'the tool call has no "name"'


def _slip_of_arguments(call: dict, arguments_key: str) -> str:
    """What stands in the place of the arguments in a call without their key; "" for a call that has none."""
    others = [key for key in call if key not in ("name", *HARMLESS)]
    for key in others:
        if key.lower() in ARGUMENTS_SLIPS and (key.lower() not in AMBIGUOUS or isinstance(call[key], dict)):
            return f'the arguments are under "{key}", and belong under "{arguments_key}"'
    if others:
        return f'"{others[0]}" stands beside "name", and belongs inside "{arguments_key}"'
    return ""
