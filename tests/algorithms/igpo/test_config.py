"""`IGPOConfig`: where settings are given, what is parsed when, and settings under their old names."""

import inspect
import logging
import pickle
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from ray.rllib.algorithms.algorithm import Algorithm
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from algorithms.credit import CREDIT_FIELDS, get_preset
from algorithms.igpo import IGPO, IGPOConfig, setting_names
from algorithms.igpo.config import SECTIONS
from algorithms.igpo.loss_settings import LOSS_FIELDS, LossSettings
from envs.errors import InputError
from envs.settings import declared_settings

VALUES = {
    "engine": {"max_num_seqs": 7},
    "tokens_per_micro_batch": 77,
    "shard_learner": True,
    "offload_optimizer": True,
    "model_path": "tiny",
    "model_dtype": "bfloat16",
    "trust_remote_code": True,
    "gradient_checkpointing": True,
    "compile_learner": True,
    "lora": {"rank": 2},
    "evaluation_questions": 3,
    "log_tokens": True,
}


def test_the_package_imports_neither_ray_nor_torch_and_its_classes_on_demand():
    code = (
        "import sys, algorithms.igpo as igpo\n"
        "assert not {'ray', 'torch'} & set(sys.modules)\n"
        "assert igpo.__all__ == ['IGPO', 'IGPOConfig'] and set(igpo.__all__) <= set(dir(igpo))\n"
        "from algorithms.igpo import IGPO, IGPOConfig\n"
        "assert IGPOConfig().algo_class is IGPO\n"
        "try:\n    igpo.Igpo\nexcept AttributeError as error:\n    print(error)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "module 'algorithms.igpo' has no attribute 'Igpo'"


def test_the_loss_settings_import_no_torch():
    code = "import sys, algorithms.igpo.loss_settings\nassert not {'ray', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_credit_and_loss_setting_is_an_attribute():
    config = IGPOConfig()
    assert {*CREDIT_FIELDS, *LOSS_FIELDS} <= vars(config).keys()
    methods = (IGPOConfig.training, *(getattr(IGPOConfig, section) for section in SECTIONS))
    named = {name for method in methods for name in inspect.signature(method).parameters}
    named -= {"self", "kwargs", "credit", "loss"}
    own = vars(config).keys() - vars(AlgorithmConfig()).keys() - {*CREDIT_FIELDS, *LOSS_FIELDS}
    assert own | {"mismatch_cap"} == named, "a setting that no section takes, or one that is no attribute"
    assert {name: getattr(config, name) for name in CREDIT_FIELDS} == dict.fromkeys(CREDIT_FIELDS)
    assert config.loss_settings() == LossSettings()


@pytest.mark.parametrize("section", SECTIONS)
def test_a_setting_is_given_in_its_section_or_in_training(section):
    names = SECTIONS[section]
    assert set(names) <= inspect.signature(getattr(IGPOConfig, section)).parameters.keys()
    given = {name: VALUES[name] for name in names}
    there, here = getattr(IGPOConfig(), section)(**given), IGPOConfig().training(**given)
    for name, value in given.items():
        assert getattr(IGPOConfig(), name) != value
        assert getattr(there, name) == getattr(here, name) == value


def test_sections_still_take_rllib_s_own_settings():
    config = IGPOConfig().env_runners(num_env_runners=3).learners(num_learners=2).training(lr=0.5, gamma=0.9)
    config.evaluation(evaluation_interval=4).reporting(log_gradients=True)
    assert (config.num_env_runners, config.num_learners, config.lr, config.gamma) == (3, 2, 0.5, 0.9)
    assert (config.evaluation_interval, config.log_gradients) == (4, True)


@pytest.mark.parametrize("settings", [{"credit": {"gama": 1.0}}, {"loss": {"clip": 1.0}}])
def test_an_unknown_credit_or_loss_setting_is_refused(settings):
    with pytest.raises(InputError, match="unknown setting"):
        IGPOConfig().training(**settings)


def test_what_is_parsed_follows_every_change():
    config = IGPOConfig().training(model_path="tiny", preset="gspo")
    assert (config.num_minibatches, config.engine_settings.max_num_seqs) == (4, 256)
    config.validate()
    config.engine["max_num_seqs"] = 5
    config.env_config["roles"] = [{"name": "a", "policy": "q"}, {"name": "b", "policy": "p", "reads": "a"}]
    assert config.engine_settings.max_num_seqs == 5 and config.policy_ids == ["p", "q"]
    config.preset = "igpo_official"
    assert config.num_minibatches == 1 and config.search_settings.format_penalty == -2.0
    assert config.search_settings.tokenizer is None and config.env_settings().tokenizer.endswith(
        "tiny_policy"
    )


@pytest.mark.parametrize("change", [{"model_dtype": "bfloat16"}, {"engine": {"max_num_seqs": 3}}])
def test_engines_serve_what_they_were_built_for(change):
    config = IGPOConfig().training(model_path="tiny")
    other = config.copy().training(preset="grpo", lr=1.0).environment(env_config={"max_turns": 2})
    assert config.engine_identity == other.engine_identity
    changed = [config.copy().training(**change), config.copy().environment(env_config={"protocol": "igpo"})]
    assert config.engine_identity not in [one.engine_identity for one in changed]


@pytest.mark.parametrize(("adapters", "fits"), [("merged", True), ("served", False)])
def test_an_engine_that_serves_adapters_keeps_its_base(tmp_path, adapters, fits):
    identities = []
    for name in ("one", "other"):
        for file in ("config.json", "tokenizer.json"):
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / file).write_text("{}")
        config = IGPOConfig().training(model_path=str(tmp_path / name), engine={"adapters": adapters})
        roles = [{"name": "a", "policy": "q"}, {"name": "b", "policy": "p", "reads": "a"}]
        config.environment(env_config={"roles": roles})
        identities.append(config.multi_agent(policies={"p": {"lora": {}}, "q": {"lora": {}}}).engine_identity)
    assert (identities[0] == identities[1]) is fits


def test_copies_keep_whether_the_number_of_minibatches_was_given():
    for config in (IGPOConfig(), IGPOConfig().training(num_minibatches=3)):
        copies = [
            config.copy(),
            pickle.loads(pickle.dumps(config)),
            IGPOConfig.from_state(config.get_state()),
        ]
        copies.append(IGPOConfig().update_from_dict(config.to_dict()))
        for copy in copies:
            copy.preset = "gspo"
            assert copy.num_minibatches == (3 if config.num_minibatches == 3 else 4)


@pytest.fixture
def warnings(caplog):
    setting_names._warn.cache_clear()
    caplog.set_level(logging.WARNING, logger="algorithms.igpo.setting_names")
    return caplog


@pytest.mark.parametrize(
    "give",
    [
        lambda **settings: IGPOConfig().training(**settings),
        lambda **settings: IGPOConfig().update_from_dict(settings),
    ],
    ids=["training", "a file"],
)
def test_old_names_are_taken_with_one_line_each(give, warnings):
    for _ in range(2):
        config = give(scorer="reference", scoring="naive")
        assert (config.belief_policy, config.belief_method) == ("reference", "naive")
        assert (config.scorer, config.scoring) == ("reference", "naive")
        assert not {"scorer", "scoring"} & vars(config).keys()
    assert warnings.messages == [
        "the setting `scorer` is now called `belief_policy`; the next release will not know the old name",
        "the setting `scoring` is now called `belief_method`; the next release will not know the old name",
    ]


def test_an_old_file_s_null_says_nothing(warnings):
    assert IGPOConfig().update_from_dict({"scorer": None}).belief_policy is None
    assert warnings.messages == []


def test_stored_configurations_with_old_names_are_read():
    state = IGPOConfig().get_state()
    del state["belief_policy"], state["belief_method"]
    old = IGPOConfig.from_state(state | {"scorer": "reference", "scoring": "tree"})
    assert (old.belief_policy, old.belief_method) == ("reference", "tree") and old.algo_class is IGPO
    unpickled = IGPOConfig.__new__(IGPOConfig)
    unpickled.__setstate__({"scorer": "reference"})
    assert unpickled.belief_policy == "reference"


def test_a_stored_configuration_takes_the_defaults_of_newer_settings():
    state = dict(vars(IGPOConfig().training(preset="igpo_shaped", gamma=0.8)))
    del state["return_baseline"], state["adam_betas"], state["engine"]
    old, other = (IGPOConfig.__new__(IGPOConfig) for _ in range(2))
    old.__setstate__(state)
    other.__setstate__(state)
    assert old.credit_config() == replace(get_preset("igpo_shaped").credit, gamma=0.8)
    assert old.adam_betas == (0.9, 0.999)
    old.engine["kind"] = "transformers"
    assert other.engine == IGPOConfig().engine == {}


@pytest.mark.parametrize(("cls", "parent"), [(IGPO, Algorithm), (IGPOConfig, AlgorithmConfig)])
def test_rllib_s_hooks_are_marked(cls, parent):
    """RLlib's `@override` itself fails where the parent class has no such method."""
    source = inspect.getsource(cls)
    functions = {name: getattr(value, "__func__", value) for name, value in vars(cls).items()}
    hooks = {name for name, value in functions.items() if inspect.isfunction(value) and hasattr(parent, name)}
    assert "validate" in hooks or "training_step" in hooks
    for name in hooks - {"__init__"}:
        assert f"@override({parent.__name__})\n    def {name}(" in source, name


def test_every_setting_of_rllib_is_sorted():
    """A new version of RLlib may bring others: each acts, is code, is fixed, or is refused with a reason."""
    theirs = {
        name
        for name, value in vars(AlgorithmConfig()).items()
        if not name.startswith("_") and not (type(value) is int and value == -1)  # abolished
    }
    own = declared_settings("algorithms.igpo.settings", "IGPOSettings").keys() | set(CREDIT_FIELDS)
    kinds = [set(setting_names.FROM_RLLIB), setting_names.CODE, setting_names.FIXED]
    kinds.append(set(setting_names.WITHOUT_EFFECT) & theirs)
    assert theirs - own == set().union(*kinds)
    assert sum(map(len, kinds)) == len(set().union(*kinds)), "a setting of two kinds"
    config = IGPOConfig()
    defaults = {name: default for name, (_, default, _) in setting_names.FROM_RLLIB.items()}
    del defaults["policies"]  # a file gives settings by policy, RLlib holds a specification of each
    assert defaults == {name: getattr(config, name) for name in defaults}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c.resources(num_gpus=1), "`num_gpus` has no effect here: set `num_gpus_per_learner`"),
        (lambda c: c.training(train_batch_size=64), "set `prompts_per_iteration` and `group_size`"),
        (lambda c: c.training(train_batch_size_per_learner=64), "set `prompts_per_iteration`"),
        (lambda c: c.training(optimizer={"type": "sgd"}), "set `lr`, `weight_decay` and `adam_betas`"),
        (lambda c: c.training(learner_config_dict={"x": 1}), "`learner_config_dict` has no effect here"),
        (lambda c: c.debugging(log_level="INFO"), "`log_level` has no effect here: give `-v`"),
        (lambda c: c.offline_data(input_="x.json"), "`input_` has no effect here: IGPO reads and writes no"),
        (lambda c: c.evaluation(evaluation_duration=3), "set `evaluation_questions`"),
        (lambda c: c.reporting(min_time_s_per_iteration=60), "an iteration is one batch"),
    ],
)
def test_a_setting_without_effect_is_refused_in_python(change, said):
    config = change(IGPOConfig().rl_module(model_path="tiny"))
    with pytest.raises(InputError, match=re.escape(said)):
        config.validate()


def test_the_help_of_training_documents_every_argument():
    text = IGPOConfig.training.__doc__
    for name in inspect.signature(IGPOConfig.training).parameters.keys() - {"self", "kwargs"}:
        assert f"    {name}: " in text
    for name in (*CREDIT_FIELDS, *LOSS_FIELDS):
        assert f"    {name} (" in text


def test_a_field_of_credit_or_loss_may_be_given_by_its_name():
    config = IGPOConfig().training(clip_high=0.3, outcome_weight=0.5, normalisation="joint")
    assert config.loss_settings().clip_high == 0.3
    assert (config.credit_config().outcome_weight, config.credit_config().normalisation) == (0.5, "joint")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"num_gpus_per_learner": 2}, "a learner uses one GPU: set it to 1, and num_learners"),
        ({"num_gpus_per_learner": 1.5}, "a learner uses one GPU: set it to 1, and num_learners"),
        (
            {"num_cpus_per_learner": "two"},
            "num_cpus_per_learner is 'two'; it must be a number, 0 or more, or auto",
        ),
        ({"num_cpus_per_learner": -1}, "num_cpus_per_learner is -1; it must be a number"),
    ],
)
def test_what_ray_would_refuse_late_or_take_wrongly_is_refused(change, said):
    config = IGPOConfig().rl_module(model_path="tiny")
    for name, value in change.items():
        setattr(config, name, value)
    with pytest.raises(InputError, match=said):
        config.validate()
