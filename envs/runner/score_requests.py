"""The scores that running rollouts ask an engine for: each pair of context and answer once.

Rollouts of a group begin with the same context and often go on alike. The first rollout that comes to a pair
asks for it; the others wait for the same request or find the score.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Sequence
from typing import Generic, TypeVar

from envs.engine.base import RolloutEngine, ScoreAnswer, Scored
from envs.search.protocols.base import ScoringSuffix

Asker = TypeVar("Asker")


class ScoreRequests(Generic[Asker]):
    """Open and finished requests of one call of the loop. An asker is what the caller knows it again by."""

    def __init__(self) -> None:
        # The key of a score identifies its context and its answer: (digest of the context, ids of the
        # suffix).
        self._id_of: dict[tuple, str] = {}
        """Key to request id of a score in progress."""
        self._key_of: dict[str, tuple] = {}
        """The inverse of `_id_of`."""
        self._askers: dict[str, list[tuple[Asker, int]]] = {}
        """Request id to all that wait for the score: asker, alias."""
        self._known: dict[tuple, float] = {}
        """Key to a finished score."""

    def ask(
        self,
        engine: RolloutEngine,
        name: str,
        context: Sequence[int],
        suffixes_K: Sequence[ScoringSuffix],
        asker: Asker,
    ) -> list[float | None]:
        """Asks for the score of every alias after `context`.

        Args:
            engine: gets the requests.
            name: begins the ids of the requests; unique among the calls.
            context: ids before the answer.
            suffixes_K: the answer template of each alias.
            asker: comes back from `take`.

        Returns:
            For each alias its score, or None where `take` will bring it.
        """
        # A digest, because the keys of all turns are kept: contexts of 30k tokens would fill gigabytes.
        digest = hashlib.blake2b(array("i", context).tobytes(), digest_size=16).digest()
        scores_K: list[float | None] = []
        for k, suffix in enumerate(suffixes_K):
            key = (digest, *suffix.ids)
            scores_K.append(self._known.get(key))
            if scores_K[k] is not None:
                continue
            request_id = self._id_of.get(key)
            if request_id is None:
                request_id = self._id_of[key] = f"{name}/{k}"
                self._key_of[request_id] = key
                self._askers[request_id] = []
                engine.submit(ScoreAnswer(request_id, list(context), suffix.ids, suffix.gold_mask_L))
            self._askers[request_id].append((asker, k))
        return scores_K

    def take(self, scored: Scored) -> list[tuple[Asker, int]]:
        """Takes a result of the engine.

        Returns:
            Everyone who asked for it, with the alias.

        Raises:
            RuntimeError: the score is not finite.
        """
        if not math.isfinite(scored.score):
            raise RuntimeError(
                f"the score {scored.request_id} is {scored.score}: the policy's weights are broken"
            )
        key = self._key_of.pop(scored.request_id)
        del self._id_of[key]
        self._known[key] = scored.score
        return self._askers.pop(scored.request_id)
