"""The interface of a rollout engine: submit requests, step, and collect the results.

A turn to write (`Generate`) and a gold answer to score (`ScoreAnswer`) are requests to the same engine, so
belief scoring overlaps with generation. An engine knows no episodes, tools or protocols.

    engine.load_weights(tensors, version=1)
    engine.submit(Generate("turn/0", context_ids, max_tokens=32, stop_token_ids=[3], temperature=1.0, seed=0))
    engine.submit(ScoreAnswer("score/0", context_ids, suffix.ids, suffix.gold_mask_L))
    while engine.is_busy:
        for result in engine.step():  # a Generated or a Scored, in the order in which they finish
            ...
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from pydantic import Field, model_validator

from envs.engine.vllm_arguments import check_arguments
from envs.settings import Settings

NO_WEIGHTS = -1
"""`weights_version` of an engine without weights."""


class EngineSettings(Settings):
    """`engine:` of an experiment file.

    Sampling has no setting: it is at temperature 1 over the whole vocabulary (definitions: Loss).
    """

    kind: Literal["vllm", "transformers"] = Field(
        "vllm", description="transformers: slower, where vLLM does not run"
    )
    max_num_seqs: int = Field(256, ge=1, description="requests that decode together")
    kv_cache_gib: float | None = Field(
        None,
        gt=0,
        description="GiB of KV cache; None: 1 on a CPU, and what the engine's share of its GPU leaves",
    )
    gpu_memory_utilization: float = Field(
        0.85, gt=0, le=1, description="share of GPU memory the engine may take"
    )
    tensor_parallel_size: int = Field(1, ge=1, description="GPUs one engine spreads over")
    block_size: int = Field(32, ge=1, description="tokens per KV block; a multiple of 32 on a CPU")
    enforce_eager: bool | None = Field(
        None,
        description="True: no compilation and no CUDA graphs, so a GPU engine starts sooner and decodes "
        "slower; None: False on a GPU, True on a CPU",
    )
    placement: Literal["separate", "colocated"] = Field(
        "separate",
        description="colocated: engine and learner take turns on one GPU, several of them in pairs; the "
        "engines sleep during the update",
    )
    weight_transfer: Literal["shared_memory", "nccl"] = Field(
        "shared_memory",
        description="the learner's weights reach the engines through host memory, or from GPU to GPU",
    )
    adapters: Literal["served", "merged"] | None = Field(
        None,
        description="how engines hold several policies with `lora`: served by one engine beside one base, or "
        "merged into an engine of each policy, which takes more memory; None: served by "
        "vLLM, merged by transformers",
    )
    vllm: dict[str, Any] = Field(
        {},
        description="further arguments of vLLM, such as {max_num_batched_tokens: 16384}; one that could "
        "change what is sampled or scored is refused with the reason",
    )

    @model_validator(mode="after")
    def _check_vllm(self):
        if self.vllm and self.kind != "vllm":
            raise ValueError(f"`vllm` has no effect on kind `{self.kind}`: leave it out")
        check_arguments(self.vllm)
        if self.adapters == "served" and self.kind != "vllm":
            raise ValueError(f"`adapters: served` needs vLLM, not kind `{self.kind}`: use merged")
        return self

    def cache_bytes(self, *, on_cpu: bool) -> int | None:
        """Bytes of the KV cache; None where the engine takes what its share of a GPU leaves."""
        gib = 1.0 if self.kv_cache_gib is None and on_cpu else self.kv_cache_gib
        return None if gib is None else int(gib * 2**30)

    @property
    def serves_adapters(self) -> bool:
        """Whether one engine serves the adapters of several policies."""
        return self.adapters != "merged" and self.kind == "vllm"


@dataclass(slots=True)
class Generate:
    """A request to write one turn: sample until a stop token, a stop string or `max_tokens`.

    Attributes:
        request_id: unique among the running requests.
        context_ids: the token ids before the turn.
        max_tokens: the token budget of the turn.
        stop_token_ids: tokens that end the turn; a sampled one belongs to it.
        temperature: 0 is greedy.
        seed: makes the sample independent of the other requests in the batch.
        stop_strings: strings that end the turn; they need an engine with a tokenizer.
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
    """A request for the mean log-prob of gold tokens after a context, at temperature 1.

    Attributes:
        request_id: unique among the running requests.
        context_ids: the token ids before the suffix.
        suffix_ids: L token ids of the answer template.
        gold_mask_L: bool [L], marks the gold tokens of the suffix.
    """

    request_id: str
    context_ids: list[int]
    suffix_ids: list[int]
    gold_mask_L: np.ndarray


@dataclass(slots=True)
class Generated:
    """The result of `Generate`.

    Attributes:
        request_id: the request's id.
        ids: L token ids, with the stop token where one was sampled.
        logprobs_L: float32 [L], their log-probs at temperature 1.
        finish: "stop", or "length" where `max_tokens` ended the turn.
    """

    request_id: str
    ids: list[int]
    logprobs_L: np.ndarray
    finish: Literal["stop", "length"]


@dataclass(slots=True)
class Scored:
    """The result of `ScoreAnswer`: the mean log-prob of the gold tokens, s_t(a), in float64.

    (definitions: Belief and information gain)
    """

    request_id: str
    score: float


class RolloutEngine(Protocol):
    """One per policy and process. Not thread-safe."""

    weights_version: int
    """The version of the loaded weights; NO_WEIGHTS before the first and while the engine sleeps."""

    @property
    def stepped(self) -> object:
        """What `step` advances: this engine, or the one that several policies share."""
        ...

    def submit(self, request: Generate | ScoreAnswer) -> None:
        """Queues a request.

        Raises:
            RuntimeError: the engine has no weights.
        """
        ...

    def step(self) -> list[Generated | Scored]:
        """Advances the running requests by one token (or one prefill) and returns the finished ones."""
        ...

    @property
    def is_busy(self) -> bool:
        """Whether requests are waiting or running."""
        ...

    def load_weights(self, tensors: dict[str, Any], version: int) -> None:
        """Replaces the weights in place, drops every cached prefix, and wakes a sleeping engine.

        Args:
            tensors: {Hugging Face name: tensor}.
            version: the new `weights_version`.

        Raises:
            RuntimeError: requests are running.
        """
        ...

    def sleep(self) -> None:
        """Frees the device. Weights and cached prefixes are dropped, so only `load_weights` wakes the engine.

        Raises:
            RuntimeError: requests are running.
        """
        ...
