"""Phase `bare_vllm`: the requests of phase `sampling` by a vLLM as a user would start it.

Its engine has a process of its own, and CUDA graphs where there is a GPU; requests come without seeds, and
with those of the rollouts.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

from benchmarks.gpu.results import add_result, write_result


def measure(args: argparse.Namespace) -> dict[str, Any]:
    from vllm import LLM, SamplingParams, TokensPrompt

    from envs.engine.accelerator import sees_gpu

    requests = json.loads(args.requests.read_text())
    longest = max(len(request["ids"]) + request["tokens"] for request in requests)
    on_cpu: dict[str, Any] = {"kv_cache_memory_bytes": 2**28, "enforce_eager": True, "block_size": 32}
    engine = LLM(
        model=args.model,
        dtype=args.dtype,
        max_model_len=longest + 1,
        max_num_seqs=args.max_num_seqs,
        enable_prefix_caching=True,
        skip_tokenizer_init=True,
        **({"gpu_memory_utilization": 0.5} if sees_gpu() else on_cpu),
    )
    prompts = [TokensPrompt(prompt_token_ids=request["ids"]) for request in requests]
    speeds: dict[str, list[float]] = {"unseeded": [], "seeded": []}
    for name, times in speeds.items():
        sampling = [
            SamplingParams(
                temperature=1.0,
                seed=request["seed"] if name == "seeded" else None,
                max_tokens=request["tokens"],
                min_tokens=request["tokens"],
                ignore_eos=True,
                logprobs=0,
                detokenize=False,
            )
            for request in requests
        ]
        for _ in range(args.repeats):
            engine.reset_prefix_cache()
            started = time.perf_counter()
            outputs = engine.generate(prompts, sampling, use_tqdm=False)
            written = sum(len(output.outputs[0].token_ids) for output in outputs)
            times.append(written / (time.perf_counter() - started))
            print(f"{name} {times[-1]:,.0f} tokens/s", flush=True)
    return {f"{name}_tokens_per_second": max(times) for name, times in speeds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", help="Hugging Face folder")
    parser.add_argument("--requests", type=Path, required=True)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--max-num-seqs", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=2)
    add_result(parser)
    args = parser.parse_args()
    write_result(args.result, measure(args))


if __name__ == "__main__":
    main()
