"""The policy loss of SPEC §5 as pure functions of flat token tensors.

All tensors are one-dimensional over the P decision tokens of a micro-batch. The average over tokens
(`seq_mean_token_mean`, `token_mean`, ...) is a weight per token, computed once per batch. A micro-batch only
sums ``weight * term``, so the batch's loss does not depend on its cut into micro-batches or its spread over
learners.

    loss = sum_p weight_p * ( - w_p * clipped_p  +  kl_coeff * k3_p  -  entropy_coeff * entropy_p )
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from algorithms.igpo.learner.loss_settings import Aggregation, LossSettings, RatioLevel


@dataclass(slots=True)
class TokenTerms:
    """The terms of one micro-batch's loss, [P] over its decision tokens; only `loss` carries a gradient."""

    loss: torch.Tensor
    """Scalar: sum of weight * term."""
    policy: torch.Tensor
    ratio: torch.Tensor
    clipped: torch.Tensor
    """1.0 where the bound is active (dual clip included): there the policy term has no gradient."""
    mismatch_weight: torch.Tensor
    """min(pi_old / pi_sampler, C), computed even if the weight is switched off."""
    kl: torch.Tensor | None


def span_mean(values_P: torch.Tensor, span_id_P: torch.Tensor) -> torch.Tensor:
    """For each token the mean over all tokens of its span; [P], differentiable."""
    spans_S, index_P = torch.unique(span_id_P, return_inverse=True)
    sums_S = torch.zeros(len(spans_S), dtype=values_P.dtype, device=values_P.device).index_add(
        0, index_P, values_P
    )
    counts_S = torch.bincount(index_P, minlength=len(spans_S)).to(values_P.dtype)
    return (sums_S / counts_S)[index_P]


def importance_ratio(
    logp_P: torch.Tensor,
    old_logp_P: torch.Tensor,
    level: RatioLevel,
    turn_id_P: torch.Tensor,
    sequence_id_P: torch.Tensor,
) -> torch.Tensor:
    """rho = pi_theta / pi_old per token, or exp(mean log-ratio) of the token's turn or sequence (SPEC §5).

    Returns:
        [P], differentiable.
    """
    log_ratio_P = logp_P - old_logp_P.detach()
    if level == "turn":
        log_ratio_P = span_mean(log_ratio_P, turn_id_P)
    elif level == "sequence":
        log_ratio_P = span_mean(log_ratio_P, sequence_id_P)
    return torch.exp(log_ratio_P)


def clipped_objective(
    ratio_P: torch.Tensor,
    advantage_P: torch.Tensor,
    clip_low_P: torch.Tensor,
    clip_high_P: torch.Tensor,
    dual_clip: float | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """PPO's pessimistic bound min(rho A, clip(rho) A), to be maximised, and where it is active.

    With `dual_clip` c (Ye et al. 2020), the bound is at least c * A where A < 0, so that a huge ratio cannot
    dominate the batch.

    Returns:
        objective [P] (differentiable) and active [P] (1.0 where the gradient is cut).
    """
    plain_P = ratio_P * advantage_P
    bounded_P = ratio_P.clamp(1 - clip_low_P, 1 + clip_high_P) * advantage_P
    objective_P = torch.minimum(plain_P, bounded_P)
    active_P = bounded_P < plain_P
    if dual_clip is not None:
        floor_P = dual_clip * advantage_P
        below_P = (advantage_P < 0) & (objective_P < floor_P)
        objective_P = torch.where(below_P, floor_P, objective_P)
        active_P = active_P | below_P
    return objective_P, active_P.to(ratio_P.dtype)


def mismatch_weight(old_logp_P: torch.Tensor, sampler_logp_P: torch.Tensor, cap: float) -> torch.Tensor:
    """w = stop_grad(min(pi_old / pi_sampler, cap)) per token (SPEC §5): corrects for the difference between
    engine and learner.
    """
    return torch.exp(old_logp_P.detach() - sampler_logp_P.detach()).clamp_max(cap)


def k3_kl(logp_P: torch.Tensor, reference_logp_P: torch.Tensor) -> torch.Tensor:
    """Schulman's k3 estimate of KL(pi || pi_ref) per token: exp(d) - d - 1 with d = log pi_ref - log pi.

    Returns:
        [P], differentiable.
    """
    difference_P = reference_logp_P.detach() - logp_P
    return torch.exp(difference_P) - difference_P - 1


def policy_loss(
    settings: LossSettings,
    *,
    logp_P: torch.Tensor,
    old_logp_P: torch.Tensor,
    sampler_logp_P: torch.Tensor,
    advantage_P: torch.Tensor,
    weight_P: torch.Tensor,
    turn_id_P: torch.Tensor,
    sequence_id_P: torch.Tensor,
    clip_scale_P: torch.Tensor,
    reference_logp_P: torch.Tensor | None = None,
    entropy_P: torch.Tensor | None = None,
) -> TokenTerms:
    """The loss of one micro-batch (module docstring). All arguments are float32 [P]; ids are integers.

    One micro-batch must hold all tokens of a span (turn or sequence, by `ratio_level`).

    Args:
        clip_scale_P: factor of both clip bounds; 1 for a plain clip.
        reference_logp_P: needed if kl_coeff > 0.
        entropy_P: needed if entropy_coeff > 0.

    Raises:
        ValueError: a needed argument is missing.
    """
    ratio_P = importance_ratio(logp_P, old_logp_P, settings.ratio_level, turn_id_P, sequence_id_P)
    objective_P, clipped_P = clipped_objective(
        ratio_P,
        advantage_P,
        settings.clip_low * clip_scale_P,
        settings.clip_high * clip_scale_P,
        settings.dual_clip,
    )
    weight_of_mismatch_P = mismatch_weight(old_logp_P, sampler_logp_P, settings.mismatch_cap or 2.0)
    policy_P = -(weight_of_mismatch_P * objective_P if settings.mismatch_cap > 0 else objective_P)
    terms_P = policy_P
    kl_P = None if reference_logp_P is None else k3_kl(logp_P, reference_logp_P)
    if settings.kl_coeff > 0:
        if kl_P is None:
            raise ValueError(f"kl_coeff is {settings.kl_coeff} but no reference log-probs were given")
        terms_P = terms_P + settings.kl_coeff * kl_P
    if settings.entropy_coeff > 0:
        if entropy_P is None:
            raise ValueError(f"entropy_coeff is {settings.entropy_coeff} but no entropies were given")
        terms_P = terms_P - settings.entropy_coeff * entropy_P
    return TokenTerms(
        loss=(weight_P * terms_P).sum(),
        policy=policy_P.detach(),
        ratio=ratio_P.detach(),
        clipped=clipped_P.detach(),
        mismatch_weight=weight_of_mismatch_P,
        kl=None if kl_P is None else kl_P.detach(),
    )


def aggregation_weight(
    aggregation: Aggregation, *, num_sequences: int, num_tokens: int, sequence_tokens: int
) -> float:
    """Weight of each decision token of one sequence in the batch's loss (SPEC §5, Aggregation).

    Args:
        num_sequences: S, sequences with at least one decision token in the whole batch, over all learners.
        num_tokens: T, their decision tokens.
        sequence_tokens: decision tokens of this sequence.
    """
    if aggregation == "seq_mean_token_mean":
        return 1.0 / (num_sequences * sequence_tokens)
    if aggregation == "token_mean":
        return 1.0 / num_tokens
    return 1.0 / num_sequences
