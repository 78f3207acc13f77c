"""A checkpoint that a run cannot begin from is refused."""

import os
import pickle

import pytest
from igpo_learner_setup import make_learner, save_tiny_llama
from pyarrow.fs import LocalFileSystem, SubTreeFileSystem
from transformers import AutoConfig

from algorithms.igpo.weights.restoring import MADE_WITH, MODULES, check_policies, check_shapes
from envs.engine.lora import LoraSettings
from envs.errors import InputError

POLICY = "default_policy"
HELD = {"rank": 4, "alpha": 16.0, "targets": ["q_proj", "down_proj"]}


@pytest.fixture
def checkpoint(tmp_path):
    for policy in ("reader", "searcher"):
        (tmp_path / MODULES / policy).mkdir(parents=True)
    return tmp_path


def test_a_checkpoint_without_a_policy_of_the_run_is_refused(checkpoint):
    check_policies(checkpoint, ["reader", "searcher"], {})
    check_policies(checkpoint, ["searcher"], {})
    with pytest.raises(InputError) as refused:
        check_policies(checkpoint, ["default_policy", "searcher"], {})
    assert str(refused.value) == (
        f"{checkpoint}: this checkpoint holds the policies reader, searcher, but the roles speak "
        "through default_policy too: give them its policies, or begin without it"
    )


def test_a_checkpoint_behind_a_url_is_looked_at_too(checkpoint):
    url = checkpoint.as_uri()
    check_policies(url, ["searcher"], {})
    with pytest.raises(InputError, match=f"^{url}: this checkpoint holds the policies reader, searcher, but"):
        check_policies(url, ["default_policy"], {})
    there = SubTreeFileSystem(str(checkpoint), LocalFileSystem())
    with pytest.raises(InputError, match="holds the policies reader, searcher, but"):
        check_policies("", ["default_policy"], {}, there)


@pytest.mark.parametrize(
    ("held", "wanted", "said"),
    [
        (
            None,
            {},
            "holds all weights of policy .*: leave `lora` out, or begin new adapters .*hf/default_policy",
        ),
        (HELD, None, "holds adapters .*but the run trains all weights: set `lora` as there"),
        (HELD, {"rank": 8}, "rank: 4, alpha: 16, .*trains adapters .rank: 8, alpha: 16,"),
        (HELD, {"alpha": None}, "but the run trains adapters .rank: 4, alpha: 8,"),
        (HELD, {"targets": "all-linear"}, r"targets: \[q_proj, down_proj\].*targets: all-linear"),
        (HELD, {"targets": ["down_proj", "q_proj"]}, None),
        (None, None, None),
    ],
)
def test_a_policy_in_another_form_is_refused(tmp_path, held, wanted, said):
    llama = save_tiny_llama(tmp_path / "llama")
    learner = make_learner(llama, model_config={"lora": held} if held else {})
    learner.save_to_path(str(tmp_path / "run" / "learner_group" / "learner"))
    adapters = {} if wanted is None else {POLICY: LoraSettings(**(HELD | wanted))}
    if said is None:
        check_policies(tmp_path / "run", [POLICY], adapters)
        return
    with pytest.raises(InputError, match=said):
        check_policies(tmp_path / "run", [POLICY], adapters)


class Trap:
    """Runs a command where it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("sprung",)


def test_the_look_at_a_checkpoint_runs_nothing_of_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    made_with = tmp_path / MODULES / POLICY / MADE_WITH
    made_with.parent.mkdir(parents=True)
    arguments = {"model_config": {"path": "x", "lora": HELD}, "observation_space": Trap()}
    made_with.write_bytes(pickle.dumps({"class": Trap, "ctor_args_and_kwargs": ((), arguments)}))
    check_policies(tmp_path, [POLICY], {POLICY: LoraSettings(**HELD)})
    assert not (tmp_path / "sprung").exists()


def test_weights_of_a_model_of_another_shape_are_refused_before_the_start(tmp_path):
    save_tiny_llama(tmp_path / "run" / "hf" / POLICY)
    larger = save_tiny_llama(tmp_path / "larger", hidden=64)
    check_shapes(tmp_path / "run", "same", AutoConfig.from_pretrained(tmp_path / "run" / "hf" / POLICY))
    with pytest.raises(
        InputError,
        match=r"default_policy is a model of another shape than model_path large \(hidden_size 32 and not "
        r"64, intermediate_size 64 and not 128\): set model_path",
    ):
        check_shapes(tmp_path / "run", "large", AutoConfig.from_pretrained(larger))
    check_shapes(tmp_path / "none", "large", AutoConfig.from_pretrained(larger))
