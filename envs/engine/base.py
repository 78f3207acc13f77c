"""The rollout engine's interface: submit requests, step, collect what finished.

A turn to write (`Generate`) and a gold answer to score (`ScoreAnswer`) are requests of the same engine, so
belief scoring overlaps with generation. The engine knows nothing of episodes, tools or protocols.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from pydantic import Field

from envs.settings import Settings

NO_WEIGHTS = -1
"""`weights_version` of an engine that has not been given weights."""


class EngineSettings(Settings):
    """`engine:` of an experiment file.

    Sampling is at temperature 1 over the whole vocabulary (SPEC §5) and has no setting.
    """

    kind: Literal["vllm", "transformers"] = Field(
        "vllm", description="transformers: slower, where vLLM does not run"
    )
    max_num_seqs: int = Field(256, ge=1, description="requests that decode together")
    kv_cache_gib: float = Field(1.0, gt=0, description="GiB of KV cache on a CPU engine")
    gpu_memory_utilization: float = Field(
        0.85, gt=0, le=1, description="share of GPU memory the engine may take"
    )
    tensor_parallel_size: int = Field(1, ge=1, description="GPUs one engine spreads over")
    block_size: int = Field(32, ge=1, description="tokens per KV block; a multiple of 32 on a CPU")
    enforce_eager: bool = Field(True, description="False lets a GPU engine compile and capture graphs")
    placement: Literal["separate", "colocated"] = Field(
        "separate",
        description="colocated: engine and learner take turns on one GPU; the engine sleeps during the "
        "update",
    )
    weight_transfer: Literal["shared_memory", "nccl"] = Field(
        "shared_memory",
        description="the learner's weights reach the engines through host memory, or from GPU to GPU",
    )


@dataclass(slots=True)
class Generate:
    """Write one turn after `context_ids`: sample until a stop token, a stop string or `max_tokens`.

    `temperature` 0 is greedy. `seed` makes the sample reproducible whatever else is in the batch.
    """

    request_id: str
    context_ids: list[int]
    max_tokens: int
    stop_token_ids: list[int]
    temperature: float
    seed: int
    stop_strings: list[str] = field(default_factory=list)


@dataclass(slots=True)
class ScoreAnswer:
    """Log-probs of the marked tokens of `suffix_ids` after `context_ids` (temperature 1).

    `gold_mask_L` [L] bool marks the tokens of `suffix_ids` [L] that count.
    """

    request_id: str
    context_ids: list[int]
    suffix_ids: list[int]
    gold_mask_L: np.ndarray


@dataclass(slots=True)
class Generated:
    """A written turn: `ids` [L] with the stop where one was sampled, and their log-probs `logprobs_L`
    (float32).
    """

    request_id: str
    ids: list[int]
    logprobs_L: np.ndarray
    finish: Literal["stop", "length"]


@dataclass(slots=True)
class Scored:
    """The mean log-prob of the gold tokens: s_t(a) of SPEC §2 (float64)."""

    request_id: str
    score: float


class RolloutEngine(Protocol):
    """One per policy and process. Not thread-safe."""

    weights_version: int

    def submit(self, request: Generate | ScoreAnswer) -> None: ...

    def step(self) -> list[Generated | Scored]:
        """Advance every running request by one token (or one prefill); return those that finished."""
        ...

    @property
    def is_busy(self) -> bool: ...

    def load_weights(self, tensors: dict[str, Any], version: int) -> None:
        """Replace the weights in place by `{hugging_face_name: tensor}` and drop every cached prefix.

        Wakes a sleeping engine.
        """
        ...

    def sleep(self) -> None:
        """Free the device: weights and cached prefixes are thrown away, so only `load_weights` wakes the
        engine.
        """
        ...
