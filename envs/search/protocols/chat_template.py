"""A model's chat template, split once into a prompt and the pieces between two assistant turns.

Turns are appended as suffixes. Sentinels find the pieces that the template puts around a message, and no
conversation is rendered twice. So a template that rewrites earlier turns (Qwen3's drops earlier thinking)
does no harm: the policy continues from the tokens that it sampled. For ChatML, the pieces around a user
message are

    opening    <|im_end|>\\n<|im_start|>user\\n
    closing    <|im_end|>\\n<|im_start|>assistant\\n
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from envs.search.protocols.base import Observation, ScoringSuffix

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

DATE = "26 Jul 2024"
"""The date for templates that show one, so that a prompt does not change overnight."""
_SENTINEL = "qzsentinel{}qz"


@dataclass(frozen=True, slots=True)
class TemplatePieces:
    """Token ids around the text of one message.

    Attributes:
        opening: closes the assistant's turn and opens the message.
        closing: closes the message and opens the assistant's next turn.
        as_json: whether the template writes the text as a JSON string (Llama 3 does for a tool's result).
    """

    opening: list[int]
    closing: list[int]
    as_json: bool = False


class ChatTemplate:
    """The pieces of a tokenizer's chat template.

    Args:
        tokenizer: a fast Hugging Face tokenizer.
        protocol: name of the protocol, for error messages.

    Attributes:
        plain: tokenises text from outside.
        user: the pieces around a user message.
        end_id: the token that ends an assistant's turn.
        stop_token_ids: `end_id` and the tokenizer's other ends (``<|eom_id|>``, the end-of-text token).
        rewrites_earlier_turns: whether the template would render earlier turns differently once the
            conversation goes on.

    Raises:
        ValueError: the tokenizer has no chat template, or the template does not allow appending.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, protocol: str):
        if not tokenizer.chat_template:
            raise ValueError(
                f"protocol `{protocol}` needs a chat template, and the tokenizer of "
                f"{tokenizer.name_or_path} has none: use an "
                "instruct model, or another protocol"
            )
        self.tokenizer = tokenizer
        self.plain = PlainTokenizer(tokenizer)
        self.user = self.pieces("user")
        self.end_id = self.user.opening[0]
        if self.end_id not in self.plain.control:
            raise ValueError(
                f"protocol `{protocol}`: the chat template of {tokenizer.name_or_path} ends turns without a "
                "token"
            )
        others = {i for i, string in self.plain.control.items() if string == "<|eom_id|>"}
        self._end_ids = {self.end_id} | others
        self.stop_token_ids = [
            self.end_id,
            *sorted((others | {tokenizer.eos_token_id}) - {self.end_id, None}),
        ]
        self.rewrites_earlier_turns = self._rewrites()
        if self.rewrites_earlier_turns:
            logger.warning(
                "the chat template of %s rewrites earlier turns; turns are appended to the sampled tokens "
                "instead",
                tokenizer.name_or_path,
            )

    def render(self, messages: list[dict[str, Any]], tools: list[Any] | None = None) -> str:
        """Renders the conversation as text, with an open assistant turn. `tools` are as `Toolbox.schemas`.

        Raises:
            ValueError: the template cannot render it.
        """
        from jinja2 import TemplateError

        try:
            return str(
                self.tokenizer.apply_chat_template(
                    messages, tools=tools, tokenize=False, add_generation_prompt=True, date_string=DATE
                )
            )
        except TemplateError as error:
            raise ValueError(
                f"the chat template of {self.tokenizer.name_or_path} can't be used: {error}"
            ) from error

    def pieces(self, role: str, wrap: str = "{}") -> TemplatePieces:
        """Finds the pieces around a message of `role` after an assistant's turn.

        Args:
            role: "user" or "tool".
            wrap: text around the message's words, such as tags; ``{}`` marks the words.

        Raises:
            ValueError: the template rewrites earlier turns or drops the message.
        """
        before, said = _SENTINEL.format(0), _SENTINEL.format(1)
        words = _SENTINEL.format(2) + '"' + _SENTINEL.format(3)
        chat = [("user", before), ("assistant", said), (role, wrap.format(words))]
        whole = self.render([{"role": name, "content": content} for name, content in chat])
        as_json = words not in whole
        shown = json.dumps(words)[1:-1] if as_json else words
        if whole.count(said) != 1 or whole.count(shown) != 1 or whole.index(said) > whole.index(shown):
            raise ValueError(
                f"the chat template of {self.tokenizer.name_or_path} rewrites earlier turns or drops a "
                f"message of role {role}: "
                "use a template that only appends"
            )
        between, after = whole.split(said)[1].split(shown)
        return TemplatePieces(self.control_ids(between), self.control_ids(after), as_json)

    def control_ids(self, text: str) -> list[int]:
        """Ids of trusted text, ours or the template's, in which control tokens count as such."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def prompt(
        self, messages: list[tuple[str, str]], question: str, tools: list[Any] | None = None
    ) -> list[int]:
        """Ids of a prompt with an open assistant turn.

        Args:
            messages: trusted (role, content) pairs; the last content holds ``{question}``.
            question: the question, tokenised as plain text.
            tools: JSON schemas to show, or None.
        """
        sentinel = _SENTINEL.format("question")
        chat = [{"role": role, "content": content} for role, content in messages]
        chat[-1]["content"] = chat[-1]["content"].replace("{question}", sentinel, 1)
        before, after = self.render(chat, tools).split(sentinel)
        return [*self.control_ids(before), *self.plain.ids(question), *self.control_ids(after)]

    def decision(self, prefix: str, words: str, suffix: str) -> list[int]:
        """Ids of a whole turn of the policy, tokenised as in `scoring_suffix`, with the end-of-turn token."""
        return self.scoring_suffix(prefix, words, suffix).ids

    def text(self, decision_ids: list[int]) -> str:
        return str(self.tokenizer.decode(decision_ids, clean_up_tokenization_spaces=False))

    def opening(self, pieces: TemplatePieces, decision_ids: list[int]) -> list[int]:
        """The ids before a message, without the end-of-turn token if the engine sampled one."""
        ended = len(decision_ids) > 0 and decision_ids[-1] in self._end_ids
        return pieces.opening[1:] if ended else pieces.opening

    def observation(
        self, text: str, *, pieces: TemplatePieces, decision_ids: list[int], max_tokens: int, neutralised: int
    ) -> Observation:
        """Renders `text` as plain text between `pieces`, cut to `max_tokens`.

        `neutralised` is the number of tags in it that were made harmless before.
        """
        ids = self.plain.ids(json.dumps(text, ensure_ascii=False)[1:-1] if pieces.as_json else text)
        return Observation(
            ids=[*self.opening(pieces, decision_ids), *ids[:max_tokens], *pieces.closing],
            text=text,
            cut=len(ids) > max_tokens,
            neutralised_tags=neutralised + self.plain.count_control(text),
        )

    def scoring_suffix(self, prefix: str, answer: str, suffix: str) -> ScoringSuffix:
        """The answer template `prefix` + `answer` + `suffix`, tokenised as a whole, and the end of the turn.

        Tokens that overlap the answer are gold tokens (definitions: Belief and information gain).

        Raises:
            ValueError: the answer is empty.
        """
        if not answer.strip():
            raise ValueError(f"an empty answer can't be scored: {answer!r}")
        encoded = self.tokenizer(
            prefix + answer + suffix,
            add_special_tokens=False,
            split_special_tokens=self.plain.count_control(answer) > 0,
            return_offsets_mapping=True,
        )
        start, stop = len(prefix), len(prefix) + len(answer)
        gold_mask = [begin < stop and end > start for begin, end in encoded["offset_mapping"]]
        return ScoringSuffix([*encoded["input_ids"], self.end_id], np.array([*gold_mask, False]))

    def _rewrites(self) -> bool:
        """Whether the template changes an assistant turn with a thought once another message follows."""
        asked, thought, said, more = (_SENTINEL.format(k) for k in range(4))
        turn = {"role": "assistant", "content": f"<think>\n{thought}\n</think>\n\n{said}"}
        messages = [{"role": "user", "content": asked}, turn, {"role": "user", "content": more}]
        return not self.render(messages).startswith(self.render(messages[:1]) + turn["content"])


class PlainTokenizer:
    """Tokenises text from outside (questions, documents, messages) without any control token.

    It is the same tokenizer without its added tokens, so a string such as ``<|im_end|>`` becomes ordinary
    tokens. ``split_special_tokens`` alone is not enough: Qwen's ``<tool_call>`` and ``<think>`` are added
    tokens that do not count as special, so it would let them through.

    Attributes:
        control: id to string of every added token.

    Raises:
        ValueError: the tokenizer has no fast form, or its vocabulary contains a control token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        from tokenizers import Tokenizer

        core = getattr(tokenizer, "backend_tokenizer", None)
        if core is None:
            raise ValueError(
                f"the tokenizer of {tokenizer.name_or_path} has no fast form: give one with a tokenizer.json"
            )
        parts = json.loads(core.to_str())
        parts |= {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
        self._core = Tokenizer.from_str(json.dumps(parts))
        self.control: dict[int, str] = {
            i: token.content for i, token in tokenizer.added_tokens_decoder.items()
        }
        for i, string in self.control.items():
            if i in self.ids(string):
                raise ValueError(
                    f"the tokenizer of {tokenizer.name_or_path} makes the control token {string} of plain "
                    "text"
                )
        longest_first = sorted(self.control.values(), key=len, reverse=True)
        self._strings = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def ids(self, text: str) -> list[int]:
        """Ids of `text`, none of them a control token."""
        return self._core.encode(text, add_special_tokens=False).ids

    def count_control(self, text: str) -> int:
        """Number of control-token strings in `text`."""
        return len(self._strings.findall(text))
