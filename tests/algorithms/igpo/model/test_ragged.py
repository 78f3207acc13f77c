"""Rows end to end for a GPU's kernel: layout and gradients, with plain attention in the kernel's place."""

import inspect
import logging

import numpy as np
import pytest
import torch
from igpo_learner_setup import random_rows, save_tiny_llama
from transformers import CONFIG_MAPPING

from algorithms.igpo.model import ragged, token_logp
from algorithms.igpo.model.causal_lm import load_causal_lm
from algorithms.igpo.model.packing import PackedRows, padded_size
from algorithms.igpo.model.ragged import takes_ragged_rows

CUDA, CPU = torch.device("cuda"), torch.device("cpu")
LENGTHS = (9, 2, 12, 5, 12, 3)


def plain(query, key, value, starts_X, longest, scale):
    """Each row by itself; key heads are repeated where there are fewer."""
    assert longest == int(starts_X.diff().max())
    outputs = []
    for start, end in zip(starts_X[:-1].tolist(), starts_X[1:].tolist(), strict=True):
        parts = (part[start:end].transpose(0, 1)[None] for part in (query, key, value))
        output = torch.nn.functional.scaled_dot_product_attention(
            *parts, is_causal=True, scale=scale, enable_gqa=True
        )
        outputs.append(output[0].transpose(0, 1))
    return torch.cat(outputs)


def test_rows_lie_end_to_end_and_nothing_is_padded():
    lengths = list(LENGTHS)
    ids = np.arange(sum(lengths))
    rows, side_by_side = PackedRows(ids, lengths, ragged=True), PackedRows(ids, lengths)
    assert rows.starts_X.tolist() == [0, 12, 24, 33, 38, 41, 43] and rows.starts_X.dtype is torch.int32
    assert len(rows.token_of_Z) == sum(lengths) < padded_size(torch.tensor(lengths).numpy())
    assert len(side_by_side.token_of_Z) == padded_size(torch.tensor(lengths).numpy())
    assert side_by_side.starts_X is None
    assert np.array_equal(ids[rows.token_of_Z][rows.place_of_E], ids)


def values_and_gradients(model, rows, dtype=torch.float32):
    model.zero_grad()
    logp_D, entropy_D = token_logp.token_logp(model, *rows, dtype, entropy="trained")
    (logp_D.sum() + 0.3 * entropy_D.sum()).backward()
    return [logp_D.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


@pytest.mark.parametrize("shared", [False, True])
def test_the_same_values_and_gradients_as_side_by_side(tmp_path, monkeypatch, shared):
    model = load_causal_lm(save_tiny_llama(tmp_path), torch.float32)
    ids, mask, row_id = random_rows(LENGTHS)
    if shared:  # the first row begins like the third
        ids = ids.clone()
        ids[11:20] = ids[:9]
    rows = ids, mask, row_id
    expected = values_and_gradients(model, rows)
    monkeypatch.setattr(token_logp, "takes_ragged_rows", lambda *_: True)
    calls = []

    def kernel(*arguments):
        calls.append(arguments)
        return plain(*arguments)

    monkeypatch.setattr(ragged, "ragged_attention", kernel)
    found = values_and_gradients(model, rows)
    assert len(calls) == model.config.num_hidden_layers
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_the_kernel_gets_the_precision_of_autocast(tmp_path, monkeypatch):
    model = load_causal_lm(save_tiny_llama(tmp_path), torch.float32)
    dtypes = set()

    def kernel(*arguments):
        dtypes.update(part.dtype for part in arguments[:3])
        return plain(*arguments)

    rows = random_rows(LENGTHS)
    expected = values_and_gradients(model, rows, torch.bfloat16)
    monkeypatch.setattr(token_logp, "takes_ragged_rows", lambda *_: True)
    monkeypatch.setattr(ragged, "ragged_attention", kernel)
    found = values_and_gradients(model, rows, torch.bfloat16)
    assert dtypes == {torch.bfloat16}
    torch.testing.assert_close(found[0], expected[0], rtol=0.02, atol=0.02)


def test_torch_s_kernel_takes_what_it_is_given(monkeypatch):
    from torch.nn.attention import varlen

    asked = {}

    def kernel(*arguments, **named):
        asked.update(inspect.signature(real).bind(*arguments, **named).arguments)
        return arguments[0]

    real = varlen.varlen_attn
    monkeypatch.setattr(varlen, "varlen_attn", kernel)
    query, key = torch.zeros(5, 4, 8), torch.zeros(5, 2, 8)
    starts_X = torch.tensor([0, 2, 5], dtype=torch.int32)
    assert ragged.ragged_attention(query, key, key, starts_X, 3, 0.5) is query
    assert (asked["max_q"], asked["max_k"], asked["scale"], asked["enable_gqa"]) == (3, 3, 0.5, True)
    assert asked["window_size"] == (-1, 0), "this is causal"
    assert asked["cu_seq_q"] is asked["cu_seq_k"] is starts_X


class Config:
    head_dim, hidden_size, num_attention_heads = None, 64, 4

    def get_text_config(self):
        return self


def test_who_takes_the_kernel(monkeypatch):
    tried = []
    monkeypatch.setattr(ragged, "_works", lambda *facts: tried.append(facts) or True)
    assert takes_ragged_rows(CUDA, torch.bfloat16, Config())
    assert tried == [(CUDA, torch.bfloat16, 16)]
    assert not takes_ragged_rows(CUDA, torch.float32, Config()), "the kernel is for half precision"
    assert not takes_ragged_rows(CPU, torch.bfloat16, None) and len(tried) == 1
    # MLA: 192 + 64 numbers for scores, of which 64 are rotated, and as many or fewer for values
    for kind, width in (("glm4_moe_lite", 256), ("deepseek_v3", None), ("youtu", None)):
        config = CONFIG_MAPPING[kind]()
        assert takes_ragged_rows(CUDA, torch.bfloat16, config) is (width is not None)
        assert width is None or tried.pop() == (CUDA, torch.bfloat16, width)
    assert len(tried) == 1, "torch's kernel would refuse values of another width, at the first update"


@pytest.mark.parametrize(
    "kernel, works, said",
    [
        (plain, True, ""),
        (lambda *_: (_ for _ in ()).throw(RuntimeError("no kernel image")), False, "says: no kernel image"),
        (lambda query, *rest: 2 * plain(query, *rest), False, "varlen_attn differs from plain attention"),
    ],
)
def test_a_kernel_is_tried_before_it_is_used(monkeypatch, caplog, kernel, works, said):
    monkeypatch.setattr(ragged, "ragged_attention", kernel)
    ragged._works.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert ragged._works(CPU, torch.float32, 8) is works
    assert said in caplog.text
    ragged._works.cache_clear()


def head_by_head(query, key, value, starts_X, longest, scale):
    """As `plain`, with key heads repeated by hand: in bfloat16 their gradients are rounded before they are
    summed, as a fused kernel may do.
    """
    repeats = query.shape[1] // key.shape[1]
    key, value = (part.repeat_interleave(repeats, dim=1) for part in (key, value))
    return plain(query, key, value, starts_X, longest, scale)


def without_causality(query, key, value, starts_X, longest, scale):
    parts = (part.transpose(0, 1)[None] for part in (query, key, value))
    output = torch.nn.functional.scaled_dot_product_attention(*parts, scale=scale, enable_gqa=True)
    return output[0].transpose(0, 1)


def not_a_number(*arguments):
    return plain(*arguments) * float("nan")


@pytest.mark.parametrize(
    "kernel, works", [(head_by_head, True), (without_causality, False), (not_a_number, False)]
)
@pytest.mark.parametrize("width", [64, 128])
def test_rounding_in_bfloat16_is_no_difference(monkeypatch, kernel, works, width):
    monkeypatch.setattr(ragged, "ragged_attention", kernel)
    ragged._works.cache_clear()
    assert ragged._works(CPU, torch.bfloat16, width) is works
    ragged._works.cache_clear()


def test_the_kernel_is_tried_where_the_first_forward_takes_no_gradients(monkeypatch):
    """With several updates per batch the log-probs before the first of them come first."""
    monkeypatch.setattr(ragged, "ragged_attention", plain)
    ragged._works.cache_clear()
    with torch.no_grad():
        assert ragged._works(CPU, torch.bfloat16, 64)
    ragged._works.cache_clear()
