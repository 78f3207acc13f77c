"""Says what each estimator pays for a decision, from what `benchmarks.real_text.sample` sampled.

    python -m benchmarks.real_text.push warm_26.jsonl --presets grpo igpo igpo_v1 igpo_returns
    python -m benchmarks.real_text.push warm_26.jsonl --presets grpo igpo,std_floor=1 my_credit:my_estimator

An update sees few groups, and a rare decision stands in few of them. So what one update of one seed pays says
little; here every group of the samples counts, and updates are drawn from them. For each decision and preset:

push        what an update pays: the sum over its groups of advantage times (made - share of the group that
            made it), as in the named query `search_again`, advantages scaled to a root mean square of 1.
            Positive makes the decision more likely. Mean over updates.
signal      this mean by the standard deviation over updates, with a 95% interval over groups.
rollouts    those that give as much signal as one of the first preset's, (its signal / this signal)^2, with a
            95% interval over groups, which both share. Below 1 is better.
right way   of the updates that push at all, the share that pushes the way that exact match says.

Decisions: to search at the k-th turn, of the rollouts that reach it; to find a page that names a gold answer,
of those that search and have read none; to answer right, of those that answer after such a page.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.table import Table

from algorithms.credit import RolloutFacts, ScoredRollout, find_preset, turn_batch
from algorithms.credit.config import require_credit_fields
from algorithms.credit.own_estimator import assign
from pipeline.analysis.offline.recredit import credit_config
from pipeline.evaluation.intervals import percentile_interval
from pipeline.experiment.file import parse_yaml
from pipeline.terminal import Console

UPDATES = 4_000
RESAMPLES = 2_000
TOO_MANY = 1_000.0
"""Stands for more rollouts than this, also where there is no signal, or one that goes the other way."""
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
    """What an estimator pays for a decision, and 95% intervals."""

    push: float
    signal: float
    signal_interval: tuple[float, float]
    rollouts: float
    rollouts_interval: tuple[float, float]
    right_way: float


def read(path: Path) -> list[dict[str, Any]]:
    """The rollouts that were sampled.

    Raises:
        ValueError: the file holds something else, or nothing.
    """
    expected = {*SCORED, "group", "em", "actions_T", "names_gold_T"}
    try:
        with path.open(encoding="utf-8") as file:
            rows = [json.loads(line) for line in file]
    except ValueError:
        rows = []
    if not rows or not all(isinstance(row, dict) and expected <= row.keys() for row in rows):
        raise ValueError(f"{path} is no file that benchmarks.real_text.sample writes")
    return rows


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


def advantages_of(rows: list[dict[str, Any]], estimator: str) -> np.ndarray:
    """The advantages of all turns of `rows`: [M].

    Args:
        rows: the rollouts.
        estimator: a preset or `module:function`, with changes of its `CreditConfig` behind commas:
            `igpo,gamma=0,std_floor=0.5`.

    Raises:
        ValueError: no such preset or setting, or an estimator of one's own and rollouts without facts.
        InputError: a value that the setting does not take.
    """
    preset, *assignments = estimator.split(",")
    chosen = find_preset(preset)
    changes = {key: parse_yaml(text, estimator) for key, _, text in (a.partition("=") for a in assignments)}
    require_credit_fields(changes)
    config = credit_config(asdict(chosen.credit) | changes)
    rollouts = [ScoredRollout(**{name: row[name] for name in SCORED}) for row in rows]
    if chosen.estimator and not all("facts" in row for row in rows):
        raise ValueError(
            f"{preset} reads the facts of each rollout, which an older benchmarks.real_text.sample left out: "
            "sample again"
        )
    facts = [RolloutFacts(**row["facts"]) for row in rows] if chosen.estimator else None
    return assign(chosen, config, rollouts, facts, turn_batch(rollouts, config)).advantages_M


def push_by_group(advantages_M: np.ndarray, decision: Decision, groups: int) -> np.ndarray:
    """What the advantages of all turns pay for `decision`, by group: [P]."""
    unit_M = advantages_M / max(float(np.sqrt((advantages_M**2).mean())), 1e-12)
    pushes_D = decision.above_share_D * unit_M[decision.turn_D]
    return np.bincount(decision.group_D, weights=pushes_D, minlength=groups)


def paid(push_P: np.ndarray, baseline_P: np.ndarray, gained_em: float, groups_per_update: int) -> Paid:
    """What an estimator pays for a decision in updates of `groups_per_update` of the groups P.

    Args:
        push_P: what it pays in each group.
        baseline_P: what the estimator pays that it is compared with.
        gained_em: exact match with the decision less that without it; its sign is the right way.
        groups_per_update: groups of one update.
    """
    groups = len(push_P)
    generator = np.random.default_rng(0)
    resampled_XP = generator.integers(0, groups, (RESAMPLES, groups))
    drawn = push_P[generator.integers(0, groups, (UPDATES, groups_per_update))].sum(axis=1)
    some = np.abs(drawn) > 1e-9
    signals_X = _signal(push_P[resampled_XP], groups_per_update)
    bases_X = _signal(baseline_P[resampled_XP], groups_per_update)
    signal, base = (_signal(pushes_P[None], groups_per_update) for pushes_P in (push_P, baseline_P))
    return Paid(
        push=float(push_P.mean()) * groups_per_update,
        signal=signal.item(),
        signal_interval=percentile_interval(signals_X),
        rollouts=_squared_ratio(base, signal).item(),
        rollouts_interval=percentile_interval(_squared_ratio(bases_X, signals_X)),
        right_way=float((np.sign(drawn[some]) == np.sign(gained_em)).mean()) if some.any() else float("nan"),
    )


def _signal(push_XP: np.ndarray, groups_per_update: int) -> np.ndarray:
    """Mean by standard deviation of the sum over an update's groups, [X]; 0 without spread."""
    spread_X = push_XP.std(axis=1)
    mean_X = push_XP.mean(axis=1) * np.sqrt(groups_per_update)
    return np.divide(mean_X, spread_X, out=np.zeros_like(mean_X), where=spread_X > 0)


def _squared_ratio(base_X: np.ndarray, signal_X: np.ndarray) -> np.ndarray:
    """(base / signal)^2, at most `TOO_MANY`."""
    ratio_X = np.divide(base_X, signal_X, out=np.full_like(base_X, -1.0), where=signal_X != 0)
    return np.where(ratio_X >= 0, np.minimum(ratio_X**2, TOO_MANY), TOO_MANY)


def rows_of(
    samples: list[dict[str, Any]], estimators: list[str], groups_per_update: int
) -> Iterator[tuple[Decision, list[Paid]]]:
    """Each decision that some group makes and does not make, and what each estimator pays for it."""
    groups = int(groups_of(samples).max()) + 1
    advantages = [advantages_of(samples, estimator) for estimator in estimators]
    for decision in decisions(samples):
        if decision.above_share_D.any():
            pushes = [push_by_group(advantages_M, decision, groups) for advantages_M in advantages]
            em = decision.gained_em
            yield decision, [paid(push_P, pushes[0], em, groups_per_update) for push_P in pushes]


def table_of(decision: Decision, estimators: list[str], all_paid: list[Paid]) -> Table:
    """What each estimator pays for a decision, a line each."""
    made = f"{decision.made_D.mean():.1%} of {len(decision.made_D):,}"
    title = f"{decision.name} ({made}, exact match gained {decision.gained_em:+.2f})"
    table = Table(title=title, title_justify="left")
    for heading in ("estimator", "push", "signal", "rollouts", "right way"):
        table.add_column(heading, overflow="fold")
    for estimator, one in zip(estimators, all_paid, strict=True):
        table.add_row(estimator, *_cells(one))
    return table


def _cells(p: Paid) -> tuple[str, str, str, str]:
    right_way = "" if np.isnan(p.right_way) else f"{p.right_way:.0%}"
    signal, rollouts = (
        f"{_number(value)} [{_number(low)}, {_number(high)}]"
        for value, (low, high) in ((p.signal, p.signal_interval), (p.rollouts, p.rollouts_interval))
    )
    return f"{p.push:+.2f}", signal, rollouts, right_way


def _number(value: float) -> str:
    return "many" if value >= TOO_MANY else f"{value:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("samples", type=Path, help="what benchmarks.real_text.sample wrote")
    parser.add_argument(
        "--presets",
        nargs="+",
        default=["grpo", "igpo", "igpo_v1", "igpo_returns"],
        metavar="NAME[,SETTING=VALUE]",
        help="estimators, with changes of their credit behind commas; the first is what others are held to",
    )
    parser.add_argument("--groups-per-update", type=int, default=8, help="default 8")
    args = parser.parse_args()
    console = Console()
    try:
        samples = read(args.samples)
        groups = len(set(groups_of(samples)))
        console.print(f"updates of {args.groups_per_update} of {groups} groups")
        for decision, all_paid in rows_of(samples, args.presets, args.groups_per_update):
            console.print(table_of(decision, args.presets, all_paid))
    except (ValueError, OSError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
