"""Names of experiments: what `--set` changes of the method is in them, and nothing else."""

from __future__ import annotations

import pytest

from envs.errors import InputError
from pipeline.experiment.experiment import load_experiments


def name(*overrides: str, given: str | None = None) -> str:
    (experiment,) = load_experiments("conf/igpo.yaml", list(overrides), name=given)
    return experiment.name


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], "igpo"),
        (["preset=grpo"], "igpo-grpo"),
        (["preset=igpo"], "igpo"),  # the file's own
        (["seed=1", "stop.training_iteration=2", "env_config.max_turns=3", "group_size=4"], "igpo"),
        (["preset=grpo", "lr=1e-5", "gain_basis=prob"], "igpo-grpo-gain_basis-prob"),
        (["kl_coeff=0.25"], "igpo-kl_coeff-0.25"),
        (["preset=my_credit:estimator"], "igpo-my_credit-estimator"),
        (["lr={grid_search: [1e-5, 1e-4]}", "num_samples=1"], "igpo"),  # the label tells them apart
    ],
)
def test_the_change_of_the_method_is_in_the_name(tmp_path, monkeypatch, overrides, expected):
    (tmp_path / "my_credit.py").write_text(
        "def estimator(group):\n    return group.normalised_outcomes_N[group.rollout_M]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert {one.name for one in load_experiments("conf/igpo.yaml", overrides)} == {expected}


def test_a_given_name_wins():
    assert name("preset=grpo", given="mine") == "mine"
    with pytest.raises(InputError, match="becomes a folder"):
        name(given="../mine")


def test_several_experiments_cannot_share_a_name(tmp_path):
    file = tmp_path / "two.yaml"
    file.write_text("a: {run: IGPO, env: search}\nb: {run: IGPO, env: search}\n")
    with pytest.raises(InputError, match="--name x: the file holds several experiments"):
        load_experiments(file, name="x")
