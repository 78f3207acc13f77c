"""The resolved configuration holds the values in force, makes the same run again, and has one hash."""

import copy
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from algorithms.credit import PRESETS, CreditConfig
from algorithms.igpo.loss_settings import LOSS_FIELDS
from envs.errors import InputError
from pipeline.experiment.experiment import experiments_of, load_experiment
from pipeline.experiment.resolved import config_hash
from pipeline.run_directory.directory import RunDirectory
from pipeline.training.changed_settings import Change, changed_settings

DECIDED = {*(field.name for field in fields(CreditConfig)), *LOSS_FIELDS, "belief_policy", "belief_method"}


def resolve(*overrides):
    experiment = load_experiment("conf/igpo.yaml", ["stop.training_iteration=3", *overrides])
    (keys,) = experiment.resolved().values()
    return keys


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_written_out_and_read_back(preset):
    keys = resolve(f"preset={preset}", "num_minibatches=2")
    settings = keys["config"]
    assert not [key for key in DECIDED if settings.get(key, 0) is None]
    assert {
        "gain_basis",
        "gamma",
        "clip_low",
        "kl_coeff",
        "belief_policy",
        "belief_method",
    } <= settings.keys()
    assert (settings["num_epochs"], settings["num_minibatches"]) == (1, 2)
    assert settings["env_config"].items() >= PRESETS[preset].env.items()
    (again,) = experiments_of("igpo", copy.deepcopy(keys), Path("resolved.yaml"))
    assert again.resolved()["igpo"] == keys
    config = load_experiment("conf/igpo.yaml", [f"preset={preset}", "num_minibatches=2"]).algorithm_config()
    read = again.algorithm_config()
    assert read.credit_config() == config.credit_config()
    assert read.loss_settings() == config.loss_settings()
    assert read.belief_scoring == config.belief_scoring


@pytest.mark.parametrize("override", ["lr=0.001", "gamma=0.99", "grad_clip=null"])
def test_a_setting_with_rllibs_default_is_read_back(override):
    """IGPO has other defaults: left out, the setting would be read as IGPO's."""
    keys = resolve(override)
    name, _, value = override.partition("=")
    assert keys["config"][name] == yaml.safe_load(value)
    (again,) = experiments_of("igpo", copy.deepcopy(keys), Path("resolved.yaml"))
    assert getattr(again.algorithm_config(), name) == yaml.safe_load(value)


def test_the_hash_names_the_settings_and_not_the_stop():
    base = config_hash(resolve()["config"])
    assert config_hash(resolve("stop.training_iteration=99", "storage_path=elsewhere")["config"]) == base
    assert config_hash(resolve("clip_low=0.2")["config"]) == base, "said or not, it is the value in force"
    assert config_hash(resolve("clip_low=0.1")["config"]) != base


def test_another_preset_over_a_resolved_configuration_is_refused(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({"igpo": resolve()}))
    with pytest.raises(InputError, match="another preset changes none of them"):
        load_experiment(path, ["preset=grpo"])
    assert load_experiment(path, ["lr=0.1"]).config["lr"] == 0.1


def old_run(tmp_path, **changes):
    """A run of version 0.1.0, which left out RLlib's defaults and wrote null for what the preset decided."""
    keys = resolve("lr=0.001")
    settings = {key: None if key in DECIDED else value for key, value in keys["config"].items()}
    del settings["lr"], settings["num_epochs"]
    settings |= {"window": None, "a_setting_of_then": None, **changes}
    facts = {"config_hash": "0e4aeeb0bc81", "versions": {"igpo-rllib": "0.1.0"}}
    return RunDirectory.create(tmp_path, "igpo", {"igpo": {**keys, "config": settings}}, facts)


def test_a_run_of_an_earlier_version_is_compared_by_its_values_in_force(tmp_path):
    run = old_run(tmp_path)
    assert changed_settings(run, {"igpo": resolve("lr=0.001", "stop.training_iteration=9")}) == Change()
    changed = changed_settings(run, {"igpo": resolve("clip_low=0.1", "env_config.max_turns=9")})
    assert changed.refused == "`clip_low` (0.2 -> 0.1), `lr` (0.001 -> 0.0002)"
    assert changed.widened == {"env_config.max_turns": [6, 9]}


def test_a_run_of_an_earlier_version_that_cannot_be_read_names_the_version(tmp_path):
    run = old_run(tmp_path, a_setting_of_then=3)
    with pytest.raises(InputError, match=r"made by igpo-rllib 0\.1\.0, .*`config\.a_setting_of_then`"):
        changed_settings(run, {"igpo": resolve()})
