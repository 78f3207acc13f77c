"""Many rows in one forward pass: every layer but attention sees each distinct token once, without padding.

Rows with a common beginning share its tokens: with a causal mask, a token's hidden state depends only on the
tokens before it. So the prompt of a group is computed once for all its rollouts, and a row that is the
beginning of another one costs nothing.

Only attention needs the ends of rows. It gets rows of similar length side by side, padded by at most
`MAX_PADDING`, with the plain causal mask that every fast kernel supports; a block-diagonal mask over all
tokens would cost their square. Padding follows a row's real tokens, so no real token attends to it.

    model.set_attn_implementation(PACKED)
    backbone(**PackedRows(token_ids_F, lengths_N).inputs())
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import AttentionInterface

PACKED = "igpo_packed"
"""The attention implementation; without packed rows it is plain `sdpa`."""
MAX_PADDING = 0.1
"""Largest share of padding in any of attention's groups of rows."""


def group_by_length(lengths_N: np.ndarray) -> list[np.ndarray]:
    """Groups rows of similar length, longest first.

    In a group that is padded to its longest row, at most `MAX_PADDING` of the tokens are padding.
    """
    groups: list[list[int]] = []
    width = real = 0
    for row in np.argsort(-lengths_N, kind="stable"):
        real += lengths_N[row]
        if groups and real >= (1 - MAX_PADDING) * (len(groups[-1]) + 1) * width:
            groups[-1].append(row)
        else:
            groups.append([row])
            width = real = lengths_N[row]
    return [np.array(group) for group in groups]


def padded_size(lengths_N: np.ndarray) -> int:
    """Tokens that attention computes for rows of these lengths, padding included."""
    return int(sum(len(group) * lengths_N[group].max() for group in group_by_length(lengths_N)))


def merge_beginnings(token_ids_F: np.ndarray, lengths_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Merges the common beginnings of rows into T distinct tokens.

    Sorted by content, a row shares no more with any earlier row than with the one just before it. For the
    rows [a b c], [a b], [a d]:

        sorted by content    [a b]   [a b c]   [a d]
        first appearance      3 4     3 4 2     3 6     index into the flat rows a b c a b a d
        first_T = [2 3 4 6] (c a b d)     token_of_F = [1 2 0 1 2 1 3]

    Args:
        token_ids_F: the rows, end to end.
        lengths_N: tokens of each row.

    Returns:
        first_T: index of the first appearance of each distinct token, ascending.
        token_of_F: the distinct token of every position.
    """
    ends_N = np.cumsum(lengths_N)
    rows = np.split(token_ids_F, ends_N[:-1])
    order = sorted(range(len(rows)), key=lambda n: rows[n].tobytes())
    first_F = np.arange(len(token_ids_F))
    for before, row in pairwise(order):
        shared = common_prefix(rows[before], rows[row])
        start, start_before = ends_N[row] - lengths_N[row], ends_N[before] - lengths_N[before]
        first_F[start : start + shared] = first_F[start_before : start_before + shared]
    return np.unique(first_F, return_inverse=True)


def common_prefix(one_L: np.ndarray, other_L: np.ndarray) -> int:
    """Number of tokens that both sequences begin with."""
    length = min(len(one_L), len(other_L))
    differs = np.flatnonzero(one_L[:length] != other_L[:length])
    return int(differs[0]) if differs.size else length


def distinct_targets(token_of_P: np.ndarray, target_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds the U distinct pairs of a token and the target that follows it.

    Returns:
        first_U: index of the first appearance of each pair.
        pair_of_P: the pair of each target.
    """
    key_P = token_of_P * (target_P.max(initial=0) + 1) + target_P
    return np.unique(key_P, return_index=True, return_inverse=True)[1:]


class PackedRows:
    """Two layouts of the tokens of N rows: end to end, each distinct token once (T tokens), and side by side
    for attention (P positions, padded).

    Args:
        token_ids_F: the rows, end to end.
        lengths_N: tokens of each row, at least 1.

    Attributes:
        token_of_F: the distinct token of each position of the rows.
        shapes: rows and width of each group that attention sees.
    """

    def __init__(self, token_ids_F: torch.Tensor, lengths_N: Sequence[int] | np.ndarray):
        lengths_N, device = np.asarray(lengths_N), token_ids_F.device
        start_N = np.cumsum(lengths_N) - lengths_N
        first_T, self.token_of_F = merge_beginnings(token_ids_F.cpu().numpy(), lengths_N)
        rows_M = self._rows_that_none_continues(start_N + lengths_N - 1, len(first_T))
        groups = [rows_M[group] for group in group_by_length(lengths_N[rows_M])]
        self.shapes = [(len(group), int(lengths_N[group].max())) for group in groups]
        # A padded position repeats its row's last token.
        token_of_P = np.concatenate(
            [
                self.token_of_F[
                    start_N[group, None] + np.minimum(np.arange(width), lengths_N[group, None] - 1)
                ].ravel()
                for group, (_, width) in zip(groups, self.shapes, strict=True)
            ]
        )
        self.token_of_P = torch.from_numpy(token_of_P).to(device)
        self.place_of_T = torch.from_numpy(np.unique(token_of_P, return_index=True)[1]).to(device)
        self.shares_tokens = bool(lengths_N[rows_M].sum() > len(first_T))
        position_F = np.arange(len(token_ids_F)) - np.repeat(start_N, lengths_N)
        self.position_T = torch.from_numpy(position_F[first_T]).to(device)
        self.token_ids_T = token_ids_F[torch.from_numpy(first_T).to(device)]

    def _rows_that_none_continues(self, last_N: np.ndarray, num_tokens: int) -> np.ndarray:
        """Rows that together hold every token; of equal rows the first. `last_N`: index of each row's last
        token.
        """
        has_next_T = np.zeros(num_tokens, dtype=bool)
        has_next_T[np.delete(self.token_of_F, last_N)] = True
        ends_U, row_U = np.unique(self.token_of_F[last_N], return_index=True)
        return np.sort(row_U[~has_next_T[ends_U]])

    def inputs(self) -> dict[str, Any]:
        """Arguments of a backbone's forward over the rows; its hidden states are [1, T, H]."""
        return {
            "input_ids": self.token_ids_T[None],
            "position_ids": self.position_T[None],
            # transformers takes a mask of four dimensions as it is; a smaller one would be spread out to [T,
            # T].
            "attention_mask": torch.empty((1, 1, 0, 0), device=self.token_ids_T.device),
            "packed_rows": self,
            "use_cache": False,
        }


class _SideBySide(torch.autograd.Function):
    """[T, ...] to [P, ...]. The gradient of a token is the sum over the rows that share it, added up in
    float32; none comes from padding, since attention's output there is dropped.
    """

    @staticmethod
    def forward(ctx, tokens_T, rows):
        ctx.rows = rows
        return tokens_T.index_select(0, rows.token_of_P)

    @staticmethod
    def backward(ctx, *gradients):
        gradient_P, rows = gradients[0], ctx.rows
        if not rows.shares_tokens:
            return gradient_P.index_select(0, rows.place_of_T), None
        sum_T = gradient_P.new_zeros((len(rows.place_of_T), *gradient_P.shape[1:]), dtype=torch.float32)
        return sum_T.index_add_(0, rows.token_of_P, gradient_P.float()).to(gradient_P.dtype), None


class _EndToEnd(torch.autograd.Function):
    """[P, ...] to [T, ...]; the gradient of padding, and of a shared token in all rows but one, is 0."""

    @staticmethod
    def forward(ctx, padded_P, place_of_T):
        ctx.save_for_backward(place_of_T)
        ctx.size = len(padded_P)
        return padded_P.index_select(0, place_of_T)

    @staticmethod
    def backward(ctx, *gradients):
        (place_of_T,) = ctx.saved_tensors
        gradient_P = gradients[0].new_zeros((ctx.size, *gradients[0].shape[1:]))
        return gradient_P.index_copy_(0, place_of_T, gradients[0]), None


# the groups differ from batch to batch: compiled, it would be compiled again for each
@torch.compiler.disable
def packed_attention(
    module, query, key, value, attention_mask, packed_rows: PackedRows | None = None, **kwargs
):
    """Attention function of transformers for `PACKED`: query, key and value are [1, heads, T, D]; output [1,
    T, heads, D].

    Raises ValueError where a layer's sliding window is shorter than a row.
    """
    if packed_rows is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    window, longest = kwargs.get("sliding_window"), packed_rows.shapes[0][1]
    if window is not None and window < longest:
        raise ValueError(f"a row of {longest} tokens is longer than the model's sliding window of {window}")
    padded = [_SideBySide.apply(part[0].transpose(0, 1), packed_rows) for part in (query, key, value)]
    sizes = [rows * width for rows, width in packed_rows.shapes]
    outputs = []
    for shape, *parts in zip(packed_rows.shapes, *(part.split(sizes) for part in padded), strict=True):
        q, k, v = (part.unflatten(0, shape).transpose(1, 2) for part in parts)
        output, _ = sdpa_attention_forward(
            module, q, k, v, None, scaling=kwargs.get("scaling"), is_causal=True
        )
        outputs.append(output.flatten(0, 1))
    return _EndToEnd.apply(torch.cat(outputs), packed_rows.place_of_T)[None], None


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
