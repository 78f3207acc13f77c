"""The load of an experiment: the work of one iteration."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from envs.engine.lora import LoraSettings, served_rank, served_targets
from pipeline.estimate.machines import on_one_gpu
from pipeline.estimate.model import adapter_parameters, config_of

if TYPE_CHECKING:
    from algorithms.igpo.config import IGPOConfig

DTYPE_BYTES = {"float32": 4, "bfloat16": 2}


@dataclass(frozen=True)
class Workload:
    """One iteration."""

    rollouts: int
    group_size: int
    turns: float
    turn_tokens: float
    observation_tokens: float
    prompt_tokens: float
    scoring_tokens: float
    """Tokens computed to score one turn: the suffixes of all aliases, and the end of the context that the
    prefix cache cannot hold."""
    max_context: int
    dtype_bytes: int
    updates: int
    """Optimizer steps per batch."""
    epochs: int
    has_reference: bool
    gradient_checkpointing: bool
    micro_batch_tokens: int
    num_runners: int
    max_num_seqs: int
    tensor_parallel: int
    engine_memory_share: float | None
    """Share of a GPU's memory that the engine takes; None where the size of its cache is given."""
    kv_cache: int
    """Bytes of KV cache of one engine, where they are given."""
    shares_device: bool
    """All learners and engines use the same memory at the same time."""
    takes_turns: bool = False
    """Engines and learners use the same GPUs by turns, one of each on a GPU (`colocated`)."""
    num_learners: int = 1
    sharded: bool = False
    """The learners share one model, instead of a copy each."""
    pushes_by_nccl: bool = False
    """Weights go from GPU to GPU (`engine.weight_transfer`)."""
    num_policies: int = 1
    """Policies that each env runner and each learner holds: a model each, but for adapters."""
    adapter_policies: int = 0
    """Those of them that are adapters of the one base."""
    served_policies: int = 0
    """Those of them that share an engine."""
    served_parameters: float = 0.0
    """Parameters of the adapters that this engine serves, each at the rank that vLLM reserves for it."""
    trained_policies: int = 1
    """The trained ones among them."""
    reference_models: int = 0
    """References that are models of their own: that of an adapter is its base."""
    offloads_optimizer: bool = False
    """AdamW's moments are in host memory, and on the device only during a step."""
    engines_per_device: int = 1
    """Engines that Ray puts on one GPU, where each takes a part of one."""
    learners_per_device: int = 1
    meets_on_device: bool = False
    """An engine and a learner may get the same GPU, both in parts, at the same time."""

    @property
    def written_tokens(self) -> float:
        """Decision tokens of one rollout."""
        return min(self.turns * self.turn_tokens, self.max_context)

    @property
    def sequence_tokens(self) -> float:
        """Tokens of one rollout that the learner sees."""
        both = self.turns * (self.turn_tokens + self.observation_tokens)
        return min(self.prompt_tokens + both, self.max_context)


@dataclass(frozen=True)
class Expected:
    """An average rollout as the caller expects it; None: as long as the configuration allows."""

    turns: float | None = None
    turn_tokens: float | None = None
    observation_tokens: float | None = None
    prompt_tokens: float = 200
    answer_tokens: float = 24
    """Tokens of the answer template around one gold answer, times the number of scored aliases."""


def workload_of(config: IGPOConfig, expected: Expected, *, on_cpu: bool) -> Workload:
    """Describes the work of one iteration of the experiment."""
    engine = config.engine_settings
    cache = engine.cache_bytes(on_cpu=on_cpu)
    settings, served = config.search_settings, config.adapters.served
    runners, learners = max(1, config.num_env_runners or 0), max(1, config.num_learners)
    parts = config.num_gpus_per_env_runner, config.num_gpus_per_learner
    of_runner, of_learner = (0.0 if on_cpu or config.is_colocated else float(part) for part in parts)
    whole = set(config.referenced_policies) - set(config.adapters.by_policy)
    work = Workload(
        rollouts=config.prompts_per_iteration * config.group_size,
        group_size=config.group_size,
        turns=settings.max_turns if expected.turns is None else expected.turns,
        turn_tokens=settings.max_turn_tokens if expected.turn_tokens is None else expected.turn_tokens,
        observation_tokens=settings.max_observation_tokens
        if expected.observation_tokens is None
        else expected.observation_tokens,
        prompt_tokens=expected.prompt_tokens,
        # Belief is scored whatever the estimator. The prefix cache lacks half a block on average.
        scoring_tokens=expected.answer_tokens + engine.block_size / 2,
        max_context=settings.max_context_tokens,
        dtype_bytes=DTYPE_BYTES[config.model_dtype],
        updates=config.num_epochs * config.num_minibatches,
        epochs=config.num_epochs,
        has_reference=bool(config.referenced_policies),
        gradient_checkpointing=config.gradient_checkpointing,
        micro_batch_tokens=config.tokens_per_micro_batch,
        num_runners=runners,
        max_num_seqs=engine.max_num_seqs,
        tensor_parallel=engine.tensor_parallel_size,
        engine_memory_share=engine.gpu_memory_utilization if cache is None else None,
        kv_cache=cache or 0,
        shares_device=on_cpu,
        takes_turns=config.is_colocated and not on_cpu,
        num_learners=learners,
        sharded=config.shard_learner,
        pushes_by_nccl=engine.weight_transfer == "nccl" and not on_cpu,
        num_policies=len(config.policies),
        trained_policies=len(config.trained_policies),
        # One that all share; where they are refreshed, one for each.
        reference_models=len(whole) if config.reference_refresh_interval else min(1, len(whole)),
        adapter_policies=len(config.adapters.by_policy),
        served_policies=len(served),
        served_parameters=_served_parameters(config, served),
        offloads_optimizer=config.offload_optimizer and not on_cpu,
        engines_per_device=on_one_gpu(of_runner, runners),
        learners_per_device=on_one_gpu(of_learner, learners),
        meets_on_device=min(of_runner, of_learner) > 0 and of_runner + of_learner <= 1,
    )
    # A rollout that is longer than a micro-batch is one by itself.
    return replace(work, micro_batch_tokens=max(work.micro_batch_tokens, round(work.sequence_tokens)))


def _served_parameters(config: IGPOConfig, served: dict[str, LoraSettings]) -> float:
    if not served:
        return 0.0
    reserved = LoraSettings(rank=served_rank(served), targets=served_targets(served))  # the same for each
    of_each = adapter_parameters(config_of(config), config.trust_remote_code, reserved)
    return float(len(served) * of_each)
