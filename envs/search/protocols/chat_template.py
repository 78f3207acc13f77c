"""A model's chat template, taken apart once: prompt, and the pieces between an assistant's turn and the next.

Turns are appended as suffixes: the pieces that the template puts around words are found with sentinels, and
no conversation is ever rendered again. So a template that rewrites earlier turns (Qwen3's drops earlier
thinking) does no harm: the policy goes on from the very tokens that it sampled.
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
"""What a template that tells the date tells: a prompt must not change overnight."""
_SENTINEL = "qzsentinel{}qz"


@dataclass(frozen=True, slots=True)
class Glue:
    """Ids around the words of one message: `opening` closes the assistant's turn before it, `closing` opens
    the next one.
    """

    opening: list[int]
    closing: list[int]
    as_json: bool = False
    """The template writes the words as a JSON string (Llama 3 does so with a tool's result)."""


class ChatFrame:
    """The pieces of `tokenizer`'s chat template; `protocol` names who asks, for messages.

    Raises ValueError for a tokenizer without a chat template, or whose template can't be appended to.

    Attributes:
        end_id: the token that ends an assistant's turn.
        stop_token_ids: `end_id` and the tokenizer's other ends (``<|eom_id|>``, the end-of-text token).
        rewrites_earlier_turns: whether the template would render earlier turns differently once a
            conversation goes on.
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
        self.user = self.glue("user")
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
        """The conversation as text, with an open assistant turn; `tools` as `Toolbox.schemas`."""
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

    def glue(self, role: str, wrap: str = "{}") -> Glue:
        """The pieces around a message of `role` after an assistant's turn; `wrap` stands around its words,
        such as tags.
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
        return Glue(self.control_ids(between), self.control_ids(after), as_json)

    def control_ids(self, text: str) -> list[int]:
        """Ids of our own or the template's text, in which control tokens mean what they say."""
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def prompt(
        self, messages: list[tuple[str, str]], question: str, tools: list[Any] | None = None
    ) -> list[int]:
        """Ids of the trusted `messages` (role, content), of which the last says ``{question}``, and an open
        assistant turn.
        """
        sentinel = _SENTINEL.format("question")
        chat = [{"role": role, "content": content} for role, content in messages]
        chat[-1]["content"] = chat[-1]["content"].replace("{question}", sentinel, 1)
        before, after = self.render(chat, tools).split(sentinel)
        return [*self.control_ids(before), *self.plain.ids(question), *self.control_ids(after)]

    def decision(self, prefix: str, words: str, suffix: str) -> list[int]:
        """A whole turn of the policy's: tokenised once, as in `scoring_suffix`, with the token that
        ends it.
        """
        return self.scoring_suffix(prefix, words, suffix).ids

    def text(self, decision_ids: list[int]) -> str:
        return str(self.tokenizer.decode(decision_ids, clean_up_tokenization_spaces=False))

    def opening(self, glue: Glue, decision_ids: list[int]) -> list[int]:
        """The glue before a message; the end-of-turn token is left out where the engine sampled one."""
        ended = len(decision_ids) > 0 and decision_ids[-1] in self._end_ids
        return glue.opening[1:] if ended else glue.opening

    def observation(
        self, text: str, *, glue: Glue, decision_ids: list[int], max_tokens: int, neutralised: int
    ) -> Observation:
        """`text` as plain text in `glue`, cut to `max_tokens`.

        `neutralised` tags were made harmless in it before.
        """
        ids = self.plain.ids(json.dumps(text, ensure_ascii=False)[1:-1] if glue.as_json else text)
        return Observation(
            ids=[*self.opening(glue, decision_ids), *ids[:max_tokens], *glue.closing],
            text=text,
            cut=len(ids) > max_tokens,
            neutralised_tags=neutralised + self.plain.count_control(text),
        )

    def scoring_suffix(self, prefix: str, answer: str, suffix: str) -> ScoringSuffix:
        """`prefix`, `answer`, `suffix`, tokenised once, and the end of the turn; what overlaps the answer
        counts (SPEC §2).
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
        asked, thought, said, more = (_SENTINEL.format(k) for k in range(4))
        turn = {"role": "assistant", "content": f"<think>\n{thought}\n</think>\n\n{said}"}
        messages = [{"role": "user", "content": asked}, turn, {"role": "user", "content": more}]
        return not self.render(messages).startswith(self.render(messages[:1]) + turn["content"])


class PlainTokenizer:
    """The same tokenizer without its added tokens: a string such as ``<|im_end|>`` can only be spelled out.

    Splitting special tokens alone is not enough: Qwen's ``<tool_call>`` and ``<think>`` are added tokens that
    count as no special ones, so ``split_special_tokens`` would let them through.

    Raises ValueError for a tokenizer that is not a fast one, or that can spell a control token out of its
    vocabulary.
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
        """Id to string of every added token."""
        for i, string in self.control.items():
            if i in self.ids(string):
                raise ValueError(
                    f"the tokenizer of {tokenizer.name_or_path} makes the control token {string} of plain "
                    "text"
                )
        longest_first = sorted(self.control.values(), key=len, reverse=True)
        self._strings = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def ids(self, text: str) -> list[int]:
        return self._core.encode(text, add_special_tokens=False).ids

    def count_control(self, text: str) -> int:
        """How many control tokens `text` spells."""
        return len(self._strings.findall(text))
