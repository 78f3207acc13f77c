"""Belief in the gold answers along imported rollouts: the contexts to score, and their scores.

A moment's context is the conversation up to there as the model's chat template shows it, with an open turn of
the assistant. Texts are tokenised again, so a score may differ in its last digits from one that the framework
itself would have computed on its tokens.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from envs.data.question import AliasRule, eligible_aliases
from envs.engine.base import EngineSettings, RolloutEngine
from envs.errors import InputError
from envs.runner.belief import BeliefQuery, PrefixScorer, enter_scores
from envs.search.protocols.base import ScoringSuffix
from envs.search.protocols.chat_template import ChatTemplate
from envs.search.protocols.igpo import IGPOProtocol
from envs.search.trajectory import Rollout
from pipeline.importing.conversation import Conversation

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PLACE = "{answer}"
"""Stands for the answer in an answer template."""
AT_ONCE = 16
"""Rollouts whose scores are asked for together."""


class AnswerTemplate:
    """The words in which a gold answer is scored.

    Args:
        tokenizer: the scoring model's.
        words: text around `{answer}`; None: the paper's tags after its closed thought.

    Raises:
        InputError: `{answer}` is not in it once, or the model has no chat template that can be used.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, words: str | None):
        if words is not None and words.count(PLACE) != 1:
            raise InputError(f"answer template {words!r}: it must contain {PLACE} once")
        try:
            self._paper = IGPOProtocol(tokenizer, []) if words is None else None
            self.chat = self._paper.template if self._paper else ChatTemplate(tokenizer, "import")
        except ValueError as error:
            raise InputError(str(error)) from error
        before, _, after = (words or PLACE).partition(PLACE)
        self._before, self._after = self.chat.end_of_thought + before, after

    def suffix(self, answer: str) -> ScoringSuffix:
        """The tokens to append to a context."""
        if self._paper:
            return self._paper.scoring_suffix(answer)
        return self.chat.scoring_suffix(self._before, answer, self._after)


def belief_query(
    conversation: Conversation,
    rollout: Rollout,
    template: AnswerTemplate,
    *,
    alias_rule: AliasRule,
    max_answer_tokens: int,
) -> BeliefQuery | None:
    """The moments and answers to score, which are noted in `rollout.scored_golds_K`; None without belief.

    Raises:
        InputError: the chat template cannot show the conversation.
    """
    golds = conversation.question.golds
    suffixes = [template.suffix(gold) for gold in golds]
    counts = [int(suffix.gold_mask_L.sum()) for suffix in suffixes]
    kept = eligible_aliases(counts, alias_rule, max_answer_tokens)
    rollout.scored_golds_K = [golds[k] for k in kept]
    if not kept.size:
        return None
    contexts = []
    try:
        for turns in (0, *(turn.index + 1 for turn in rollout.gain_bearing_turns)):
            text = template.chat.render(conversation.messages(turns), conversation.tools)
            contexts.append(np.array(template.chat.control_ids(text), dtype=np.int32))
        _check_shown(conversation, template.chat)
    except ValueError as error:
        raise InputError(f"rollout {conversation.id}: {error}") from error
    return BeliefQuery(contexts, [suffixes[k] for k in kept])


def _check_shown(conversation: Conversation, chat: ChatTemplate) -> None:
    """Raises ValueError where the template leaves out a tool call, or a message of another role than the
    assistant's (whose earlier thoughts some templates leave out).
    """
    messages = conversation.messages(len(conversation.exchanges))
    text = chat.render(messages, conversation.tools)
    without = [{key: value for key, value in m.items() if key != "tool_calls"} for m in messages]
    lost = [
        f"a message of role {message['role']}"
        for message in messages
        if message["role"] != "assistant" and not _is_in(text, message["content"].strip())
    ]
    if without != messages and chat.render(without, conversation.tools) == text:
        lost.append("calls of tools")
    if lost:
        raise ValueError(
            f"the model's chat template does not show {lost[0]}: score with the model that wrote the "
            "rollouts, or write that into the content of user and assistant messages"
        )


def _is_in(text: str, content: str) -> bool:
    """Whether a rendered text holds `content`, as it is or as JSON."""
    return (
        content in text
        or json.dumps(content)[1:-1] in text
        or json.dumps(content, ensure_ascii=False)[1:-1] in text
    )


def longest(queries: Sequence[BeliefQuery | None]) -> tuple[int, int]:
    """The place of the query with the longest context and answer, and its number of tokens."""
    lengths = [
        max(map(len, query.contexts_T1)) + max(len(suffix.ids) for suffix in query.suffixes_K) if query else 0
        for query in queries
    ]
    place = int(np.argmax(lengths))
    return place, lengths[place]


def open_engine(folder: str, settings: EngineSettings, *, tokens: int, dtype: Any) -> RolloutEngine:
    """An engine with the model's weights, for contexts and answers of up to `tokens` tokens."""
    from algorithms.igpo.model.causal_lm import DTYPES, load_causal_lm
    from envs.engine.build import build_engine

    engine = build_engine(folder, settings, max_model_len=tokens + 1, dtype=dtype)
    engine.load_weights(dict(load_causal_lm(folder, DTYPES[dtype]).state_dict()), version=0)
    return engine


def score(
    engine: RolloutEngine | None, members: Sequence[tuple[Rollout, BeliefQuery | None]]
) -> Iterator[int]:
    """Scores every query and enters the scores into its rollout. Yields how many rollouts were done.

    `engine` may be None where no rollout has a query.
    """
    wanted = [(rollout, query) for rollout, query in members if query is not None]
    yield len(members) - len(wanted)
    if engine is None:
        return
    scorer = PrefixScorer(engine)
    for start in range(0, len(wanted), AT_ONCE):
        some = wanted[start : start + AT_ONCE]
        for (rollout, _), scores_T1K in zip(some, scorer.score([query for _, query in some]), strict=True):
            enter_scores(rollout, scores_T1K, "current")
        yield len(some)
