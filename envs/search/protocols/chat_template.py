"""A model's chat template, split once into a prompt and the pieces between two assistant turns.

Turns are appended as suffixes. Sentinels find the pieces that the template puts around a message, and no
conversation is rendered twice. So a template that rewrites earlier turns (Qwen3's drops earlier thinking)
does no harm: the policy continues from the tokens that it sampled. For ChatML, the pieces around a user
message are

    opening    <|im_end|>\\n<|im_start|>user\\n
    closing    <|im_end|>\\n<|im_start|>assistant\\n

A template may begin the assistant's turn with ``<think>`` (Qwen3-Thinking, DeepSeek-R1). That is part of the
prompt, and of every `closing`; the policy goes on inside the thought.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from envs.search.protocols.base import Observation, ScoringSuffix
from envs.search.protocols.plain_text import PlainTokenizer
from envs.search.protocols.rendering import TemplateRenderer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

_SENTINEL = "qzsentinel{}qz"
_ENDS_IN_THOUGHT = re.compile(r"<think>\s*\Z")


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
        thinks: whether a turn may hold a thought. If not, one that the template begins is closed at once.
        is_tag: whether a string is a tag of the protocol, which a policy may write even where it is a token
            that counts as special.

    Attributes:
        plain: tokenises text from outside.
        user: the pieces around a user message.
        end_id: the token that ends an assistant's turn.
        stop_token_ids: `end_id` and the tokenizer's other ends (``<|eom_id|>``, the end-of-text token).
        begun: the thought in which every turn begins, as text (``<think>\\n``). Empty where the generation
            prompt begins none, or closes it again.
        end_of_thought: the text that ends `begun` without a word of thought; empty like `begun`.
        rewrites_earlier_turns: whether the template would render earlier turns differently once the
            conversation goes on.

    Raises:
        ValueError: the tokenizer has no chat template, or the template does not allow appending.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        protocol: str,
        *,
        thinks: bool = True,
        is_tag: Callable[[str], bool] = lambda string: False,
    ):
        if not tokenizer.chat_template:
            raise ValueError(
                f"protocol `{protocol}` needs a chat template, and the tokenizer of {tokenizer.name_or_path} "
                "has none: use an instruct model, or another protocol"
            )
        self.tokenizer = tokenizer
        self.plain = PlainTokenizer(tokenizer)
        self._special = {
            i: token.content
            for i, token in tokenizer.added_tokens_decoder.items()
            if token.special and not is_tag(token.content)
        }
        self._renderer = TemplateRenderer(tokenizer)
        self._closed_at_once = ""
        self.begun = self._begun()
        self.end_of_thought = self.begun and ("" if self.begun.endswith("\n") else "\n") + "\n</think>\n\n"
        if not thinks:
            self._closed_at_once, self.begun, self.end_of_thought = self.end_of_thought, "", ""
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
                "the chat template of %s rewrites earlier turns, such as their thoughts; this program's own "
                "rollouts append turns to the sampled tokens instead",
                tokenizer.name_or_path,
            )

    def render(self, messages: list[dict[str, Any]], tools: list[Any] | None = None) -> str:
        """Renders the conversation as text, with an open assistant turn. `tools` are as `Toolbox.schemas`.

        Raises:
            ValueError: the template cannot render it.
        """
        return self._renderer.render(messages, tools) + self._closed_at_once

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
                f"message of role {role}: use a template that only appends"
            )
        between, after = whole.split(said)[1].split(shown)
        self._check_thought(after, f"a message of role {role}")
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
        whole = self.render(chat, tools)
        if whole.count(sentinel) != 1:
            raise ValueError(
                f"the chat template of {self.tokenizer.name_or_path} shows the question "
                f"{whole.count(sentinel)} times: use a template that shows each message once"
            )
        before, after = whole.split(sentinel)
        self._check_thought(after, "the prompt")
        return [*self.control_ids(before), *self.plain.ids(question), *self.control_ids(after)]

    def decision(self, prefix: str, words: str, suffix: str) -> list[int]:
        """Ids of a whole turn of the policy, tokenised as in `scoring_suffix`, with the end-of-turn token."""
        return self.scoring_suffix(prefix, words, suffix).ids

    def text(self, decision_ids: list[int]) -> str:
        return str(self.tokenizer.decode(decision_ids, clean_up_tokenization_spaces=False))

    def visible(self, ids: list[int]) -> list[int]:
        """`ids` without those that have no text: control tokens, and ids beyond the tokenizer."""
        return [i for i in ids if not self.fault([i])]

    def fault(self, ids: list[int]) -> str:
        """Names the first of `ids` that has no place inside a turn; empty where there is none.

        It is a control token, or an id beyond the tokenizer: a model's vocabulary may be padded.
        """
        id_to_token = self.tokenizer.backend_tokenizer.id_to_token
        for i in ids:
            if i in self._special:
                return f"the control token {self._special[i]} does not belong into a turn"
            if id_to_token(i) is None:
                return f"the tokenizer has no token {i}"
        return ""

    def opening(self, pieces: TemplatePieces, decision_ids: list[int]) -> list[int]:
        """The ids before a message, without the end-of-turn token if the engine sampled one."""
        opening = pieces.opening
        ended = len(decision_ids) > 0 and decision_ids[-1] in self._end_ids
        return opening[1:] if ended and opening[0] in self._end_ids else opening

    def observation(
        self, text: str, *, pieces: TemplatePieces, decision_ids: list[int], max_tokens: int, neutralised: int
    ) -> Observation:
        """Renders `text` as plain text between `pieces`, cut to `max_tokens`.

        `neutralised` is the number of tags in it that were made harmless before.
        """
        ids, cut = self.plain.cut(text, max_tokens, as_json=pieces.as_json)
        return Observation(
            ids=[*self.opening(pieces, decision_ids), *ids, *pieces.closing],
            text=text,
            cut=cut,
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
        start, stop = len(prefix), len(prefix) + len(answer)
        tokens = self.plain.around(prefix, answer, suffix)
        gold_mask = [begin < stop and end > start for _, (begin, end) in tokens]
        return ScoringSuffix([*(i for i, _ in tokens), self.end_id], np.array([*gold_mask, False]))

    def _begun(self) -> str:
        asked = _SENTINEL.format(0)
        after = self.render([{"role": "user", "content": asked}]).rpartition(asked)[2]
        _, tag, rest = after.rpartition("<think>")
        return "" if not tag or "</think>" in rest else tag + rest

    def _check_thought(self, after: str, where: str) -> None:
        """Raises ValueError where a turn after `where` begins inside a thought and others do not, or the
        other way round.
        """
        if not after.endswith(self.begun) or (not self.begun and _ENDS_IN_THOUGHT.search(after)):
            raise ValueError(
                f"the chat template of {self.tokenizer.name_or_path} opens <think> in some turns only (after "
                f"{where} it does{' not' if self.begun else ''}): use one that always does, or never"
            )

    def _rewrites(self) -> bool:
        """Whether the template changes an assistant turn with a thought once another message follows."""
        asked, thought, said, more = (_SENTINEL.format(k) for k in range(4))
        turn = {"role": "assistant", "content": f"<think>\n{thought}\n</think>\n\n{said}"}
        messages = [{"role": "user", "content": asked}, turn, {"role": "user", "content": more}]
        before = self.render(messages[:1]).removesuffix(self.begun)
        return not self.render(messages).startswith(before + turn["content"])
