"""Every experiment file that ships is loaded and validated."""

from pathlib import Path

import pytest
import yaml

from algorithms.credit import PRESETS
from algorithms.igpo.loss_settings import LossSettings
from envs.errors import InputError
from pipeline.experiment.before_start import check_start
from pipeline.experiment.conf_files import packaged_conf
from pipeline.experiment.experiment import load_experiments

CONF = Path(packaged_conf() or "")
FILES = sorted(
    set(CONF.rglob("*.yaml")) - set(CONF.glob("study*.yaml"))
)  # a study is no experiment: test_study.py


def test_there_are_files():
    assert {"igpo.yaml", "igpo_multi_agent.yaml", "smollm2_wikipedia.yaml", "qwen2.5_7b.yaml"} <= {
        f.name for f in FILES
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CONF).with_suffix("")))
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


@pytest.mark.parametrize("model", ["7b", "3b"])
@pytest.mark.parametrize("preset", ["igpo", "grpo"])
def test_the_paper_s_experiment(preset, model):
    config = load(f"paper/{preset}_qwen2.5_{model}.yaml")
    env = config.env_settings()
    assert (config.preset, config.model_path) == (preset, f"Qwen/Qwen2.5-{model.upper()}-Instruct")
    assert (config.prompts_per_iteration, config.group_size, config.lr) == (32, 16, 1e-6)
    assert (config.num_epochs, config.num_minibatches) == (1, 1)
    assert (config.credit_config().gamma, config.loss_settings().kl_coeff) == (1.0, 0.001)
    assert (env.protocol, env.max_turns, env.outcome) == ("igpo", 10, "f1")
    assert (env.questions, env.heldout_questions) == ("paper_data/train.jsonl", "paper_data/heldout.jsonl")
    assert (env.corpus, env.retriever.kind, env.retriever.top_k) == ("remote", "http", 10)
    bm25 = load(
        f"paper/{preset}_qwen2.5_{model}.yaml",
        "env_config.corpus=paper_data/wiki-18.jsonl.gz",
        "env_config.retriever.kind=bm25",
    )
    assert bm25.env_settings().retriever.kind == "bm25"


def test_missing_data_of_the_paper_names_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        InputError, match=r"paper_data/train.jsonl does not exist: `igpo data paper` fetches it"
    ):
        check_start(load_experiments(str(CONF / "paper/grpo_qwen2.5_3b.yaml"), None)[0])


def load(path, *overrides):
    (experiment,) = load_experiments(CONF / path, list(overrides))
    return experiment.algorithm_config()


def test_every_preset_has_a_file():
    assert {path.stem for path in FILES if path.parent.name == "presets"} == set(PRESETS)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_file_says_nothing_but_the_preset_s_name(name):
    (keys,) = yaml.safe_load((CONF / "presets" / f"{name}.yaml").read_text()).values()
    assert keys == {"extends": "../igpo.yaml", "config": {"preset": name}}


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("by_file", [True, False])
def test_a_preset_means_the_same_by_its_file_and_as_one_setting_of_the_default(name, by_file):
    config = load(f"presets/{name}.yaml") if by_file else load("igpo.yaml", f"preset={name}")
    preset = PRESETS[name]
    assert config.preset == name and config.credit_config() == preset.credit
    assert config.loss_settings() == LossSettings(**preset.loss_changes)
    env = config.env_settings()
    assert {key: getattr(env, key) for key in preset.env} == preset.env
    assert config.dynamic_sampling == preset.dynamic_sampling
    assert (config.num_epochs, config.num_minibatches) == (1, preset.num_minibatches)


def test_the_user_s_number_of_minibatches_wins_over_the_preset_s():
    assert load("igpo.yaml", "preset=gspo", "num_minibatches=2").num_minibatches == 2
    assert load("igpo.yaml", "preset=gspo", "num_minibatches=null").num_minibatches == 4
    assert load("igpo.yaml", "preset=a2tgpo", "num_minibatches=1").num_minibatches == 1
    assert load("igpo.yaml", "preset=gspo", "num_minibatches=1", "num_epochs=2").num_epochs == 2
    with pytest.raises(InputError, match="set num_epochs or num_minibatches above 1"):
        load("igpo.yaml", "preset=gspo", "num_epochs=1", "num_minibatches=1")


def test_one_update_per_batch_is_gspo_under_weight_lag():
    one_update = ("num_epochs=1", "num_minibatches=1", "num_env_runners=1")
    config = load("igpo.yaml", "preset=gspo", *one_update, "max_weight_lag=1")
    assert (config.num_minibatches, config.loss_settings().ratio_level) == (1, "sequence")
    with pytest.raises(InputError, match="or max_weight_lag to 1"):
        load("igpo.yaml", "preset=gspo", *one_update, "max_weight_lag=0")
