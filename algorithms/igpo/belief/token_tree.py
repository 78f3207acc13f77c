"""Token sequences with their common prefixes merged: one trunk and the branches that leave it.

The trunk is a rollout's longest context. The other contexts are prefixes of it, and each answer is a branch
behind its context. Aliases share their template. A context that leaves the trunk becomes a branch too.
"""

from __future__ import annotations

import numpy as np

from algorithms.igpo.model.packing import common_prefix


class TokenTree:
    """Nodes are tokens: first the trunk, then the branches in the order in which they were added.

    Args:
        trunk_L: ids of the trunk.
    """

    def __init__(self, trunk_L: np.ndarray):
        self.trunk_L = trunk_L
        self._trunk = trunk_L, np.arange(len(trunk_L))
        self._last = self._trunk
        self._branches: list[tuple[np.ndarray, np.ndarray]] = []
        self.num_branch_nodes = 0

    def add(self, ids_L: np.ndarray) -> np.ndarray:
        """Adds a sequence and returns the node of each of its tokens, [L].

        Only the tokens behind its common prefix with the trunk, or with the sequence added just before,
        become new nodes. With the trunk [a b c] (nodes 0 1 2):

            add [a b x y]  ->  [0 1 3 4]    branch [x y] behind nodes [0 1]
            add [a b x z]  ->  [0 1 3 5]    shares x with the sequence before; branch [z] behind [0 1 3]
        """
        shared, nodes = max(
            ((common_prefix(ids_L, ids), nodes) for ids, nodes in (self._trunk, self._last)),
            key=lambda x: x[0],
        )
        start = len(self.trunk_L) + self.num_branch_nodes
        own = np.arange(start, start + len(ids_L) - shared)
        if own.size:
            self._branches.append((ids_L[shared:], nodes[:shared]))
            self.num_branch_nodes += own.size
        self._last = ids_L, np.concatenate([nodes[:shared], own])
        return self._last[1]

    def branches(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lays out the branch nodes.

        Returns:
            ids [Y], positions in their sequence [Y], and a mask [Y, nodes] of the nodes that each may attend
            to: its ancestors and itself.
        """
        ids_Y = np.empty(self.num_branch_nodes, dtype=self.trunk_L.dtype)
        position_Y = np.empty(self.num_branch_nodes, dtype=np.int64)
        sees_YX = np.zeros((self.num_branch_nodes, len(self.trunk_L) + self.num_branch_nodes), dtype=np.bool_)
        start = 0
        for ids, ancestors in self._branches:
            span = slice(start, start + len(ids))
            ids_Y[span] = ids
            position_Y[span] = len(ancestors) + np.arange(len(ids))
            sees_YX[span, ancestors] = True
            own = len(self.trunk_L) + start
            sees_YX[span, own : own + len(ids)] = np.tri(len(ids), dtype=np.bool_)
            start += len(ids)
        return ids_Y, position_Y, sees_YX
