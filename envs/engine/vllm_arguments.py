"""Arguments of vLLM that an experiment passes through (`engine.vllm`), and those that it may not.

An engine must sample from the learner's policy and return that policy's log-probs: belief, the importance
weight and the gap guard are made of them. An argument that could change either is refused with the reason.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

_OTHER_POLICY = "the engine would sample from another policy than the learner trains"
_FROM_LEARNER = "it does nothing: the engine reads no weights, the learner sends them"
_STALE = "a cache outside the engine would keep what old weights computed"
_MODEL = "the engine would be another model than the learner's"
_SAMPLING = "training samples from the whole vocabulary at temperature 1"
_REPLICAS = "replicas are env runners: set num_env_runners"
_LORA = "what adapters an engine serves follows from `lora` and `engine.adapters`: set `lora`"
_GENERATES = "the engine must generate text"
_PARTS = "weights are loaded, and scores read, through vLLM's own part"

REFUSED: dict[str, str] = {
    # an experiment says it elsewhere
    "model": "set model_path",
    "tokenizer": "set env_config.tokenizer",
    "tokenizer_mode": "the tokenizer is that of env_config.tokenizer",
    "skip_tokenizer_init": "the protocol decides whether the engine reads text",
    "trust_remote_code": "set config.trust_remote_code",
    "dtype": "set model_dtype",
    "seed": "set config.seed",
    "max_model_len": "set env_config.max_context_tokens",
    "max_num_seqs": "set engine.max_num_seqs",
    "tensor_parallel_size": "set engine.tensor_parallel_size",
    "gpu_memory_utilization": "set engine.gpu_memory_utilization",
    "kv_cache_memory_bytes": "set engine.kv_cache_gib",
    "block_size": "set engine.block_size",
    "enforce_eager": "set engine.enforce_eager",
    "enable_sleep_mode": "set engine.placement",
    "weight_transfer_config": "set engine.weight_transfer",
    # it would change what is sampled or scored
    "logprobs_mode": "the learner compares raw log-probs with its own",
    "kv_sharing_fast_prefill": "it makes log-probs of prompts wrong, and belief scores are such log-probs",
    "enable_chunked_prefill": "on a CPU a seeded request that is prefilled in parts draws other tokens; on a "
    "GPU it is on",
    **dict.fromkeys(
        ("quantization", "quantization_config", "allow_deprecated_quantization", "kv_cache_dtype",
         "kv_cache_dtype_skip_layers", "calculate_kv_scales", "speculative_config", "spec_method",
         "spec_model", "spec_tokens", "logits_processors", "watermark_config",
         "enable_mamba_cache_stochastic_rounding", "mamba_cache_dtype", "mamba_ssm_cache_dtype"),
        _OTHER_POLICY,
    ),
    **dict.fromkeys(
        ("generation_config", "override_generation_config", "structured_outputs_config",
         "reasoning_parser", "reasoning_config"),
        _SAMPLING,
    ),
    **dict.fromkeys(
        ("hf_overrides", "model_impl", "model_class_overrides", "disable_sliding_window",
         "diffusion_config"),
        _MODEL,
    ),
    **dict.fromkeys(
        ("kv_transfer_config", "kv_events_config", "ec_transfer_config", "ec_manager_config",
         "kv_offloading_size", "kv_offloading_backend"),
        _STALE,
    ),
    **dict.fromkeys(("worker_cls", "worker_extension_cls", "scheduler_cls"), _PARTS),
    **dict.fromkeys(("runner", "convert", "pooler_config", "tokens_only"), _GENERATES),
    **dict.fromkeys(
        ("enable_lora", "max_loras", "max_lora_rank", "default_mm_loras", "fully_sharded_loras",
         "max_cpu_loras", "lora_dtype", "lora_target_modules"),
        _LORA,
    ),
    **dict.fromkeys(
        ("data_parallel_size", "data_parallel_rank", "data_parallel_start_rank", "data_parallel_size_local",
         "data_parallel_address", "data_parallel_rpc_port", "data_parallel_backend"),
        _REPLICAS,
    ),
    **dict.fromkeys(
        ("load_format", "download_dir", "revision", "code_revision", "tokenizer_revision", "model_weights",
         "config_format", "hf_config_path", "hf_token", "ignore_patterns", "model_loader_extra_config",
         "safetensors_load_strategy", "pt_load_map_location", "use_tqdm_on_load"),
        _FROM_LEARNER,
    ),
}  # fmt: skip
"""Arguments that an experiment may not pass through, and why or what to set instead."""


def check_arguments(given: Iterable[str]) -> None:
    """Refuses arguments that would break the scores, and those that the installed vLLM does not have.

    Raises:
        ValueError: the first of them, with the reason.
    """
    for name in given:
        if name in REFUSED:
            raise ValueError(f"vLLM's `{name}` can't be passed through: {REFUSED[name]}")
        known = known_arguments()
        if known and name not in known:
            near = difflib.get_close_matches(name, known - REFUSED.keys(), n=1)
            hint = f", did you mean `{near[0]}`?" if near else ""
            raise ValueError(f"vLLM has no argument `{name}`{hint}")


@cache
def known_arguments() -> frozenset[str]:
    """Reads the arguments of the installed vLLM out of its source; none where it is not installed.

    Importing vLLM would take seconds.
    """
    spec = importlib.util.find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        return frozenset()
    source = Path(next(iter(spec.submodule_search_locations)), "engine", "arg_utils.py")
    if not source.is_file():
        return frozenset()
    for node in ast.parse(source.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and node.name == "EngineArgs":
            fields = [one.target for one in node.body if isinstance(one, ast.AnnAssign)]
            return frozenset(target.id for target in fields if isinstance(target, ast.Name))
    return frozenset()


def make(engine: Any, further: dict[str, Any], **arguments: Any) -> Any:
    """Calls vLLM's class `engine` with the arguments; those passed through win."""
    return engine(**{**arguments, **further})
