"""Published estimators by name.

Each preset is a `CreditConfig` plus the settings of loss, environment and batch that belong to the method.
Where a publication leaves a value open, the comment says so and names the value chosen; "defaults" are those
of `CreditConfig`, of the loss settings and of the search environment. Notation: g~ normalised gain, o~
normalised outcome, t = 1..T turns, sums over gain-bearing turns.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from algorithms.credit.config import CREDIT_FIELDS, CreditConfig


@dataclass(frozen=True)
class Preset:
    """A named estimator: credit settings, and what the method changes elsewhere.

    Settings that a preset does not name keep their defaults. An experiment's own settings win over both.
    """

    name: str
    source: str
    """Publication or repository that defines the method."""
    summary: str = ""
    """What it is, in one clause."""
    credit: CreditConfig = field(default_factory=CreditConfig)
    loss_changes: dict[str, Any] = field(default_factory=dict)
    """Loss settings that differ from the defaults, by name (`algorithms.igpo.loss_settings.LossSettings`)."""
    env: dict[str, Any] = field(default_factory=dict)
    """Environment settings that differ from the defaults, by name (`envs.search.config`)."""
    belief_policy: Literal["current", "reference"] = "current"
    """Whose belief is scored: the current policy's, or a frozen reference's."""
    dynamic_sampling: bool = False
    """Whether groups without any spread in their outcomes are replaced by groups of new prompts."""
    num_minibatches: int = 1
    """Updates that one pass over a batch is cut into, where an experiment does not say."""
    needs_several_updates: bool = False
    """Whether the method would equal another one at one update per batch. Such a run is refused at lag 0."""
    estimator: Callable[..., Any] | None = None
    """A function of one's own in place of the rules of `credit` (`algorithms.credit.group.OwnEstimator`)."""

    @property
    def changes(self) -> dict[str, Any]:
        """Every setting in which the preset differs from the defaults, by name."""
        defaults = CreditConfig()
        credit = {
            name: getattr(self.credit, name)
            for name in CREDIT_FIELDS
            if getattr(self.credit, name) != getattr(defaults, name)
        }
        own = ("belief_policy", "dynamic_sampling", "num_minibatches")
        batch = {name: getattr(self, name) for name in own if getattr(self, name) != getattr(Preset, name)}
        return {**credit, **self.loss_changes, **batch, **({"env_config": self.env} if self.env else {})}


IGPO = Preset(
    name="igpo",
    summary="gains and outcome, each z-scored over the group",
    source="arXiv 2510.14967v2",
)
"""A_t = sum_{k>=t} g~_k + o~, gains z-scored over all turns of the group, outcomes over its rollouts, apart
(Eq. 5-6). Open in the paper: aliases, penalties, clip bounds; chosen: all aliases by `max`, -1.0 malformed, 0
truncated, 0.2."""

IGPO_V1 = Preset(
    name="igpo_v1",
    summary="gains as differences of belief; one z-score over gains and outcomes",
    source="arXiv 2510.14967v1",
    credit=CreditConfig(gain_basis="prob", normalisation="joint"),
)
"""As igpo, but g_t = b_t - b_{t-1} and one z-score over all gains and outcomes of the group. Open values as
for igpo."""

IGPO_OFFICIAL = Preset(
    name="igpo_official",
    summary="igpo with the settings of its published code",
    source="github.com/GuoqingWang1/IGPO, 745078b",
    credit=CreditConfig(drop_gains_at_turn_limit=True),
    loss_changes={"loss_aggregation": "seq_mean_token_sum", "dual_clip": 3.0, "entropy_coeff": 0.001},
    env={"alias_rule": "first", "format_penalty": -2.0, "truncation_penalty": -2.0},
)
"""igpo's equations with the settings of the code of February 2026: first alias, penalties -2.0, gains dropped
when the turns run out, token sum in place of mean, dual clip 3.0, entropy bonus 0.001. Its bugs (positions of
padded rows, stale context, turn boundaries lost at gains of 0) are not reproduced; nor is its training F1 on
the first alias only."""

IG_ONLY = Preset(
    name="ig_only",
    summary="igpo's gains without the outcome",
    source="arXiv 2510.14967v2, Table 3",
    credit=CreditConfig(outcome_weight=0.0),
)
"""A_t = sum_{k>=t} g~_k: igpo without the outcome; the final turn gets 0."""

IGPO_DISCOUNTED = Preset(
    name="igpo_discounted",
    summary="igpo with a later gain halved for each turn before it",
    source="this project (docs/study_results.md)",
    credit=CreditConfig(gamma=0.5, outcome_gamma=1.0),
)
"""A_t = sum_{k>=t} 0.5^(k-t) g~_k + o~: igpo, but a gain counts half as much for each turn that came before
it, while the outcome still reaches every turn undiminished. Undiscounted log-belief gains add up to what the
last score says, so every turn of a rollout is paid for where it ended, as by the outcome; at 0 a turn is paid
for its own document alone, and a search that only makes the next one possible for nothing. In between, credit
falls to the turn that earned it and to those close before."""

A2TGPO = Preset(
    name="a2tgpo",
    summary="gains z-scored by turn index; clip bounds by turn",
    source="arXiv 2605.06200",
    credit=CreditConfig(
        gain_basis="prob",
        normalisation="turn_index",
        outcome_gamma=1.0,
        ig_weight=0.3,
        depth_rescale="sqrt",
        turn_clip_scale=0.3,
    ),
    loss_changes={"ratio_level": "turn"},
    num_minibatches=2,
)
"""A_t = o~ + 0.3 sum_{k>=t} g~_k / sqrt(number of terms), gains z-scored per (prompt, turn index); ratios per
turn; clip bounds of turn t times 1 + 0.3 (2 sigmoid(g~_t) - 1), of the answer turn times 1. Open where only
the abstract was at hand: minibatches, aliases, penalties, base clip bounds, KL; chosen: 2 minibatches (at one
update every ratio is 1 and no clip acts), else the defaults."""

DR_VENUS = Preset(
    name="dr_venus",
    summary="each turn its own gain over the spread, and the outcome",
    source="github.com/inclusionAI/DR-Venus (raw_ig); arXiv 2604.19859",
    credit=CreditConfig(normalisation="scale_only", gamma=0.0, outcome_gamma=1.0),
)
"""A_t = g_t / std(g) + o~: no mean subtracted, so a long rollout is not taxed by the mean gain; nothing flows
back between turns (the `raw_ig` mode). Its browsing filter and turn-level format penalty belong to its tools:
left out."""

TRACE = Preset(
    name="trace",
    summary="log-ratio gains under a frozen reference in a window of 3 turns",
    source="arXiv 2607.13988",
    credit=CreditConfig(
        gain_basis="log_ratio",
        gap_eps=0.1,
        normalisation="none",
        gamma=0.8,
        outcome_gamma=1.0,
        ig_weight=0.2,
        window=3,
        window_outcome_scale=2.0,
    ),
    belief_policy="reference",
)
"""A_t = o~ + 0.2 c_t on the N gain-bearing turns, o~ on the answer turn; c_t = sum_{j<K} gamma^j g_{t+j} /
sum_{j<K} gamma^j, both sums cut at N, + 2 gamma^(N-t+1) o~ where t + K - 1 >= N; g_t = log((-s_{t-1} + 0.1) /
(-s_t + 0.1)) under a frozen reference, not normalised; K = 3, gamma = 0.8. The constants come from
re-implementations and are unconfirmed. Open: aliases, penalties, clip, KL; chosen: the defaults."""

GRPO = Preset(
    name="grpo",
    summary="the outcome alone, z-scored over the group",
    source="arXiv 2402.03300; baseline of arXiv 2510.14967v2, Table 2",
    credit=CreditConfig(ig_weight=0.0),
)
"""A_t = o~ = (o - group mean) / (group std + eps)."""

RLOO = Preset(
    name="rloo",
    summary="the outcome less the mean of the group's others",
    source="arXiv 2402.14740; baseline of arXiv 2510.14967v2, Table 2",
    credit=CreditConfig(ig_weight=0.0, outcome_baseline="rloo"),
)
"""A_t = o minus the mean of the other G - 1 outcomes of the group, not divided by a spread."""

REINFORCE_PP = Preset(
    name="reinforce_pp",
    summary="the outcome alone, z-scored over the batch",
    source="arXiv 2501.03262; baseline of arXiv 2510.14967v2, Table 2",
    credit=CreditConfig(ig_weight=0.0, outcome_baseline="batch_zscore"),
)
"""A_t = (o - batch mean) / (batch std + eps), each rollout once over the whole batch. Open: where the KL
enters; chosen: in the loss, as for the others."""

GSPO = Preset(
    name="gspo",
    summary="grpo with one ratio per sequence",
    source="arXiv 2507.18071; baseline of arXiv 2510.14967v2, Table 2",
    credit=CreditConfig(ig_weight=0.0),
    loss_changes={"ratio_level": "sequence", "clip_low": 3e-4, "clip_high": 4e-4},
    num_minibatches=4,
    needs_several_updates=True,
)
"""grpo's advantages under one length-normalised ratio per sequence, clipped to [1 - 3e-4, 1 + 4e-4]; the
paper cuts each batch into 4 minibatches. At one update per batch and lag 0 it would be grpo."""

DAPO = Preset(
    name="dapo",
    summary="grpo with clip 0.2 / 0.28, and collapsed groups sampled again",
    source="arXiv 2503.14476",
    credit=CreditConfig(ig_weight=0.0),
    loss_changes={"clip_high": 0.28, "loss_aggregation": "token_mean", "kl_coeff": 0.0},
    dynamic_sampling=True,
)
"""grpo's advantages, clip 0.2 / 0.28, mean over all tokens of the batch, no KL, collapsed groups sampled
again. Its overlong penalty is left out: this project's truncation penalty takes its place."""

BELIEF_CRITIC = Preset(
    name="belief_critic",
    summary="TD errors with belief as the critic",
    source="this project (docs/study_results.md)",
    credit=CreditConfig(gain_basis="prob", normalisation="none", outcome_baseline="belief"),
)
"""A_t = sum_{k>=t} gamma^(k-t) d_k with d_t = b_t - b_{t-1} on gain-bearing turns and d_T = o - b_{T-1} on
the last one, answered or cut off: belief as a critic that costs nothing, TD errors of the potential b with 0
at the end, gamma as lambda. At gamma 1, A_t = o - b_{t-1}: the outcome with a baseline that knows the
history, unbiased because b_{t-1} does not depend on what turn t does; below 1, biased by as much as belief
differs from the expected outcome. No z-scores: where every rollout fails and belief stays low nothing is
blown up, and whoever ends without an answer pays the belief it built up."""

IGPO_RETURNS = Preset(
    name="igpo_returns",
    summary="belief still to come, against the group's at the same turn",
    source="this project (docs/real_model.md)",
    credit=CreditConfig(gain_basis="prob", normalisation="returns", std_floor=0.05),
)
"""A_t = (R_t - mean R_t) / max(spread, 0.05) + o~ with the belief return R_t = b_T - b_{t-1}: belief after
the rollout's last page, 0 if it ends without an answer, less belief before turn t; an answer has R_t = 0. The
mean is over the group's rollouts that reach a t-th turn of the same role, so a further search is compared
with answering now; spread is the root mean square of these differences over all turns of the group. Unlike a
z-score over single gains, this neither taxes a second search for gaining less than the first nor blows up a
difference of 0.001."""

IGPO_SHAPED = Preset(
    name="igpo_shaped",
    summary="belief still to come, where a search costs a tenth of what is known",
    source="this project (docs/real_model.md); shaping: Ng, Harada and Russell, ICML 1999",
    credit=CreditConfig(
        gain_basis="prob",
        normalisation="returns",
        return_baseline="group",
        gamma=0.9,
        outcome_gamma=1.0,
        std_floor=0.2,
    ),
)
"""As igpo_returns, with R_t = 0.9^n b_T - b_{t-1}, n searches from turn t on: a search costs a tenth of what
is believed after it, so nothing where nothing is known. The mean is over all rollouts of the group, with 0
for one without such a turn: a depth that one rollout alone reaches is compared with having stopped. The floor
of 0.2 keeps the price small where returns hardly differ."""

IGPO_FADING = Preset(
    name="igpo_fading",
    summary="igpo_shaped, where gain fades as the group's answers become right",
    source="this project (docs/real_model.md)",
    credit=replace(IGPO_SHAPED.credit, ig_fade="solved"),
)
"""A_t = (1 - mean o) D_t + o~ with D_t the shaped return of igpo_shaped, the mean over the group. Where the
group fails gain shows the way, and where it succeeds the outcome has the last word."""

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        IGPO,
        IGPO_V1,
        IGPO_OFFICIAL,
        IG_ONLY,
        IGPO_DISCOUNTED,
        A2TGPO,
        DR_VENUS,
        TRACE,
        GRPO,
        RLOO,
        REINFORCE_PP,
        GSPO,
        DAPO,
        BELIEF_CRITIC,
        IGPO_RETURNS,
        IGPO_SHAPED,
        IGPO_FADING,
    )
}


def get_preset(name: str) -> Preset:
    """Returns the preset called `name`. Raises ValueError naming the nearest, else listing the known ones."""
    if name in PRESETS:
        return PRESETS[name]
    if near := difflib.get_close_matches(name, PRESETS, n=1):
        hint = f"did you mean {near[0]!r}?"
    elif "." in name:
        module, _, function = name.rpartition(".")
        hint = f"an estimator of your own is written `module:function`: {module}:{function}"
    else:
        hint = f"known presets: {', '.join(PRESETS)}, or `module:function` of your own"
    raise ValueError(f"preset {name!r} is unknown; {hint}")
