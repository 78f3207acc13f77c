"""Rows of different lengths in one forward: every layer but attention sees the real tokens only, laid end to end.

Attention alone must know where a row ends. For it, rows of similar length are put side by side, padded by at most
`MAX_PADDING`, under the plain causal mask that every fast kernel has; a block-diagonal mask over all tokens would cost
their square. Padding stands behind a row's real tokens, so no real token attends to it.

    model.set_attn_implementation(PACKED)
    rows = PackedRows([3, 2])
    backbone(**rows.inputs(token_ids_T))
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
    """Rows in groups of similar length, longest first: padded to its longest row, a group is padding for at most
    `MAX_PADDING`.
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


def distinct_rows(
    token_ids_NL: torch.Tensor, target_mask_NL: torch.Tensor, lengths_N: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The first of each set of equal rows, [U] indices, and which of them each row equals, [N].

    Rows are equal in length, tokens and targets; what stands behind their length is not looked at.
    """
    ids, masks = token_ids_NL.cpu().numpy(), target_mask_NL.cpu().numpy()
    place_of: dict[tuple[bytes, bytes], int] = {}
    first_U: list[int] = []
    copy_of_N = np.empty(len(lengths_N), dtype=np.int64)
    for n, length in enumerate(lengths_N):
        key = ids[n, :length].tobytes(), masks[n, : length - 1].tobytes()
        if key not in place_of:
            place_of[key] = len(first_U)
            first_U.append(n)
        copy_of_N[n] = place_of[key]
    return np.array(first_U), copy_of_N


class PackedRows:
    """Where the tokens of N rows lie when they are laid end to end (T tokens) and side by side (P, padded).

    Args:
        lengths_N: tokens of each row, at least 1.
    """

    def __init__(self, lengths_N: Sequence[int] | np.ndarray, device: torch.device | str = "cpu"):
        lengths_N = np.asarray(lengths_N)
        starts_N = np.cumsum(lengths_N) - lengths_N
        groups = group_by_length(lengths_N)
        self.shapes = [(len(group), int(lengths_N[group].max())) for group in groups]
        """Rows and width of each group, as attention sees them."""
        # A padded position repeats its row's last token.
        token_of_P = [
            (starts_N[group, None] + np.minimum(np.arange(width), lengths_N[group, None] - 1)).ravel()
            for group, (_, width) in zip(groups, self.shapes, strict=True)
        ]
        self.token_of_P = torch.from_numpy(np.concatenate(token_of_P)).to(device)
        first_of_token_T = np.unique(np.concatenate(token_of_P), return_index=True)[1]
        self.place_of_T = torch.from_numpy(first_of_token_T).to(device)
        position_T = np.arange(lengths_N.sum()) - np.repeat(starts_N, lengths_N)
        self.position_T = torch.from_numpy(position_T).to(device)

    def inputs(self, token_ids_T: torch.Tensor) -> dict[str, Any]:
        """Arguments of a backbone's forward over the rows; its hidden states are [1, T, H]."""
        return {
            "input_ids": token_ids_T[None],
            "position_ids": self.position_T[None],
            # transformers takes a mask of four dimensions as it is; a smaller one would be spread out to [T, T].
            "attention_mask": torch.empty((1, 1, 0, 0), device=token_ids_T.device),
            "packed_rows": self,
            "use_cache": False,
        }


class _SideBySide(torch.autograd.Function):
    """[T, ...] to [P, ...]. No gradient comes from padding: attention's output there is dropped."""

    @staticmethod
    def forward(ctx, tokens_T, token_of_P, place_of_T):
        ctx.save_for_backward(place_of_T)
        return tokens_T.index_select(0, token_of_P)

    @staticmethod
    def backward(ctx, *gradients):
        (place_of_T,) = ctx.saved_tensors
        return gradients[0].index_select(0, place_of_T), None, None


class _EndToEnd(torch.autograd.Function):
    """[P, ...] to [T, ...]; the gradient of padding is 0."""

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


@torch.compiler.disable  # the groups differ from batch to batch: compiled, it would be compiled again for each
def packed_attention(module, query, key, value, attention_mask, packed_rows: PackedRows | None = None, **kwargs):
    """Attention function of transformers for `PACKED`: query, key and value are [1, heads, T, D]; output [1, T, heads, D].

    Raises ValueError where a layer's sliding window is shorter than a row.
    """
    if packed_rows is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    window, longest = kwargs.get("sliding_window"), packed_rows.shapes[0][1]
    if window is not None and window < longest:
        raise ValueError(f"a row of {longest} tokens is longer than the model's sliding window of {window}")
    padded = [
        _SideBySide.apply(part[0].transpose(0, 1), packed_rows.token_of_P, packed_rows.place_of_T) for part in (query, key, value)
    ]
    sizes = [rows * width for rows, width in packed_rows.shapes]
    outputs = []
    for shape, *parts in zip(packed_rows.shapes, *(part.split(sizes) for part in padded), strict=True):
        q, k, v = (part.unflatten(0, shape).transpose(1, 2) for part in parts)
        output, _ = sdpa_attention_forward(module, q, k, v, None, scaling=kwargs.get("scaling"), is_causal=True)
        outputs.append(output.flatten(0, 1))
    return _EndToEnd.apply(torch.cat(outputs), packed_rows.place_of_T)[None], None


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
