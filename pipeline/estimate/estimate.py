"""`igpo estimate`: an experiment as the capacity model sees it, and its answer for each kind of machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from envs.engine.models import resolve_model
from envs.errors import InputError
from pipeline.estimate.capacity import (
    DTYPE_BYTES,
    GIB,
    GPUS,
    Device,
    Estimate,
    Model,
    Workload,
    estimate,
    this_cpu,
)
from pipeline.experiment.experiment import Experiment

if TYPE_CHECKING:
    from algorithms.igpo.config import IGPOConfig

CPU = "cpu"
QWEN_SHAPES = {
    "Qwen/Qwen2.5-3B-Instruct": (2048, 11008, 36, 16, 2, 151936, True),
    "Qwen/Qwen2.5-7B-Instruct": (3584, 18944, 28, 28, 4, 152064, False),
    "Qwen/Qwen2.5-32B-Instruct": (5120, 27648, 64, 40, 8, 152064, False),
}
"""Shapes of models that often are not on the machine that plans: hidden, intermediate, layers, heads, key
heads, vocabulary, tied."""


@dataclass(frozen=True)
class Expected:
    """What the caller expects of an average rollout; None: as long as the configuration lets it be."""

    turns: float | None = None
    turn_tokens: float | None = None
    observation_tokens: float | None = None
    prompt_tokens: float = 200
    answer_tokens: float = 24
    """Tokens of the answer template around one gold answer, times the number of scored aliases."""


def model_of(config: IGPOConfig) -> Model:
    """Sizes of the experiment's model. Raises InputError where its configuration cannot be read."""
    hidden, intermediate, layers, heads, kv_heads, vocabulary, tied, head_width, biased = _shape(
        str(config.model_path)
    )
    q_width, kv_width = heads * head_width, kv_heads * head_width
    linear = {
        "q_proj": (hidden, q_width),
        "k_proj": (hidden, kv_width),
        "v_proj": (hidden, kv_width),
        "o_proj": (q_width, hidden),
        "gate_proj": (hidden, intermediate),
        "up_proj": (hidden, intermediate),
        "down_proj": (intermediate, hidden),
    }
    biases = hidden + q_width + 2 * kv_width if biased else 0
    per_layer = sum(one * other for one, other in linear.values()) + biases + 2 * hidden
    parameters = trained = layers * per_layer + hidden + vocabulary * hidden * (1 if tied else 2)
    if config.lora is not None:
        from algorithms.igpo.model.lora import LoraSettings

        lora = LoraSettings(**config.lora)
        adapted = (
            linear
            if lora.targets == "all-linear"
            else {name: linear[name] for name in lora.targets if name in linear}
        )
        trained = layers * lora.rank * sum(one + other for one, other in adapted.values())
    return Model(parameters, trained, layers, hidden, intermediate, kv_width, vocabulary)


def _shape(model_path: str) -> tuple:
    if model_path in QWEN_SHAPES:
        shape = QWEN_SHAPES[model_path]
        return *shape, shape[0] // shape[3], False
    from transformers import AutoConfig

    folder = resolve_model(model_path)
    try:
        config: Any = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise InputError(
            f"model_path {model_path}: its configuration cannot be read; give a folder or a hub name"
        ) from error
    head_width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    sizes = (
        config.hidden_size,
        config.intermediate_size,
        config.num_hidden_layers,
        config.num_attention_heads,
    )
    rest = (config.num_key_value_heads, config.vocab_size, config.tie_word_embeddings, head_width)
    return *sizes, *rest, getattr(config, "attention_bias", False)


def workload_of(config: IGPOConfig, expected: Expected, *, on_cpu: bool) -> Workload:
    """One iteration of the experiment."""
    engine, settings = config.engine_settings, config.search_settings
    return Workload(
        rollouts=config.prompts_per_iteration * config.group_size,
        group_size=config.group_size,
        turns=settings.max_turns if expected.turns is None else expected.turns,
        turn_tokens=settings.max_turn_tokens if expected.turn_tokens is None else expected.turn_tokens,
        observation_tokens=settings.max_observation_tokens
        if expected.observation_tokens is None
        else expected.observation_tokens,
        prompt_tokens=expected.prompt_tokens,
        scoring_tokens=expected.answer_tokens
        + engine.block_size / 2,  # belief is scored whatever the estimator
        max_context=settings.max_context_tokens,
        dtype_bytes=DTYPE_BYTES[config.model_dtype],
        updates=config.num_epochs * config.num_minibatches,
        epochs=config.num_epochs,
        has_reference=config.loss_settings().kl_coeff > 0 or config.reference_scored_policy is not None,
        gradient_checkpointing=config.gradient_checkpointing,
        micro_batch_tokens=config.tokens_per_micro_batch,
        num_runners=max(1, config.num_env_runners or 0),
        max_num_seqs=engine.max_num_seqs,
        tensor_parallel=engine.tensor_parallel_size,
        engine_memory_share=None if on_cpu else engine.gpu_memory_utilization,
        kv_cache=engine.kv_cache_gib * GIB,
        shares_device=on_cpu,
        takes_turns=config.is_colocated and not on_cpu,
        num_learners=max(1, config.num_learners),
        sharded=config.shard_learner,
        pushes_by_nccl=engine.weight_transfer == "nccl" and not on_cpu,
    )


def show(experiment: Experiment, device_name: str | None, expected: Expected, console: Console) -> None:
    """Prints the estimate for every kind of machine, or one of them in detail."""
    config = experiment.algorithm_config()
    model = model_of(config)
    devices = dict(GPUS) | {CPU: this_cpu(config.num_cpus_per_env_runner or 1, config.model_dtype)}
    if device_name is not None and device_name not in devices:
        raise InputError(f"--device {device_name}: it must be one of {', '.join(devices)}")
    chosen = {device_name: devices[device_name]} if device_name is not None else devices
    works = {name: workload_of(config, expected, on_cpu=name == CPU) for name in chosen}
    found = {name: (device, estimate(model, works[name], device)) for name, device in chosen.items()}
    iterations = experiment.stop.get("training_iteration")
    work = next(iter(works.values()))
    share = "" if model.trained == model.parameters else f" ({model.trained / 1e6:,.4g} million trained)"
    console.print(
        f"{experiment.name}: {model.parameters / 1e6:,.4g} million parameters{share}, {work.rollouts} "
        "rollouts of at most "
        f"{work.sequence_tokens:,.0f} tokens per iteration",
        highlight=False,
    )
    console.print(_overview(found, work, iterations))
    if device_name is not None:
        console.print(_details(*found[device_name]))
    console.print(
        "An estimate by arithmetic and memory traffic, every turn as long as it may be (--turns, "
        "--turn-tokens, "
        "--observation-tokens and others say otherwise). Not yet run on a GPU: no GPU's numbers have been "
        "checked against a run.",
        style="dim",
        highlight=False,
    )


def _overview(found: dict[str, tuple[Device, Estimate]], work: Workload, iterations: float | None) -> Table:
    table = Table(header_style="bold")
    table.add_column("machine")
    for name in (
        "engine",
        "learner",
        "has",
        "sequences in cache",
        "written tokens/s",
        "s / iteration",
        "hours",
    ):
        table.add_column(name, justify="right")
    table.add_column("fits")
    for name, (device, answer) in found.items():
        engine, learner = (
            sum(v for k, v in answer.memory.items() if k.startswith(side)) for side in ("engine", "learner")
        )
        seconds = answer.seconds_per_iteration
        rollout_seconds = seconds - answer.seconds["learn"] - answer.seconds["push"] - answer.seconds["swap"]
        table.add_row(
            f"{name}: {device.name}",
            f"{engine / GIB:.1f} GiB",
            f"{learner / GIB:.1f} GiB",
            f"{device.memory / GIB:.0f} GiB",
            f"{answer.engine_capacity:,.0f}",
            f"{work.rollouts * work.written_tokens / rollout_seconds:,.0f}",
            f"{seconds:,.1f}",
            "" if iterations is None else f"{seconds * iterations / 3600:,.2f}",
            "yes" if answer.fits else "[red]no[/red]",
        )
    return table


def _details(device: Device, answer: Estimate) -> Table:
    table = Table(
        header_style="bold", title=f"{device.name} (speeds from {device.source})", title_justify="left"
    )
    for name, justify in (("part", "left"), ("memory", "right"), ("phase", "left"), ("seconds", "right")):
        table.add_column(name, justify=justify)
    memory = [(part, f"{size / GIB:.2f} GiB") for part, size in answer.memory.items()]
    seconds = [(phase, f"{value:,.2f}") for phase, value in answer.seconds.items()]
    for k in range(max(len(memory), len(seconds))):
        table.add_row(
            *(memory[k] if k < len(memory) else ("", "")), *(seconds[k] if k < len(seconds) else ("", ""))
        )
    return table
