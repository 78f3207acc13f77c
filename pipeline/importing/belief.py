"""Belief in the gold answers along imported rollouts: the contexts to score, and their scores.

A moment's context is the conversation up to there as the model's chat template shows it, with an open turn of
the assistant. Texts are tokenised again, so a score may differ in its last digits from one that the framework
itself would have computed on its tokens.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from envs.data.question import AliasRule, eligible_aliases
from envs.engine.base import EngineSettings, RolloutEngine
from envs.errors import InputError
from envs.runner.belief import BeliefQuery, PrefixScorer, ScoringPolicy, enter_scores
from envs.search.protocols.base import ScoringSuffix
from envs.search.protocols.chat_template import ChatTemplate
from envs.search.protocols.igpo import IGPOProtocol
from envs.search.trajectory import Rollout
from pipeline.importing.conversation import Conversation
from pipeline.importing.template_check import OF_TOOLS, THOUGHTS, what_is_lost
from pipeline.importing.tool_text import written_out

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLACE = "{answer}"
"""Stands for the answer in an answer template."""
AS_TEXT = "--tool-calls text"
AT_ONCE = 16
"""Rollouts whose scores are asked for together."""


class BeliefQueries:
    """Makes the queries of rollouts for one model.

    Args:
        tokenizer: the scoring model's.
        words: text around `{answer}` in which a gold answer is scored; None: the paper's tags after a closed
            thought.
        alias_rule: how the scores of several aliases become one.
        max_answer_tokens: longest gold answer that is scored.
        tools_as_text: whether tools, their calls and results are shown as text
            (`pipeline.importing.tool_text`) and not as the chat template does.

    Attributes:
        words: the text around `{answer}`, after what closes a thought that the template begins.
        without_thoughts: rollouts whose earlier thoughts the template leaves out.

    Raises:
        InputError: `{answer}` is not in the words once, or the model has no chat template that can be used.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        words: str | None,
        *,
        alias_rule: AliasRule,
        max_answer_tokens: int,
        tools_as_text: bool = False,
    ):
        if words is not None and words.count(PLACE) != 1:
            raise InputError(f"answer template {words!r}: it must contain {PLACE} once")
        if not tokenizer.chat_template:
            raise InputError(
                f"the tokenizer of {tokenizer.name_or_path} has no chat template: score with a chat model"
            )
        try:
            paper = IGPOProtocol(tokenizer, []) if words is None else None
            self.chat = paper.template if paper else ChatTemplate(tokenizer, "import")
        except ValueError as error:
            raise InputError(str(error)) from error
        if paper:
            self._before, self._after = paper.answer_prefix, paper.answer_suffix
        else:
            before, _, self._after = (words or PLACE).partition(PLACE)
            self._before = self.chat.end_of_thought + before
        self.words = self._before + PLACE + self._after
        self.without_thoughts = 0
        self._tools_as_text = tools_as_text
        self._alias_rule, self._max_answer_tokens = alias_rule, max_answer_tokens
        self._suffixes_of: dict[tuple[str, ...], tuple[list[str], list[ScoringSuffix]]] = {}
        self._lost_of: dict[Any, list[str]] = {}

    def check(self, conversation: Conversation, rollout: Rollout, room: int) -> int:
        """Notes in `rollout.scored_golds_K` the aliases to score, and measures the query without keeping it.

        Args:
            conversation: what was said.
            rollout: the same as a rollout.
            room: tokens that the longest context with the longest answer may take.

        Returns:
            The tokens that they take; 0 without belief.

        Raises:
            InputError: the chat template cannot show the conversation, or leaves something out of it, or they
                take more than `room`.
        """
        rollout.scored_golds_K, suffixes_K = self._suffixes(tuple(conversation.question.golds))
        if not suffixes_K:
            return 0
        with _naming(conversation):
            shown = self._shown(conversation, _moments(rollout)[-1])
            lost = self._lost(*shown)
            if serious := [what for what in lost if what != THOUGHTS]:
                way_out = (
                    f"show it as text, with {AS_TEXT}"
                    if serious[0] in OF_TOOLS and not self._tools_as_text
                    else "write that into the content of user and assistant messages"
                )
                raise ValueError(
                    f"the model's chat template does not show {serious[0]}: score with the model that wrote "
                    f"the rollouts, or {way_out}"
                )
        contexts_T1 = self._contexts(conversation, rollout)
        tokens = max(map(len, contexts_T1)) + max(len(suffix.ids) for suffix in suffixes_K)
        if tokens > room:
            raise InputError(
                f"{conversation.where}: it takes {tokens} tokens with a gold answer, and the model has room "
                f"for {room}"
            )
        self.without_thoughts += THOUGHTS in lost
        return tokens

    def make(self, conversation: Conversation, rollout: Rollout) -> BeliefQuery | None:
        """The moments and answers to score of a rollout that was checked; None without belief."""
        _, suffixes_K = self._suffixes(tuple(conversation.question.golds))
        return BeliefQuery(self._contexts(conversation, rollout), suffixes_K) if suffixes_K else None

    def _contexts(self, conversation: Conversation, rollout: Rollout) -> list[np.ndarray]:
        """The ids before the answer of each moment.

        Raises:
            InputError: the chat template cannot show the conversation.
        """
        with _naming(conversation):
            texts = [self.chat.render(*self._shown(conversation, turns)) for turns in _moments(rollout)]
        return [np.array(self.chat.control_ids(text), dtype=np.int32) for text in texts]

    def _lost(self, messages: list[dict[str, Any]], tools: list[Any] | None) -> list[str]:
        """What the template leaves out.

        Raises:
            ValueError: it refuses the messages.
        """
        try:
            return what_is_lost(messages, tools, self.chat.render, self._lost_of)
        except ValueError as error:
            if any(message["role"] == "tool" for message in messages):
                raise ValueError(f"{error}; messages of tools become text with {AS_TEXT}") from error
            raise

    def _shown(self, conversation: Conversation, turns: int) -> tuple[list[dict[str, Any]], list[Any] | None]:
        """The messages up to the end of the first `turns` turns, and the tools, for the chat template."""
        messages = conversation.messages(turns)
        if self._tools_as_text:
            return written_out(messages, conversation.tools), None
        return messages, conversation.tools

    def _suffixes(self, golds: tuple[str, ...]) -> tuple[list[str], list[ScoringSuffix]]:
        """The aliases to score and their answer templates."""
        if golds not in self._suffixes_of:
            suffixes = [self.chat.scoring_suffix(self._before, gold, self._after) for gold in golds]
            counts = [int(suffix.gold_mask_L.sum()) for suffix in suffixes]
            kept = eligible_aliases(counts, self._alias_rule, self._max_answer_tokens)
            self._suffixes_of[golds] = [golds[k] for k in kept], [suffixes[k] for k in kept]
        return self._suffixes_of[golds]


def _moments(rollout: Rollout) -> list[int]:
    """Turns before each moment: the prompt, then each gain-bearing turn."""
    return [0, *(turn.index + 1 for turn in rollout.gain_bearing_turns)]


@contextmanager
def _naming(conversation: Conversation) -> Generator[None]:
    """Names the place of the conversation in what the chat template refuses.

    Raises:
        InputError: the body raised ValueError.
    """
    try:
        yield
    except ValueError as error:
        raise InputError(f"{conversation.where}: {error}") from error


def open_engine(
    folder: str, settings: EngineSettings, *, tokens: int, dtype: Any, trust_remote_code: bool
) -> RolloutEngine:
    """An engine with the model's weights, for contexts and answers of up to `tokens` tokens."""
    from algorithms.igpo.model.causal_lm import DTYPES, load_causal_lm
    from envs.engine.build import build_engine

    engine = build_engine(
        folder, settings, max_model_len=tokens + 1, dtype=dtype, trust_remote_code=trust_remote_code
    )
    engine.load_weights(
        dict(load_causal_lm(folder, DTYPES[dtype], trust_remote_code).state_dict()), version=0
    )
    return engine


def score(
    engine: RolloutEngine | None,
    queries: BeliefQueries,
    members: Sequence[tuple[Conversation, Rollout]],
    policy: ScoringPolicy,
) -> Iterator[int]:
    """Scores belief and enters the scores into the rollouts. Yields how many rollouts were done.

    Queries are made `AT_ONCE` at a time: a query holds the whole conversation once for each moment, and those
    of a large file would not fit into memory together.

    Args:
        engine: an idle one; None where no rollout has belief.
        queries: makes the queries.
        members: conversations with their rollouts, which were checked.
        policy: whom the model stands for.
    """
    if engine is None:
        yield len(members)
        return
    scorer = PrefixScorer(engine)
    for start in range(0, len(members), AT_ONCE):
        some = members[start : start + AT_ONCE]
        made = ((rollout, queries.make(conversation, rollout)) for conversation, rollout in some)
        wanted = [(rollout, query) for rollout, query in made if query is not None]
        scores = scorer.score([query for _, query in wanted])
        for (rollout, _), scores_T1K in zip(wanted, scores, strict=True):
            enter_scores(rollout, scores_T1K, policy)
        yield len(some)
