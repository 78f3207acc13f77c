"""Compares the memory of two policies as adapters of one base with that of two separate models.

    python -m benchmarks.adapters_memory
    python -m benchmarks.adapters_memory --model tiny --dtype float32

Three ways: `served` (one engine serves both adapters), `merged` (an engine of each policy), `separate` (two
whole models). For each way a fresh process builds the learner and updates it once, and another builds the
engines and samples once. Each reports by how much its resident memory grew. Beside it stands what `igpo
estimate` expects: of the learner without activations.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import subprocess
import sys
import warnings
from typing import Any

import psutil

from algorithms.igpo.config import IGPOConfig
from pipeline.estimate.capacity import memory_of
from pipeline.estimate.machines import GIB
from pipeline.estimate.workload import Expected, model_of, workload_of

ROLES = [
    {"name": "searcher", "policy": "searcher"},
    {"name": "reader", "actions": ["message"], "reads": "searcher", "policy": "reader"},
]
ADAPTERS = {"searcher": {"lora": {"rank": 16}}, "reader": {"lora": {"rank": 8}}}
WAYS = {
    "served": {"policies": ADAPTERS, "engine": {"adapters": "served"}},
    "merged": {"policies": ADAPTERS, "engine": {"adapters": "merged"}},
    "separate": {},
}
PARTS = ("learner", "engine")
KV_GIB, ROWS, LONGEST = 0.25, 8, 400


def config_of(way: str, model: str, dtype: str) -> IGPOConfig:
    """The experiment of one way."""
    given: dict[str, Any] = WAYS[way]
    config = IGPOConfig().environment(
        "search", env_config={"protocol": "tiny", "roles": ROLES, "max_context_tokens": 512}
    )
    config.training(model_path=model, model_dtype=dtype, lr=1e-5, tokens_per_micro_batch=2048)
    config.env_runners(engine={"kv_cache_gib": KV_GIB, "max_num_seqs": 16, **given.get("engine", {})})
    config.multi_agent(policies=given.get("policies", {}))
    config.validate()
    return config


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2", help="tiny, smollm2 or a Hugging Face folder")
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="bfloat16")
    parser.add_argument("--of", nargs=2, metavar=("WAY", "PART"), help="measure one of them, in this process")
    args = parser.parse_args()
    if args.of is not None:
        way, part = args.of
        config = config_of(way, args.model, args.dtype)
        print(json.dumps(learner_bytes(config) if part == "learner" else engine_bytes(config)))
        return
    logging.disable(logging.WARNING)
    print(f"{args.model}, {args.dtype}: GiB, measured (estimated)")
    print(f"{'':10}" + "".join(f"{part:>18}" for part in PARTS))
    for way in WAYS:
        config = config_of(way, args.model, args.dtype)
        expected = memory_of(model_of(config), workload_of(config, Expected(), on_cpu=True), 0.0)
        cells = [
            f"{_measured(way, part, args) / GIB:.2f} ({size / GIB:.2f})"
            for part, size in zip(PARTS, (expected.state, expected.engine), strict=True)
        ]
        print(f"{way:10}" + "".join(f"{cell:>18}" for cell in cells), flush=True)


def _measured(way: str, part: str, args: argparse.Namespace) -> float:
    command = [sys.executable, "-m", "benchmarks.adapters_memory", "--of", way, part]
    command += ["--model", args.model, "--dtype", args.dtype]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[1:])} failed:\n{done.stderr[-2000:]}")
    return float(done.stdout.strip().splitlines()[-1])


def learner_bytes(config: IGPOConfig) -> int:
    """Bytes by which this process grows with a learner that has made one update."""
    import peft  # noqa: F401 (its memory is not the learner's)
    import torch

    from algorithms.igpo.learner.learner import IGPOTorchLearner
    from benchmarks.learner_throughput import make_batch, spaces

    _quiet()
    torch.set_num_threads(1)
    before = _resident()
    spec = config.get_multi_rl_module_spec(spaces=spaces(config))
    learner = IGPOTorchLearner(config=config, module_spec=spec)
    learner.build()
    batches, vocabulary = {}, learner._hugging_face("reader").hf.config.vocab_size
    for policy in config.policies:
        batches[policy], learner.notes.layouts[policy] = make_batch(ROWS, LONGEST, vocabulary)
    learner._weights_seq_no += 1
    learner._uncompiled_update(batches)
    assert all(param.grad is not None for param in learner._params.values()), "gradients count"
    return _resident() - before


def engine_bytes(config: IGPOConfig) -> int:
    """Bytes by which this process grows with the engines of both policies, after both have sampled."""
    from algorithms.igpo.model.causal_lm import DTYPES, load_causal_lm
    from envs.engine.base import Generate
    from envs.engine.build import build_engines
    from envs.engine.models import resolve_model
    from envs.engine.vllm import import_vllm

    _quiet()
    import_vllm(config.model_dtype)
    before, folder = _resident(), resolve_model(config.model_path)
    served = config.adapters.served
    engines = build_engines(
        dict.fromkeys(config.policy_ids, folder),
        config.engine_settings,
        served=served,
        max_model_len=512,
        dtype=config.model_dtype,
    )
    for policy, engine in engines.items():
        whole = policy not in served
        weights = dict(load_causal_lm(folder, DTYPES[config.model_dtype]).state_dict()) if whole else {}
        engine.load_weights(weights, version=0)
        del weights
        for k in range(16):
            engine.submit(Generate(f"{policy}/{k}", [10 + n % 90 for n in range(400)], 8, [], 1.0, k))
    while any(engine.is_busy for engine in engines.values()):
        for engine in engines.values():
            engine.step()
    return _resident() - before


def _resident() -> int:
    gc.collect()
    return psutil.Process().memory_info().rss


def _quiet() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


if __name__ == "__main__":
    main()
