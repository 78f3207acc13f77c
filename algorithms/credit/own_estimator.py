"""Every preset's credit (`assign`), and estimators of one's own, named by import path.

Training and recredit call `assign`. For a preset that ships it is `assign_credit`; for an estimator of one's
own it calls this group by group, and checks the answer.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Mapping, Sequence, Set
from dataclasses import replace
from typing import Any

import numpy as np

from algorithms.credit.assign import assign_credit
from algorithms.credit.batch import Credit
from algorithms.credit.config import BEYOND, LARGEST_REWARD, CreditConfig
from algorithms.credit.group import Group, OwnEstimator, RolloutFacts, make_groups
from algorithms.credit.normalise import batch_outcome_statistics
from algorithms.credit.presets import Preset, get_preset
from algorithms.credit.scores import ScoredBatch, ScoredRollout, turn_batch

MISTAKES = (TypeError, AttributeError, NameError)
"""Exceptions of a sample group that are the estimator's own fault and not the sample's."""


class _EstimatorFailed(ValueError):
    """The estimator raised an exception, which is the cause of this one."""


@functools.lru_cache
def find_preset(name: str) -> Preset:
    """Returns the preset of a name, or the estimator of one's own at `module:name`.

    There may be a function of a `Group`, which stands on the settings of `igpo`, or a `Preset`, which brings
    settings and may hold such a function (`estimator`). The current folder is searched last.

    Raises:
        ValueError: there is none, or the function does not take a group and return an advantage per turn.
    """
    if ":" not in name:
        return get_preset(name)
    return own_preset(_import(name), name)


def own_preset(found: Any, name: str) -> Preset:
    """Returns the preset that `found` is, a function of a `Group` or a `Preset`, once a sample group passed.

    Raises:
        ValueError: it is neither, or it does not return an advantage per turn.
    """
    if isinstance(found, Preset):
        preset = replace(found, name=name)
    elif callable(found):
        preset = Preset(name=name, source=name, estimator=found)
    else:
        raise ValueError(
            f"preset {name!r} is {_kind(found)}: name a function of one group, or a `Preset` of "
            "algorithms.credit"
        )
    if preset.estimator is not None:
        _try_on_sample(preset)
    return preset


def _import(path: str) -> Any:
    module_name, _, name = path.partition(":")
    if not module_name or not name:
        raise ValueError(f"preset {path!r}: write `module:function`")
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # a user's own file may fail in any way
        reason = f"{type(error).__name__}: {error}"
        is_missing = isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}.")
        where = ": is its file in this folder, or its folder on PYTHONPATH?" if is_missing else ""
        raise ValueError(
            f"preset {path!r}: module {module_name!r} can't be imported ({reason}){where}"
        ) from error
    if not hasattr(module, name):
        near = difflib.get_close_matches(name, vars(module), n=1)
        hint = f", did you mean {near[0]!r}?" if near else ""
        file = getattr(module, "__file__", None) or "built into Python"
        raise ValueError(f"preset {path!r}: module {module_name!r} ({file}) has no {name!r}{hint}")
    return getattr(module, name)


def _kind(value: Any) -> str:
    return f"of type {type(value).__name__}"


def assign(
    preset: Preset,
    config: CreditConfig,
    rollouts: Sequence[ScoredRollout],
    facts: Sequence[RolloutFacts] | None,
    scored: ScoredBatch,
    batch_outcomes: tuple[float, float] | None = None,
) -> Credit:
    """Computes the advantages of a batch under a preset, or under the estimator of one's own that it holds.

    Args:
        preset: what `find_preset` returned.
        config: its settings with the experiment's changes.
        rollouts: whole groups, as given to `turn_batch`.
        facts: one for each of them; read by an estimator of one's own only.
        scored: what `turn_batch` made of the rollouts.
        batch_outcomes: mean and standard deviation of the outcomes of the whole batch; None: of these.

    Raises:
        ValueError: as `assign_credit`, or the estimator failed or did not return one finite number per turn.
    """
    mean, std = batch_outcomes or (None, None)
    credit = assign_credit(scored.turns, config, batch_outcome_mean=mean, batch_outcome_std=std)
    if preset.estimator is None:
        return credit
    assert facts is not None, "an estimator of one's own reads the facts of the rollouts"
    outcomes = batch_outcomes or batch_outcome_statistics(scored.turns.outcome_N)
    advantages_M = np.zeros(scored.turns.rollout_M.size)
    for here, group in make_groups(rollouts, facts, scored, credit, config, outcomes):
        asked = f"question {_short(group.question)}"
        advantages_M[here] = _ask(preset.name, preset.estimator, group, asked)
    groups = credit.groups
    position_N = np.searchsorted(groups.group_P, scored.turns.group_N)
    nonzero_P = np.bincount(
        position_N[scored.turns.rollout_M], weights=advantages_M != 0, minlength=groups.group_P.size
    )
    return replace(credit, advantages_M=advantages_M, groups=replace(groups, collapsed_P=nonzero_P == 0))


def _ask(name: str, function: OwnEstimator, group: Group, which: str) -> np.ndarray:
    """Calls the estimator on a group, which errors call `which`, and checks its answer: float64 [M]."""
    where = f"estimator {name!r}, {which}"
    try:
        answer = function(group)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}{_alike(error)}"
        raise _EstimatorFailed(f"{where}: it failed{_place(error, function)}: {reason}") from error
    advantages_M = _flat(answer, group, where)
    bad_M = ~(np.abs(advantages_M) <= LARGEST_REWARD)
    if bad_M.any():
        turn = int(np.argmax(bad_M))
        value, rollout = advantages_M[turn], group.rollout_ids_N[group.rollout_M[turn]]
        cure = "return a finite number for every turn; gains_M is NaN on turns that bear no gain"
        cure = BEYOND if np.isfinite(value) else cure
        raise ValueError(
            f"{where}: the advantage of rollout {rollout}, turn {group.turn_M[turn]} is {value}; {cure}"
        )
    return advantages_M


def _place(error: Exception, function: OwnEstimator) -> str:
    """Where in the function's own file `error` was raised; empty where that is not known."""
    try:
        own = inspect.getsourcefile(inspect.unwrap(function))
    except TypeError:
        return ""
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if own and frame.filename == own
    ]
    return f" in {os.path.basename(own)}, line {lines[-1]}" if own and lines else ""


def _alike(error: Exception) -> str:
    """The column of a group that a misspelt one looks like, as the end of a sentence."""
    if not isinstance(error, AttributeError) or not isinstance(error.obj, Group):
        return ""
    known = [name for name in dir(error.obj) if not name.startswith("_")]
    near = difflib.get_close_matches(str(error.name), known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _flat(answer: Any, group: Group, where: str) -> np.ndarray:
    wanted = f"return one number for each of the {group.num_turns} turns, in the order of group.rollout_M"
    if isinstance(answer, Mapping | Set):  # whose order, or whose keys, would pass for advantages
        raise ValueError(f"{where}: it returned a value {_kind(answer)}; {wanted}")
    try:
        parts = [np.asarray(part, dtype=np.float64) for part in answer]
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: it returned a value {_kind(answer)}; {wanted}") from error
    if parts and all(part.ndim == 1 for part in parts):  # one array per rollout
        lengths = [part.size for part in parts]
        if lengths != group.turns_N.tolist():
            raise ValueError(
                f"{where}: it returned arrays of {_short(lengths)} numbers for rollouts of "
                f"{_short(group.turns_N.tolist())} turns"
            )
        return np.concatenate(parts)
    if any(part.ndim for part in parts):
        shape = [part.shape for part in parts]
        raise ValueError(f"{where}: it returned an array of shape {_short(shape)}; {wanted}")
    if len(parts) != group.num_turns:
        raise ValueError(f"{where}: it returned {len(parts)} numbers; {wanted}")
    return np.array(parts)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def sample_group(config: CreditConfig | None = None) -> Group:
    """Makes a small group to try an estimator on: a question of two hops, rollouts of 3, 2 and 1 turns.

    >>> from algorithms.credit import sample_group
    >>> sample_group().rollout_M
    array([0, 0, 0, 1, 1, 2])
    """
    config = config or CreditConfig()
    told = [
        ("a", 1.0, [-2.0, -1.5, -0.2], "Rome", "answered"),
        ("b", 0.0, [-2.0, -2.5], "Paris", "answered"),
        ("c", -1.0, [-2.0], None, "malformed"),
    ]
    rollouts, facts = [], []
    for name, outcome, scores, answer, termination in told:
        tool, last = len(scores) - 1, "answer" if answer else "malformed"
        rollouts.append(
            ScoredRollout(
                id=name,
                group="g",
                outcome=outcome,
                initial_scores_K=[scores[0], scores[0] - 1],
                scores_T1K=[*([score, score - 1] for score in scores[1:]), None],
                bears_gain_T=[*[True] * tool, False],
                agents_T=["searcher"] * (tool + 1),
                malformed=termination == "malformed",
            )
        )
        facts.append(
            RolloutFacts(
                question="Where was the author of Foo born?",
                golds=["Rome", "Roma"],
                scored_golds_K=["Rome", "Roma"],
                hops=2,
                evidence=["d0", "d1"],
                metadata={},
                answer=answer,
                termination=termination,
                actions_T=[*["tool"] * tool, last],
                decisions_T=[*(f"<search>step {t}</search>" for t in range(tool)), f"<answer>{answer}"],
                observations_T=[*(f"document {t}" for t in range(tool)), ""],
                queries_T=[*(f"step {t}" for t in range(tool)), None],
                document_ids_T=[*([f"d{t}"] for t in range(tool)), []],
                gold_hits_T=[*[True] * tool, False],
                decision_logps_T=[np.full(3, -0.5, np.float32)] * (tool + 1),
            )
        )
    scored = turn_batch(rollouts, config)
    credit = assign_credit(scored.turns, config)
    outcomes = batch_outcome_statistics(scored.turns.outcome_N)
    ((_, group),) = make_groups(rollouts, facts, scored, credit, config, outcomes)
    return group


def _try_on_sample(preset: Preset) -> None:
    """Raises ValueError where the estimator cannot work, before anything is trained with it.

    What only real data could explain (a missing key, a division) passes.
    """
    assert preset.estimator is not None
    try:
        _ask(preset.name, preset.estimator, sample_group(preset.credit), "on `sample_group()`")
    except _EstimatorFailed as error:
        if isinstance(error.__cause__, MISTAKES):
            raise
