"""Tags such as ``<think>`` and ``<answer>``: reads them in a decision, disarms them in a document.

Reading and disarming share one definition of a tag, so no document can hold a tag that the reader would
accept. Both take one pass of a regular expression without repetition, so they are linear in the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from envs.search.protocols.base import Action
from envs.search.protocols.plain_text import PlainTokenizer
from envs.search.trajectory import ActionKind


@dataclass(frozen=True, slots=True)
class Block:
    """The stripped text between ``<tag>`` and ``</tag>``."""

    tag: str
    text: str


class Tags:
    """The tags of a protocol, and ``<think>``. Tags are exact: lower case, no blanks, no attributes.

    Args:
        actions: tags of which a decision has one.
        observations: tags that only the environment writes.
    """

    def __init__(self, actions: tuple[str, ...], observations: tuple[str, ...]):
        self.actions, self.observations = actions, observations
        names = "|".join(map(re.escape, ("think", *actions, *observations)))
        self._tag = re.compile(f"<(/?)({names})>")
        self._tag_like = re.compile(f"<(?=/?(?:{names})\\b)", re.IGNORECASE)

    def is_tag(self, text: str) -> bool:
        return self._tag.fullmatch(text) is not None

    def any_in(self, text: str) -> bool:
        return self._tag.search(text) is not None

    def disarm(self, text: str, plain: PlainTokenizer) -> tuple[str, int]:
        """Puts a blank into everything that looks like a tag (``< answer>``), or does so once normalised.

        Returns:
            The new text and the number of tags.
        """
        return plain.disarm(text, self._tag_like, "< ")

    def read(self, text: str) -> Block | Action:
        """Reads the one action block of a decision.

        A thought is optional and comes first. Text outside of tags is ignored.

        Returns:
            The block, or a MALFORMED action that names the fault (definitions: Outcome). It ends the rollout
            if the decision has no action tag at all or an answer tag. A broken tool call or message may be
            tried again.
        """
        blocks, error = self._blocks(text)
        taken = [block for block in blocks if block.tag in self.actions]
        forged = next((block.tag for block in blocks if block.tag in self.observations), None)
        if not error:
            if forged:
                error = f"only the environment writes <{forged}>"
            elif any(block.tag == "think" for block in blocks[1:]):
                error = "<think> comes once, and first"
            elif not taken:
                error = f"no action: write one of {', '.join(f'<{tag}>' for tag in self.actions)}"
            elif len(taken) > 1:
                error = f"one action a turn, not {len(taken)}"
            elif not taken[0].text:
                error = f"<{taken[0].tag}> is empty"
        if not error:
            return taken[0]
        tried = {match[2] for match in self._tag.finditer(text)} & set(self.actions)
        return Action(ActionKind.MALFORMED, error=error, ends_rollout=not tried or "answer" in tried)

    def _blocks(self, text: str) -> tuple[list[Block], str]:
        """The blocks in order, up to the first misplaced tag, and the fault of that tag ("" if there is
        none).
        """
        blocks: list[Block] = []
        open_tag, start = "", 0
        for match in self._tag.finditer(text):
            closes, tag = bool(match[1]), match[2]
            if closes != bool(open_tag) or (closes and tag != open_tag):
                return blocks, f"{match[0]} is out of place" + (f" inside <{open_tag}>" if open_tag else "")
            if closes:
                blocks.append(Block(tag, text[start : match.start()].strip()))
                open_tag = ""
            else:
                open_tag, start = tag, match.end()
        return blocks, f"<{open_tag}> is not closed" if open_tag else ""
