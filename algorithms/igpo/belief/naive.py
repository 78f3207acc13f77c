"""`naive`: one plain forward pass per moment. Slow; the tests check the other scorers against it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from algorithms.igpo.model.token_logp import token_logp
from envs.runner.belief import BeliefQuery
from envs.search.protocols.base import ScoringSuffix


class NaiveScorer:
    """A scorer (`envs.runner.belief`) over a model that `load_causal_lm` returned.

    The aliases of a moment are rows of one batch.
    """

    def __init__(self, model, compute_dtype: torch.dtype = torch.float32):
        self._model = model
        self._compute_dtype = compute_dtype

    def score(self, queries: Sequence[BeliefQuery]) -> list[np.ndarray]:
        """Scores each query, float64 [T1, K], in nats."""
        return [
            np.stack([self._score_moment(context_L, query.suffixes_K) for context_L in query.contexts_T1])
            for query in queries
        ]

    @torch.no_grad()
    def _score_moment(self, context_L: np.ndarray, suffixes_K: list[ScoringSuffix]) -> np.ndarray:
        lengths_K = np.array([len(context_L) + len(suffix.ids) for suffix in suffixes_K])
        not_gold_L = np.zeros(len(context_L), dtype=np.bool_)
        ids_F = np.concatenate([part for suffix in suffixes_K for part in (context_L, suffix.ids)])
        gold_F = np.concatenate([part for suffix in suffixes_K for part in (not_gold_L, suffix.gold_mask_L)])
        alias_F = np.repeat(np.arange(len(suffixes_K)), lengths_K)
        columns = (torch.from_numpy(column) for column in (ids_F.astype(np.int64), gold_F, alias_F))
        logp_D, _ = token_logp(self._model, *columns, self._compute_dtype, entropy="off")
        alias_D = alias_F[gold_F]
        return np.bincount(alias_D, weights=logp_D.double().cpu().numpy()) / np.bincount(alias_D)
