"""The reference policy: frozen or refreshed, shared or its own, and belief scored by it."""

import numpy as np
import pytest
import torch
from igpo_learner_setup import VOCAB, make_batch, make_learner, save_tiny_llama, update

from algorithms.igpo.loss_settings import LossSettings
from envs.runner.belief import BeliefQuery
from envs.search.protocols.base import ScoringSuffix


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    return save_tiny_llama(tmp_path_factory.mktemp("llama"))


def queries(seed=0):
    rng = np.random.default_rng(seed)
    history = rng.integers(0, VOCAB, 40).astype(np.int32)
    suffix = ScoringSuffix([1, 2, 3, 4], np.array([False, True, True, False]))
    return [BeliefQuery([history[:end] for end in ends], [suffix]) for ends in ([5, 12, 40], [7])]


def scores(learner, policy="reference", method="tree"):
    learner.config.scorer, learner.config.scoring = policy, method
    return np.concatenate(learner.score_beliefs(queries(), "default_policy")).ravel()


def make_scoring_learner(llama, **settings):
    settings = {"lr": 0.05, "scorer": "reference", **settings}
    return make_learner(llama, **settings)


def test_a_frozen_reference_scores_as_the_initial_policy_whatever_is_learnt(llama):
    learner = make_scoring_learner(llama)
    initial = scores(learner)
    np.testing.assert_allclose(initial, scores(learner, "current"), atol=1e-6)
    np.testing.assert_allclose(initial, scores(learner, method="naive"), atol=1e-5)
    update(learner, make_batch())
    np.testing.assert_array_equal(scores(learner), initial)
    assert np.abs(scores(learner, "current") - initial).max() > 1e-2
    np.testing.assert_allclose(scores(learner, "current"), scores(learner, "current", "naive"), atol=1e-5)


def test_a_reference_that_only_scores_costs_no_kl(llama):
    learner = make_scoring_learner(llama, loss=LossSettings(kl_coeff=0.0))
    update(learner, make_batch(seed=1))
    assert "kl" not in update(learner, make_batch(seed=2))["default_policy"], "not measured, and not 0"
    learner = make_learner(llama, loss=LossSettings(kl_coeff=0.0))
    assert list(learner._references) == []


def test_a_reference_is_refreshed_every_n_updates_for_the_kl_too(llama):
    learner = make_scoring_learner(llama, reference_refresh_interval=2, loss=LossSettings(kl_coeff=1e-3))
    initial, kl, seen = scores(learner), [], []
    for seed in range(3):
        kl.append(update(learner, make_batch(seed=seed))["default_policy"]["kl"].peek())
        seen.append((scores(learner), scores(learner, "current")))
    np.testing.assert_array_equal(seen[0][0], initial)
    np.testing.assert_allclose(seen[1][0], seen[1][1], atol=1e-6)
    np.testing.assert_array_equal(seen[2][0], seen[1][0])
    assert np.abs(seen[2][1] - seen[2][0]).max() > 1e-2
    assert kl[0] == pytest.approx(0, abs=1e-6) and kl[1] > 1e-3 and kl[2] == pytest.approx(0, abs=1e-6)


def test_a_refreshed_reference_comes_back_with_its_checkpoint(llama, tmp_path):
    learner = make_scoring_learner(llama, reference_refresh_interval=2)
    for seed in range(3):
        update(learner, make_batch(seed=seed))
    learner.save_to_path(str(tmp_path / "learner"))
    restored = make_scoring_learner(llama, reference_refresh_interval=2)
    assert np.abs(scores(restored) - scores(learner)).max() > 1e-2
    restored.restore_from_path(str(tmp_path / "learner"))
    np.testing.assert_allclose(scores(restored), scores(learner), atol=1e-6)
    np.testing.assert_allclose(scores(restored, "current"), scores(learner, "current"), atol=1e-6)
    assert "references" not in learner.get_state(components="rl_module"), "a weight push does not carry them"
    assert "references" not in make_scoring_learner(llama).get_state(), "a frozen one is loaded again"


@pytest.mark.parametrize(
    "other",
    [
        {"loss": LossSettings(kl_coeff=0.0), "scorer": "current"},  # it has no reference at all
        {"loss": LossSettings(kl_coeff=0.0), "reference_refresh_interval": 0},
    ],
)
def test_a_checkpoint_with_refreshed_references_begins_a_run_without_them(llama, tmp_path, other):
    learner = make_scoring_learner(llama, reference_refresh_interval=1)
    initial = scores(learner)
    update(learner, make_batch())
    learner.save_to_path(str(tmp_path / "learner"))
    restored = make_scoring_learner(llama, **other)
    restored.restore_from_path(str(tmp_path / "learner"))
    if restored.config.reference_scored_policy:
        np.testing.assert_array_equal(scores(restored), initial)
    np.testing.assert_allclose(scores(restored, "current"), scores(learner, "current"), atol=1e-6)


def test_modules_share_a_frozen_reference_but_never_a_refreshed_one(llama):
    paths, loss = {"default_policy": llama, "other": llama}, LossSettings(kl_coeff=0.01)
    for interval in (0, 1):
        learner = make_learner(paths, loss=loss, reference_refresh_interval=interval)
        with learner._references.model("default_policy") as one, learner._references.model("other") as other:
            assert (one is other) == (interval == 0)
    update(
        learner,
        make_batch(agents=("a", "b"), policy=lambda agent: "default_policy" if agent == "a" else "other"),
    )
    for module_id in paths:
        with learner._references.model(module_id) as model:
            current = learner.module[module_id].hf.state_dict()
            assert all(torch.equal(tensor, current[name]) for name, tensor in model.state_dict().items())
