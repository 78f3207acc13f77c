"""Text from outside (questions, documents, messages) as token ids that can't hold a control token."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


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
