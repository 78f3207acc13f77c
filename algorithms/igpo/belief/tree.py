"""`tree`: scores all answers of a rollout in one pass over its tokens.

First the trunk of each `TokenTree` runs with the plain causal mask, which every fast kernel supports, and
fills the cache of keys and values. Then all branches run together, with a mask that shows each token only its
ancestors, at the positions of its own sequence. The cost is one forward pass over the longest context plus
the answers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from algorithms.igpo.belief.token_tree import TokenTree
from algorithms.igpo.model.token_logp import LOGITS_PER_CHUNK, backbone, head_logp
from envs.runner.belief import BeliefQuery


@dataclass(slots=True)
class _Tree:
    """One query's tree, and the nodes whose outputs predict its gold tokens."""

    tree: TokenTree
    node_G: np.ndarray
    """For each gold token of each answer, the node before it: its output predicts the token."""
    target_G: np.ndarray
    answer_G: np.ndarray
    """Index of the token's answer: moment * K + alias."""
    shape: tuple[int, int]
    longest: int
    """Tokens of the longest context with the answer behind it."""

    @property
    def trunk_size(self) -> int:
        return len(self.tree.trunk_L)


class TreeScorer:
    """A scorer (`envs.runner.belief`) over a model that `load_causal_lm` returned.

    Args:
        model: the scoring policy.
        compute_dtype: bfloat16 runs it under autocast.
        tokens_per_batch: tokens of trunks and branches, padding included, in one pass; a larger rollout goes
            alone.
    """

    def __init__(self, model, compute_dtype: torch.dtype = torch.float32, tokens_per_batch: int = 8192):
        self._model = model
        self._compute_dtype = compute_dtype
        self._tokens_per_batch = tokens_per_batch

    def score(self, queries: Sequence[BeliefQuery]) -> list[np.ndarray]:
        """Scores of each query, [T1, K].

        Raises:
            ValueError: a sequence is longer than the model's sliding window, which the mask ignores.
        """
        trees = [_grow(query) for query in queries]
        self._refuse_sliding_window(trees)
        scores: list[np.ndarray] = [np.empty(0)] * len(trees)
        was_training = self._model.training
        self._model.eval()  # in training mode, gradient checkpointing would drop keys and values
        try:
            for batch in _batches(trees, self._tokens_per_batch):
                for n, score_TK in zip(batch, self._score_batch([trees[n] for n in batch]), strict=True):
                    scores[n] = score_TK
        finally:
            self._model.train(was_training)
        return scores

    @torch.no_grad()
    def _score_batch(self, trees: list[_Tree]) -> list[np.ndarray]:
        device = next(self._model.parameters()).device
        trunks_NL, branches_NB, position_NB, sees_NBX = (
            torch.from_numpy(part).to(device) for part in _pad(trees)
        )
        model = backbone(self._model)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self._compute_dtype is torch.bfloat16):
            trunk = model(input_ids=trunks_NL, use_cache=True)
            branch = model(
                input_ids=branches_NB,
                position_ids=position_NB,
                attention_mask=sees_NBX[:, None],
                past_key_values=trunk.past_key_values,
                use_cache=True,
            )
            hidden_NXH = torch.cat([trunk.last_hidden_state, branch.last_hidden_state], dim=1)
            # Padding separates a tree's trunk from its branch nodes: shift their indices by its length.
            behind = [trunks_NL.shape[1] - tree.trunk_size for tree in trees]
            nodes = [
                tree.node_G + np.where(tree.node_G >= tree.trunk_size, b, 0)
                for tree, b in zip(trees, behind, strict=True)
            ]
            row_P = np.repeat(np.arange(len(trees)), [len(tree.node_G) for tree in trees])
            hidden_PH = hidden_NXH[
                torch.from_numpy(row_P).to(device), torch.from_numpy(np.concatenate(nodes)).to(device)
            ]
            target_P = torch.from_numpy(np.concatenate([tree.target_G for tree in trees])).to(device)
            logp_P = self._logp(hidden_PH, target_P)
        logps = np.split(logp_P, np.flatnonzero(np.diff(row_P)) + 1)
        return [_mean_by_answer(tree, logp_G) for tree, logp_G in zip(trees, logps, strict=True)]

    def _logp(self, hidden_PH: torch.Tensor, target_P: torch.Tensor) -> np.ndarray:
        head = self._model.get_output_embeddings()
        chunk = max(1, LOGITS_PER_CHUNK // self._model.config.vocab_size)
        parts = zip(hidden_PH.split(chunk), target_P.split(chunk), strict=True)
        return (
            torch.cat([head_logp(head, hidden, target, "off")[0] for hidden, target in parts])
            .double()
            .cpu()
            .numpy()
        )

    def _refuse_sliding_window(self, trees: list[_Tree]) -> None:
        window = getattr(self._model.config, "sliding_window", None)
        longest = max((tree.longest for tree in trees), default=0)
        if window is not None and window < longest:
            raise ValueError(
                f"a context with its answer has {longest} tokens, longer than the model's sliding window of "
                f"{window}: use `naive`"
            )


def _grow(query: BeliefQuery) -> _Tree:
    """The tree of a query.

    It leaves out an answer's last gold token and those behind it: they predict nothing.
    """
    tree = TokenTree(max(query.contexts_T1, key=len))
    nodes, targets, longest = [], [], 0
    for context_L in query.contexts_T1:
        for suffix in query.suffixes_K:
            gold = np.flatnonzero(suffix.gold_mask_L)
            ids = np.asarray(suffix.ids, dtype=np.int64)
            node_L = tree.add(np.concatenate([context_L, ids[: gold[-1]]]))
            longest = max(longest, len(node_L))
            nodes.append(node_L[len(context_L) + gold - 1])
            targets.append(ids[gold])
    return _Tree(
        tree,
        node_G=np.concatenate(nodes),
        target_G=np.concatenate(targets),
        answer_G=np.repeat(np.arange(len(nodes)), [len(part) for part in nodes]),
        shape=(len(query.contexts_T1), len(query.suffixes_K)),
        longest=longest,
    )


def _batches(trees: list[_Tree], tokens: int) -> list[list[int]]:
    """Groups trees of similar trunks, longest first, so that each group fits into `tokens` with padding."""
    batches: list[list[int]] = []
    width = branch = 0
    for n in sorted(range(len(trees)), key=lambda n: -trees[n].trunk_size):
        branch = max(branch, trees[n].tree.num_branch_nodes)
        if batches and (len(batches[-1]) + 1) * (width + branch) <= tokens:
            batches[-1].append(n)
        else:
            batches.append([n])
            width, branch = trees[n].trunk_size, trees[n].tree.num_branch_nodes
    return batches


def _pad(trees: list[_Tree]) -> tuple[np.ndarray, ...]:
    """Trunks [N, L], branches [N, B], their positions [N, B] and masks [N, B, L + B], padded on the right.

    No real token attends to the padding behind a trunk. A padded branch token attends to itself, because a
    softmax needs at least one entry.
    """
    trunk = max(tree.trunk_size for tree in trees)
    branch = max(1, *(tree.tree.num_branch_nodes for tree in trees))
    trunks_NL = np.zeros((len(trees), trunk), dtype=np.int64)
    branches_NB = np.zeros((len(trees), branch), dtype=np.int64)
    position_NB = np.zeros((len(trees), branch), dtype=np.int64)
    sees_NBX = np.zeros((len(trees), branch, trunk + branch), dtype=np.bool_)
    sees_NBX[:, np.arange(branch), trunk + np.arange(branch)] = True
    for n, tree in enumerate(trees):
        own_trunk, own_branch = tree.trunk_size, tree.tree.num_branch_nodes
        trunks_NL[n, :own_trunk] = tree.tree.trunk_L
        branches_NB[n, :own_branch], position_NB[n, :own_branch], sees_BX = tree.tree.branches()
        sees_NBX[n, :own_branch, :own_trunk] = sees_BX[:, :own_trunk]
        sees_NBX[n, :own_branch, trunk : trunk + own_branch] = sees_BX[:, own_trunk:]
    return trunks_NL, branches_NB, position_NB, sees_NBX


def _mean_by_answer(tree: _Tree, logp_G: np.ndarray) -> np.ndarray:
    """Mean log-prob of each answer's gold tokens, [T1, K]."""
    sums = np.bincount(tree.answer_G, weights=logp_G)
    return (sums / np.bincount(tree.answer_G)).reshape(tree.shape)
