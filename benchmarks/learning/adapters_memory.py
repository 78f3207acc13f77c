"""Compares the memory of two policies as adapters of one base with that of two separate models.

    python -m benchmarks.learning.adapters_memory
    python -m benchmarks.learning.adapters_memory --model tiny --dtype float32

Three ways: `served` (one engine serves both adapters), `merged` (an engine of each policy), `separate` (two
whole models). For each way a fresh process builds the learner and updates it once, and another builds the
engines and samples twice. Each reports by how much its resident memory grew, and the engines how fast they
wrote the second time. Beside the memory stands what `igpo estimate` expects: of the learner without
activations.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import subprocess
import sys
import time
import warnings
from typing import Any

import psutil

from algorithms.igpo.config import IGPOConfig
from pipeline.estimate.capacity import memory_of
from pipeline.estimate.machines import GIB
from pipeline.estimate.model import model_of
from pipeline.estimate.workload import Expected, workload_of

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
KV_GIB, ROWS, LONGEST = 0.25, 8, 400
REQUESTS, CONTEXT, NEW = 16, 300, 64


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
        print(json.dumps(learner_bytes(config) if part == "learner" else engine_growth(config)))
        return
    logging.disable(logging.WARNING)
    print(f"{args.model}, {args.dtype}: GiB, measured (estimated)")
    print(f"{'':10}{'learner':>18}{'engines':>18}{'tokens/s':>12}")
    for way in WAYS:
        config = config_of(way, args.model, args.dtype)
        expected = memory_of(model_of(config), workload_of(config, Expected(), on_cpu=True), 0.0)
        learner, (engine, speed) = _measured(way, "learner", args), _measured(way, "engine", args)
        cells = [
            f"{size / GIB:.2f} ({estimated / GIB:.2f})"
            for size, estimated in ((learner, expected.state), (engine, expected.engine))
        ]
        print(f"{way:10}{cells[0]:>18}{cells[1]:>18}{speed:12,.0f}", flush=True)


def _measured(way: str, part: str, args: argparse.Namespace) -> Any:
    command = [sys.executable, "-m", "benchmarks.learning.adapters_memory", "--of", way, part]
    command += ["--model", args.model, "--dtype", args.dtype]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command[1:])} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def learner_bytes(config: IGPOConfig) -> int:
    """Bytes by which this process grows with a learner that has made one update."""
    import peft  # noqa: F401 (its memory is not the learner's)
    import torch

    from algorithms.igpo.learner.learner import IGPOTorchLearner
    from benchmarks.learning.learner_throughput import make_batch, spaces

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


def engine_growth(config: IGPOConfig) -> tuple[int, float]:
    """Bytes by which this process grows with the engines of both policies, and tokens per second of both."""
    from algorithms.igpo.model.causal_lm import DTYPES, load_causal_lm
    from envs.engine.base import Generate
    from envs.engine.build import build_engines
    from envs.engine.models import resolve_model
    from envs.engine.vllm import import_vllm

    _quiet()
    import_vllm(config.model_dtype)
    before, folder = _resident(), resolve_model(config.model_path)
    engines = build_engines(
        dict.fromkeys(config.policy_ids, folder),
        config.engine_settings,
        served=config.adapters.served,
        max_model_len=512,
        dtype=config.model_dtype,
    )
    for policy, engine in engines.items():
        engine.load_weights(_weights(config, policy, folder, DTYPES[config.model_dtype], load_causal_lm), 0)
    seconds = 0.0
    for turn in range(2):
        started = time.perf_counter()
        for policy, engine in engines.items():
            for k in range(REQUESTS):
                context = [10 + (7 * n + k + 31 * turn) % 90 for n in range(CONTEXT)]
                engine.submit(Generate(f"{policy}/{turn}/{k}", context, NEW, [], 1.0, k))
        while any(engine.is_busy for engine in engines.values()):
            for engine in engines.values():
                engine.step()
        seconds = time.perf_counter() - started
    return _resident() - before, len(engines) * REQUESTS * NEW / seconds


def _weights(config: IGPOConfig, policy: str, folder: str, dtype: Any, load: Any) -> dict[str, Any]:
    """What a push would bring: a whole model, or adapters."""
    import torch

    from algorithms.igpo.model.lora import add_lora

    model = load(folder, dtype)
    if policy not in config.adapters.served:
        return dict(model.state_dict())
    add_lora(model, config.adapters.served[policy])
    named = {name: p.detach().to(dtype) for name, p in model.named_parameters() if ".lora_" in name}
    generator = torch.Generator().manual_seed(0)
    return {
        name: tensor + 0.01 * torch.randn(tensor.shape, generator=generator).to(dtype)
        for name, tensor in named.items()
    }


def _resident() -> int:
    gc.collect()
    return psutil.Process().memory_info().rss


def _quiet() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)


if __name__ == "__main__":
    main()
