"""The policy loss (definitions: Loss) as pure functions of flat token tensors.

All tensors are one-dimensional over the D decision tokens of a micro-batch. The average over tokens
(`seq_mean_token_mean`, `token_mean`, ...) is a weight per token, computed once per batch. A micro-batch only
sums ``weight * term``, so the batch's loss does not depend on its cut into micro-batches or its spread over
learners.

    loss = sum_p weight_p * ( - w_p * clipped_p  +  kl_coeff * k3_p  -  entropy_coeff * entropy_p )
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from algorithms.igpo.loss_settings import Aggregation, LossSettings, RatioLevel


@dataclass(slots=True)
class TokenTerms:
    """The terms of one micro-batch's loss, [D] over its decision tokens; only `loss` carries a gradient."""

    loss: torch.Tensor
    """Scalar: sum of weight * term."""
    policy: torch.Tensor
    ratio: torch.Tensor
    clipped: torch.Tensor
    """1.0 where the bound is active (dual clip included): there the policy term has no gradient."""
    mismatch_weight: torch.Tensor
    """min(pi_old / pi_sampler, C), computed even if the weight is switched off."""
    kl: torch.Tensor | None


def span_mean(values_D: torch.Tensor, span_id_D: torch.Tensor) -> torch.Tensor:
    """Computes for each token the mean over all tokens of its span; [D], differentiable.

    A span's label is the first place of its id among the sorted ids. Unlike `torch.unique` this has a size
    that is known, so nothing waits for the device.
    """
    label_D = torch.searchsorted(span_id_D.sort().values, span_id_D)
    sum_D, count_D = (
        torch.zeros_like(values_D).index_add(0, label_D, of_token_D).index_select(0, label_D)
        for of_token_D in (values_D, torch.ones_like(values_D))
    )
    return sum_D / count_D


def importance_ratio(
    logp_D: torch.Tensor,
    old_logp_D: torch.Tensor,
    level: RatioLevel,
    turn_id_D: torch.Tensor,
    sequence_id_D: torch.Tensor,
) -> torch.Tensor:
    """Computes rho = pi_theta / pi_old per token, or exp(mean log-ratio) of the token's turn or sequence.

    (definitions: Loss)

    Returns:
        [D], differentiable.
    """
    log_ratio_D = logp_D - old_logp_D.detach()
    if level == "turn":
        log_ratio_D = span_mean(log_ratio_D, turn_id_D)
    elif level == "sequence":
        log_ratio_D = span_mean(log_ratio_D, sequence_id_D)
    return torch.exp(log_ratio_D)


def clipped_objective(
    ratio_D: torch.Tensor,
    advantage_D: torch.Tensor,
    clip_low_D: torch.Tensor,
    clip_high_D: torch.Tensor,
    dual_clip: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Computes PPO's bound min(rho A, clip(rho) A), to be maximised, and where it is active.

    With `dual_clip` c (Ye et al. 2020), the bound is at least c * A where A < 0, so that a huge ratio cannot
    dominate the batch.

    Returns:
        objective [D] (differentiable) and active [D] (1.0 where the gradient is cut).
    """
    plain_D = ratio_D * advantage_D
    bounded_D = ratio_D.clamp(1 - clip_low_D, 1 + clip_high_D) * advantage_D
    objective_D = torch.minimum(plain_D, bounded_D)
    active_D = bounded_D < plain_D
    if dual_clip is not None:
        floor_D = dual_clip * advantage_D
        below_D = (advantage_D < 0) & (objective_D < floor_D)
        objective_D = torch.where(below_D, floor_D, objective_D)
        active_D = active_D | below_D
    return objective_D, active_D.to(ratio_D.dtype)


def mismatch_weight(old_logp_D: torch.Tensor, sampler_logp_D: torch.Tensor, cap: float) -> torch.Tensor:
    """Computes w = stop_grad(min(pi_old / pi_sampler, cap)) per token (definitions: Loss).

    The weight corrects for the difference between engine and learner.
    """
    return torch.exp(old_logp_D.detach() - sampler_logp_D.detach()).clamp_max(cap)


def k3_kl(logp_D: torch.Tensor, reference_logp_D: torch.Tensor) -> torch.Tensor:
    """Estimates KL(pi || pi_ref) per token by Schulman's k3: exp(d) - d - 1, d = log pi_ref - log pi.

    Returns:
        [D], differentiable.
    """
    difference_D = reference_logp_D.detach() - logp_D
    return torch.exp(difference_D) - difference_D - 1


def policy_loss(
    settings: LossSettings,
    *,
    logp_D: torch.Tensor,
    old_logp_D: torch.Tensor,
    sampler_logp_D: torch.Tensor,
    advantage_D: torch.Tensor,
    weight_D: torch.Tensor,
    turn_id_D: torch.Tensor,
    sequence_id_D: torch.Tensor,
    clip_scale_D: torch.Tensor,
    reference_logp_D: torch.Tensor | None = None,
    entropy_D: torch.Tensor | None = None,
) -> TokenTerms:
    """Computes the loss of one micro-batch (module docstring).

    All tensors are float32 [D], log-probs in nats; ids are integers.

    One micro-batch must hold all tokens of a span (turn or sequence, by `ratio_level`).

    Args:
        settings: the choices of the loss.
        logp_D: log-probs under the policy that is trained; only these carry the gradient of the ratio.
        old_logp_D: log-probs before the batch's first update.
        sampler_logp_D: log-probs that the rollout engine returned.
        advantage_D: advantage of the token's turn.
        weight_D: weight of the token in the batch's loss (`aggregation_weight`).
        turn_id_D: the token's turn.
        sequence_id_D: the token's sequence.
        clip_scale_D: factor of both clip bounds; 1 for a plain clip.
        reference_logp_D: log-probs under the reference; needed if kl_coeff > 0.
        entropy_D: entropies at the tokens; needed if entropy_coeff > 0.

    Returns:
        The loss, and its terms for the metrics.

    Raises:
        ValueError: a needed argument is missing.
    """
    ratio_D = importance_ratio(logp_D, old_logp_D, settings.ratio_level, turn_id_D, sequence_id_D)
    objective_D, clipped_D = clipped_objective(
        ratio_D,
        advantage_D,
        settings.clip_low * clip_scale_D,
        settings.clip_high * clip_scale_D,
        settings.dual_clip,
    )
    weight_of_mismatch_D = mismatch_weight(old_logp_D, sampler_logp_D, settings.mismatch_cap or 2.0)
    policy_D = -(weight_of_mismatch_D * objective_D if settings.mismatch_cap > 0 else objective_D)
    terms_D = policy_D
    kl_D = None if reference_logp_D is None else k3_kl(logp_D, reference_logp_D)
    if settings.kl_coeff > 0:
        if kl_D is None:
            raise ValueError(f"kl_coeff is {settings.kl_coeff} but no reference log-probs were given")
        terms_D = terms_D + settings.kl_coeff * kl_D
    if settings.entropy_coeff > 0:
        if entropy_D is None:
            raise ValueError(f"entropy_coeff is {settings.entropy_coeff} but no entropies were given")
        terms_D = terms_D - settings.entropy_coeff * entropy_D
    return TokenTerms(
        loss=(weight_D * terms_D).sum(),
        policy=policy_D.detach(),
        ratio=ratio_D.detach(),
        clipped=clipped_D.detach(),
        mismatch_weight=weight_of_mismatch_D,
        kl=None if kl_D is None else kl_D.detach(),
    )


def aggregation_weight(
    aggregation: Aggregation, *, num_sequences: int, num_tokens: int, sequence_tokens: int
) -> float:
    """Computes the weight of each decision token of one sequence in the batch's loss (definitions: Loss).

    Args:
        aggregation: how the terms of tokens are averaged.
        num_sequences: sequences with at least one decision token in the whole batch, over all learners.
        num_tokens: their decision tokens.
        sequence_tokens: decision tokens of this sequence.
    """
    if aggregation == "seq_mean_token_mean":
        return 1.0 / (num_sequences * sequence_tokens)
    if aggregation == "token_mean":
        return 1.0 / num_tokens
    return 1.0 / num_sequences
