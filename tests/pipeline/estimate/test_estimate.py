"""The capacity model by hand, and `igpo estimate` on shipped experiments."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch
import transformers
import yaml
from rollout_log_samples import write_run
from typer.testing import CliRunner

from envs.engine.models import resolve_model
from envs.errors import InputError
from pipeline.analysis import open_run
from pipeline.cli.igpo import app
from pipeline.estimate.capacity import estimate, memory_of
from pipeline.estimate.estimate import _duration, _number
from pipeline.estimate.known_models import known_config
from pipeline.estimate.machines import GIB, GPUS, Assumptions, Device
from pipeline.estimate.model import Model, model_of, model_sizes
from pipeline.estimate.placement import propose
from pipeline.estimate.workload import Expected, Workload, workload_of
from pipeline.experiment.experiment import load_experiments

MODEL = Model(parameters=1000, trained=1000, layers=2, hidden=10, intermediate=20, kv_width=5, vocabulary=50)
WORK = Workload(
    rollouts=8,
    group_size=4,
    turns=2,
    turn_tokens=10,
    observation_tokens=15,
    prompt_tokens=30,
    scoring_tokens=6,
    max_context=100,
    dtype_bytes=2,
    updates=1,
    epochs=1,
    has_reference=False,
    gradient_checkpointing=False,
    micro_batch_tokens=40,
    num_runners=1,
    max_num_seqs=4,
    tensor_parallel=1,
    engine_memory_share=0.5,
    kv_cache=0,
    shares_device=False,
)
FULL = Assumptions(
    decode_bandwidth=1.0,
    decode_flops=1.0,
    prefill_flops=1.0,
    learn_flops=1.0,
    micro_batch_overhead=0.0,
    score_overhead=0.0,
    push_bandwidth=1000,
)
DEVICE = Device("a toy", memory=100_000, flops=1e6, bandwidth=1e5, step_overhead=0.5, assumed=FULL)


def test_an_iteration_by_hand():
    found = estimate(MODEL, WORK, DEVICE)
    # 80 tokens per rollout. 160 are written, 4 at a time: 40 steps that read 2,000 bytes of weights, 4 x 40
    # tokens of 40 bytes.
    assert found.seconds["generate"] == pytest.approx(40 * ((2000 + 4 * 40 * 40) / 1e5 + 0.5))
    # Prefilled: 30 of each rollout's observations, and 2 prompts of 30.
    assert found.seconds["prefill"] == pytest.approx(2 * 1000 * (8 * 30 + 2 * 30) / 1e6)
    assert found.seconds["score"] == pytest.approx(2 * 1000 * 8 * 2 * 6 / 1e6)
    # 640 tokens: forward 2 and backward 4 operations a parameter; attention 2 * 2 * 2 * 10 * 40 = 3,200,
    # three times.
    assert found.seconds["learn"] == pytest.approx(640 * (6 * 1000 + 3 * 3200) / 1e6)
    assert found.seconds["push"] == 2.0
    # Half of the memory is 2,000 bytes of weights and 48,000 of cache: 15 sequences of 80 tokens of 40 bytes.
    parts = found.memory.parts
    assert parts["engine: KV cache"] == 48_000 and found.memory.engine_capacity == 15
    assert parts["learner: weights"] == 4000
    assert parts["learner: gradients"] == 4000 and parts["learner: AdamW"] == 8000
    # 80 + 10 + 80 numbers in bfloat16 and 40 in float32 per token and layer.
    assert parts["learner: activations"] == 40 * 2 * (170 * 2 + 40 * 4)
    assert parts["learner: autocast"] == 2000
    assert parts["learner: reference"] == 0 and found.fits
    assert found.memory.engine == 50_000 and found.memory.engine + found.memory.learner == sum(parts.values())


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.003, "3 ms"),
        (2.9844, "2.98 s"),
        (119.0, "119 s"),
        (750.0, "12.5 min"),
        (3 * 3600.0, "3 h"),
        (4 * 86400.0, "4 days"),
    ],
)
def test_times_have_their_unit(seconds, said):
    assert _duration(seconds) == said


def test_large_numbers_are_written_out():
    assert [_number(value) for value in (6.468, 19_777.2, 7.1e6, 1.2e8)] == ["6.47", "19,777", "7.1M", "120M"]


def test_who_shares_the_memory_of_a_machine():
    def parts(**changes):
        return memory_of(MODEL, dataclasses.replace(WORK, reference_models=1, **changes), 100_000).parts

    one = parts(shares_device=True, engine_memory_share=None, kv_cache=500)
    many = parts(shares_device=True, engine_memory_share=None, kv_cache=500, num_runners=3, num_learners=2)
    for part, size in one.items():
        assert many[part] == size * (3 if part.startswith("engine") else 2), part
    sharded = parts(shares_device=True, engine_memory_share=None, kv_cache=500, num_learners=2, sharded=True)
    states = ("weights", "gradients", "AdamW", "reference")
    assert all(sharded[f"learner: {part}"] == one[f"learner: {part}"] for part in states)
    assert sharded["learner: activations"] == 2 * one["learner: activations"]
    gpu = parts()
    assert parts(num_runners=3, num_learners=2) == gpu, "one engine and one learner of several on a GPU"
    # 8,000 bytes of moments come for the step, when activations and logits are gone: those have more room.
    names = ("activations", "logits", "autocast")
    of_rollouts = sum(gpu[f"learner: {name}"] for name in names)
    assert of_rollouts == 40 * 2 * (170 * 2 + 40 * 4) + (3 * 40 * 50 * 4 + 4 * 50 * 10) + 2000 > 8000
    assert parts(offloads_optimizer=True) == gpu | {"learner: AdamW": 0.0}
    small = parts(offloads_optimizer=True, micro_batch_tokens=1)
    assert small["learner: AdamW"] == 8000 - sum(small[f"learner: {name}"] for name in names)
    two = parts(num_policies=2, trained_policies=2)
    once = ("reference", "activations", "logits", "autocast")
    assert two == {
        part: size * (1 if part.removeprefix("learner: ") in once else 2) for part, size in gpu.items()
    }
    one_learns = dataclasses.replace(WORK, reference_models=1, num_policies=2, num_learners=2, sharded=True)
    frozen = memory_of(dataclasses.replace(MODEL, frozen=1000), one_learns, 100_000).parts
    assert frozen["learner: weights"] == (4000 + 4000) / 2 and frozen["learner: AdamW"] == 8000 / 2


def test_adapters_of_one_base_count_it_once():
    """Two adapters of 100 parameters each on a base of 1,000 at 2 bytes; the engine reserves 150 for each."""
    adapters = dataclasses.replace(MODEL, trained=100)
    shared = {"num_policies": 2, "trained_policies": 2, "adapter_policies": 2}
    work = dataclasses.replace(WORK, **shared, served_policies=2, served_parameters=300)
    served, one = memory_of(adapters, work, 80_000).parts, memory_of(MODEL, WORK, 80_000).parts
    assert served["engine: weights"] == one["engine: weights"] == 2000 and served["engine: adapters"] == 600
    assert served["engine: KV cache"] == one["engine: KV cache"] - 600
    assert served["learner: weights"] == 2 * 4 * 100 + 2000 and served["learner: reference"] == 0
    assert (served["learner: gradients"], served["learner: AdamW"]) == (2 * 4 * 100, 2 * 8 * 100)
    merged = memory_of(adapters, dataclasses.replace(WORK, **shared), 80_000).parts
    assert merged["engine: weights"] == 4000 and merged["learner: weights"] == served["learner: weights"]
    # Pushed are the adapters alone, at 1,000 bytes a second.
    assert estimate(adapters, work, DEVICE).seconds["push"] == 0.6


def test_the_adapters_of_an_experiment_are_counted():
    config = load_experiments("conf/igpo_multi_agent_lora.yaml")[0].algorithm_config()
    model, work = model_of(config), workload_of(config, Expected(), on_cpu=True)
    single = load_experiments("conf/igpo.yaml", ["lora.rank=1"])[0].algorithm_config()
    of_rank_1 = model_of(single).trained
    assert model.trained == (16 + 8) * of_rank_1 / 2, "the mean of both"
    assert (work.num_policies, work.adapter_policies, work.served_policies) == (2, 2, 2)
    assert work.served_parameters == 2 * 16 * of_rank_1, "the larger rank is reserved for both"
    config.engine = {"adapters": "merged"}
    assert workload_of(config, Expected(), on_cpu=True).served_policies == 0


def test_a_decoding_step_reads_and_computes_at_once_or_one_after_the_other():
    fast = dataclasses.replace(DEVICE, flops=1e5)
    step = dataclasses.replace(fast, assumed=dataclasses.replace(FULL, decode_overlaps=False))
    # 40 steps of 4 sequences: 2 * 1,000 * 4 operations, and the 8,400 bytes of the test above.
    assert estimate(MODEL, WORK, step).seconds["generate"] == pytest.approx(40 * (0.084 + 0.08 + 0.5))
    assert estimate(MODEL, WORK, fast).seconds["generate"] == pytest.approx(40 * (0.084 + 0.5))


def test_extra_forwards_cost_what_they_compute():
    plain = estimate(MODEL, WORK, DEVICE).seconds["learn"]
    for change in ({"has_reference": True}, {"updates": 2}, {"gradient_checkpointing": True}):
        more = estimate(MODEL, dataclasses.replace(WORK, **change), DEVICE).seconds["learn"]
        assert more - plain == pytest.approx(640 * (2 * 1000 + 3200) / 1e6), change


def test_learners_that_share_the_model_share_memory_and_work():
    work = dataclasses.replace(WORK, has_reference=True, reference_models=1)
    one, two = (
        estimate(MODEL, w, DEVICE) for w in (work, dataclasses.replace(work, num_learners=2, sharded=True))
    )
    for part in ("weights", "gradients", "AdamW", "reference"):
        assert two.memory.parts[f"learner: {part}"] == one.memory.parts[f"learner: {part}"] / 2 > 0
    assert two.seconds["learn"] == one.seconds["learn"] / 2
    copies = estimate(MODEL, dataclasses.replace(work, num_learners=2), DEVICE)
    assert copies.memory == one.memory and copies.seconds == two.seconds


def test_taking_turns_costs_the_way_to_host_memory_and_back():
    turns = dataclasses.replace(WORK, reference_models=1, takes_turns=True)
    found = estimate(
        MODEL, turns, dataclasses.replace(DEVICE, assumed=dataclasses.replace(FULL, host_bandwidth=1000))
    )
    # 4,000 bytes of weights, 8,000 of moments, 2,000 of the reference.
    assert found.seconds["swap"] == 2 * 14_000 / 1000 and estimate(MODEL, WORK, DEVICE).seconds["swap"] == 0
    # It waits in host memory, for each of the learners, and its moments do in any case.
    assert found.memory.host == 14_000 and estimate(MODEL, WORK, DEVICE).memory.host == 0
    three = dataclasses.replace(turns, num_runners=3, num_learners=3)
    assert memory_of(MODEL, three, 100_000).host == 42_000
    assert memory_of(MODEL, dataclasses.replace(three, offloads_optimizer=True), 100_000).host == 42_000
    # An engine that serves adapters keeps its base there, 2,000 bytes.
    assert memory_of(MODEL, dataclasses.replace(turns, served_policies=2), 100_000).host == 16_000
    config = load_experiments("conf/igpo.yaml")[0].algorithm_config()
    config.engine = {**config.engine, "placement": "colocated"}
    assert workload_of(config, Expected(), on_cpu=False).takes_turns


def test_weights_that_go_from_gpu_to_gpu_leave_out_host_memory():
    device = dataclasses.replace(DEVICE, assumed=dataclasses.replace(FULL, nccl_bandwidth=4000))
    assert estimate(MODEL, dataclasses.replace(WORK, pushes_by_nccl=True), device).seconds["push"] == 0.5
    config = load_experiments("conf/igpo.yaml")[0].algorithm_config()
    config.engine = {**config.engine, "weight_transfer": "nccl"}
    assert workload_of(config, Expected(), on_cpu=False).pushes_by_nccl
    assert not workload_of(config, Expected(), on_cpu=True).pushes_by_nccl


def test_what_does_not_fit_is_said():
    small = dataclasses.replace(DEVICE, memory=20_000)
    assert not estimate(MODEL, WORK, small).fits
    adapters = dataclasses.replace(MODEL, trained=100)
    lighter = dataclasses.replace(
        WORK, adapter_policies=1, gradient_checkpointing=True, micro_batch_tokens=10
    )
    assert estimate(adapters, lighter, small).fits
    no_cache = dataclasses.replace(WORK, engine_memory_share=0.02)
    assert (
        estimate(MODEL, no_cache, DEVICE).memory.engine_capacity == 0
        and not estimate(MODEL, no_cache, DEVICE).fits
    )


def test_parameters_are_the_models_own():
    from transformers import AutoModelForCausalLM

    from algorithms.igpo.model.lora import add_lora
    from envs.engine.lora import LoraSettings

    (experiment,) = load_experiments("conf/igpo.yaml")
    config = experiment.algorithm_config()
    model = AutoModelForCausalLM.from_pretrained(resolve_model("tiny"), dtype=torch.float32)
    assert (
        model_of(config).parameters == sum(p.numel() for p in model.parameters()) == model_of(config).trained
    )
    config.lora = {"rank": 4}
    add_lora(model, LoraSettings(rank=4))
    assert model_of(config).trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert model_of(
        load_experiments("conf/qwen2.5_7b.yaml")[0].algorithm_config()
    ).parameters / 1e9 == pytest.approx(7.615616512)


def test_the_workload_is_the_experiments():
    config = load_experiments("conf/igpo.yaml")[0].algorithm_config()
    work = workload_of(config, Expected(turns=3), on_cpu=True)
    assert (work.rollouts, work.turns, work.engine_memory_share) == (128, 3, None)
    assert work.turn_tokens == config.env_config["max_turn_tokens"] and work.has_reference


def test_the_reference_is_of_the_policies_that_learn_with_a_kl_term():
    roles = [f"env_config.roles.{k}.policy={name}" for k, name in enumerate(("searcher", "reader"))]

    def references(*changes: str) -> tuple[bool, int]:
        """Whether a reference makes forward passes, and the references that are models of their own."""
        (experiment,) = load_experiments("conf/igpo_multi_agent.yaml", [*roles, *changes])
        work = workload_of(experiment.algorithm_config(), Expected(), on_cpu=True)
        return work.has_reference, work.reference_models

    of_reader = "kl_coeff=0", "policies.reader.kl_coeff=0.01"
    assert references() == (True, 1), "both have the same"
    assert references(*of_reader) == (True, 1)
    assert references(*of_reader, "policies_to_train=[searcher]") == (False, 0)
    assert references("policies.searcher.kl_coeff=0", "policies.reader.kl_coeff=0") == (False, 0)
    assert references("reference_refresh_interval=5") == (True, 2), "a copy of each"
    assert references(*of_reader, "reference_refresh_interval=5") == (True, 1)
    # The reference of an adapter is its base.
    assert references("lora.rank=4") == references(*of_reader, "policies.reader.lora.rank=4") == (True, 0)
    assert references(*of_reader, "policies.searcher.lora.rank=4") == (True, 1)
    assert references("kl_coeff=0", "belief_policy=reference", "policies.reader.lora.rank=4") == (True, 1)
    assert references("kl_coeff=0", "belief_policy=reference", "policies.searcher.lora.rank=4") == (True, 0)


def test_a_policy_that_does_not_learn_has_weights_alone():
    roles = [f"env_config.roles.{k}.policy={name}" for k, name in enumerate(("searcher", "reader"))]

    def model(*changes: str) -> Model:
        (experiment,) = load_experiments("conf/igpo_multi_agent.yaml", [*roles, *changes])
        return model_of(experiment.algorithm_config())

    adapted = "policies.searcher.lora.rank=4"
    both, adapter = model(), model(adapted, "policies_to_train=[searcher]")
    assert both.trained == both.parameters and both.frozen == 0
    assert adapter.frozen == both.parameters and 0 < adapter.trained < both.parameters / 20
    base = model(adapted, "policies_to_train=[reader]")
    assert (base.trained, base.frozen) == (both.parameters, adapter.trained)
    assert model(adapted).trained == (both.parameters + adapter.trained) / 2 and model(adapted).frozen == 0


def test_belief_is_scored_whatever_the_estimator_and_trace_keeps_a_reference_for_it():
    grpo, trace = (
        workload_of(
            load_experiments("conf/igpo.yaml", changes)[0].algorithm_config(), Expected(), on_cpu=True
        )
        for changes in (["preset=grpo"], ["preset=trace", "kl_coeff=0"])
    )
    assert grpo.scoring_tokens == trace.scoring_tokens > 0 and trace.has_reference


@pytest.mark.parametrize(
    "name, parameters",
    [
        ("Qwen/Qwen2.5-0.5B-Instruct", 494_032_768),
        ("Qwen/Qwen2.5-1.5B", 1_543_714_304),
        ("Qwen/Qwen2.5-3B-Instruct", 3_085_938_688),
        ("Qwen/Qwen2.5-14B-Instruct", 14_770_033_664),
        ("Qwen/Qwen2.5-32B", 32_763_876_352),
        ("Qwen/Qwen2.5-72B-Instruct", 72_706_203_648),
        ("Qwen/Qwen3-0.6B", 596_049_920),
        ("Qwen/Qwen3-1.7B-Base", 1_720_574_976),
        ("Qwen/Qwen3-4B-Instruct-2507", 4_022_468_096),
        ("Qwen/Qwen3-8B", 8_190_735_360),
        ("Qwen/Qwen3-14B", 14_768_307_200),
        ("Qwen/Qwen3-32B", 32_762_123_264),
        ("meta-llama/Llama-3.2-1B-Instruct", 1_235_814_400),
        ("meta-llama/Llama-3.2-3B", 3_212_749_824),
        ("meta-llama/Meta-Llama-3-8B", 8_030_261_248),
        ("meta-llama/Llama-3.1-8B-Instruct", 8_030_261_248),
        ("meta-llama/Llama-3.3-70B-Instruct", 70_553_706_496),
    ],
)
def test_models_of_the_hub_are_known_without_it(name, parameters):
    """The counts are those of the model cards (tied weights once)."""
    assert model_sizes(known_config(name)).parameters == parameters


@pytest.mark.parametrize(
    "name", ["Qwen/Qwen2.5-7B-Instruct-GPTQ-Int4", "Qwen/Qwen3-30B-A3B", "my/Llama-3-8B"]
)
def test_other_models_are_not_guessed(name):
    assert known_config(name) is None


PAPER = "conf/qwen2.5_7b.yaml"


def of_paper(*changes):
    one_learner = ("num_env_runners=7", "num_learners=1", "shard_learner=false")
    return load_experiments(PAPER, [*one_learner, *changes])[0].algorithm_config()


def test_engines_and_learners_that_share_a_gpu_are_added_up():
    half = of_paper("num_env_runners=3", "num_gpus_per_env_runner=0.5", "engine.gpu_memory_utilization=0.4")
    work = workload_of(half, Expected(), on_cpu=False)
    assert (work.engines_per_device, work.learners_per_device, work.meets_on_device) == (2, 1, False)
    model = model_of(half)
    assert memory_of(model, work, 80e9).engine == pytest.approx(2 * 0.4 * 80e9)
    both = of_paper("num_gpus_per_env_runner=0.5", "num_gpus_per_learner=0.5", "lora={rank: 8}")
    work = workload_of(both, Expected(), on_cpu=False)
    found = memory_of(model_of(both), work, 80e9)
    assert work.meets_on_device and found.needed(work) == found.engine + found.learner
    whole = workload_of(of_paper(), Expected(), on_cpu=False)
    assert (whole.engines_per_device, whole.learners_per_device, whole.meets_on_device) == (1, 1, False)


def test_a_cache_of_a_given_size_stands_in_place_of_an_engines_share():
    given = of_paper("engine.kv_cache_gib=2")
    found = memory_of(model_of(given), workload_of(given, Expected(), on_cpu=False), 80e9)
    assert found.parts["engine: KV cache"] == 2 * 2**30
    assert found.engine == 2 * 2**30 + 2 * 7_615_616_512


def test_an_engine_is_spread_over_the_gpus_of_its_runner():
    spread = of_paper("num_env_runners=1", "num_gpus_per_env_runner=2", "engine.tensor_parallel_size=2")
    weights = memory_of(model_of(spread), workload_of(spread, Expected(), on_cpu=False), 80e9).parts
    assert weights["engine: weights"] == 7_615_616_512
    for gpus, size in ((1, 2), (2, 1), (4, 2), (0.5, 2), (0, 2)):
        with pytest.raises(InputError, match="tensor_parallel_size is"):
            of_paper(f"num_gpus_per_env_runner={gpus}", f"engine.tensor_parallel_size={size}")


@pytest.mark.parametrize("gpus", [1, 2, 4, 8, 16])
@pytest.mark.parametrize(
    "changes",
    [
        (),
        ("lora={rank: 16}",),
        ("model_path=Qwen/Qwen2.5-1.5B-Instruct",),
        ("lora={rank: 16}", "engine.kv_cache_gib=0.01"),
    ],
)
def test_a_proposed_placement_is_taken_as_written_and_fits(gpus, changes):
    """The lines go into the file, and the estimate of that file says yes."""
    config = of_paper(*changes)
    model, device = model_of(config), GPUS["h100"]
    placement = propose(config, model, workload_of(config, Expected(), on_cpu=False), device, gpus)
    if not changes and gpus <= 2:  # 16 bytes a parameter on one learner
        assert placement is None
        return
    (settings,) = yaml.safe_load(placement.lines).values()
    engine = settings.pop("engine")
    written = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    written += [f"engine.{key}={json.dumps(value)}" for key, value in engine.items()]
    config = of_paper(*changes, *written)
    work = workload_of(config, Expected(), on_cpu=False)
    assert estimate(model, work, device) == placement.found and placement.found.fits
    asked = config.num_env_runners * config.num_gpus_per_env_runner
    assert asked + config.num_learners * config.num_gpus_per_learner == gpus


@pytest.mark.parametrize(
    "changes, gpus, shares",
    [
        ((), 1, (0.5, 0.5)),
        ((), 4, (0.6, 0.4)),
        (("engine.weight_transfer=nccl",), 4, None),
        (("max_weight_lag=1", "belief_method=vllm_prefix"), 4, None),
    ],
)
def test_engines_and_learners_by_turns_are_proposed_where_the_settings_go_with_it(changes, gpus, shares):
    config = of_paper("model_path=Qwen/Qwen2.5-1.5B-Instruct", *changes)
    model, work = model_of(config), workload_of(config, Expected(), on_cpu=False)
    placement = propose(config, model, work, GPUS["h100"], gpus)
    settings = placement.settings
    assert settings["engine"]["placement"] == ("colocated" if shares else "separate")
    if shares:
        assert (settings["num_gpus_per_env_runner"], settings["num_gpus_per_learner"]) == shares
        assert placement.engines == placement.learners == gpus and not settings["shard_learner"]


BY_TURNS = (
    "num_env_runners=8",
    "num_gpus_per_env_runner=0.6",
    "num_learners=8",
    "num_gpus_per_learner=0.4",
    "shard_learner=false",
    "offload_optimizer=true",
    "engine.placement=colocated",
)


def test_the_table_of_the_design_is_the_estimates():
    """`docs/design.md`: four and four, and eight by turns; as long as may be, and in brackets short."""
    columns = []
    for changes in ((), BY_TURNS):
        config = load_experiments("conf/paper/igpo_qwen2.5_3b.yaml", list(changes))[0].algorithm_config()
        long, short = (
            estimate(model_of(config), workload_of(config, expected, on_cpu=False), GPUS["h100"])
            for expected in (Expected(), Expected(turns=4, turn_tokens=200, observation_tokens=500))
        )
        assert long.fits
        times = []
        for found in (long, short):
            of = found.seconds
            sampling = of["generate"] + of["prefill"] + of["score"]
            times.append((sampling, of["learn"], found.seconds_per_iteration))
        columns.append(
            [f"{long.memory.learner / GIB:.1f} GiB", f"{long.memory.engine / GIB:.1f} GiB"]
            + [f"{long.memory.host / GIB:.0f} GiB"]
            + [f"{one:,.0f} s ({other:.0f})" for one, other in zip(*times, strict=True)]
            + [f"{long.seconds['push'] + long.seconds['swap']:.1f} s"]
        )
    page = Path("docs/design.md").read_text(encoding="utf-8")
    for separate, by_turns in zip(*columns, strict=True):
        assert f"| {separate} | {by_turns} |" in page


def test_what_saves_memory_is_set_only_where_it_must_be():
    config = of_paper("gradient_checkpointing=false", "tokens_per_micro_batch=65536")
    model, work = model_of(config), workload_of(config, Expected(), on_cpu=False)
    large = dataclasses.replace(GPUS["h100"], memory=2e12)
    saved = {"gradient_checkpointing", "tokens_per_micro_batch", "offload_optimizer"}
    assert not saved & propose(config, model, work, large, 2).settings.keys()
    small = propose(config, model, work, GPUS["h100"], 8)
    assert saved & small.settings.keys() == {"gradient_checkpointing"}


def test_a_rollout_longer_than_a_micro_batch_is_one_by_itself():
    work = workload_of(of_paper("tokens_per_micro_batch=1024"), Expected(), on_cpu=False)
    assert work.micro_batch_tokens == 32767
    short = workload_of(of_paper("tokens_per_micro_batch=1024"), Expected(turns=1, turn_tokens=50,
                        observation_tokens=50), on_cpu=False)  # fmt: skip
    assert short.micro_batch_tokens == 1024


def test_the_page_fits_80_columns():
    arguments = ["estimate", PAPER, "--gpus", "64", "--set", "model_path=Qwen/Qwen2.5-72B-Instruct"]
    result = CliRunner().invoke(app, [*arguments, "--device", "h200"])
    assert result.exit_code == 0 and "tensor_parallel_size: 2" in result.stdout
    every = CliRunner().invoke(app, arguments).stdout
    for line in [*result.stdout.splitlines(), *every.splitlines()]:
        assert len(line) <= 80, line
    assert "…" not in result.stdout + every


def test_lengths_come_from_the_log_of_a_run(tmp_path):
    write_run(tmp_path / "run")
    result = CliRunner().invoke(app, ["estimate", PAPER, "--device", "h100", "--like", str(tmp_path / "run")])
    assert result.exit_code == 0, result.output
    with open_run(tmp_path / "run") as run:
        query = """SELECT count(*) / count(DISTINCT (iteration, episode_id)), avg(decision_tokens),
            avg(observation_tokens) FROM turns WHERE split = 'train'"""
        ((turns, written, observed),) = run.sql(query).fetchall()
    said = " ".join(result.stdout.split())
    assert f"{turns:.3g} turns, {written:.3g} tokens written and {observed:.3g} observed in each" in said
    assert "rollouts of about" in said


def test_scores_and_micro_batches_cost_time_of_their_own():
    slow = dataclasses.replace(FULL, score_overhead=0.25, micro_batch_overhead=2.0)
    found, plain = (
        estimate(MODEL, WORK, dataclasses.replace(DEVICE, assumed=assumed)) for assumed in (slow, FULL)
    )
    # Two turns of each of eight rollouts; 640 tokens, 40 at a time.
    assert found.seconds["score"] - plain.seconds["score"] == pytest.approx(16 * 0.25)
    assert found.seconds["learn"] - plain.seconds["learn"] == pytest.approx(16 * 2.0)


@pytest.mark.parametrize(
    ("micro_batch", "seconds", "gib"), [(8192, 123_200 / 24_966, 53.35), (16384, 123_200 / 27_998, 78.95)]
)
def test_the_learner_measured_on_an_h200(micro_batch, seconds, gib):
    """docs/gpu.md: 48 rows of 123,200 tokens, a model of 1.5B's shape in bfloat16 (2026-11-28)."""
    changes = [
        "model_path=Qwen/Qwen2.5-1.5B-Instruct",
        f"tokens_per_micro_batch={micro_batch}",
        "prompts_per_iteration=6",
        "group_size=8",
        "offload_optimizer=false",
        "gradient_checkpointing=false",
    ]
    config = load_experiments("conf/qwen2.5_3b_one_gpu.yaml", changes)[0].algorithm_config()
    turns = Expected(turns=6, turn_tokens=213, observation_tokens=214, prompt_tokens=0)
    work = workload_of(config, turns, on_cpu=False)
    assert work.rollouts * work.sequence_tokens == pytest.approx(123_200, rel=0.01)
    found = estimate(model_of(config), dataclasses.replace(work, has_reference=False), GPUS["h200"])
    assert found.seconds["learn"] == pytest.approx(seconds, rel=0.1)
    assert found.memory.learner / GIB == pytest.approx(gib, rel=0.1)


def test_the_command_says_which_gpu_was_measured():
    result = CliRunner().invoke(app, ["estimate", "conf/qwen2.5_7b.yaml"])
    assert result.exit_code == 0
    assert "Of GPUs one H200 was measured" in " ".join(result.stdout.split())
    assert "h200: NVIDIA H200" in result.stdout
    bad = CliRunner().invoke(app, ["estimate", "conf/igpo.yaml", "--device", "abacus"])
    assert bad.exit_code == 2 and "must be one of h200, h100" in bad.output


def test_cached_bytes_of_a_token_by_hand():
    latent = transformers.DeepseekV2Config(num_hidden_layers=2, kv_lora_rank=512, qk_rope_head_dim=64)
    assert model_sizes(latent).kv_bytes(2) == model_sizes(latent).kv_bytes(2, 4) == 2 * (512 + 64) * 2
    falcon = {"num_hidden_layers": 2, "hidden_size": 128, "num_attention_heads": 8, "vocab_size": 64}
    one = model_sizes(transformers.FalconConfig(**falcon))
    assert one.kv_bytes(2) == one.kv_bytes(2, 2) == 2 * 2 * 16 * 2
    some = model_sizes(transformers.FalconConfig(**falcon, new_decoder_architecture=True, num_kv_heads=4))
    assert some.kv_bytes(2) == 2 * 2 * 4 * 16 * 2


def test_gpus_beyond_the_key_heads_hold_copies():
    model = dataclasses.replace(MODEL, kv_heads=2, heads=8)
    assert [model.kv_bytes(2, gpus) for gpus in (1, 2, 4)] == [40, 20, 20]
    given = dataclasses.replace(WORK, engine_memory_share=None, kv_cache=10_000)
    spread = [dataclasses.replace(given, tensor_parallel=gpus) for gpus in (1, 2, 4)]
    held = [memory_of(model, work, 1e6).engine_capacity for work in spread]
    assert held == [held[0], 2 * held[0], 2 * held[0]]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (transformers.Gemma2Config(num_hidden_layers=1), "caps its logits"),
        (transformers.T5Config(), "the sizes of a T5Config can't be told (ValueError"),
    ],
)
def test_a_model_that_cannot_be_trained_is_refused(tmp_path, config, said):
    config.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=re.escape(said)) as caught:
        (experiment,) = load_experiments("conf/igpo.yaml", [f"model_path={tmp_path}"])
        model_of(experiment.algorithm_config())
    assert len(str(caught.value)) <= 300 and "\n" not in str(caught.value)


def test_a_mixture_computes_the_experts_that_a_token_passes():
    """Qwen3-30B-A3B's shape; its authors count 30.5 billion parameters, 3.3 of them active."""
    model = model_sizes(
        transformers.Qwen3MoeConfig(
            vocab_size=151936,
            hidden_size=2048,
            intermediate_size=6144,
            moe_intermediate_size=768,
            num_hidden_layers=48,
            num_attention_heads=32,
            num_key_value_heads=4,
            head_dim=128,
            num_experts=128,
            num_experts_per_tok=8,
            tie_word_embeddings=False,
        )
    )
    assert model.parameters == 30_532_122_624 and model.expert_parameters == 48 * 128 * 3 * 2048 * 768
    assert model.used * model.parameters == pytest.approx(3.35e9, rel=0.01)
    assert model.intermediate == 8 * 768
    assert model.read(1) == pytest.approx(model.used * model.parameters)
    assert model.read(256) == pytest.approx(model.parameters, rel=1e-6)


def test_a_mixture_by_hand():
    """800 of 1,000 parameters in experts, of which a token passes a quarter: 400 parameters."""
    mixture = dataclasses.replace(MODEL, expert_parameters=800, num_experts=8, chosen_experts=2)
    found, dense = estimate(mixture, WORK, DEVICE), estimate(MODEL, WORK, DEVICE)
    # Four sequences pass all experts but (3/4)^4 of them: 1,000 - 800 * 0.31640625 = 746.875 parameters.
    assert found.seconds["generate"] == pytest.approx(40 * ((2 * 746.875 + 4 * 40 * 40) / 1e5 + 0.5))
    assert found.seconds["prefill"] == pytest.approx(0.4 * dense.seconds["prefill"])
    assert found.seconds["score"] == pytest.approx(0.4 * dense.seconds["score"])
    assert found.seconds["learn"] == pytest.approx(640 * (6 * 400 + 3 * 3200) / 1e6)
    assert found.seconds["push"] == dense.seconds["push"]
    # Two experts read and write 10 numbers each, in each of two layers.
    more = found.memory.parts["learner: activations"] - dense.memory.parts["learner: activations"]
    assert more == 40 * 2 * 2 * 2 * 10 * 2


def test_activations_of_wide_and_of_normalised_heads():
    """Of the hidden width 10: 3 vectors of width 16 instead; queries and keys again, in both precisions."""
    layers_of_batch = 40 * 2
    wide = memory_of(dataclasses.replace(MODEL, attention_width=16), WORK, 1e5).parts
    plain = memory_of(MODEL, WORK, 1e5).parts
    normed = memory_of(dataclasses.replace(MODEL, norms_heads=True), WORK, 1e5).parts
    name = "learner: activations"
    assert wide[name] - plain[name] == layers_of_batch * 3 * 6 * 2
    assert normed[name] - plain[name] == layers_of_batch * (10 + 5) * (2 + 4)


def test_shared_experts_widen_what_a_token_passes():
    shape = transformers.Qwen2MoeConfig(
        vocab_size=100,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        moe_intermediate_size=8,
        shared_expert_intermediate_size=24,
        num_experts=4,
        num_experts_per_tok=2,
    )
    model = model_sizes(shape)
    assert model.expert_parameters == 2 * 4 * 3 * 16 * 8
    assert (model.chosen_experts, model.num_experts) == (2, 4)
    assert model.intermediate == 2 * 8 + 24
