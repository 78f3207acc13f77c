"""Builds rollout engines from `engine:` of an experiment file."""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections.abc import Mapping
from typing import Any, Literal

from envs.engine.base import EngineSettings, RolloutEngine
from envs.engine.lora import LoraSettings
from envs.engine.models import naming_shipped_code
from envs.errors import InputError

logger = logging.getLogger(__name__)


def build_engines(
    folders: Mapping[str, str],
    settings: EngineSettings,
    *,
    served: Mapping[str, LoraSettings],
    **further: Any,
) -> dict[str, RolloutEngine]:
    """Builds the engines of all policies, without weights yet.

    Args:
        folders: {policy id: Hugging Face folder of its model, or of its base}.
        settings: engine settings.
        served: the policies that share one engine and one base, with the settings of their adapters.
        further: the other arguments of `build_engine`.

    Returns:
        {policy id: engine}.

    Raises:
        InputError: as `build_engine`.
    """
    engines: dict[str, RolloutEngine] = {}
    if served:
        _require_vllm()
        from envs.engine.adapters import AdapterServer

        base = folders[next(iter(served))]
        with naming_shipped_code(base):
            server = AdapterServer(base, settings, served, **further)
        engines |= server.policies
    for policy, folder in folders.items():
        if policy not in served:
            engines[policy] = build_engine(folder, settings, **further)
    return {policy: engines[policy] for policy in folders}


def build_engine(
    model_path: str,
    settings: EngineSettings,
    *,
    max_model_len: int,
    dtype: Literal["float32", "bfloat16"],
    seed: int = 0,
    reads_text: bool = False,
    trust_remote_code: bool = False,
) -> RolloutEngine:
    """Builds the engine of one policy, without weights yet.

    Args:
        model_path: Hugging Face folder.
        settings: engine settings; `settings.kind` says which engine.
        max_model_len: longest context plus decision, in tokens.
        dtype: "float32" or "bfloat16".
        seed: seed of the engine (requests carry their own).
        reads_text: whether to load the tokenizer, which requests with stop strings need.
        trust_remote_code: whether a model may run code that its repository ships.

    Raises:
        InputError: vLLM is not installed, the free memory is less than its KV cache needs, or the model needs
            code that is not trusted.
    """
    if settings.kind == "transformers":
        from envs.engine.transformers import TransformersEngine

        _say_slow()
        with naming_shipped_code(model_path):
            return TransformersEngine(
                model_path,
                settings,
                max_model_len=max_model_len,
                dtype=dtype,
                reads_text=reads_text,
                trust_remote_code=trust_remote_code,
            )
    _require_vllm()
    from envs.engine.vllm import VLLMEngine

    with naming_shipped_code(model_path):
        return VLLMEngine(
            model_path,
            settings,
            max_model_len=max_model_len,
            dtype=dtype,
            seed=seed,
            reads_text=reads_text,
            trust_remote_code=trust_remote_code,
        )


@functools.cache
def _say_slow() -> None:
    """Says it once in a process, however many policies have an engine."""
    logger.warning(
        "rollouts by the transformers engine: several times slower than vLLM, which this machine may not have"
    )


def _require_vllm() -> None:
    if importlib.util.find_spec("vllm") is None:
        raise InputError(
            "vLLM is not installed: install igpo-rllib[cpu] or igpo-rllib[gpu], or use the slower engine of "
            "transformers (`engine: {kind: transformers}`)"
        )
