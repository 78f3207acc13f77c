"""A rollout engine that follows a script, so tests of environment and loop need no model."""

from __future__ import annotations

import numpy as np

from envs.engine.base import Generate, Generated, ScoreAnswer, Scored
from envs.search.config import SearchEnvSettings
from envs.search.protocols.tiny import build_tokenizer
from envs.search.task import SearchTask
from envs.world.words import ATTRIBUTES, NAMES, OTHER_WORDS, RELATIONS, VALUES

WORDS = [
    *RELATIONS,
    *ATTRIBUTES,
    *(word for words in VALUES.values() for word in words),
    *NAMES,
    *OTHER_WORDS,
]


def tiny_task(folder, **settings) -> SearchTask:
    """A search task over the generated world with the tiny protocol's tokenizer saved in `folder`."""
    build_tokenizer(list(dict.fromkeys(WORDS))).save_pretrained(folder)
    world = {"train_questions": 20, "heldout_questions": 10}
    return SearchTask(SearchEnvSettings(tokenizer=str(folder), **{"world": world, **settings}))


def ids(task: SearchTask, text: str) -> list[int]:
    """Token ids of a decision written out with its control tokens, such as `<search> mira <end>`."""
    return task.protocol.tokenizer.convert_tokens_to_ids(text.split())


class ScriptedEngine:
    """Decides by `script(context text, turn number) -> decision text`; `max_tokens` cuts a decision.

    `encode` turns that text into ids; by default it splits at blanks. A score is minus the context's length /
    100, which identifies the scored history. `order` lists the ids of all requests.
    """

    weights_version = 7

    def __init__(self, task: SearchTask, script, encode=None):
        self.task, self.script = task, script
        self.encode = encode or (lambda text: ids(task, text))
        self.waiting: list = []
        self.order: list[str] = []
        self.scored_contexts: list[list[int]] = []

    def submit(self, request) -> None:
        self.order.append(request.request_id)
        self.waiting.append(request)

    @property
    def stepped(self) -> object:
        return self

    @property
    def is_busy(self) -> bool:
        return bool(self.waiting)

    def step(self):
        waiting, self.waiting = self.waiting, []
        return [self._answer(request) for request in waiting]

    def _answer(self, request: Generate | ScoreAnswer):
        if isinstance(request, ScoreAnswer):
            self.scored_contexts.append(request.context_ids)
            return Scored(request.request_id, -len(request.context_ids) / 100)
        context = self.task.protocol.text(request.context_ids)
        decision = self.encode(self.script(context, int(request.request_id.rsplit("/", 1)[1])))
        finish = "stop" if len(decision) <= request.max_tokens else "length"
        decision = decision[: request.max_tokens]
        return Generated(request.request_id, decision, np.full(len(decision), -0.5, np.float32), finish)
