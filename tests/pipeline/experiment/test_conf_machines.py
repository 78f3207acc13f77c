"""Every shipped experiment for GPUs fits the machine that its file names, by `igpo estimate`."""

import re
from pathlib import Path

import pytest

from pipeline.estimate.capacity import estimate
from pipeline.estimate.machines import GIB, Device
from pipeline.estimate.model import model_of
from pipeline.estimate.workload import Expected, workload_of
from pipeline.experiment.conf_files import packaged_conf
from pipeline.experiment.experiment import load_experiments

CONF = Path(packaged_conf() or "")
MACHINE = re.compile(r"^# Machine: (\d+) GPUs? of (\d+) GB\.", re.MULTILINE)
PATHS = {
    str(path.relative_to(CONF)): path for path in sorted([*CONF.glob("*.yaml"), *CONF.glob("paper/*.yaml")])
}
FILES = {
    name: (int(found[1]), 1e9 * int(found[2]))
    for name, path in PATHS.items()
    if (found := MACHINE.search(path.read_text()))
}
SPARE = 0.15
"""The share of a learner's GPU that stays free: CUDA's own memory, its allocator's, gathered layers."""


def of(file, *changes):
    return load_experiments(str(CONF / file), list(changes))[0].algorithm_config()


def estimated(config, memory):
    device = Device("a GPU", memory, flops=989e12, bandwidth=3.35e12)
    return estimate(model_of(config), workload_of(config, Expected(), on_cpu=False), device)


def test_the_files_for_gpus_name_their_machine():
    assert set(FILES) == {
        "igpo_gpu.yaml",
        "real_llm.yaml",
        "paper/grpo_qwen2.5_3b.yaml",
        "paper/grpo_qwen2.5_7b.yaml",
        "paper/igpo_qwen2.5_3b.yaml",
        "paper/igpo_qwen2.5_7b.yaml",
        "qwen2.5_3b.yaml",
        "qwen2.5_3b_one_gpu.yaml",
        "qwen2.5_7b.yaml",
        "qwen2.5_7b_lora.yaml",
    }
    asks = {name for name in PATHS if not name.startswith("study") and of(name).num_gpus_per_env_runner}
    assert asks == set(FILES)


@pytest.mark.parametrize("file", FILES)
def test_a_file_takes_all_gpus_of_its_machine_and_fits_them(file):
    gpus, memory = FILES[file]
    config = of(file)
    asked = config.num_env_runners * config.num_gpus_per_env_runner
    assert asked + config.num_learners * config.num_gpus_per_learner == gpus
    found = estimated(config, memory)
    assert found.fits and found.memory.engine_capacity >= 1
    engine, learner = found.memory.engine, found.memory.learner
    beside = engine if asked < 1 and not config.is_colocated else 0.0
    assert learner + beside <= (1 - SPARE) * memory
    assert engine <= 0.85 * memory


@pytest.mark.parametrize(
    "file, learner_gib",
    [
        # (4 + 4 + 8 + 2) x 7.616e9 / 4 is 31.9; 20.4 of activations, 2.4 of logits, 1.5 of casts
        ("qwen2.5_7b.yaml", 56.2),
        ("qwen2.5_7b_lora.yaml", 35.7),  # 14.2 of the frozen base, 0.6 of the adapters beside it
    ],
)
def test_a_learner_by_hand(file, learner_gib):
    assert estimated(of(file), 80e9).memory.learner / GIB == pytest.approx(learner_gib, abs=0.05)


@pytest.mark.parametrize(
    "file, changes",
    [
        # One learner less each time: the file has no more than it needs.
        ("qwen2.5_7b.yaml", ("shard_learner=false", "num_learners=1", "num_env_runners=7")),
        ("qwen2.5_7b.yaml", ("num_learners=2",)),
        ("qwen2.5_7b_lora.yaml", ("lora=null",)),
        ("qwen2.5_3b.yaml", ("gradient_checkpointing=false",)),
    ],
)
def test_what_does_not_fit_was_not_shipped(file, changes):
    assert not estimated(of(file, *changes), FILES[file][1]).fits


def test_the_files_differ_in_what_the_machine_asks_for_alone():
    paper = of("qwen2.5_7b.yaml")
    for file in ("qwen2.5_3b.yaml", "qwen2.5_3b_one_gpu.yaml", "qwen2.5_7b_lora.yaml"):
        config = of(file)
        assert config.env_config == paper.env_config and config.loss_settings() == paper.loss_settings()
        assert (config.prompts_per_iteration, config.group_size) == (32, 16)
        assert config.lr == (1e-5 if config.lora else 1e-6)
    assert of("igpo_gpu.yaml").env_config == of("igpo.yaml").env_config
