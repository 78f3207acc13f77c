"""Every experiment file that ships is loaded and validated."""

from pathlib import Path

import pytest

from pipeline.conf_files import packaged_conf
from pipeline.experiment import load_experiments

FILES = sorted(Path(packaged_conf() or "").rglob("*.yaml"))


def test_there_are_files():
    assert {"igpo.yaml", "igpo_multi_agent.yaml", "smollm2_wikipedia.yaml", "qwen2.5_7b.yaml"} <= {f.name for f in FILES}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_a_shipped_experiment_is_valid(path):
    (experiment,) = load_experiments(str(path), None)
    config = experiment.algorithm_config()
    assert config.credit_config() and config.loss_settings()


def test_the_paper_s_setting():
    (path,) = (f for f in FILES if f.name == "qwen2.5_7b.yaml")
    (experiment,) = load_experiments(str(path), None)
    config = experiment.algorithm_config()
    assert (config.prompts_per_iteration, config.group_size, config.env_config["max_turns"]) == (32, 16, 10)
    assert (config.lr, config.credit_config().gamma, config.loss_settings().kl_coeff) == (1e-6, 1.0, 0.001)
