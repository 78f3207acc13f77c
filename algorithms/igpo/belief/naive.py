"""`naive`: one plain forward per moment. Slow, and what the other scorers are checked against."""

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
        return [
            np.stack([self._score_moment(context_L, query.suffixes_K) for context_L in query.contexts_T1])
            for query in queries
        ]

    @torch.no_grad()
    def _score_moment(self, context_L: np.ndarray, suffixes_K: list[ScoringSuffix]) -> np.ndarray:
        lengths_K = np.array([len(context_L) + len(suffix.ids) for suffix in suffixes_K])
        token_ids_KL = np.zeros((len(suffixes_K), lengths_K.max()), dtype=np.int64)
        gold_KL = np.zeros(token_ids_KL.shape, dtype=np.bool_)
        for k, suffix in enumerate(suffixes_K):
            token_ids_KL[k, : lengths_K[k]] = [*context_L, *suffix.ids]
            gold_KL[k, len(context_L) : lengths_K[k]] = suffix.gold_mask_L
        device = next(self._model.parameters()).device
        token_ids, gold = (
            torch.from_numpy(token_ids_KL).to(device),
            torch.from_numpy(gold_KL[:, 1:]).to(device),
        )
        logp_KL, _ = token_logp(
            self._model,
            token_ids,
            gold,
            self._compute_dtype,
            entropy="off",
            lengths=torch.from_numpy(lengths_K),
        )
        return (logp_KL.double().sum(1) / gold.sum(1)).cpu().numpy()
