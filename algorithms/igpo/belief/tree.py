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
from algorithms.igpo.model.supported import sliding_window
from algorithms.igpo.model.token_logp import LOGITS_PER_CHUNK, backbone, head_logp
from envs.runner.belief import BeliefQuery


@dataclass(slots=True)
class _Tree:
    """One query's tree, and the nodes whose outputs predict its gold tokens."""

    tree: TokenTree
    node_D: np.ndarray
    """For each gold token of each answer, the node before it: its output predicts the token."""
    target_D: np.ndarray
    answer_D: np.ndarray
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
        """Scores each query, float64 [T1, K], in nats.

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
                for n, score_T1K in zip(batch, self._score_batch([trees[n] for n in batch]), strict=True):
                    scores[n] = score_T1K
        finally:
            self._model.train(was_training)
        return scores

    @torch.no_grad()
    def _score_batch(self, trees: list[_Tree]) -> list[np.ndarray]:
        device = next(self._model.parameters()).device
        trunks_RL, branches_RY, position_RY, sees_RYX = (
            torch.from_numpy(part).to(device) for part in _pad(trees)
        )
        model = backbone(self._model)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=self._compute_dtype is torch.bfloat16):
            trunk = model(input_ids=trunks_RL, use_cache=True)
            branch = model(
                input_ids=branches_RY,
                position_ids=position_RY,
                attention_mask=sees_RYX[:, None],
                past_key_values=trunk.past_key_values,
                use_cache=True,
            )
            hidden_RXH = torch.cat([trunk.last_hidden_state, branch.last_hidden_state], dim=1)
            # Padding separates a tree's trunk from its branch nodes: shift their indices by its length.
            behind = [trunks_RL.shape[1] - tree.trunk_size for tree in trees]
            nodes = [
                tree.node_D + np.where(tree.node_D >= tree.trunk_size, b, 0)
                for tree, b in zip(trees, behind, strict=True)
            ]
            row_D = np.repeat(np.arange(len(trees)), [len(tree.node_D) for tree in trees])
            hidden_DH = hidden_RXH[
                torch.from_numpy(row_D).to(device), torch.from_numpy(np.concatenate(nodes)).to(device)
            ]
            target_D = torch.from_numpy(np.concatenate([tree.target_D for tree in trees])).to(device)
            logp_D = self._logp(hidden_DH, target_D)
        logps = np.split(logp_D, np.flatnonzero(np.diff(row_D)) + 1)
        return [_mean_by_answer(tree, logp_D) for tree, logp_D in zip(trees, logps, strict=True)]

    def _logp(self, hidden_DH: torch.Tensor, target_D: torch.Tensor) -> np.ndarray:
        head = self._model.get_output_embeddings()
        chunk = max(1, LOGITS_PER_CHUNK // self._model.config.vocab_size)
        parts = zip(hidden_DH.split(chunk), target_D.split(chunk), strict=True)
        return (
            torch.cat([head_logp(head, hidden, target, "off")[0] for hidden, target in parts])
            .double()
            .cpu()
            .numpy()
        )

    def _refuse_sliding_window(self, trees: list[_Tree]) -> None:
        window = sliding_window(self._model.config)
        longest = max((tree.longest for tree in trees), default=0)
        if window is not None and window < longest:
            raise ValueError(
                f"a context with its answer has {longest} tokens, longer than the model's sliding window of "
                f"{window}: lower env_config.max_context_tokens to {window}"
            )


def _grow(query: BeliefQuery) -> _Tree:
    """Builds the tree of a query.

    The tree leaves out an answer's last gold token and those behind it: they predict nothing.
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
        node_D=np.concatenate(nodes),
        target_D=np.concatenate(targets),
        answer_D=np.repeat(np.arange(len(nodes)), [len(part) for part in nodes]),
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
    """Trunks [R, L], branches [R, Y], their positions [R, Y] and masks [R, Y, L + Y], padded on the right.

    No real token attends to the padding behind a trunk. A padded branch token attends to itself, because a
    softmax needs at least one entry.
    """
    trunk = max(tree.trunk_size for tree in trees)
    branch = max(1, *(tree.tree.num_branch_nodes for tree in trees))
    trunks_RL = np.zeros((len(trees), trunk), dtype=np.int64)
    branches_RY = np.zeros((len(trees), branch), dtype=np.int64)
    position_RY = np.zeros((len(trees), branch), dtype=np.int64)
    sees_RYX = np.zeros((len(trees), branch, trunk + branch), dtype=np.bool_)
    sees_RYX[:, np.arange(branch), trunk + np.arange(branch)] = True
    for n, tree in enumerate(trees):
        own_trunk, own_branch = tree.trunk_size, tree.tree.num_branch_nodes
        trunks_RL[n, :own_trunk] = tree.tree.trunk_L
        branches_RY[n, :own_branch], position_RY[n, :own_branch], sees_YX = tree.tree.branches()
        sees_RYX[n, :own_branch, :own_trunk] = sees_YX[:, :own_trunk]
        sees_RYX[n, :own_branch, trunk : trunk + own_branch] = sees_YX[:, own_trunk:]
    return trunks_RL, branches_RY, position_RY, sees_RYX


def _mean_by_answer(tree: _Tree, logp_D: np.ndarray) -> np.ndarray:
    """Averages the log-probs of each answer's gold tokens, [T1, K]."""
    sums = np.bincount(tree.answer_D, weights=logp_D)
    return (sums / np.bincount(tree.answer_D)).reshape(tree.shape)
