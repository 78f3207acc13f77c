"""The `chat_short` protocol: one line per turn in the model's chat template, for models as small as 135M.

    assistant   Search: author of The Silent Orchard
    user        The Silent Orchard: a 1921 novel by Marta Lindqvist ...
    assistant   Answer: Marta Lindqvist

The end-of-turn token or a line break ends a turn. Turns are appended as suffixes. Only the template's own
pieces may hold control tokens (`chat_template`); questions, documents and messages are tokenised as plain
text.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from envs.search.protocols.base import Action, Observation, ScoringSuffix
from envs.search.protocols.chat_template import ChatTemplate
from envs.search.trajectory import ActionKind

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

INSTRUCTION = (
    "You answer questions with the help of a search engine. Write one line only: 'Search: ' and a query, or "
    "'Answer: ' and a short answer. Search until the results contain the answer."
)
HINT = " Reply with one line that starts with 'Search:' or 'Answer:'."
"""Follows every question, because a 135M model has forgotten the instruction by then. At temperature 1, 90%
of first turns parse with it and 52% without it (40 HotpotQA questions)."""
READER_INSTRUCTION = (
    "You read search results for a colleague. Write one line only: 'Note: ' and the fact that matters."
)
EXAMPLES = {
    "searcher": [
        ("user", "Question: In which country was the author of The Silent Orchard born?" + HINT),
        ("assistant", "Search: The Silent Orchard author"),
        (
            "user",
            "The Silent Orchard: The Silent Orchard is a 1921 novel by Marta Lindqvist, set on an island "
            "farm.",
        ),
        ("assistant", "Search: Marta Lindqvist born"),
        (
            "user",
            "Marta Lindqvist: Marta Lindqvist (1884-1950) was a novelist. She was born in Uppsala, Sweden.",
        ),
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
        (
            "user",
            "The Silent Orchard: The Silent Orchard is a 1921 novel by Marta Lindqvist, set on an island "
            "farm.",
        ),
        ("assistant", "Note: the author of The Silent Orchard is Marta Lindqvist"),
    ],
}
LINE_BREAK_BYTE = "<0x0A>"
"""A line break where a vocabulary falls back to bytes (SentencePiece: Llama 2, TinyLlama, Mistral)."""
_LINE = re.compile(r"(Search|Answer|Note):[ \t]*(\S.*)", re.IGNORECASE)
_MARK = re.compile(r"\b(Search|Answer|Note):", re.IGNORECASE)
_KINDS = {"search": ActionKind.TOOL, "answer": ActionKind.ANSWER, "note": ActionKind.MESSAGE}


class ChatShortProtocol:
    """`envs.search.protocols.base.Protocol` over a chat model's tokenizer.

    Args:
        tokenizer: a chat model's tokenizer.
        worked_examples: whether the prompt shows some. An untrained model needs them; a policy that has seen
            demonstrations does not.

    Raises:
        ValueError: the tokenizer has no chat template, or the template does not allow appending.
    """

    name = "chat_short"
    stop_strings: list[str] = []

    def __init__(self, tokenizer: PreTrainedTokenizerBase, worked_examples: bool = True):
        self.tokenizer = tokenizer
        self._worked_examples = worked_examples
        self._template = ChatTemplate(tokenizer, self.name, thinks=False)
        end = self._template.end_id
        newlines = {
            i
            for token, i in tokenizer.get_vocab().items()
            if token and (set(token) <= {"\n", "Ċ"} or token == LINE_BREAK_BYTE) and i != end
        }
        self.stop_token_ids = [end, *sorted(newlines)]

    def prompt(self, system: str, question: str, actions: list[str]) -> list[int]:
        """Instruction (`system`, else the protocol's own), worked examples if any, question, open turn."""
        reads = actions == ["message"]
        instruction = system or (READER_INSTRUCTION if reads else INSTRUCTION)
        asked = ("user", "Question: {question}" + ("" if reads else HINT))
        examples = EXAMPLES["reader" if reads else "searcher"] if self._worked_examples else []
        return self._template.prompt([("system", instruction), *examples, asked], question)

    def decision(self, action: Action) -> list[int]:
        kind, words = (
            ("Search: ", action.arguments["query"])
            if action.kind is ActionKind.TOOL
            else ("Answer: ", action.text)
        )
        return self._template.decision(kind, words, "")

    def text(self, decision_ids: list[int]) -> str:
        return self._template.text(decision_ids)

    def is_complete(self, decision_ids: list[int]) -> bool:
        return len(decision_ids) > 0 and decision_ids[-1] in self.stop_token_ids

    def parse(self, decision_ids: list[int]) -> Action:
        """Reads `Search: q`, `Answer: a` or `Note: m` on a single line; anything else is MALFORMED.

        So is a control token inside the line.
        """
        ids = [int(i) for i in decision_ids]
        if ids and ids[-1] in self.stop_token_ids:
            ids.pop()
        fault = self._template.fault(ids)
        if fault:
            return Action(ActionKind.MALFORMED, error=fault)
        text = str(self.tokenizer.decode(ids, skip_special_tokens=True)).strip()
        match = _LINE.fullmatch(text)
        if match is None:
            return Action(
                ActionKind.MALFORMED,
                error="write one line: 'Search: ' and a query, or 'Answer: ' and a short answer",
            )
        kind, content = _KINDS[match[1].lower()], match[2].strip()
        if _MARK.search(content):
            return Action(ActionKind.MALFORMED, error="write one 'Search:' or one 'Answer:', not several")
        if kind is ActionKind.TOOL:
            return Action(kind, tool="search", arguments={"query": content})
        return Action(kind, text=content)

    def reopen(self, decision_ids: list[int]) -> list[int]:
        """Closes the decision with an empty user turn's frame and opens the next assistant turn."""
        return [*self._template.opening(self._template.user, decision_ids), *self._template.user.closing]

    def observation(self, text: str, *, decision_ids: list[int], sender: str, max_tokens: int) -> Observation:
        shown, marks = self._template.plain.disarm(text, _MARK, r"\g<1> :")
        return self._template.observation(
            shown,
            pieces=self._template.user,
            decision_ids=decision_ids,
            max_tokens=max_tokens,
            neutralised=marks,
        )

    def scoring_suffix(self, answer: str) -> ScoringSuffix:
        """`Answer: a` and the end-of-turn token."""
        return self._template.scoring_suffix("Answer: ", answer, "")
