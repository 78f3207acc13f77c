"""Phase `versions`: what is installed, what the GPU is, a product of matrices, and attention on it."""

from __future__ import annotations

import argparse

import torch

from benchmarks.devices import device_name, device_of, seconds_on
from benchmarks.gpu.results import add_result, write_result
from envs.engine.accelerator import vllm_is_for_cpus
from pipeline.run_directory.provenance import facts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"])
    parser.add_argument("--size", type=int, default=8192, help="rows of the matrices")
    add_result(parser)
    args = parser.parse_args()
    device = device_of(args.device)
    found = {
        "device": device_name(device),
        "vllm_for_cpus": vllm_is_for_cpus(),
        "teraflops": teraflops(device, args.size),
        "attention_error": attention_error(device),
        **facts(),
    }
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        found |= {"capability": list(capability), "bfloat16": torch.cuda.is_bf16_supported()}
        found["cuda"] = torch.version.cuda
    write_result(args.result, found)


def teraflops(device: torch.device, size: int) -> float:
    """Of products of square matrices in bfloat16."""
    matrix = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    repeats = 10 if device.type == "cuda" else 1

    def multiply() -> None:
        for _ in range(repeats):
            matrix @ matrix

    seconds_on(device, multiply)
    return repeats * 2 * size**3 / seconds_on(device, multiply) / 1e12


def attention_error(device: torch.device) -> float:
    """Largest difference of the fast causal kernel in bfloat16 from plain attention in float32."""
    torch.manual_seed(0)
    query = torch.randn(2, 8, 256, 64, device=device)
    half = query.bfloat16()
    fast = torch.nn.functional.scaled_dot_product_attention(half, half, half, is_causal=True)
    scores = query @ query.mT / 8
    future = torch.ones_like(scores, dtype=torch.bool).triu(1)
    plain = scores.masked_fill(future, float("-inf")).softmax(-1) @ query
    return float((fast.float() - plain).abs().max())


if __name__ == "__main__":
    main()
