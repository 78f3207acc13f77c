"""Many rows in one forward: every layer but attention sees each token once, without padding, laid end to end.

Rows that begin alike share the tokens of their common beginning: under a causal mask a token is what it is by
those before it alone. So the prompt of a group is computed once for all its rollouts, and a row that another
one continues costs nothing.

Attention alone must know where a row ends. For it, whole rows of similar length are put side by side, padded
by at most `MAX_PADDING`, under the plain causal mask that every fast kernel has; a block-diagonal mask over
all tokens would cost their square. Padding stands behind a row's real tokens, so no real token attends to it.

    model.set_attn_implementation(PACKED)
    backbone(**PackedRows(token_ids_NL, lengths_N).inputs())
"""

from __future__ import annotations

from collections.abc import Sequence
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
    """Rows in groups of similar length, longest first: padded to its longest row, a group is padding for at
    most `MAX_PADDING`.
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


def merge_beginnings(token_ids_NL: np.ndarray, lengths_N: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The T tokens that are left when rows share their common beginnings.

    Returns:
        where each of them stands first, [T] indices into the flattened rows, and which of them every position
        is, [N, L]; -1 behind a row's length.
    """
    num_rows, width = token_ids_NL.shape
    order_N = np.array(sorted(range(num_rows), key=lambda n: token_ids_NL[n, : lengths_N[n]].tobytes()))
    ids_NL, in_row_NL = token_ids_NL[order_N], np.arange(width) < lengths_N[order_N, None]
    # Sorted, a row has no more in common with any row before it than with its neighbour.
    continues_NL = np.zeros_like(in_row_NL)
    equal_NL = (ids_NL[1:] == ids_NL[:-1]) & in_row_NL[1:] & in_row_NL[:-1]
    continues_NL[1:] = np.logical_and.accumulate(equal_NL, axis=1)
    first_row_NL = np.maximum.accumulate(np.where(continues_NL, 0, np.arange(num_rows)[:, None]), axis=0)
    place_NL = order_N[first_row_NL] * width + np.arange(width)
    first_T, token_of = np.unique(place_NL[in_row_NL], return_inverse=True)
    token_of_NL = np.full((num_rows, width), -1)
    token_of_NL[order_N[np.nonzero(in_row_NL)[0]], np.nonzero(in_row_NL)[1]] = token_of
    return first_T, token_of_NL


def distinct_targets(token_of_P: np.ndarray, target_P: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first of each set of equal targets behind the same token, [U] indices, and which of them each
    target equals, [P].
    """
    key_P = token_of_P * (target_P.max(initial=0) + 1) + target_P
    return np.unique(key_P, return_index=True, return_inverse=True)[1:]


class PackedRows:
    """Where the tokens of N rows lie: end to end, each once (T tokens), and side by side for attention (P,
    padded).

    Args:
        token_ids_NL: the rows, padded on the right.
        lengths_N: tokens of each row, at least 1.

    Attributes:
        token_of_NL: which of the T tokens each position is; -1 behind a row's length.
        shapes: rows and width of each group that attention sees.
    """

    def __init__(self, token_ids_NL: torch.Tensor, lengths_N: Sequence[int] | np.ndarray):
        lengths_N, device = np.asarray(lengths_N), token_ids_NL.device
        first_T, self.token_of_NL = merge_beginnings(token_ids_NL.cpu().numpy(), lengths_N)
        rows_M = self._rows_that_none_continues(lengths_N, len(first_T))
        groups = [rows_M[group] for group in group_by_length(lengths_N[rows_M])]
        self.shapes = [(len(group), int(lengths_N[group].max())) for group in groups]
        # A padded position repeats its row's last token.
        token_of_P = np.concatenate(
            [
                self.token_of_NL[
                    group[:, None], np.minimum(np.arange(width), lengths_N[group, None] - 1)
                ].ravel()
                for group, (_, width) in zip(groups, self.shapes, strict=True)
            ]
        )
        self.token_of_P = torch.from_numpy(token_of_P).to(device)
        self.place_of_T = torch.from_numpy(np.unique(token_of_P, return_index=True)[1]).to(device)
        self.shares_tokens = bool(lengths_N[rows_M].sum() > len(first_T))
        first_T = torch.from_numpy(first_T).to(device)
        self.token_ids_T = token_ids_NL.flatten()[first_T]
        self.position_T = first_T % token_ids_NL.shape[1]

    def _rows_that_none_continues(self, lengths_N: np.ndarray, num_tokens: int) -> np.ndarray:
        """Rows that hold every token; of equal rows the first."""
        has_next_T = np.zeros(num_tokens, dtype=bool)
        has_next_T[self.token_of_NL[:, :-1][self.token_of_NL[:, 1:] >= 0]] = True
        last_N = self.token_of_NL[np.arange(len(lengths_N)), lengths_N - 1]
        ends_U, row_U = np.unique(last_N, return_index=True)
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
