"""Turn-level credit: from beliefs, gains and outcomes to advantages, in pure NumPy.

Works on logged rows as well as inside a training run, and imports neither Ray nor torch.

>>> from algorithms.credit import advantages
>>> advantages(outcomes=[1.0, 0.0], gains=[[0.5, 0.2], [0.1]], preset="ig_only")
[array([ 0.98057491, -0.39222996,  0.        ]), array([-0.98057491,  0.        ])]
"""

from algorithms.credit.assign import assign_credit
from algorithms.credit.batch import FAINT_GAIN_STD, Credit, GroupStatistics, TurnBatch
from algorithms.credit.config import CREDIT_FIELDS, CreditConfig, without_removed
from algorithms.credit.from_lists import advantages
from algorithms.credit.gains import beliefs_from_scores, gains_from_scores, reduce_aliases
from algorithms.credit.group import Group, RolloutFacts
from algorithms.credit.normalise import EPS, batch_outcome_statistics
from algorithms.credit.own_estimator import find_preset, sample_group
from algorithms.credit.presets import PRESETS, Preset, get_preset
from algorithms.credit.scores import ScoredBatch, ScoredRollout, turn_batch

__all__ = [
    "CREDIT_FIELDS",
    "EPS",
    "FAINT_GAIN_STD",
    "PRESETS",
    "Credit",
    "CreditConfig",
    "Group",
    "GroupStatistics",
    "Preset",
    "RolloutFacts",
    "ScoredBatch",
    "ScoredRollout",
    "TurnBatch",
    "advantages",
    "assign_credit",
    "batch_outcome_statistics",
    "beliefs_from_scores",
    "find_preset",
    "gains_from_scores",
    "get_preset",
    "reduce_aliases",
    "sample_group",
    "turn_batch",
    "without_removed",
]
