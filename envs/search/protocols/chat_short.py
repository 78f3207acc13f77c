"""The `chat_short` protocol: one line a turn through the model's own chat template, short enough for a 135M model.

    assistant   Search: author of The Silent Orchard
    user        The Silent Orchard: a 1921 novel by Marta Lindqvist ...
    assistant   Answer: Marta Lindqvist

The end-of-turn token or a line break ends a turn. Turns are appended as suffixes: the pieces of the template that stand between
an assistant's and a user's words are found once, with sentinels, and nothing is ever rendered again; a template that rewrites
earlier turns is refused. Only the template's own pieces may hold control tokens: questions, documents and messages are tokenised
as plain text.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from envs.search.protocol import Action, Observation, ScoringSuffix
from envs.search.trajectory import ActionKind

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

INSTRUCTION = (
    "You answer questions with the help of a search engine. Write one line only: 'Search: ' and a query, or 'Answer: ' and a "
    "short answer. Search until the results contain the answer."
)
HINT = " Reply with one line that starts with 'Search:' or 'Answer:'."
"""Stands behind every question: a 135M model forgets the instruction by then (first turns that parse at temperature 1: 90% with
it, against 52% without, 40 HotpotQA questions)."""
READER_INSTRUCTION = "You read search results for a colleague. Write one line only: 'Note: ' and the fact that matters."
EXAMPLES = {
    "searcher": [
        ("user", "Question: In which country was the author of The Silent Orchard born?" + HINT),
        ("assistant", "Search: The Silent Orchard author"),
        ("user", "The Silent Orchard: The Silent Orchard is a 1921 novel by Marta Lindqvist, set on an island farm."),
        ("assistant", "Search: Marta Lindqvist born"),
        ("user", "Marta Lindqvist: Marta Lindqvist (1884-1950) was a novelist. She was born in Uppsala, Sweden."),
        ("assistant", "Answer: Sweden"),
        ("user", "Question: Are the Harrow Bridge and the Tolden Bridge in the same city?" + HINT),
        ("assistant", "Search: Harrow Bridge city"),
        ("user", "Harrow Bridge: The Harrow Bridge is a stone bridge in Ellmouth, opened in 1822."),
        ("assistant", "Search: Tolden Bridge city"),
        ("user", "Tolden Bridge: The Tolden Bridge is a railway bridge in Ellmouth."),
        ("assistant", "Answer: yes"),
    ],
    "reader": [
        ("user", "Question: In which country was the author of The Silent Orchard born?"),
        ("assistant", "Note: nothing found yet"),
        ("user", "The Silent Orchard: The Silent Orchard is a 1921 novel by Marta Lindqvist, set on an island farm."),
        ("assistant", "Note: the author of The Silent Orchard is Marta Lindqvist"),
    ],
}
_LINE = re.compile(r"(Search|Answer|Note):[ \t]*(\S.*)", re.IGNORECASE)
_MARK = re.compile(r"\b(Search|Answer|Note):", re.IGNORECASE)
_KINDS = {"search": ActionKind.TOOL, "answer": ActionKind.ANSWER, "note": ActionKind.MESSAGE}
_SENTINEL = "qzsentinel{}qz"


class ChatShortProtocol:
    """`envs.search.protocol.Protocol` over a chat model's tokenizer.

    Raises ValueError for a tokenizer without a chat template, or one whose template rewrites earlier turns.
    """

    name = "chat_short"

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        if not tokenizer.chat_template:
            raise ValueError(
                f"protocol `chat_short` needs a chat template, and the tokenizer of {tokenizer.name_or_path} has none: use an "
                "instruct model, or another protocol"
            )
        self.tokenizer = tokenizer
        self._open, self._close = self._find_glue()
        self._end_id = self._open[0]
        self._newline_ids = {
            i for token, i in tokenizer.get_vocab().items() if token and set(token) <= {"\n", "Ċ"} and i != self._end_id
        }
        self.stop_token_ids = [self._end_id, *sorted(self._newline_ids)]

    def _find_glue(self) -> tuple[list[int], list[int]]:
        """Ids from the end of an assistant's words to a user's first, and from a user's last to the open assistant turn."""
        first, answer, second = (_SENTINEL.format(k) for k in range(3))
        messages = [("user", first), ("assistant", answer), ("user", second)]
        before = self._render(messages[:1])
        whole = self._render(messages)
        if not whole.startswith(before + answer):
            raise ValueError(
                f"the chat template of {self.tokenizer.name_or_path} rewrites earlier turns when a conversation goes on, so "
                "sampled tokens would not be the trained ones: use a template that only appends"
            )
        between = whole[len(before + answer) : whole.index(second)]
        after = whole[whole.index(second) + len(second) :]
        return self._control(between), self._control(after)

    def _render(self, messages: list[tuple[str, str]]) -> str:
        chat = [{"role": role, "content": content} for role, content in messages]
        return str(self.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True))

    def _control(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def _plain(self, text: str) -> list[int]:
        """Ids of `text` as plain text: a special token's string is spelled out."""
        return self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]

    def prompt(self, system: str, question: str, actions: list[str]) -> list[int]:
        """Instruction (`system`, or this protocol's own), worked examples, the question, and an open assistant turn."""
        role = "searcher" if "answer" in actions else "reader"
        instruction = system or (INSTRUCTION if role == "searcher" else READER_INSTRUCTION)
        sentinel = _SENTINEL.format("question")
        rendered = self._render([("system", instruction), *EXAMPLES[role], ("user", sentinel)])
        before, after = rendered.split(sentinel)
        asked = f"Question: {question}" + (HINT if role == "searcher" else "")
        return [*self._control(before), *self._plain(asked), *self._control(after)]

    def text(self, decision_ids: list[int]) -> str:
        return str(self.tokenizer.decode(decision_ids))

    def parse(self, decision_ids: list[int]) -> Action:
        """`Search: q`, `Answer: a` or `Note: m` on the only line of the decision; anything else is MALFORMED."""
        text = str(self.tokenizer.decode(decision_ids, skip_special_tokens=True)).strip()
        match = _LINE.fullmatch(text)
        if match is None:
            return Action(ActionKind.MALFORMED, error="write one line: 'Search: ' and a query, or 'Answer: ' and a short answer")
        kind, content = _KINDS[match[1].lower()], match[2].strip()
        if _MARK.search(content):
            return Action(ActionKind.MALFORMED, error="write one 'Search:' or one 'Answer:', not several")
        if kind is ActionKind.TOOL:
            return Action(kind, tool="search", arguments={"query": content})
        return Action(kind, text=content)

    def reopen(self, decision_ids: list[int]) -> list[int]:
        """Closes the decision with an empty user turn's frame and opens the next assistant turn."""
        return [*self._opening(decision_ids), *self._close]

    def observation(self, text: str, *, decision_ids: list[int], sender: str, max_tokens: int) -> Observation:
        marks = len(_MARK.findall(text))
        shown = _MARK.sub(lambda match: f"{match[1]} :", text)
        ids = self._plain(shown)
        return Observation(
            ids=[*self._opening(decision_ids), *ids[:max_tokens], *self._close],
            text=shown,
            cut=len(ids) > max_tokens,
            neutralised_tags=marks,
        )

    def _opening(self, decision_ids: list[int]) -> list[int]:
        """Glue before a user's words; the end-of-turn token is left out where the engine sampled it."""
        ended = len(decision_ids) > 0 and decision_ids[-1] == self._end_id
        return self._open[1:] if ended else self._open

    def scoring_suffix(self, answer: str) -> ScoringSuffix:
        """`Answer: a` and the end-of-turn token, tokenised once; a token that overlaps the answer's characters counts."""
        prefix = "Answer: "
        encoded = self.tokenizer(
            prefix + answer, add_special_tokens=False, split_special_tokens=True, return_offsets_mapping=True
        )
        gold_mask = [end > len(prefix) for _, end in encoded["offset_mapping"]]
        if not any(gold_mask):
            raise ValueError(f"protocol `chat_short` cannot score an empty answer: {answer!r}")
        return ScoringSuffix([*encoded["input_ids"], self._end_id], np.array([*gold_mask, False]))
