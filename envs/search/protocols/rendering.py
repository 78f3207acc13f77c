"""Renders conversations by a model's chat template, also where the template takes less than it is given.

- A template without a system role (Gemma's refuses it, others drop it): the system words go before the first
  user message.
- A template that wants user and assistant by turns (Mistral's): messages of one role in a row become one.
- A template that shows the date: the clock stands still, so a prompt does not change overnight.
"""

from __future__ import annotations

import logging
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

NOW = datetime(2024, 7, 26)
"""The time for templates that ask for it: midnight of the day that Llama 3's template falls back to."""
CLOCK: dict[str, Any] = {"date_string": NOW.strftime("%d %b %Y"), "strftime_now": NOW.strftime}
"""The names by which a template learns the time. transformers offers no others."""
_BETWEEN = "\n\n"


class TemplateRenderer:
    """The chat template of a tokenizer, as a function of messages.

    Args:
        tokenizer: a Hugging Face tokenizer with a chat template.

    Attributes:
        takes_system: whether the template shows a system message.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self._tokenizer = tokenizer
        self._warned = False
        self.takes_system = self._takes_system()

    def render(self, messages: list[dict[str, Any]], tools: list[Any] | None = None) -> str:
        """Renders the conversation as text, with an open assistant turn.

        Args:
            messages: messages in the form that chat templates take.
            tools: schemas as `Toolbox.schemas`, or None.

        Raises:
            ValueError: the template cannot render it.
        """
        return self._render(self._fitted(messages), tools)

    def _render(self, messages: list[dict[str, Any]], tools: list[Any] | None) -> str:
        try:
            return str(
                self._tokenizer.apply_chat_template(
                    messages, tools=tools, tokenize=False, add_generation_prompt=True, **CLOCK
                )
            )
        except Exception as error:  # a template is a program of its own: it may raise anything
            raise ValueError(
                f"the chat template of {self._tokenizer.name_or_path} can't be used ({error}): mend it, or "
                "use another model"
            ) from error

    def _takes_system(self) -> bool:
        words = "qzsystemqz"
        try:
            chat = [{"role": "system", "content": words}, {"role": "user", "content": "?"}]
            return words in self._render(chat, None)
        except ValueError:
            return False

    def _fitted(self, messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """`messages` without a role that the template lacks, and without two of one role in a row."""
        fitted: list[dict[str, Any]] = []
        for message in messages:
            if message["role"] == "system" and not self.takes_system:
                self._warn()
                message = {**message, "role": "user"}
            if fitted and _are_words_of_one_role(fitted[-1], message):
                message = {**message, "content": fitted.pop()["content"] + _BETWEEN + message["content"]}
            fitted.append(message)
        return fitted

    def _warn(self) -> None:
        if not self._warned:
            self._warned = True
            logger.warning(
                "the chat template of %s shows no system message: the instruction goes before the first user "
                "message",
                self._tokenizer.name_or_path,
            )


def _are_words_of_one_role(first: dict[str, Any], second: dict[str, Any]) -> bool:
    """Whether both messages are words alone (no tool calls), of the system, the user or the assistant."""
    return first["role"] == second["role"] != "tool" and first.keys() == second.keys() == {"role", "content"}
