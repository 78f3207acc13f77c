"""Experts of a mixture under autocast: their products, and what goes back to float32 weights."""

import pytest
import torch
from random_experts import random_mixtral, random_qwen3_moe

from algorithms.igpo.model.experts import IN_AUTOCAST, cast_experts


@pytest.mark.parametrize("make", [random_qwen3_moe, random_mixtral])
def test_experts_are_computed_in_the_precision_of_autocast(make):
    plain, cast = make(), make()
    cast_experts(cast)
    assert cast.config._experts_implementation == IN_AUTOCAST
    experts = cast.model.layers[0].mlp.experts
    hidden = torch.randn(7, 64, generator=torch.Generator().manual_seed(1))
    chosen = torch.tensor([[0, 1], [1, 2], [2, 3], [3, 0], [0, 2], [1, 3], [2, 1]])
    weights = torch.full((7, 2), 0.5)

    without = experts(hidden, chosen, weights)
    assert torch.equal(without, plain.model.layers[0].mlp.experts(hidden, chosen, weights))

    with torch.autocast("cpu", torch.bfloat16):
        got = experts(hidden, chosen, weights)
    assert got.dtype is torch.bfloat16
    rounded = plain.to(torch.bfloat16).model.layers[0].mlp.experts
    assert torch.equal(got, rounded(hidden.bfloat16(), chosen, weights))

    got.float().sum().backward()
    assert experts.gate_up_proj.grad.dtype is torch.float32 and experts.gate_up_proj.grad.abs().max() > 0
