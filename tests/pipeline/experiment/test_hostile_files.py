"""Experiment files of any content: one sentence of at most 300 characters, at once, and no traceback."""

import random
import time
from pathlib import Path

import pytest
import yaml

from envs.errors import InputError
from pipeline.cli.rllib import _json_object
from pipeline.experiment.experiment import load_experiments

BASE = """demo:
  run: IGPO
  env: search
  stop: {training_iteration: 2}
  config:
    model_path: tiny
"""
DIGITS = "9" * 5000
NESTED = "[" * 3000 + "]" * 3000
BOMB = "[&a [x,x,x,x,x,x,x,x,x,x], " + ", ".join(
    f"&{new} [{', '.join([f'*{old}'] * 10)}]" for old, new in zip("abcdefg", "bcdefgh", strict=True)
)


def refused(act):
    """The message of the `InputError` that `act` raises."""
    started = time.monotonic()
    with pytest.raises(InputError) as error:
        act()
    message = str(error.value)
    assert len(message) <= 300 and "\n" not in message, message
    assert time.monotonic() - started < 30, "the limit is generous: machines may be busy"
    return message


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """Messages begin with the file, whose name is short here."""
    monkeypatch.chdir(tmp_path)


def load(text, *overrides):
    file = Path("f.yaml")
    file.write_text(text, encoding="utf-8", errors="surrogatepass")
    return [run.algorithm_config() for run in load_experiments(file, list(overrides))]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("? {a: 1}\n    : 2", "a key must be a plain value"),
        ("? [a]\n    : 2", "a key must be a plain value"),
        ("lr: 2020-99-99", "'2020-99-99' is no timestamp that can be read"),
        (f"seed: {DIGITS}", "is no int that can be read"),
        ("seed: !!int x", "'x' is no int that can be read"),
        ("seed: !!int ''", "'' is no int that can be read"),
        ("lr: !!bool x", "'x' is no bool that can be read"),
        ("lr: !!map 3", "expected a mapping node"),
        (f"env_config: {NESTED}", "nested more than 50 levels deep"),
        ("env_config: " + "{a: " * 3000 + "1" + "}" * 3000, "nested more than 50 levels deep"),
        ("env_config: &a {world: *a}", "an anchor in it names itself"),
        ("credit: &a [*a]", "names itself"),
        (f"env_config: {{world: {BOMB}]}}", "holds more than 100000 values"),
        ("model_path: 3.5", "model_path is 3.5"),
        ('model_path: "a\\0b"', "holds a character that no setting can hold"),
        ('model_path: "\\ud800"', "holds a character that no setting can hold"),
        ("env_config: {world: {seed: -1}}", "world.seed"),
        ("env_config: {world: {hops: {3: 1e999}}}", "world.hops"),
        ("env_config: {world: {hops: {0: 1}}}", "world.hops"),
        ("env_config: {world: {train_questions: 1000000000}}", "world.train_questions"),
        (f"engine: {{kind: {'x' * 5000}}}", "config.engine.kind"),
        (f"preset: {'x' * 5000}", "preset"),
        (f"? {'x' * 3000}\n    : 3", "unknown key"),
        ('"a\\nb": 3', "unknown key"),
        ("seed: {grid_search: [" + ", ".join(map(str, range(20000))) + "]}", "ask for 20000 runs"),
        ("lr: .inf", "lr is inf"),
        ("lr: [[0, x], [1, 2]]", "a schedule is"),
        ("seed: 99999999999999999999", "at most 4294967295"),
        ("grad_clip_by: 3", "use one of value, norm, global_norm"),
        ("num_gpus_per_learner: .inf", "num_gpus_per_learner is inf"),
        ("evaluation_config: 3", "has no effect here: held-out questions are answered greedily"),
        ("callbacks: 3", "is code: set it in a Python experiment file"),
    ],
)
def test_values_that_cannot_be(value, expected):
    base = BASE.replace("    model_path: tiny\n", "") if value.startswith("model_path") else BASE
    assert expected in refused(lambda: load(f"{base}    {value}\n"))


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("num_samples: 1000000000", "ask for 1000000000 runs"),
        (f"time_budget_s: {DIGITS}", "is no int that can be read"),
        ('extends: "a\\0b.yaml"', "no setting can hold"),
        (f"extends: {'x' * 5000}.yaml", "must name a YAML experiment file"),
        ('storage_path: "a\\0b"', "no setting can hold"),
        ("3: 4", "unknown key `3`"),
    ],
)
def test_keys_beside_the_configuration(line, expected):
    assert expected in refused(lambda: load(f"{BASE}  {line}\n"))


@pytest.mark.parametrize("criteria", ["{3: 4}", "{training_iteration: .nan}", "{? {a: 1} : 2}"])
def test_stop_criteria(criteria):
    refused(lambda: load(BASE.replace("{training_iteration: 2}", criteria)))


@pytest.mark.parametrize(
    "text", ["[[[[", "[" * 100_000, '{"a":' * 100_000, f'{{"training_iteration": {DIGITS}}}', "3", ""]
)
def test_stop_of_the_command_line(text):
    assert refused(lambda: _json_object(text)).startswith("--stop ")


@pytest.mark.parametrize(
    "override", [f"lr={DIGITS}", f"lr={NESTED}", "lr=&a [*a]", f"env_config.roles.{DIGITS}=3"]
)
def test_overrides(override):
    refused(lambda: load(BASE, override))


def test_random_values_in_random_places():
    """Whatever is wrong is an `InputError`; some hundred of them within seconds."""
    rng = random.Random(0)
    places = (
        "model_path", "lr", "seed", "preset", "credit", "loss", "engine", "engine.kind", "env_config",
        "env_config.world", "env_config.world.seed", "env_config.world.hops", "env_config.tools",
        "env_config.roles", "env_config.corpus", "env_config.retriever", "env_config.max_turns", "lora",
        "group_size", "num_minibatches", "evaluation_interval", "grad_clip", "belief_policy", "policies",
        "gamma", "alias_rule", "ig_weight", "clip_low", "max_logp_gap", "model_dtype", "nonsense",
        "stop.training_iteration", "num_samples", "storage_path", "checkpoint_config.num_to_keep",
    )  # fmt: skip
    atoms = (
        None, True, False, 0, -1, 1, 2.5, 10**30, float("inf"), float("nan"), "", "x", "a b", "\x07",
        "é" * 80, "~", "os:nope", "/", "..", "1e-6", "2020-01-01",
    )  # fmt: skip

    def value(depth=0):
        kind = rng.random()
        if depth > 2 or kind < 0.6:
            return rng.choice(atoms)
        if kind < 0.8:
            return [value(depth + 1) for _ in range(rng.randrange(4))]
        return {rng.choice((*places, 3, 1.5, True, None)): value(depth + 1) for _ in range(rng.randrange(4))}

    refusals = 0
    for _ in range(300):
        text = yaml.safe_dump(value(), default_flow_style=True, width=10**9).removesuffix("...\n").strip()
        place = rng.choice(places)
        try:
            load(BASE, f"{place}={text}")
        except InputError as error:
            refusals += 1
            assert len(str(error)) <= 300 and "\n" not in str(error), (place, text, str(error))
        except Exception as error:
            raise AssertionError(f"--set {place}={text}: {type(error).__name__}: {error}") from error
    assert refusals > 100
