"""`max_weight_lag` 1 end to end: each optimizer step is that of plain torch code (`plain_update`).

Both start every step from the same weights. So a difference is of that step alone, and AdamW, which divides
by the size of a gradient, cannot magnify the rounding of earlier steps.
"""

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from plain_update import PlainLoss, decision_logp, plain_policy, sequence_loss, sequences_of

from algorithms.igpo.config import IGPOConfig
from algorithms.igpo.learner.update_plan import plan_minibatches
from envs.engine.models import resolve_model

LR = 1e-3
TOLERANCE = 1e-4
"""Of a gradient, relative to its norm."""
PRESETS = {
    "igpo": ({"num_epochs": 1, "num_minibatches": 1}, {}),
    "gspo": (
        {"num_epochs": 2, "num_minibatches": 2},
        {"ratio_level": "sequence", "clip_low": 3e-4, "clip_high": 4e-4},
    ),
}


@dataclass
class RecordedStep:
    """One optimizer step: weights before, clipped gradients, weights after; float32 by name."""

    before: dict[str, torch.Tensor]
    gradients: dict[str, torch.Tensor]
    after: dict[str, torch.Tensor]


def trained(preset, iterations=3):
    """Trains; yields each iteration's record, lag, optimizer steps and the seed of its cut."""
    config = (
        IGPOConfig()
        .environment(
            "search", env_config={"world": {"train_questions": 40, "heldout_questions": 5}, "max_turns": 6}
        )
        .training(
            model_path="tiny",
            preset=preset,
            lr=LR,
            grad_clip=1.0,
            prompts_per_iteration=3,
            group_size=4,
            loss={"kl_coeff": 0.1},
            engine={"kind": "transformers"},
            max_weight_lag=1,
            log_tokens=True,
            **PRESETS[preset][0],
        )
        .env_runners(num_env_runners=1)
    )
    algorithm = config.build_algo()
    learner = algorithm.learner_group._learner
    model = learner.module["default_policy"].unwrapped().hf
    names = {id(param): name for name, param in model.named_parameters()}
    steps, step = [], learner.apply_gradients

    def weights():
        return {name: param.detach().clone() for name, param in model.named_parameters()}

    def recorded(gradients):
        before = weights()
        by_name = {names[id(learner._params[ref])]: value.clone() for ref, value in gradients.items()}
        step(gradients)
        steps.append(RecordedStep(before, by_name, weights()))

    learner.apply_gradients = recorded
    try:
        for k in range(iterations):
            steps.clear()
            lag = algorithm.train()["igpo"]["weight_lag"]
            yield algorithm.records[0], lag, list(steps), (algorithm.config.seed or 0, k + 1)
    finally:
        algorithm.stop()


def load(policy, weights):
    with torch.no_grad():
        for name, param in policy.params.items():
            param.copy_(weights[name])


def gradient(policy, sequences, old, first, loss, members):
    """The clipped gradient of one update, by name, float64."""
    policy.optimizer.zero_grad()
    for k in members:
        (sequence_loss(policy, sequences[k], old[k], first[k], loss) / len(members)).backward()
    torch.nn.utils.clip_grad_norm_(list(policy.params.values()), loss.grad_clip)
    return {name: param.grad.clone() for name, param in policy.params.items()}


def norm(tensors):
    return math.sqrt(sum(float(tensor.double().square().sum()) for tensor in tensors))


def distance(got, expected):
    """|got - expected| / |expected| over all weights."""
    return norm(got[name] - value for name, value in expected.items()) / norm(expected.values())


def check_gradient(got, expected):
    """All weights, 5 times as near as the farthest seen (2.1e-5 of the whole, in float32).

    The first layer's query and key have next to no gradient of their own, so each tensor may also be off by a
    share of the whole.
    """
    assert got.keys() == expected.keys() and distance(got, expected) < TOLERANCE
    whole = norm(expected.values())
    for name, value in expected.items():
        assert norm([got[name] - value]) < 3e-4 * norm([value]) + 3e-6 * whole, name


def as_if_sampled_by(policy, sequences):
    """The sequences with the sampler's log-probs replaced by those of `policy`."""

    def row_as_if(row):
        values = iter(decision_logp(policy, row).tolist())
        return [replace(step, sampler_logp=[next(values) for _ in step.decision]) for step in row]

    return [[row_as_if(row) for row in rows] for rows in sequences]


def check_step(policy, step):
    """The weights after the step are AdamW's, from the product's own gradient and all moments so far."""
    for name, param in policy.params.items():
        param.grad = step.gradients[name].double()
    policy.step()
    for name, param in policy.params.items():
        torch.testing.assert_close(step.after[name].double(), param.detach(), atol=2e-3 * LR, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("preset", PRESETS)
def test_every_step_uses_the_log_probs_of_the_older_weights_that_sampled(preset):
    """pi_old is the learner's at the start of the update, pi_sampler that of weights one update older."""
    import ray

    folder = resolve_model("tiny")
    policy, reference = plain_policy(folder, lr=LR), plain_policy(folder, train=False)
    updates, level = PRESETS[preset]
    loss = PlainLoss(kl_coeff=0.1, **level)
    weights = {name: param.detach().float() for name, param in policy.params.items()}
    versions, lags, mistaken, mixed_groups = [plain_policy(folder, train=False)], [], [], 0
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        for record, lag, steps, seed in trained(preset):

            def turns_of(rollout, agent, tokens=record.tokens):
                turns = [tokens[rollout.id, turn.index] for turn in rollout.turns if turn.agent == agent]
                return [(t.context_ids_C, t.decision_ids_L, t.sampler_logp_L) for t in turns]

            lags.append((record.weights_version, lag))
            mixed_groups += sum(group.outcome_std > 0 for group in record.groups)
            sequences = sequences_of(record.rollouts, turns_of, with_gains=preset == "igpo")
            load(policy, steps[0].before)
            with torch.no_grad():
                for row in itertools.chain.from_iterable(sequences):
                    sampler = torch.tensor([value for step in row for value in step.sampler_logp]).double()
                    expected = decision_logp(versions[record.weights_version], row)
                    torch.testing.assert_close(sampler, expected, atol=1e-4, rtol=0)
                old, first = (
                    [torch.cat([decision_logp(who, row) for row in rows]) for rows in sequences]
                    for who in (policy, reference)
                )
                fresh = as_if_sampled_by(policy, sequences)
            cut = plan_minibatches(np.arange(len(sequences)), len(sequences), seed=seed, **updates)
            distances = []
            for members, step in zip(cut, steps, strict=True):
                for name, value in weights.items():
                    assert torch.equal(step.before[name], value), f"{name} changed between two steps"
                load(policy, step.before)
                expected = gradient(policy, sequences, old, first, loss, members)
                check_gradient(step.gradients, expected)
                without_lag = gradient(policy, fresh, old, first, loss, members)
                distances.append(distance(without_lag, expected))
                check_step(policy, step)
                weights = step.after
            mistaken.append(max(distances))
            versions.append(plain_policy(folder, train=False, weights=weights))
    finally:
        ray.shutdown()
    assert lags == [(0, 0.0), (0, 1.0), (1, 1.0)] and mixed_groups >= 2
    # Log-probs of another iteration's weights would be seen: they move the gradient far beyond the tolerance.
    assert mistaken[0] < TOLERANCE and min(mistaken[1:]) > 50 * TOLERANCE
