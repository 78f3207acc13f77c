"""The `tiny` protocol: word-level control tokens, for the embedded policy.

A decision is an action token, plain words, and ``<end>``::

    <bos> <searcher> color of mother of mira ?      prompt
    <search> mira mother <end>                      decision
    <doc> " mira " mira mother toma . ... </doc>    observation (from the tool)
    <answer> red <end>                              decision

A reader's message reaches the searcher as ``<note> ... </note>``, an error as ``<error> ... </error>``. No
token opens a turn; a turn begins with the action token that the policy samples.

Text is split into words and punctuation, so no string can become a control token: ``"<answer>"`` is the three
words ``<``, ``answer``, ``>``, none of them known. Unknown words become ``<unk>``.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from envs.search.protocols.base import Action, Observation, ScoringSuffix
from envs.search.trajectory import ActionKind

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

PAD, UNK, BOS, END = "<pad>", "<unk>", "<bos>", "<end>"
SEARCHER, READER = "<searcher>", "<reader>"
SEARCH, ANSWER, MESSAGE = "<search>", "<answer>", "<message>"
CONTROL_TOKENS = (
    *(PAD, UNK, BOS, END, SEARCHER, READER, SEARCH, ANSWER, MESSAGE),
    *("<doc>", "</doc>", "<note>", "</note>", "<error>", "</error>"),
)
_CONTROL_PATTERN = re.compile("|".join(re.escape(token) for token in CONTROL_TOKENS), re.IGNORECASE)


def build_tokenizer(words: list[str]) -> PreTrainedTokenizerFast:
    """Builds a word-level tokenizer, which lower-cases and splits at spaces and punctuation.

    Args:
        words: the vocabulary, in lower case and without repetitions. `CONTROL_TOKENS` take the ids before it.

    Raises:
        ValueError: a word occurs twice or is a control token.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {token: i for i, token in enumerate([*CONTROL_TOKENS, *words])}
    if len(vocabulary) != len(CONTROL_TOKENS) + len(words):
        raise ValueError(
            "words of the tiny tokenizer must be different from one another and from its control tokens"
        )
    core = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    core.normalizer = normalizers.Lowercase()
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token=BOS,
        eos_token=END,
        pad_token=PAD,
        unk_token=UNK,
        additional_special_tokens=[t for t in CONTROL_TOKENS if t not in (PAD, UNK, BOS, END)],
        clean_up_tokenization_spaces=False,
        model_max_length=1024,
    )


class TinyProtocol:
    """`envs.search.protocols.base.Protocol` for the embedded policy.

    Args:
        tokenizer: from `build_tokenizer`, or from the folder that it was saved in.

    Raises:
        ValueError: the tokenizer lacks a control token, or turns plain text into one.
    """

    name = "tiny"
    stop_strings: list[str] = []

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        added = tokenizer.get_vocab()
        missing = [token for token in CONTROL_TOKENS if token not in added]
        if missing:
            raise ValueError(
                f"protocol `tiny` needs a tokenizer with the tokens {missing}: use the policy in "
                "envs/engine/tiny_policy, or make one with `python -m algorithms.embedded_policy --out DIR`"
            )
        self.tokenizer = tokenizer
        self._control = {token: added[token] for token in CONTROL_TOKENS}
        self._control_ids = frozenset(self._control.values())
        self._unk_id = self._control[UNK]
        self._end_id = self._control[END]
        self._kinds = {
            self._control[SEARCH]: ActionKind.TOOL,
            self._control[ANSWER]: ActionKind.ANSWER,
            self._control[MESSAGE]: ActionKind.MESSAGE,
        }
        self.stop_token_ids = [self._end_id]
        # The same documents are tokenised many times.
        self._plain = lru_cache(maxsize=8192)(self._tokenise)
        self._num_tags = lru_cache(maxsize=8192)(lambda text: len(_CONTROL_PATTERN.findall(text)))
        self._words = [str(word) for word in tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))]
        if set(self._plain("<end> <answer>")) != {self._unk_id}:
            raise ValueError(
                "protocol `tiny`: the tokenizer reads control tokens out of the plain text '<end> <answer>'"
            )

    def _tokenise(self, text: str) -> tuple[int, ...]:
        """Ids of plain text. The string of a control token never becomes that token."""
        ids = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        if any(i in self._control_ids and i != self._unk_id for i in ids):
            raise ValueError(
                f"protocol `tiny`: the tokenizer made a control token of plain text: {text[:80]!r}"
            )
        return tuple(ids)

    def prompt(self, system: str, question: str, actions: list[str]) -> list[int]:
        """``<bos> <reader> question`` for a role that only writes messages, else ``<bos> <searcher>
        question``.

        `system` is not used, because this policy knows its role from the token.
        """
        role = READER if actions == ["message"] else SEARCHER
        return [self._control[BOS], self._control[role], *self._plain(question)]

    def parse(self, decision_ids: list[int]) -> Action:
        """Reads an action token, at least one plain word, and ``<end>``; anything else is MALFORMED."""
        kind = self._kinds.get(decision_ids[0]) if len(decision_ids) else None
        if kind is None:
            return Action(
                ActionKind.MALFORMED, error=f"a decision must start with {SEARCH}, {ANSWER} or {MESSAGE}"
            )
        if decision_ids[-1] != self._end_id:
            return Action(ActionKind.MALFORMED, error=f"a decision must end with {END}")
        words = decision_ids[1:-1]
        if not len(words):
            return Action(
                ActionKind.MALFORMED, error=f"a decision needs words between its action token and {END}"
            )
        if not self._control_ids.isdisjoint(words) or max(words) >= len(self._words):
            return Action(
                ActionKind.MALFORMED, error="a decision may hold only plain words after its action token"
            )
        text = self.text(words)
        if kind is ActionKind.TOOL:
            return Action(kind, tool="search", arguments={"query": text})
        return Action(kind, text=text)

    def decision(self, action: Action) -> list[int]:
        kind, text = (
            (SEARCH, action.arguments["query"]) if action.kind is ActionKind.TOOL else (ANSWER, action.text)
        )
        return [self._control[kind], *self._plain(text), self._end_id]

    def is_complete(self, decision_ids: list[int]) -> bool:
        return len(decision_ids) > 0 and decision_ids[-1] == self._end_id

    def text(self, decision_ids: list[int]) -> str:
        # A model's vocabulary may be larger than the tokenizer's.
        return " ".join([self._words[i] if i < len(self._words) else UNK for i in decision_ids])

    def reopen(self, decision_ids: list[int]) -> list[int]:
        """``<end>`` if the engine cut the decision before it, else nothing; no token opens a turn."""
        return [] if len(decision_ids) == 0 or decision_ids[-1] == self._end_id else [self._end_id]

    def observation(self, text: str, *, decision_ids: list[int], sender: str, max_tokens: int) -> Observation:
        """`text` in ``<doc>`` (sender "tool"), ``<error>`` (sender "error") or ``<note>`` (a role's name).

        `max_tokens` limits the words of `text`; the two tags and a closing ``<end>`` come on top.
        """
        tag = {"tool": "doc", "error": "error"}.get(sender, "note")
        words = self._plain(text)
        return Observation(
            ids=[
                *self.reopen(decision_ids),
                self._control[f"<{tag}>"],
                *words[:max_tokens],
                self._control[f"</{tag}>"],
            ],
            text=text,
            cut=len(words) > max_tokens,
            neutralised_tags=self._num_tags(text),
        )

    def scoring_suffix(self, answer: str) -> ScoringSuffix:
        """``<answer> answer <end>``, as the policy would write it.

        Raises:
            ValueError: the answer has no words.
        """
        words = self._plain(answer)
        if not words:
            raise ValueError(f"protocol `tiny` cannot score an answer without words: {answer!r}")
        ids = [self._control[ANSWER], *words, self._end_id]
        gold_mask_L = np.zeros(len(ids), dtype=bool)
        gold_mask_L[1:-1] = True
        return ScoringSuffix(ids=ids, gold_mask_L=gold_mask_L)
