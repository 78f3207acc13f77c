"""IGPO's update in plain torch, written from docs/definitions.md alone, to check the learner against.

One row at a time, in float64, by loops over turns and tokens. Nothing of the learner, the loss or the credit
is used here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

ROUNDING = 1e-6
"""Error of a float32 gradient, relative to the largest of its tensor. 3.2e-7 explains all that was seen in 40
runs of four updates."""
ALL = None
"""An update with every sequence of the batch."""


@dataclass
class Step:
    """One turn in the row of the agent that wrote it."""

    context: list[int]
    decision: list[int]
    sampler_logp: list[float]
    advantage: float


@dataclass
class PlainLoss:
    """Settings of the loss, with the values of the definitions."""

    ratio_level: str = "token"
    clip_low: float = 0.2
    clip_high: float = 0.2
    kl_coeff: float = 0.001
    mismatch_cap: float = 2.0
    grad_clip: float = 1.0


@dataclass
class Policy:
    """Token ids [T] in, logits [T, V] out, and what is trained."""

    logits: Callable[[torch.Tensor], torch.Tensor]
    params: dict[str, torch.Tensor]
    optimizer: torch.optim.Optimizer = field(init=False)
    lr: float = 1e-3
    slack: dict[str, torch.Tensor] = field(init=False)
    """How far rounding may have moved each weight in all steps so far."""

    def __post_init__(self):
        self.optimizer = torch.optim.AdamW(list(self.params.values()), lr=self.lr)
        self.slack = {name: torch.zeros_like(value).detach() for name, value in self.params.items()}

    def step(self) -> None:
        """One step of AdamW. Dividing by sqrt(v) + eps magnifies the rounding of small gradients."""
        self.optimizer.step()
        for name, param in self.params.items():
            state = self.optimizer.state[param]
            size = (state["exp_avg_sq"] / (1 - 0.999 ** state["step"])).sqrt() + 1e-8
            self.slack[name] += self.lr * (ROUNDING * param.grad.abs().max() / size).clamp(max=2.0)


# From rewards to advantages.


def zscores(values: Sequence[float]) -> list[float]:
    if not values or max(values) == min(values):
        return [0.0] * len(values)
    mean = sum(values) / len(values)
    std = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values))
    return [(value - mean) / (std + 1e-6) for value in values]


def gains_of(rollout) -> dict[int, float]:
    """Position of each gain-bearing turn to s_t - s_{t-1}, under the alias rule `max`."""
    before, gains = max(rollout.initial_scores_K), {}
    for k, turn in enumerate(rollout.turns[:-1]):
        after = max(turn.scores_K)
        gains[k] = float(after - before)
        before = after
    return gains


def advantages_of(group: Sequence, *, with_gains: bool = True) -> list[list[float]]:
    """A_t of every turn of every rollout of one group: `igpo`, or `grpo` without gains (gamma 1)."""
    outcomes = zscores([rollout.outcome for rollout in group])
    gains = [gains_of(rollout) for rollout in group]
    flat = iter(zscores([gain for of_rollout in gains for gain in of_rollout.values()]))
    normalised = [{k: next(flat) for k in of_rollout} for of_rollout in gains]
    return [
        [
            outcome + (sum(gain for later, gain in own.items() if later >= k) if with_gains else 0.0)
            for k in range(len(rollout.turns))
        ]
        for rollout, outcome, own in zip(group, outcomes, normalised, strict=True)
    ]


# From rollouts to sequences: all rows of one rollout, one for each agent.


def sequences_of(
    rollouts: Sequence, steps_of: Callable, *, with_gains: bool = True
) -> list[list[list[Step]]]:
    """One sequence for each rollout, in their order. `steps_of(rollout, agent)` yields (context, decision,
    sampler's log-probs) of each of the agent's turns.
    """
    groups: dict[str, list] = {}
    for rollout in rollouts:
        groups.setdefault(rollout.group_id, []).append(rollout)
    advantage = {
        rollout.id: own
        for group in groups.values()
        for rollout, own in zip(group, advantages_of(group, with_gains=with_gains), strict=True)
    }
    sequences = []
    for rollout in rollouts:
        rows = []
        for agent in dict.fromkeys(turn.agent for turn in rollout.turns):
            own = [k for k, turn in enumerate(rollout.turns) if turn.agent == agent]
            rows.append(
                [
                    Step([*map(int, c)], [*map(int, d)], [*map(float, logp)], advantage[rollout.id][k])
                    for k, (c, d, logp) in zip(own, steps_of(rollout, agent), strict=True)
                ]
            )
        sequences.append(rows)
    return sequences


def sequences_of_episodes(episodes: Sequence, *, with_gains: bool = True) -> list[list[list[Step]]]:
    """Of RLlib's episodes: an agent's observations are its contexts, its actions what it wrote."""
    by_id = {episode.custom_data["rollout"].id: episode for episode in episodes}

    def steps(rollout, agent):
        own = by_id[rollout.id].agent_episodes[agent]
        return zip(
            own.get_observations()[: len(own)],
            own.get_actions(),
            own.get_extra_model_outputs("action_logp"),
            strict=True,
        )

    return sequences_of(list(map(_rollout, episodes)), steps, with_gains=with_gains)


def _rollout(episode):
    return episode.custom_data["rollout"]


# The loss and the steps.


def decision_logp(policy: Policy, row: Sequence[Step]) -> torch.Tensor:
    """log pi of each decision token of one row, given all that stands before it."""
    ids, at = [], []
    for step in row:
        ids += step.context
        at += range(len(ids), len(ids) + len(step.decision))
        ids += step.decision
    logp = torch.log_softmax(policy.logits(torch.tensor(ids)), -1)
    return torch.stack([logp[k - 1, ids[k]] for k in at])


def sequence_loss(policy, sequence, old_logp, reference_logp, loss: PlainLoss) -> torch.Tensor:
    """The mean over a sequence's decision tokens of -w min(rho A, clip(rho) A) + beta k3."""
    logp = torch.cat([decision_logp(policy, row) for row in sequence])
    steps = [step for row in sequence for step in row]
    sampler = torch.tensor([value for step in steps for value in step.sampler_logp], dtype=logp.dtype)
    advantage = torch.tensor([step.advantage for step in steps for _ in step.decision], dtype=logp.dtype)
    log_ratio = logp - old_logp
    if loss.ratio_level == "sequence":
        log_ratio = log_ratio.mean().expand(len(log_ratio))
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - loss.clip_low, 1 + loss.clip_high)
    weight = (old_logp - sampler).exp().clamp(max=loss.mismatch_cap)
    to_reference = reference_logp - logp
    k3 = to_reference.exp() - to_reference - 1
    return (loss.kl_coeff * k3 - weight * torch.minimum(ratio * advantage, clipped * advantage)).mean()


def plain_update(policy: Policy, reference: Policy, sequences, loss: PlainLoss, updates=(ALL,)) -> None:
    """All updates of one batch, in place; each lists the sequences of its minibatch."""
    with torch.no_grad():
        old = [torch.cat([decision_logp(policy, row) for row in rows]) for rows in sequences]
        first = [torch.cat([decision_logp(reference, row) for row in rows]) for rows in sequences]
    for members in updates:
        members = range(len(sequences)) if members is ALL else members
        policy.optimizer.zero_grad()
        for k in members:
            mean = sequence_loss(policy, sequences[k], old[k], first[k], loss)
            (mean / len(members)).backward()
        torch.nn.utils.clip_grad_norm_(list(policy.params.values()), loss.grad_clip)
        policy.step()


# Policies.


def plain_policy(folder, *, lr: float = 1e-3, train: bool = True, weights=None) -> Policy:
    """The model in `folder` as transformers loads it, in float64 and without dropout; a copy of `weights`."""
    model = _load(folder)
    if weights is not None:
        model.load_state_dict({name: value.detach() for name, value in weights.items()}, strict=False)
    params = dict(model.named_parameters()) if train else {}
    return Policy(_logits(model), params, lr) if train else _frozen(model)


def plain_lora(folder, adapters: dict[str, torch.Tensor], *, scale: float, lr: float = 1e-3) -> Policy:
    """The frozen model in `folder` with W + scale B A in place of W.

    Args:
        adapters: name of each matrix to its value, `LAYER.lora_A.default.weight` and `LAYER.lora_B...`.
        scale: alpha / rank.
    """
    model = _load(folder).requires_grad_(False)
    weights = dict(model.named_parameters())
    params = {name: value.double().clone().requires_grad_(True) for name, value in adapters.items()}
    layers = sorted({name.partition(".lora_")[0] for name in params})

    def logits(ids):
        changed = {
            f"{layer}.weight": weights[f"{layer}.weight"]
            + scale * params[f"{layer}.lora_B.default.weight"] @ params[f"{layer}.lora_A.default.weight"]
            for layer in layers
        }
        inputs = {"input_ids": ids[None], "use_cache": False}
        return torch.func.functional_call(model, changed, (), inputs).logits[0]

    return Policy(logits, params, lr)


def _load(folder):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, attn_implementation="eager"
    ).eval()


def _logits(model):
    return lambda ids: model(input_ids=ids[None], use_cache=False).logits[0]


def _frozen(model) -> Policy:
    model.requires_grad_(False)
    return Policy(_logits(model), {"none": torch.zeros(1)})
