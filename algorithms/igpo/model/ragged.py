"""Causal attention over rows of different lengths without padding, by a kernel that GPUs have.

PyTorch's `varlen_attn` (flash attention) takes the rows end to end. It is for half precision; elsewhere rows
go side by side (`algorithms.igpo.model.packing`), which computes the same.
"""

from __future__ import annotations

import functools
import logging
from typing import Any

import torch

logger = logging.getLogger(__name__)

TOLERANCE = 0.05
"""Largest difference of two kernels in half precision, as a share of the largest value, that rounding
explains: in bfloat16 it is below 0.01."""


def ragged_attention(
    query_ZHD: torch.Tensor,
    key_ZGD: torch.Tensor,
    value_ZGD: torch.Tensor,
    starts_X: torch.Tensor,
    longest: int,
    scale: float | None,
) -> torch.Tensor:
    """Computes attention of rows that lie end to end.

    Args:
        query_ZHD: [Z, heads, width].
        key_ZGD: [Z, key heads, width]; `value_ZGD` likewise.
        starts_X: int32 [rows + 1], where each row starts; the last is Z.
        longest: tokens of the longest row.
        scale: of the scores; None: 1 / sqrt(width).

    Returns:
        [Z, heads, width].
    """
    from torch.nn.attention.varlen import varlen_attn

    output = varlen_attn(
        query_ZHD,
        key_ZGD,
        value_ZGD,
        starts_X,
        starts_X,
        longest,
        longest,
        scale=scale,
        window_size=(-1, 0),
        enable_gqa=query_ZHD.shape[1] != key_ZGD.shape[1],
    )
    assert isinstance(output, torch.Tensor)  # a pair only where asked for
    return output


def takes_ragged_rows(device: torch.device, dtype: torch.dtype, config: Any) -> bool:
    """Whether the rows of a model go to the kernel: on an NVIDIA GPU, in half precision, where values are as
    wide as keys.

    Args:
        device: where the model is.
        dtype: precision of its forward pass.
        config: its Hugging Face configuration.
    """
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return False
    shape = config.get_text_config()
    width = getattr(shape, "head_dim", None) or shape.hidden_size // shape.num_attention_heads
    width = getattr(shape, "qk_head_dim", None) or width  # with MLA, `head_dim` is that of the rotated part
    return (getattr(shape, "v_head_dim", None) or width) == width and _works(device, dtype, width)


@functools.cache
def _works(device: torch.device, dtype: torch.dtype, width: int) -> bool:
    """Tries the kernel once, forward and backward, against plain attention of each row.

    The first caller may compute log-probs without gradients.
    """
    generator = torch.Generator(device).manual_seed(0)
    shapes = ((12, 4, width), (12, 2, width), (12, 2, width))
    parts = [
        torch.randn(shape, device=device, dtype=dtype, generator=generator, requires_grad=True)
        for shape in shapes
    ]
    starts_X = torch.tensor([0, 5, 12], dtype=torch.int32, device=device)
    with torch.enable_grad():
        try:
            found = _with_gradients(ragged_attention(*parts, starts_X, 7, None), parts)
        except (RuntimeError, NotImplementedError, ImportError, ValueError) as error:
            logger.warning("rows are padded for attention, because PyTorch's varlen_attn says: %s", error)
            return False
        rows = [_plain(*(part[a:b] for part in parts)) for a, b in ((0, 5), (5, 12))]
        expected = _with_gradients(torch.cat(rows), parts)
    gap = max(
        float((one - other).abs().max() / other.abs().max())
        for one, other in zip(found, expected, strict=True)
    )
    if not gap <= TOLERANCE:  # NaN too
        logger.warning(
            "rows are padded for attention: varlen_attn differs from plain attention by %.2g of the largest "
            "value",
            gap,
        )
    return gap <= TOLERANCE


def _plain(query_LHD, key_LGD, value_LGD) -> torch.Tensor:
    parts = (part.transpose(0, 1)[None] for part in (query_LHD, key_LGD, value_LGD))
    output = torch.nn.functional.scaled_dot_product_attention(*parts, is_causal=True, enable_gqa=True)
    return output[0].transpose(0, 1)


def _with_gradients(output: torch.Tensor, parts: list[torch.Tensor]) -> list[torch.Tensor]:
    return [t.detach().float() for t in (output, *torch.autograd.grad(output.float().square().sum(), parts))]
