"""The catalogue of settings is the code's: each key with its default; page, words and schema follow."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner

import pipeline.cli.igpo
from algorithms.credit import CREDIT_FIELDS, PRESETS
from algorithms.igpo.config import IGPOConfig
from algorithms.igpo.loss_settings import LOSS_FIELDS
from algorithms.igpo.setting_names import CODE, FIXED, FROM_RLLIB
from envs.engine.base import EngineSettings
from envs.errors import InputError
from envs.search.config import SearchEnvSettings
from pipeline.experiment.catalogue import TOP, catalogue
from pipeline.experiment.experiment import load_experiments
from pipeline.experiment.keys import EXPERIMENT_KEYS
from pipeline.experiment.peers import PEERS, here
from pipeline.experiment.resolved import known_config_keys
from pipeline.experiment.settings_page import described, json_schema, listed, markdown, similar

ROOT = Path(__file__).parents[3]
CONF = sorted((ROOT / "conf").glob("*.yaml")) + sorted((ROOT / "conf" / "presets").glob("*.yaml"))
EXPERIMENTS = [path for path in CONF if "study" not in path.name]


def test_every_key_of_the_configuration_is_in_the_catalogue():
    config = IGPOConfig()
    keys = {path.partition(".")[0] for path, one in catalogue().items() if one.section != TOP}
    assert keys | CODE | FIXED == known_config_keys(config) | {"env"}
    for name, one in catalogue().items():
        # `policies` of a file are settings; RLlib's hold a specification of each policy.
        if one.section == "config" and name not in {*CREDIT_FIELDS, *LOSS_FIELDS, "policies"}:
            value = vars(config)[name] if name in vars(config) else getattr(config, name)
            default = list(one.default) if isinstance(one.default, tuple) else one.default
            assert default == (list(value) if isinstance(value, tuple) else value), name


@pytest.mark.parametrize(("prefix", "model"), [("engine", EngineSettings), ("env_config", SearchEnvSettings)])
def test_every_key_of_a_section_is_in_the_catalogue(prefix, model):
    found = {p.split(".")[1] for p in catalogue() if p.startswith(f"{prefix}.")}
    assert found == set(model.model_fields)
    for name, info in model.model_fields.items():
        one = catalogue()[f"{prefix}.{name}"]
        if isinstance(info.default, str | int | float | bool | None):
            assert one.default == info.default, name


def test_keys_beside_config_are_in_the_catalogue():
    keys = {path.partition(".")[0] for path, one in catalogue().items() if one.section == TOP}
    assert keys | {"config"} == EXPERIMENT_KEYS | {"extends"}


def test_every_setting_says_what_it_means():
    assert [path for path, one in catalogue().items() if len(one.meaning) < 10] == []


def test_a_setting_names_the_presets_that_change_it():
    for preset in PRESETS.values():
        changes = dict(preset.changes)
        paths = {f"env_config.{name}": value for name, value in changes.pop("env_config", {}).items()}
        paths |= {name: value for name, value in changes.items() if name != "dynamic_sampling"}
        named = {p: one.presets[preset.name] for p, one in catalogue().items() if preset.name in one.presets}
        assert named == paths, preset.name


def test_the_page_is_what_the_code_says():
    page = (ROOT / "docs" / "settings.md").read_text()
    assert page == markdown(), "run `igpo settings --markdown > docs/settings.md`"
    assert re.findall(r"^\| `([\w.]+)` \|", page, re.MULTILINE) == [
        path for section in (TOP, "config", "lora", "engine", "env_config")
        for path, one in catalogue().items() if one.section == section
    ]  # fmt: skip


def test_the_catalogue_needs_no_ray():
    code = "import sys, pipeline.experiment.settings_page as p; p.markdown(); p.json_schema()\n"
    subprocess.run(
        [sys.executable, "-c", code + "assert not {'ray', 'torch'} & set(sys.modules)"], check=True
    )


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.name)
def test_the_schema_takes_the_experiments_of_the_package(path):
    jsonschema.Draft202012Validator(json_schema()).validate(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize(
    "config",
    [
        {"lrr": 1e-3},
        {"lr": "fast"},
        {"env_config": {"max_turns": 0}},
        {"env_config": {"retriever": {"kind": "bm52"}}},
        {"engine": {"kv_cache_gb": 1}},
        {"normalisation": "sideways"},
        {"lora": {"rank": 0}},
    ],
)
def test_the_schema_refuses_what_a_run_would(config):
    validator = jsonschema.Draft202012Validator(json_schema())
    experiment = {"x": {"run": "IGPO", "config": {"model_path": "tiny", **config}}}
    assert not validator.is_valid(experiment)
    assert validator.is_valid({"x": {"run": "IGPO", "config": {"lr": {"grid_search": [1e-3, 1e-4]}}}})


def test_words_of_other_trainers_name_settings_that_exist():
    named = {path for text in PEERS.values() for path in re.findall(r"`([a-z_]+(?:\.[a-z_]+)*)`", text)}
    sections = {"engine", "env_config", "config", "stop", "mlflow"}
    assert named - set(catalogue()) - sections <= {"instruction"}
    own = {path for path, one in catalogue().items() if one.section in ("config", TOP)} | set(FROM_RLLIB)
    assert set(PEERS) & own == set(), "a word of theirs that is a key here"
    for word in (
        "learning_rate", "num_generations", "batch_size", "max_tokens", "beta", "temperature", "warmup_steps",
        "bf16", "tensor_parallel_size",
    ):  # fmt: skip
        assert word in PEERS or word in own


def slip(folder, **config):
    path = folder / "slip.yaml"
    path.write_text(yaml.safe_dump({"slip": {"run": "IGPO", "config": {"model_path": "tiny", **config}}}))
    with pytest.raises(InputError) as caught:
        load_experiments(path)
    return str(caught.value)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"learning_rate": 1}, "unknown key `config.learning_rate`. Here it is `lr`."),
        ({"Learning-Rate": 1}, "Here it is `lr`."),
        ({"num_generations": 8}, "Here it is `group_size`."),
        ({"temperature": 0.7}, "There is no such setting: training samples at temperature 1"),
        ({"max_turns": 3}, "It belongs elsewhere: `config.env_config.max_turns`."),
        ({"kv_cache_gib": 3}, "It belongs elsewhere: `config.engine.kv_cache_gib`."),
        ({"storage_path": "x"}, "It belongs elsewhere: `storage_path`."),
        ({"env_config": {"group_size": 4}}, "It belongs elsewhere: `config.group_size`."),
        ({"env_config": {"lrr": 4}}, "Did you mean `config.lr`?"),
        ({"env_config": {"question": "q.jsonl"}}, "Did you mean `questions`?"),
        ({"clip_hihg": 0.3}, "Did you mean `clip_high`?"),
        ({"max_trns": 3}, "Did you mean `config.env_config.max_turns`?"),
        ({"num_env_runner": 3}, "Did you mean `num_env_runners`?"),
        ({"xyzzy": 3}, "No known key looks like it: `igpo settings` lists all."),
        ({"callbacks": "foo"}, "`config.callbacks` is code: set it in a Python experiment file"),
        ({"num_gpus": 1}, "`config.num_gpus` has no effect here: set `num_gpus_per_learner`"),
        ({"optimizer": "adam"}, "has no effect here: it is AdamW: set `lr`"),
        ({"log_level": "INFO"}, "has no effect here: give `-v`"),
        ({"learner_config_dict": {}}, "`config.learner_config_dict` has no effect here"),
    ],
)
def test_a_wrong_key_is_answered_with_the_right_word(tmp_path, config, said):
    assert said in slip(tmp_path, **config)


def test_settings_are_described():
    assert described("window")[:3] == [
        "config.window", "  type      whole number or null", "  default   null",
    ]  # fmt: skip
    assert "  presets   trace 3" in described("window")
    preset = described("preset")
    assert "  rloo             the outcome less the mean of the group's others; arXiv" in preset
    assert all(len(line) <= 80 for line in preset)
    assert all(any(line.split()[:1] == [name] for line in preset) for name in PRESETS)
    assert all(preset.summary for preset in PRESETS.values())


def test_an_experiment_s_values_stand_beside_the_defaults():
    experiments = {"a": {"config": {"lr": 2e-4, "preset": "trace"}}, "b": {"config": None, "num_samples": 2}}
    assert described("lr", experiments)[2:5] == [
        "  default   1e-06", "  in file   0.0002 (a)", "  in file   1e-06 (b, not set there)",
    ]  # fmt: skip
    assert "  in file   3 (a, not set there)" in described("window", experiments), "trace's"
    assert any(
        line.startswith("  lr  (") and line.endswith("= 1e-06; a: 0.0002") for line in listed(experiments)
    )


def test_a_word_inside_names_finds_them():
    assert similar("gain") == ["gain_basis", "drop_gains_at_turn_limit"]
    assert similar("lrr") == ["lr"] and similar("xyzzy") == []


def test_other_words_of_other_trainers_are_described():
    for word in ("learning_rate", "learningrate", "learningRate", "Learning-Rate"):
        assert described(word)[:3] == ["Here it is `lr`.", "", "config.lr"]
    assert "  engine.block_size  (whole number) = 32" in described("engine")
    assert described("config.env_config.retriever.top_k")[0] == "config.env_config.retriever.top_k"
    assert described("nothing_like_it") == [] and here("nothing_like_it") is None


def test_the_command(tmp_path):
    run = CliRunner().invoke
    app = pipeline.cli.igpo.app
    assert "config.lr" in run(app, ["settings", "lr"]).output
    assert run(app, ["settings", "--markdown"]).output == markdown()
    assert json.loads(run(app, ["settings", "--json-schema"]).output) == json_schema()
    refused = run(app, ["settings", "max_trns"])
    assert refused.exit_code == 2 and "did you mean `env_config.max_turns`" in " ".join(
        refused.output.split()
    )
