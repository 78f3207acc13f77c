"""The operations that a model needs, by hand; the clock; a device that is not there."""

import numpy as np
import pytest
import torch
from igpo_learner_setup import save_tiny_llama

from benchmarks import devices
from benchmarks.devices import Shape, device_of, seconds_on, update_flops


def test_operations_by_hand():
    shape = Shape(body=1000, head=500, layers=2, width=10)
    # Two rows of 30 and 10 tokens, 7 targets: 6 * 1,000 * 40, 6 * 500 * 7, and for attention
    # 6 * 2 * 10 * (900 + 100).
    assert update_flops(shape, np.array([30, 10]), 7) == 240_000 + 21_000 + 120_000


@pytest.mark.parametrize("tied", [True, False])
def test_the_shape_of_a_model_leaves_its_embedding_out(tmp_path, tied):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(save_tiny_llama(tmp_path, tied=tied))
    shape = Shape.of(model)
    # A layer: 4 * 32 * 32 in attention, 3 * 32 * 64 in the MLP, two norms of 32; one norm at the end.
    assert shape.body == 2 * (4 * 32 * 32 + 3 * 32 * 64 + 64) + 32
    assert (shape.head, shape.layers, shape.width) == (61 * 32, 2, 32)


def test_attention_counts_both_halves_of_its_work():
    """Three times torch's own count of a forward pass over the whole square, halved."""
    from torch.utils.flop_counter import FlopCounterMode

    q = torch.randn(1, 4, 64, 8)
    with FlopCounterMode(display=False) as counter:
        (q @ q.mT).softmax(-1) @ q
    forward = counter.get_total_flops()  # of the whole square
    only_attention = Shape(body=0, head=0, layers=1, width=32)
    assert update_flops(only_attention, np.array([64]), 0) == 3 * forward / 2


def test_a_gpu_that_is_not_there_ends_the_benchmark(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="--device cuda: torch finds no GPU here"):
        device_of("cuda")
    assert device_of(None).type == "cpu"


def test_the_clock_of_a_gpu_waits_for_it(monkeypatch):
    order = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: order.append("wait"))
    took = seconds_on(torch.device("cuda"), lambda: order.append("work"))
    assert order == ["wait", "work", "wait"] and took >= 0
    assert seconds_on(torch.device("cpu"), lambda: order.append("work")) >= 0
    assert order.count("wait") == 2


@pytest.mark.parametrize(
    "name, flops",
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA A100-SXM4-80GB", 312e12),
        ("X", None),
    ],
)
def test_the_peak_of_a_gpu_is_its_vendor_s(monkeypatch, name, flops):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: name)
    assert devices.peak_flops(torch.device("cuda")) == flops
    assert devices.peak_flops(torch.device("cpu")) is None
