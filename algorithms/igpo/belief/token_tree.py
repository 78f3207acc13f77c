"""Token sequences with their common prefixes merged: one trunk, and branches that leave it.

The contexts of a rollout are prefixes of its longest one, the trunk, and each answer is a branch behind its
context. Aliases share their template; a context that does not continue the trunk is a branch too.
"""

from __future__ import annotations

import numpy as np


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
        """Adds a sequence and returns the node of each of its tokens [L].

        What it shares with the trunk or with the sequence added before it becomes no new nodes.
        """
        shared, nodes = max(
            ((_common_prefix(ids_L, ids), nodes) for ids, nodes in (self._trunk, self._last)),
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
        """The branch nodes: ids [B], positions in their sequence [B], and which of all nodes each may attend
        to [B, nodes].
        """
        ids_B = np.empty(self.num_branch_nodes, dtype=self.trunk_L.dtype)
        position_B = np.empty(self.num_branch_nodes, dtype=np.int64)
        sees_BX = np.zeros((self.num_branch_nodes, len(self.trunk_L) + self.num_branch_nodes), dtype=np.bool_)
        start = 0
        for ids, ancestors in self._branches:
            span = slice(start, start + len(ids))
            ids_B[span] = ids
            position_B[span] = len(ancestors) + np.arange(len(ids))
            sees_BX[span, ancestors] = True
            own = len(self.trunk_L) + start
            sees_BX[span, own : own + len(ids)] = np.tri(len(ids), dtype=np.bool_)
            start += len(ids)
        return ids_B, position_B, sees_BX


def _common_prefix(one_L: np.ndarray, other_L: np.ndarray) -> int:
    length = min(len(one_L), len(other_L))
    differs = np.flatnonzero(one_L[:length] != other_L[:length])
    return int(differs[0]) if differs.size else length
