"""Builds a rollout engine from `engine:` of an experiment file."""

from __future__ import annotations

import importlib.util
import logging
from typing import Literal

from envs.engine.base import EngineSettings, RolloutEngine
from envs.errors import InputError

logger = logging.getLogger(__name__)


def build_engine(
    model_path: str,
    settings: EngineSettings,
    *,
    max_model_len: int,
    dtype: Literal["float32", "bfloat16"],
    seed: int = 0,
    reads_text: bool = False,
) -> RolloutEngine:
    """Builds the engine of one policy, without weights yet.

    Args:
        model_path: Hugging Face folder.
        settings: engine settings; `settings.kind` says which engine.
        max_model_len: longest context plus decision, in tokens.
        dtype: "float32" or "bfloat16".
        seed: seed of the engine (requests carry their own).
        reads_text: whether to load the tokenizer, which requests with stop strings need.

    Raises:
        InputError: vLLM is not installed, or the free memory is less than its KV cache needs.
    """
    if settings.kind == "transformers":
        from envs.engine.transformers import TransformersEngine

        logger.warning(
            "rollouts by the transformers engine: several times slower than vLLM, which this machine may "
            "not have"
        )
        return TransformersEngine(
            model_path, settings, max_model_len=max_model_len, dtype=dtype, reads_text=reads_text
        )
    if importlib.util.find_spec("vllm") is None:
        raise InputError(
            "vLLM is not installed: install igpo-rllib[cpu] or igpo-rllib[gpu], or use the slower engine of "
            "transformers "
            "(`engine: {kind: transformers}`)"
        )
    from envs.engine.vllm import VLLMEngine

    return VLLMEngine(
        model_path, settings, max_model_len=max_model_len, dtype=dtype, seed=seed, reads_text=reads_text
    )
