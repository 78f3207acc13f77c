"""Text from outside (questions, answers, documents, messages) as tokens, none of them a control token."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Encoding
    from transformers import PreTrainedTokenizerBase


_ESCAPE = re.compile(r"\\(?:u[0-9a-f]{4}|.)")
"""An escape of a JSON string: ``\\n``, ``\\u0007``."""
Token = tuple[int, tuple[int, int]]
"""An id, and the first character that it covers with the one behind the last."""


class PlainTokenizer:
    """Tokenises text from outside without any control token.

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
        self._tokenizer = tokenizer
        self._core = Tokenizer.from_str(json.dumps(parts))
        self.control: dict[int, str] = {
            i: token.content for i, token in tokenizer.added_tokens_decoder.items()
        }
        # Models without a token for every byte have one for unknown characters, which plain text may hold.
        unknown = parts["model"].get("unk_token")
        self._forbidden = self.control.keys() - {
            parts["model"].get("unk_id"),
            core.token_to_id(unknown or ""),
        }
        for i in self._forbidden:
            string = self.control[i]
            if any(i in self.ids(text) for text in (string, f"a{string}a", f" {string} ")):
                raise ValueError(
                    f"the tokenizer of {tokenizer.name_or_path} makes the control token {string} of plain "
                    "text"
                )
        longest_first = sorted(self.control.values(), key=len, reverse=True)
        self._strings = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def ids(self, text: str) -> list[int]:
        """Ids of `text`, none of them a control token."""
        return self._encode(text).ids

    def cut(self, text: str, max_tokens: int, *, as_json: bool) -> tuple[list[int], bool]:
        """The first ids of `text`, and whether some are missing.

        Args:
            text: text from outside.
            max_tokens: limit on the ids.
            as_json: whether to write it as the inside of a JSON string. Then no escape is cut in two: half of
                one would take the quotation mark behind it for its own.
        """
        written = json.dumps(text, ensure_ascii=False)[1:-1] if as_json else text
        encoded = self._encode(written)
        kept = min(max_tokens, len(encoded.ids))
        if as_json and kept < len(encoded.ids):
            inside = {k for match in _ESCAPE.finditer(written) for k in range(match.start() + 1, match.end())}
            while kept and encoded.offsets[kept - 1][1] in inside:
                kept -= 1
        return encoded.ids[:kept], kept < len(encoded.ids)

    def around(self, prefix: str, text: str, suffix: str) -> list[Token]:
        """The tokens of `prefix` + `text` + `suffix`, tokenised as a whole, none of `text` a control token.

        Where `text` spells one, the stretch between the control tokens of `prefix` and `suffix` next to it is
        tokenised without any. The tokenizer cuts its input at control tokens in any case.

        Args:
            prefix: trusted text, in which control tokens count as such.
            text: text from outside.
            suffix: trusted text.
        """
        start, stop = len(prefix), len(prefix) + len(text)
        tokens = self._trusted(prefix + text + suffix)
        if not self._strings.search(text) and self._is_plain(
            i for i, (begin, end) in tokens if begin < stop and end > start
        ):
            return tokens
        ends = [end for i, (_, end) in self._trusted(prefix) if not self._is_plain([i])]
        begins = [begin for i, (begin, _) in self._trusted(suffix) if not self._is_plain([i])]
        first, last = max(ends, default=0), min(begins, default=len(suffix))
        between = self._encode(prefix[first:] + text + suffix[:last])
        return [
            *self._trusted(prefix[:first]),
            *_tokens(between.ids, between.offsets, first),
            *self._trusted(suffix[last:], stop + last),
        ]

    def count_control(self, text: str) -> int:
        """Number of control-token strings in `text`."""
        return len(self._strings.findall(text))

    def disarm(self, text: str, mark: re.Pattern[str], harmless: str) -> tuple[str, int]:
        r"""Replaces every `mark`, also those that only the tokenizer's normaliser makes.

        NFKC makes ``<answer>`` of the full-width ``＜answer＞``. Such a mark is replaced in its normal form;
        the text around it stays as it was, but for characters next to it that the normaliser drops.

        Args:
            text: the text to show.
            mark: what the protocol's parser would take for its own. No more than the mark itself may be
                consumed: what stands around it belongs into a lookahead.
            harmless: what it becomes, as `re.Match.expand` reads it (``\g<1> :``).

        Returns:
            The new text and the number of marks.
        """
        shown, count = mark.subn(harmless, text)
        normaliser = self._core.normalizer
        if normaliser is None:
            return shown, count
        from tokenizers import NormalizedString

        normal = NormalizedString(shown)
        normaliser.normalize(normal)
        matches = list(mark.finditer(normal.normalized))
        if not matches:
            return shown, count
        parts, end = [], 0
        for match in matches:
            parts += [_original(normal, end, match.start()), match.expand(harmless)]
            end = match.end()
        parts.append(_original(normal, end, len(normal.normalized)))
        return "".join(parts), count + len(matches)

    def _encode(self, text: str) -> Encoding:
        return self._core.encode(text, add_special_tokens=False)

    def _trusted(self, text: str, start: int = 0) -> list[Token]:
        encoded = self._tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return _tokens(encoded["input_ids"], encoded["offset_mapping"], start)

    def _is_plain(self, ids: Iterable[int]) -> bool:
        return self._forbidden.isdisjoint(ids)


def _tokens(ids: Iterable[int], offsets: Iterable[tuple[int, int]], start: int) -> list[Token]:
    """The tokens of a text that begins at character `start` of the whole."""
    return [(i, (begin + start, end + start)) for i, (begin, end) in zip(ids, offsets, strict=True)]


def _original(normal, start: int, stop: int) -> str:
    """The text of which characters `start` to `stop` were made."""
    return normal.slice((start, stop)).original if start < stop else ""
