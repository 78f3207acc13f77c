"""The loss by hand, term by term (definitions: Loss)."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from algorithms.igpo.learner.loss import (
    aggregation_weight,
    clipped_objective,
    importance_ratio,
    k3_kl,
    mismatch_weight,
    policy_loss,
)
from algorithms.igpo.loss_settings import LossSettings

TENTHS = torch.arange(10) / 10
PLAIN = LossSettings(kl_coeff=0.0, mismatch_cap=0.0)


def loss_of(
    settings,
    logp,
    *,
    old=None,
    sampler=None,
    advantage=1.0,
    weight=1.0,
    turn=0,
    sequence=0,
    scale=1.0,
    **more,
):
    size = len(logp)

    def column(value, dtype=torch.float32):
        return torch.tensor(value if isinstance(value, list) else [value] * size, dtype=dtype)

    logp = logp if isinstance(logp, torch.Tensor) else column(logp)
    old = logp.detach() if old is None else column(old)
    return policy_loss(
        settings,
        logp_D=logp,
        old_logp_D=old,
        sampler_logp_D=old if sampler is None else column(sampler),
        advantage_D=column(advantage),
        weight_D=column(weight),
        turn_id_D=column(turn, torch.int32),
        sequence_id_D=column(sequence, torch.int32),
        clip_scale_D=column(scale),
        **{name: column(value) for name, value in more.items()},
    )


def test_ratio_levels():
    # Two sequences: turns 0 and 1 of the first with 1 and 2 tokens, turn 2 of the second with 1 token.
    log_ratio = torch.tensor([0.3, 0.1, -0.5, 0.2])
    old = torch.tensor([-1.0, -2.0, -3.0, -4.0])
    turn, sequence = torch.tensor([0, 1, 1, 2]), torch.tensor([0, 0, 0, 1])

    def ratio(level):
        return importance_ratio(old + log_ratio, old, level, turn, sequence)

    torch.testing.assert_close(ratio("token"), torch.exp(log_ratio))
    torch.testing.assert_close(ratio("turn"), torch.exp(torch.tensor([0.3, -0.2, -0.2, 0.2])))
    third = -0.1 / 3
    torch.testing.assert_close(ratio("sequence"), torch.exp(torch.tensor([third, third, third, 0.2])))


def test_gradient_of_a_sequence_ratio_is_shared_by_its_tokens():
    logp = torch.tensor([-1.0, -2.0, -1.0], requires_grad=True)
    ratio = importance_ratio(
        logp, logp.detach(), "sequence", torch.tensor([0, 1, 2]), torch.tensor([0, 0, 5])
    )
    ratio[0].backward()
    torch.testing.assert_close(logp.grad, torch.tensor([0.5, 0.5, 0.0]))


@pytest.mark.parametrize(
    ("ratio", "advantage", "objective", "active"),
    [
        (1.5, 2.0, 2.4, True),  # above the bound, good: bounded at 1.2
        (0.5, 2.0, 1.0, False),  # below, good: plain
        (1.5, -2.0, -3.0, False),  # above, bad: plain
        (0.5, -2.0, -1.6, True),  # below, bad: bounded at 0.8
        (1.1, 2.0, 2.2, False),
        (1.0, 0.0, 0.0, False),
    ],
)
def test_clip(ratio, advantage, objective, active):
    ratio = torch.tensor([ratio], requires_grad=True)
    got, clipped = clipped_objective(ratio, torch.tensor([advantage]), TENTHS[2], TENTHS[2])
    assert got.item() == pytest.approx(objective)
    assert bool(clipped) is active
    got.sum().backward()
    assert ratio.grad.item() == pytest.approx(0.0 if active else advantage)


def test_dual_clip_bounds_bad_tokens_only():
    ratio = torch.tensor([5.0, 5.0, 2.0], requires_grad=True)
    got, clipped = clipped_objective(
        ratio, torch.tensor([-1.0, 1.0, -1.0]), TENTHS[2], TENTHS[2], dual_clip=3.0
    )
    assert got.tolist() == pytest.approx([-3.0, 1.2, -2.0])
    assert clipped.tolist() == [1, 1, 0]
    got.sum().backward()
    assert ratio.grad.tolist() == pytest.approx([0.0, 0.0, -1.0])


def test_clip_scale_multiplies_both_bounds_of_its_turn():
    old, up = [-1.0] * 4, math.log(2.0)
    terms = loss_of(
        PLAIN,
        [-1.0 + up, -1.0 + up, -1.0 - up, -1.0 - up],
        old=old,
        advantage=[1, 1, -1, -1],
        scale=[1, 1.5, 1, 1.5],
    )
    assert terms.policy.tolist() == pytest.approx([-1.2, -1.3, 0.8, 0.7])


def test_asymmetric_clip():
    settings = LossSettings(kl_coeff=0.0, mismatch_cap=0.0, clip_low=0.1, clip_high=0.28)
    terms = loss_of(settings, [0.0, -5.0], old=[-1.0, -1.0], advantage=[1.0, -1.0])
    assert terms.policy.tolist() == pytest.approx([-1.28, 0.9])


def test_mismatch_weight_is_capped_and_carries_no_gradient():
    old, sampler = torch.tensor([-1.0, -1.0, -1.0], requires_grad=True), torch.tensor([-1.0, -2.0, -0.5])
    weight = mismatch_weight(old, sampler, 2.0)
    assert weight.tolist() == pytest.approx([1.0, 2.0, math.exp(-0.5)])
    assert not weight.requires_grad


def test_mismatch_enters_once():
    # One update: rho = 1 in value, gradient 1; the engine was half as likely to draw the token, so w = 2 (cap
    # 4).
    logp = torch.tensor([-1.0], requires_grad=True)
    sampler = [-1.0 - math.log(2)]
    terms = loss_of(LossSettings(kl_coeff=0.0, mismatch_cap=4.0), logp, sampler=sampler, advantage=3.0)
    assert terms.loss.item() == pytest.approx(-6.0)
    terms.loss.backward()
    assert logp.grad.item() == pytest.approx(-6.0)
    assert terms.ratio.item() == 1.0


def test_mismatch_weight_does_not_touch_the_ratio_and_can_be_off():
    # pi_theta / pi_old = 1.1 and pi_old / pi_sampler = 1.5.
    logp, old, sampler = [-1.0 + math.log(1.1)], [-1.0], [-1.0 - math.log(1.5)]
    on = loss_of(LossSettings(kl_coeff=0.0), logp, old=old, sampler=sampler)
    off = loss_of(PLAIN, logp, old=old, sampler=sampler)
    assert on.policy.item() == pytest.approx(-1.65)
    assert off.policy.item() == pytest.approx(-1.1)
    assert off.mismatch_weight.item() == pytest.approx(1.5), "still logged"


def test_k3_kl_and_its_gradient():
    logp = torch.tensor([-1.0, -2.0, -0.5], requires_grad=True)
    reference = torch.tensor([-1.0, -1.5, -1.5])
    kl = k3_kl(logp, reference)
    assert kl.tolist() == pytest.approx([0.0, math.exp(0.5) - 1.5, math.exp(-1.0)])
    kl.sum().backward()
    assert logp.grad.tolist() == pytest.approx([0.0, 1 - math.exp(0.5), 1 - math.exp(-1.0)])


def test_kl_and_entropy_enter_with_their_signs_and_gradients():
    settings = LossSettings(kl_coeff=0.1, entropy_coeff=0.01)
    logp = torch.tensor([-2.0], requires_grad=True)
    terms = loss_of(settings, logp, advantage=0.0, weight=0.5, reference_logp_D=[-1.5], entropy_D=[3.0])
    assert terms.loss.item() == pytest.approx(0.5 * (0.1 * (math.exp(0.5) - 1.5) - 0.03))
    terms.loss.backward()
    assert logp.grad.item() == pytest.approx(0.5 * 0.1 * (1 - math.exp(0.5)))


def test_missing_reference_or_entropy_is_refused():
    with pytest.raises(ValueError, match="reference"):
        loss_of(LossSettings(), [-1.0])
    with pytest.raises(ValueError, match="entropies"):
        loss_of(LossSettings(kl_coeff=0.0, entropy_coeff=0.1), [-1.0])


@pytest.mark.parametrize(
    ("aggregation", "expected"),
    [
        # sequence A: terms 1, 2; sequence B: terms 3, 4, 8
        ("seq_mean_token_mean", (1.5 + 5.0) / 2),
        ("token_mean", 18 / 5),
        ("seq_mean_token_sum", 18 / 2),
    ],
)
def test_aggregation(aggregation, expected):
    weight = [
        aggregation_weight(aggregation, num_sequences=2, num_tokens=5, sequence_tokens=tokens)
        for tokens in (2, 2, 3, 3, 3)
    ]
    terms = loss_of(PLAIN, [-1.0] * 5, advantage=[-1.0, -2.0, -3.0, -4.0, -8.0], weight=weight)
    assert terms.loss.item() == pytest.approx(expected)


finite = st.floats(-3, 3, width=32)


@given(
    tokens=st.lists(st.tuples(finite, finite, finite, finite, finite), min_size=2, max_size=20),
    cut=st.integers(1, 19),
)
def test_loss_is_a_sum_over_micro_batches(tokens, cut):
    settings = LossSettings(kl_coeff=0.1, dual_clip=3.0)
    logp, old, sampler, advantage, reference = (list(column) for column in zip(*tokens, strict=True))

    def part(where):
        return loss_of(
            settings,
            logp[where],
            old=old[where],
            sampler=sampler[where],
            advantage=advantage[where],
            weight=0.1,
            reference_logp_D=reference[where],
        ).loss.item()

    cut = min(cut, len(tokens) - 1)
    whole, parts = part(slice(None)), part(slice(0, cut)) + part(slice(cut, None))
    assert whole == pytest.approx(parts, rel=1e-4, abs=1e-4)


@pytest.mark.parametrize(
    "bad",
    [
        {"ratio_level": "word"},
        {"loss_aggregation": "mean"},
        {"clip_low": -0.1},
        {"kl_coeff": float("nan")},
        {"dual_clip": 0.5},
    ],
)
def test_bad_settings_are_named(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        LossSettings(**bad)
