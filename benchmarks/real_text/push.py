"""Says what each estimator pays for a decision, from what `benchmarks.real_text.sample` sampled.

    python -m benchmarks.real_text.push warm_26.jsonl --presets grpo igpo igpo_v1 igpo_returns

An update sees few groups, and a rare decision stands in few of them. So what one update of one seed pays says
little; here every group of the samples counts, and updates are drawn from them. For each decision and preset:

push        what an update pays: the sum over its groups of advantage times (made - share of the group that
            made it), as in the named query `search_again`, advantages scaled to a root mean square of 1.
            Positive makes the decision more likely. Mean over updates.
signal      this mean by the standard deviation over updates, with a 95% interval over groups.
right way   of the updates that push at all, the share that pushes the way that exact match says.

Decisions: to search at the k-th turn, of the rollouts that reach it; to find a page that names a gold answer,
of those that search and have read none; to answer right, of those that answer after such a page.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from algorithms.credit import ScoredRollout, find_preset, turn_batch
from algorithms.credit.own_estimator import assign
from pipeline.evaluation.intervals import percentile_interval
from pipeline.terminal import Console

UPDATES = 4_000
RESAMPLES = 2_000
SCORED = tuple(field.name for field in fields(ScoredRollout))


class Decision(NamedTuple):
    """A choice, over the turns D of all rollouts in which it was open."""

    name: str
    turn_D: np.ndarray
    """Place among the turns of all rollouts."""
    made_D: np.ndarray
    """1 where the choice was made, else 0."""
    group_D: np.ndarray
    em_D: np.ndarray
    """Exact match of the rollout."""

    @property
    def above_share_D(self) -> np.ndarray:
        """`made_D` less the share of the group that made the choice."""
        count_P = np.maximum(np.bincount(self.group_D), 1)
        return self.made_D - (np.bincount(self.group_D, weights=self.made_D) / count_P)[self.group_D]

    @property
    def gained_em(self) -> float:
        """Exact match with the choice less that without it, within groups that have both; else 0."""
        above_D = self.above_share_D
        spread = float((above_D**2).sum())
        return float((above_D * self.em_D).sum()) / spread if spread else 0.0


class Paid(NamedTuple):
    """What an estimator pays for a decision."""

    push: float
    signal: float
    low: float
    high: float
    right_way: float


def read(path: Path) -> list[dict[str, Any]]:
    """The rollouts that were sampled."""
    with path.open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def groups_of(rows: list[dict[str, Any]]) -> np.ndarray:
    """The group of each rollout, numbered in order: [N]."""
    number = {group: k for k, group in enumerate(dict.fromkeys(row["group"] for row in rows))}
    return np.array([number[row["group"]] for row in rows])


def decisions(rows: list[dict[str, Any]]) -> list[Decision]:
    """The choices of `rows`, by name."""
    open_at: dict[str, list[tuple[int, bool, int, float]]] = {}
    turn = 0
    for row, group in zip(rows, groups_of(rows).tolist(), strict=True):
        has_read = False
        for k, (action, names) in enumerate(zip(row["actions_T"], row["names_gold_T"], strict=True), 1):
            choices = {f"{k}: searches": action == "tool"}
            if action == "tool" and not has_read:
                choices[f"{k}: finds the answer's page"] = names
            if action == "answer" and has_read:
                choices[f"{k}: answers right"] = row["em"] == 1
            for name, made in choices.items():
                open_at.setdefault(name, []).append((turn, made, group, row["em"]))
            has_read = has_read or names
            turn += 1
    return [
        Decision(name, *(np.array(column) for column in zip(*open_at[name], strict=True)))
        for name in sorted(open_at)
    ]


def advantages_of(rows: list[dict[str, Any]], preset: str, **changes: Any) -> np.ndarray:
    """The advantages of all turns of `rows` under a preset with `changes` of its `CreditConfig`: [M]."""
    chosen = find_preset(preset)
    config = replace(chosen.credit, **changes)
    rollouts = [ScoredRollout(**{name: row[name] for name in SCORED}) for row in rows]
    return assign(chosen, config, rollouts, None, turn_batch(rollouts, config)).advantages_M


def paid(advantages_M: np.ndarray, decision: Decision, groups: int, groups_per_update: int) -> Paid:
    """What advantages pay for `decision` in an update of `groups_per_update` of the `groups` sampled."""
    unit_M = advantages_M / max(float(np.sqrt((advantages_M**2).mean())), 1e-12)
    pushes_D = decision.above_share_D * unit_M[decision.turn_D]
    push_P = np.bincount(decision.group_D, weights=pushes_D, minlength=groups)
    generator = np.random.default_rng(0)
    resampled = push_P[generator.integers(0, groups, (RESAMPLES, groups))]
    low, high = percentile_interval(_signal(resampled, groups_per_update))
    drawn = push_P[generator.integers(0, groups, (UPDATES, groups_per_update))].sum(axis=1)
    some = np.abs(drawn) > 1e-9
    right = np.sign(drawn[some]) == np.sign(decision.gained_em)
    return Paid(
        push=float(push_P.mean()) * groups_per_update,
        signal=float(_signal(push_P, groups_per_update)),
        low=low,
        high=high,
        right_way=float(right.mean()) if some.any() else float("nan"),
    )


def _signal(push_P: np.ndarray, groups_per_update: int) -> np.ndarray:
    """Mean by standard deviation of the sum over an update's groups, over the last axis; 0 without spread."""
    spread = push_P.std(axis=-1)
    mean = push_P.mean(axis=-1) * np.sqrt(groups_per_update)
    return np.divide(mean, spread, out=np.zeros_like(mean), where=spread > 0)


def rows_of(
    samples: list[dict[str, Any]], presets: list[str], groups_per_update: int
) -> Iterator[tuple[Decision, list[Paid]]]:
    """Each decision that some group makes and does not make, and what each preset pays for it."""
    groups = int(groups_of(samples).max()) + 1
    advantages = [advantages_of(samples, preset) for preset in presets]
    for decision in decisions(samples):
        if decision.above_share_D.any():
            yield decision, [paid(a_M, decision, groups, groups_per_update) for a_M in advantages]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("samples", type=Path, help="what benchmarks.real_text.sample wrote")
    parser.add_argument("--presets", nargs="+", default=["grpo", "igpo", "igpo_v1", "igpo_returns"])
    parser.add_argument("--groups-per-update", type=int, default=8, help="default 8")
    args = parser.parse_args()
    samples = read(args.samples)
    table = Table(title=f"updates of {args.groups_per_update} of {len(set(groups_of(samples)))} groups")
    for heading in ("decision", "open", "made", "EM gained", "", *args.presets):
        table.add_column(heading)
    for decision, found in rows_of(samples, args.presets, args.groups_per_update):
        table.add_row(
            decision.name,
            f"{len(decision.made_D):,}",
            f"{decision.made_D.mean():.1%}",
            f"{decision.gained_em:+.2f}",
            "push\nsignal\n\nright way",
            *(
                f"{p.push:+.2f}\n{p.signal:+.2f}\n[{p.low:.2f}, {p.high:.2f}]\n{p.right_way:.0%}"
                for p in found
            ),
            end_section=True,
        )
    Console().print(table)


if __name__ == "__main__":
    main()
