"""Makes a cell's table: one row per training iteration and one per held-out evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from algorithms.igpo.iteration_record import IterationRecord
from envs.search.trajectory import ActionKind

COLUMNS = {
    "split": (
        pa.string(),
        "train: an iteration; heldout: held-out questions at temperature 1; greedy: the same, greedily",
    ),
    "iteration": (pa.int32(), "iterations done"),
    "tokens": (pa.int64(), "sampled so far, those of replaced groups too"),
    "rollouts": (pa.int64(), "made so far, those of replaced groups too"),
    "seconds": (pa.float64(), "of training so far, evaluations not counted"),
    "em": (pa.float64(), "SQuAD exact match, mean"),
    "f1": (pa.float64(), "the paper's F1, mean"),
    "turns": (pa.float64(), "per rollout, mean"),
    "answered": (pa.float64(), "share of rollouts that end with an answer"),
    "collapsed_outcome": (pa.float64(), "share of groups without signal under the outcome alone"),
    "collapsed": (pa.float64(), "share of groups without signal as trained, noise counted as none"),
    "gain_auroc": (pa.float64(), "chance that a search with new gold evidence gained more than one without"),
    "advantage_auroc": (pa.float64(), "the same of the advantage"),
}
SCHEMA = pa.schema(
    [pa.field(name, kind, metadata={"description": text}) for name, (kind, text) in COLUMNS.items()]
)


def training_row(
    record: IterationRecord, metrics: Mapping[str, float], so_far: Mapping[str, float]
) -> dict[str, Any]:
    """Makes the row of one iteration; `so_far` holds the cell's tokens, rollouts and seconds."""
    hits, gains, advantages = [], [], []
    for rollout in record.rollouts:
        for turn in rollout.turns:
            credit = record.credit[rollout.id, turn.index]
            if turn.action is ActionKind.TOOL and turn.gold_hit is not None and credit.gain is not None:
                hits.append(turn.gold_hit)
                gains.append(credit.gain)
                advantages.append(credit.advantage)
    return {
        "split": "train",
        "iteration": record.iteration,
        **so_far,
        "em": metrics["em"],
        "f1": metrics["f1"],
        "turns": metrics["turns_mean"],
        "answered": metrics["answered_share"],
        "collapsed_outcome": metrics["collapse_share_outcome"],
        "collapsed": metrics["collapse_share_or_faint"],
        "gain_auroc": auroc(gains, hits),
        "advantage_auroc": auroc(advantages, hits),
    }


def heldout_row(
    split: str, iteration: int, metrics: Mapping[str, float], so_far: Mapping[str, float]
) -> dict[str, Any]:
    """Makes the row of one evaluation."""
    return {
        "split": split,
        "iteration": iteration,
        **so_far,
        "em": metrics["em_squad"],
        "f1": metrics["f1_paper"],
        "turns": metrics["turns_mean"],
        "answered": metrics["answered_share"],
        **dict.fromkeys(("collapsed_outcome", "collapsed", "gain_auroc", "advantage_auroc")),
    }


def auroc(values: list[float], labels: list[bool]) -> float | None:
    """Computes the chance that a value with label True exceeds one with label False; a tie counts half.

    Returns:
        None where one of the labels is missing.
    """
    if len(set(labels)) < 2:
        return None
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(np.asarray(labels), np.asarray(values)))
