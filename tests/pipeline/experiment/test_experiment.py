"""Experiment files: format, overrides, grid, and every kind of slip named with its place and its cure."""

import copy
from contextlib import nullcontext
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from envs.errors import InputError
from pipeline.experiment.conf_files import resolve_config_path
from pipeline.experiment.experiment import load_experiment, load_experiments
from pipeline.experiment.file import parse_yaml

BASE = {
    "demo": {
        "run": "IGPO",
        "env": "search",
        "stop": {"training_iteration": 3},
        "config": {"lr": 0.001, "seed": 5, "env_config": {"max_turns": 4, "world": {"seed": 1}}},
    }
}


def write(tmp_path: Path, content) -> Path:
    path = tmp_path / "demo.yaml"
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content, sort_keys=False))
    return path


def load(tmp_path, change=None, overrides=None, **more):
    content = copy.deepcopy(BASE)
    content["demo"].update(more)
    if change:
        change(content["demo"])
    return load_experiments(write(tmp_path, content), overrides)


def message(tmp_path, change=None, overrides=None, **more) -> str:
    with pytest.raises(InputError) as caught:
        load(tmp_path, change, overrides, **more)
    return str(caught.value)


def test_a_removed_setting_is_ignored_unless_it_is_set(tmp_path):
    (plain,) = load(tmp_path)
    for value in (False, None):
        (old,) = load(tmp_path, lambda demo, value=value: demo["config"].update(truncated_pays_back=value))
        assert old.resolved() == plain.resolved()
    said = message(tmp_path, lambda demo: demo["config"].update(truncated_pays_back=True))
    assert said.endswith(
        "(demo): `truncated_pays_back: true` was removed during the development of version 0.1.0; "
        "leave it out."
    )


def test_a_checkpoint_s_configuration_may_hold_a_removed_setting():
    from algorithms.igpo.config import IGPOConfig

    for value in (False, None):
        IGPOConfig().update_from_dict({"truncated_pays_back": value}).credit_config()
    with pytest.raises(InputError, match="`truncated_pays_back: true` was removed"):
        IGPOConfig().update_from_dict({"truncated_pays_back": True}).credit_config()


def test_a_plain_experiment(tmp_path):
    (experiment,) = load(tmp_path)
    assert experiment.name == "demo"
    assert experiment.stop == {"training_iteration": 3}
    assert experiment.env_settings.max_turns == 4 and experiment.env_settings.world.seed == 1
    assert experiment.checkpoint.checkpoint_frequency == 1 and experiment.checkpoint.num_to_keep == 1
    assert experiment.storage_path == Path("runs") and experiment.label == ""


@pytest.mark.parametrize(
    "text, value",
    [
        ("1e-6", 1e-6),
        ("1E+3", 1000.0),
        (".5", 0.5),
        ("12", 12),
        ("-3", -3),
        ("1.2.3", "1.2.3"),
        ("true", True),
        ("0x10", 16),
        ("1_000", 1000),
        ("010", "010"),
        ("1:30", "1:30"),
        ("1.", 1.0),
        (".inf", float("inf")),
    ],
)
def test_numbers_are_numbers(text, value):
    parsed = parse_yaml(text, "here")
    assert parsed == value and type(parsed) is type(value)


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_way_python_writes_a_float_is_a_float(number):
    parsed = parse_yaml(repr(number), "here")
    assert parsed == number and isinstance(parsed, float)


@given(st.integers())
def test_integers_stay_integers(number):
    parsed = parse_yaml(str(number), "here")
    assert parsed == number and isinstance(parsed, int)


def test_a_key_given_twice_is_an_error(tmp_path):
    with pytest.raises(InputError, match=r"demo.yaml, line 4.*`lr` is given twice"):
        load_experiments(write(tmp_path, "demo:\n  run: IGPO\n  config: {lr: 1,\n    lr: 2}\n"))


def test_yaml_merge_keys_still_work(tmp_path):
    text = "demo:\n  run: IGPO\n  config:\n    env_config: {world: {<<: {seed: 1, entities: 20}, seed: 2}}\n"
    (experiment,) = load_experiments(write(tmp_path, text))
    assert (experiment.env_settings.world.seed, experiment.env_settings.world.entities) == (2, 20)


def test_overrides_reach_every_level(tmp_path):
    sets = ["seed=9", "env_config.world.seed=3", "stop.training_iteration=2", "lr=1e-6", "num_samples=2",
            "checkpoint_config.num_to_keep=4", "env_config.roles=[{name: a}, {name: b, reads: a}]",
            "env_config.roles.1.policy=p"]  # fmt: skip
    first, second = load(tmp_path, overrides=sets)
    assert (
        first.config["lr"] == 1e-6
        and first.env_settings.world.seed == 3
        and first.stop == {"training_iteration": 2}
    )
    assert [first.config["seed"], second.config["seed"]] == [9, 10]
    assert first.checkpoint.num_to_keep == 4
    assert [role.policy for role in first.env_settings.roles] == ["default_policy", "p"]


@pytest.mark.parametrize(
    "override, expected",
    [
        ("seed", "write KEY=VALUE"),
        ("lr.x=3", r"`config.lr` is 0.001, so it has no key `x`"),
        ("env_config.protocol.0=a", "`config.env_config.protocol` is a text"),
        ("env_config.hops.7=a", "`config.env_config.hops` is a list of 1; `7` is no position in it"),
        ("lr={", "not YAML"),
    ],
)
def test_overrides_that_cannot_be_set(tmp_path, override, expected):
    with pytest.raises(InputError, match=expected):
        load(tmp_path, overrides=["env_config.protocol=tiny", "env_config.hops=[1]", override])


def test_grid_search_and_samples(tmp_path):
    def change(keys):
        keys["config"]["lr"] = {"grid_search": [0.1, 0.2]}
        keys["config"]["env_config"]["world"] = {"seed": {"grid_search": [1, 2, 3]}}

    experiments = load(tmp_path, change, num_samples=2)
    assert len(experiments) == 12
    assert [(e.config["lr"], e.env_settings.world.seed) for e in experiments[:3]] == [
        (0.1, 1),
        (0.1, 2),
        (0.1, 3),
    ]
    assert experiments[4].label == "lr=0.2, env_config.world.seed=2"
    assert experiments[6].label == "lr=0.1, env_config.world.seed=1, sample 1"
    assert {e.config["seed"] for e in experiments[:6]} == {5} and {
        e.config["seed"] for e in experiments[6:]
    } == {6}


def test_a_command_for_one_run_takes_no_grid_in_silence(tmp_path):
    content = copy.deepcopy(BASE)
    content["demo"]["config"]["lr"] = {"grid_search": [0.1, 0.2]}
    content["demo"]["num_samples"] = 2
    path = write(tmp_path, content)
    with pytest.raises(
        InputError, match=r"asks for 4 runs \(demo lr=0.1; demo lr=0.2; demo lr=0.1, sample 1; \.\.\.\)"
    ):
        load_experiment(path)
    assert load_experiment(path, ["lr=0.2", "num_samples=1"]).config["lr"] == 0.2


@pytest.mark.parametrize(
    "change, expected",
    [
        (lambda k: k.update(stopp={}), "unknown key `stopp`. Did you mean `stop`?"),
        (lambda k: k.update(run="PPO"), "`run` must be `IGPO`, found 'PPO'"),
        (lambda k: k.update(env="CartPole-v1"), "`env` must be `search`"),
        (lambda k: k.update(max_failures=3), "`max_failures` belongs to Ray Tune"),
        (lambda k: k.update(num_samples=0), "`num_samples`: Input should be greater than or equal to 1 (got "
        "0)"),
        (lambda k: k.update(checkpoint_config={"checkpoint_freq": 1}),
         "unknown key `checkpoint_config.checkpoint_freq`. Did you mean `checkpoint_frequency`?"),
        (lambda k: k.update(stop={"training_iterations": 1}), "Did you mean `training_iteration`?"),
        (lambda k: k.update(stop={"evaluation": {"em_squat": 1}}),
         "unknown key `stop.evaluation/em_squat`. Did you mean `evaluation/em_squad`?"),
        (lambda k: k.update(stop={"training_iteration": "ten"}), "`stop.training_iteration` must be a "
        "number"),
        (lambda k: k["config"]["env_config"].update(max_turn=3),
         "unknown key `config.env_config.max_turn`. Did you mean `max_turns`?"),
        (lambda k: k["config"]["env_config"]["world"].update(sed=3),
         "unknown key `config.env_config.world.sed`. Did you mean `seed`?"),
        (lambda k: k["config"]["env_config"].update(roles=[{"name": "a", "polcy": "p"}]),
         "unknown key `config.env_config.roles.0.polcy`. Did you mean `policy`?"),
        (lambda k: k["config"]["env_config"].update(max_turns=0), "`config.env_config.max_turns`: Input "
        "should be greater"),
        (lambda k: k["config"].update(engine={"kv_cache_gb": 1}),
         "unknown key `config.engine.kv_cache_gb`. Did you mean `kv_cache_gib`?"),
        (lambda k: k["config"]["env_config"].update(corpus="a.jsonl"), "`questions` is needed when `corpus` "
        "is a file"),
        (lambda k: k["config"].update(lr={"grid_search": []}), "config.lr: write {grid_search:"),
        (lambda k: k.update(config=3), "`config` must hold keys, found 3"),
        (lambda k: k.update(config=None, stop=[1]), "`stop` must hold metric: value"),
    ],
)  # fmt: skip
def test_slips_are_named_with_their_cure(tmp_path, change, expected):
    assert expected in message(tmp_path, change)


@pytest.mark.parametrize(
    "override, expected",
    [
        ("lrr=1", "unknown key `config.lrr`. Did you mean `lr`?"),
        ("lr=-1", "lr is -1; it must be above 0"),
        ("lr=fast", "`config.lr` must be a number, found 'fast'"),
        ("ig_weight=much", "`config.ig_weight` must be a number, found 'much'"),
        ("group_size=1", "group_size is 1; it must be a whole number, 2 or more"),
        ("group_size=2.5", "group_size is 2.5; it must be a whole number"),
        ("num_env_runners=-1", "num_env_runners is -1; it must be a whole number, 0 or more"),
        ("num_env_runners=true", "`config.num_env_runners` must be a number, found True"),
        ("seed=null", "seed is None; it must be a whole number"),
        (
            "evaluation_questions=0",
            "evaluation_questions is 0; it must be a whole number, 1 or more (or null)",
        ),
        ("max_tool_error_share=20", "max_tool_error_share is 20; it must be from 0 to 1"),
        ("num_gpus_per_env_runner=-0.5", "num_gpus_per_env_runner is -0.5; it must be 0 or more"),
        ("preset=igop", "preset 'igop' is unknown"),
        ("lora.rank=0", "`config.lora.rank`: Input should be greater than or equal to 1"),
        ("train_batch_size=512", "`config.train_batch_size` has no effect here: set `prompts_per_iteration`"),
        ("framework=tf2", "`config.framework` has no effect here: it is torch"),
        ("env_runner_cls=a.b", "`config.env_runner_cls` is code"),
        ("policies_to_train=[]", "policies_to_train is []; name one or more of default_policy"),
        ("policies_to_train=[reader]", "policies_to_train is ['reader']"),
        ("policies_to_train=default_policy", "it must be a list, such as [default_policy]"),
    ],
)
def test_settings_that_rllib_would_take_in_silence(tmp_path, override, expected):
    with pytest.raises(InputError) as caught:
        (experiment,) = load(tmp_path, overrides=[override])
        experiment.algorithm_config()
    assert expected in str(caught.value) and "demo.yaml" in str(caught.value)


def test_a_criterion_that_nothing_would_meet_is_refused(tmp_path):
    (experiment,) = load(tmp_path, stop={"igpo/kl": 0.5}, overrides=["kl_coeff=0"])
    with pytest.raises(
        InputError, match="waits for igpo/kl, which nobody measures where `config.kl_coeff` is 0"
    ):
        experiment.algorithm_config()
    (experiment,) = load(tmp_path, stop={"igpo/kl": 0.5})
    assert experiment.algorithm_config()


@pytest.mark.parametrize(("common", "own", "measured"), [(0, 0.01, True), (0.01, 0, False)])
def test_the_kl_term_of_a_policy_is_its_own(tmp_path, common, own, measured):
    changes = [f"kl_coeff={common}", f"policies.default_policy.kl_coeff={own}"]
    (experiment,) = load(tmp_path, stop={"igpo/kl": 0.5}, overrides=changes)
    with nullcontext() if measured else pytest.raises(InputError, match="waits for igpo/kl"):
        experiment.algorithm_config()


@pytest.mark.parametrize(
    "override", ["grad_clip=null", "lr=[[0, 1e-3], [9, 1e-4]]", "num_env_runners=0", "max_logp_gap=null"]
)
def test_settings_at_their_bounds(tmp_path, override):
    (experiment,) = load(tmp_path, overrides=[override])
    assert experiment.algorithm_config()


@pytest.mark.parametrize(
    "text, expected",
    [("", "found nothing"), ("- 1", "found a list"), ("run: IGPO\n", "`run` must hold keys"),
     ("a: [", "line 1: this is not YAML"),
     ("a b: {run: IGPO}", "becomes a folder")],
)  # fmt: skip
def test_files_that_are_no_experiment(tmp_path, text, expected):
    with pytest.raises(InputError, match=expected):
        load_experiments(write(tmp_path, text))


def test_missing_file_and_wrong_suffix(tmp_path):
    with pytest.raises(InputError, match="there is no such experiment file"):
        load_experiments(tmp_path / "nowhere.yaml")
    other = tmp_path / "x.txt"
    other.write_text("a")
    with pytest.raises(InputError, match="ends in .yaml, .yml or .py"):
        load_experiments(other)
    with pytest.raises(InputError, match="is a folder"):
        resolve_config_path(tmp_path)


PYTHON = """
from algorithms.igpo.config import IGPOConfig

config = IGPOConfig().environment("search", env_config={"max_turns": 4})
config.training(model_path="tiny", lr=1e-3, group_size=4)
stop = {"training_iteration": 7}
"""


def test_a_python_file_with_a_config(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(PYTHON)
    (experiment,) = load_experiments(path, ["lr=1e-2", "env_config.max_turns=5"], {"igpo/em": 0.9})
    assert experiment.name == "mine" and experiment.stop == {"training_iteration": 7, "igpo/em": 0.9}
    config = experiment.algorithm_config()
    assert (config.lr, config.group_size, config.env_settings().max_turns) == (1e-2, 4, 5)
    (tmp_path / "again.yaml").write_text(yaml.safe_dump(experiment.resolved()))
    (again,) = load_experiments(tmp_path / "again.yaml")
    assert again.resolved() == experiment.resolved(), (
        "what a run keeps of it is a YAML file that makes the same run"
    )


@pytest.mark.parametrize(
    "text, expected",
    [
        ("x = 1", "must set a variable `config` to an IGPOConfig, found NoneType"),
        ("config = {'lr': 1}", "found dict"),
        (
            "import nowhere_at_all",
            "running this file failed: ModuleNotFoundError: No module named 'nowhere_at_all'",
        ),
        ("config = (", "running this file failed: SyntaxError"),
    ],
)
def test_python_files_that_are_no_experiment(tmp_path, text, expected):
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_experiments(path)
    assert expected in str(caught.value)


def test_packaged_copy_is_used_outside_the_clone(tmp_path, monkeypatch):
    conf = tmp_path / "package" / "conf"
    conf.mkdir(parents=True)
    (conf / "igpo.yaml").write_text("a: 1")
    monkeypatch.setattr("pipeline.experiment.conf_files.packaged_conf", lambda: conf.resolve())
    monkeypatch.chdir(tmp_path)
    assert resolve_config_path("conf/igpo.yaml") == (conf.resolve() / "igpo.yaml", True)
    assert resolve_config_path("igpo.yaml")[1]
    with pytest.raises(InputError, match=r"The package ships conf/igpo\.yaml to begin with, .*conf\.$"):
        resolve_config_path("conf/../../secret.yaml")
    (tmp_path / "igpo.yaml").write_text("a: 2")
    assert resolve_config_path("igpo.yaml") == (Path("igpo.yaml"), False)


def extend(tmp_path, text, base=BASE):
    (tmp_path / "base.yaml").write_text(base if isinstance(base, str) else yaml.safe_dump(base))
    return load_experiments(write(tmp_path, text))


def test_extends_takes_over_what_is_not_said_again(tmp_path):
    text = "own:\n  extends: base.yaml\n  config: {lr: 0.5, env_config: {world: {entities: 20}}}\n"
    (experiment,) = extend(tmp_path, text)
    assert experiment.name == "own" and experiment.stop == {"training_iteration": 3}
    assert (experiment.config["lr"], experiment.config["seed"]) == (0.5, 5)
    settings = experiment.env_settings
    assert (settings.max_turns, settings.world.seed, settings.world.entities) == (4, 1, 20)


def test_extends_goes_through_several_files_and_replaces_lists(tmp_path):
    (tmp_path / "first.yaml").write_text(
        "a: {run: IGPO, config: {seed: 1, env_config: {roles: [{name: x}, {name: y}]}}}"
    )
    base = "b: {extends: first.yaml, config: {lr: 0.1, env_config: {roles: [{name: z}]}}}"
    (experiment,) = extend(tmp_path, "c: {extends: base.yaml}", base)
    assert experiment.config["seed"] == 1 and experiment.config["lr"] == 0.1
    assert [role.name for role in experiment.env_settings.roles] == ["z"]


def test_extends_finds_the_files_that_ship_with_the_package(tmp_path):
    text = "own: {extends: conf/smollm2_wikipedia.yaml, config: {seed: 7}}"
    (experiment,) = load_experiments(write(tmp_path, text))
    assert experiment.config["seed"] == 7 and experiment.config["model_path"] == "smollm2"


@pytest.mark.parametrize(
    ("base", "extends", "expected"),
    [
        (BASE, "nowhere.yaml", "demo.yaml: `extends: nowhere.yaml` must name a YAML experiment file"),
        (BASE, "3", "`extends: 3` must name a YAML experiment file"),
        (
            BASE | {"other": BASE["demo"]},
            "base.yaml",
            "must name a file of one experiment; it holds demo, other",
        ),
        ("b: {extends: demo.yaml}", "base.yaml", "base.yaml: `extends: demo.yaml` goes round in a circle"),
    ],
)
def test_bases_that_cannot_be_extended(tmp_path, base, extends, expected):
    with pytest.raises(InputError, match=expected):
        extend(tmp_path, f"own: {{extends: {extends}}}", base)
