"""Many rows in one forward pass: every layer but attention sees each distinct token once, without padding.

Rows with a common beginning share its tokens: with a causal mask, a token's hidden state depends only on the
tokens before it. So the prompt of a group is computed once for all its rollouts, and a row that is the
beginning of another one costs nothing.

Only attention needs the ends of rows. It gets rows of similar length side by side, padded by at most
`MAX_PADDING`, with the plain causal mask that every fast kernel supports; a block-diagonal mask over all
tokens would cost their square. Padding follows a row's real tokens, so no real token attends to it. On GPUs
with a kernel for it (`algorithms.igpo.model.ragged`), rows go end to end, without padding.

    model.set_attn_implementation(PACKED)
    backbone(**PackedRows(token_ids_F, lengths_R, device).inputs())
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

from algorithms.igpo.model import ragged
from algorithms.igpo.model.device import on_device

CPU = torch.device("cpu")
PACKED = "igpo_packed"
"""The attention implementation; without packed rows it is plain `sdpa`."""
MAX_PADDING = 0.1
"""Largest share of padding in any of attention's groups of rows."""
NOT_COMPUTED = {"s_aux": "sinks", "softcap": "a cap"}
"""What transformers may hand to attention that changes its scores, and is not computed here."""


def group_by_length(lengths_R: np.ndarray) -> list[np.ndarray]:
    """Groups rows of similar length, longest first.

    In a group that is padded to its longest row, at most `MAX_PADDING` of the tokens are padding.
    """
    groups: list[list[int]] = []
    width = real = 0
    for row in np.argsort(-lengths_R, kind="stable"):
        real += lengths_R[row]
        if groups and real >= (1 - MAX_PADDING) * (len(groups[-1]) + 1) * width:
            groups[-1].append(row)
        else:
            groups.append([row])
            width = real = lengths_R[row]
    return [np.array(group) for group in groups]


def padded_size(lengths_R: np.ndarray) -> int:
    """Counts the tokens that attention computes for rows of these lengths, padding included."""
    return int(sum(len(group) * lengths_R[group].max() for group in group_by_length(lengths_R)))


def merge_beginnings(token_ids_F: np.ndarray, lengths_R: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Merges the common beginnings of rows into E distinct tokens.

    Sorted by content, a row shares no more with any earlier row than with the one just before it. For the
    rows [a b c], [a b], [a d]:

        sorted by content    [a b]   [a b c]   [a d]
        first appearance      3 4     3 4 2     3 6     index into the flat rows a b c a b a d
        first_E = [2 3 4 6] (c a b d)     token_of_F = [1 2 0 1 2 1 3]

    Args:
        token_ids_F: the rows, end to end.
        lengths_R: tokens of each row.

    Returns:
        first_E: index of the first appearance of each distinct token, ascending.
        token_of_F: the distinct token of every position.
    """
    ends_R = np.cumsum(lengths_R)
    rows = np.split(token_ids_F, ends_R[:-1])
    order = sorted(range(len(rows)), key=lambda n: rows[n].tobytes())
    first_F = np.arange(len(token_ids_F))
    for before, row in pairwise(order):
        shared = common_prefix(rows[before], rows[row])
        start, start_before = ends_R[row] - lengths_R[row], ends_R[before] - lengths_R[before]
        first_F[start : start + shared] = first_F[start_before : start_before + shared]
    return np.unique(first_F, return_inverse=True)


def common_prefix(one_L: np.ndarray, other_L: np.ndarray) -> int:
    """Counts the tokens that both sequences begin with."""
    length = min(len(one_L), len(other_L))
    differs = np.flatnonzero(one_L[:length] != other_L[:length])
    return int(differs[0]) if differs.size else length


def distinct_targets(token_of_D: np.ndarray, target_D: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Finds the U distinct pairs of a token and the target that follows it.

    Returns:
        first_U: index of the first appearance of each pair.
        pair_of_D: the pair of each target.
    """
    key_D = token_of_D * (target_D.max(initial=0) + 1) + target_D
    return np.unique(key_D, return_index=True, return_inverse=True)[1:]


class PackedRows:
    """Two layouts of the tokens of R rows: end to end, each distinct token once (E tokens), and side by side
    for attention (Z positions, padded).

    Args:
        token_ids_F: the rows, end to end.
        lengths_R: tokens of each row, at least 1.
        device: where the model is; the layouts are worked out on the CPU.
        ragged: attention takes rows of any length; each is a group of its own, and nothing is padded.

    Attributes:
        token_of_F: the distinct token of each position of the rows.
        shapes: rows and width of each group that attention sees.
        starts_X: where each row starts for attention, int32 [rows + 1]; None where rows go side by side.
    """

    def __init__(
        self,
        token_ids_F: np.ndarray,
        lengths_R: Sequence[int] | np.ndarray,
        device: torch.device = CPU,
        *,
        ragged: bool = False,
    ):
        lengths_R = np.asarray(lengths_R)
        start_R = np.cumsum(lengths_R) - lengths_R
        first_E, self.token_of_F = merge_beginnings(token_ids_F, lengths_R)
        rows_X = self._rows_that_none_continues(start_R + lengths_R - 1, len(first_E))
        groups = [rows_X[group] for group in group_by_length(lengths_R[rows_X])]
        if ragged:
            groups = [row for group in groups for row in np.split(group, len(group))]
        self.shapes = [(len(group), int(lengths_R[group].max())) for group in groups]
        self.starts_X: torch.Tensor | None = None
        if ragged:
            starts_X = np.cumsum([0, *(width for _, width in self.shapes)]).astype(np.int32)
            self.starts_X = on_device(starts_X, device)
        # A padded position repeats its row's last token.
        token_of_Z = np.concatenate(
            [
                self.token_of_F[
                    start_R[group, None] + np.minimum(np.arange(width), lengths_R[group, None] - 1)
                ].ravel()
                for group, (_, width) in zip(groups, self.shapes, strict=True)
            ]
        )
        self.token_of_Z = on_device(token_of_Z, device)
        self.place_of_E = on_device(np.unique(token_of_Z, return_index=True)[1], device)
        self.shares_tokens = bool(lengths_R[rows_X].sum() > len(first_E))
        position_F = np.arange(len(token_ids_F)) - np.repeat(start_R, lengths_R)
        self.position_E = on_device(position_F[first_E], device)
        self.token_ids_E = on_device(token_ids_F[first_E], device)

    def _rows_that_none_continues(self, last_R: np.ndarray, num_tokens: int) -> np.ndarray:
        """Finds the rows that together hold every token; of equal rows the first.

        `last_R` is the index of each row's last token.
        """
        has_next_E = np.zeros(num_tokens, dtype=bool)
        has_next_E[np.delete(self.token_of_F, last_R)] = True
        ends_U, row_U = np.unique(self.token_of_F[last_R], return_index=True)
        return np.sort(row_U[~has_next_E[ends_U]])

    def inputs(self) -> dict[str, Any]:
        """Returns the arguments of a backbone's forward over the rows; its hidden states are [1, E, H]."""
        return {
            "input_ids": self.token_ids_E[None],
            "position_ids": self.position_E[None],
            # transformers takes a mask of four dimensions as it is. It would expand a smaller one to [E, E].
            "attention_mask": torch.empty((1, 1, 0, 0), device=self.token_ids_E.device),
            "packed_rows": self,
            "use_cache": False,
        }


class _SideBySide(torch.autograd.Function):
    """[E, ...] to [Z, ...]. The gradient of a token is the sum over the rows that share it, added up in
    float32; none comes from padding, since attention's output there is dropped.
    """

    @staticmethod
    def forward(ctx, tokens_E, rows):
        ctx.rows = rows
        return tokens_E.index_select(0, rows.token_of_Z)

    @staticmethod
    def backward(ctx, *gradients):
        gradient_Z, rows = gradients[0], ctx.rows
        if not rows.shares_tokens:
            return gradient_Z.index_select(0, rows.place_of_E), None
        sum_E = gradient_Z.new_zeros((len(rows.place_of_E), *gradient_Z.shape[1:]), dtype=torch.float32)
        return sum_E.index_add_(0, rows.token_of_Z, gradient_Z.float()).to(gradient_Z.dtype), None


class _EndToEnd(torch.autograd.Function):
    """[Z, ...] to [E, ...]; the gradient of padding, and of a shared token in all rows but one, is 0."""

    @staticmethod
    def forward(ctx, padded_Z, place_of_E):
        ctx.save_for_backward(place_of_E)
        ctx.size = len(padded_Z)
        return padded_Z.index_select(0, place_of_E)

    @staticmethod
    def backward(ctx, *gradients):
        (place_of_E,) = ctx.saved_tensors
        gradient_Z = gradients[0].new_zeros((ctx.size, *gradients[0].shape[1:]))
        return gradient_Z.index_copy_(0, place_of_E, gradients[0]), None


# the groups differ from batch to batch: compiled, it would be compiled again for each
@torch.compiler.disable
def packed_attention(
    module, query, key, value, attention_mask, packed_rows: PackedRows | None = None, **kwargs
):
    """Computes attention for `PACKED`, as transformers calls it.

    Query, key and value are [1, heads, E, H]; the output is [1, E, heads, H].

    Raises:
        ValueError: a layer's sliding window is shorter than a row, or its attention is of another kind.
    """
    for name, what in NOT_COMPUTED.items():
        if kwargs.get(name) is not None:
            raise ValueError(f"the attention of this model has {what}, which the learner cannot reproduce")
    if packed_rows is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    window, longest = kwargs.get("sliding_window"), packed_rows.shapes[0][1]
    if window is not None and window < longest:
        raise ValueError(
            f"a row of {longest} tokens is longer than the model's sliding window of {window}: lower "
            f"env_config.max_context_tokens to {window}"
        )
    if (starts_X := packed_rows.starts_X) is not None:
        rows = [_end_to_end(part, packed_rows) for part in (query, key, value)]
        output = ragged.ragged_attention(*rows, starts_X, longest, kwargs.get("scaling"))
        return _EndToEnd.apply(output, packed_rows.place_of_E)[None], None
    padded = [_SideBySide.apply(part[0].transpose(0, 1), packed_rows) for part in (query, key, value)]
    sizes = [rows * width for rows, width in packed_rows.shapes]
    outputs = []
    for shape, *parts in zip(packed_rows.shapes, *(part.split(sizes) for part in padded), strict=True):
        q, k, v = (part.unflatten(0, shape).transpose(1, 2) for part in parts)
        output, _ = sdpa_attention_forward(
            module, q, k, v, None, scaling=kwargs.get("scaling"), is_causal=True
        )
        outputs.append(output.flatten(0, 1))
    return _EndToEnd.apply(torch.cat(outputs), packed_rows.place_of_E)[None], None


def _end_to_end(part, packed_rows: PackedRows) -> torch.Tensor:
    """Rows for the kernel, in the precision of autocast, which does not know it."""
    device = part.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else part.dtype
    return _SideBySide.apply(part[0].transpose(0, 1).to(dtype), packed_rows)


AttentionInterface.register(PACKED, packed_attention)
AttentionMaskInterface.register(PACKED, ALL_MASK_ATTENTION_FUNCTIONS["sdpa"])
