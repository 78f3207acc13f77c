"""Offline re-credit: computes another estimator's advantages for the turns of a finished run.

The log holds belief per alias and at full precision, so it suffices: no torch, Ray or model. Settings of the
loss (ratios, clipping, aggregation, resampling) acted on the policy and cannot be replayed; the result names
them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from algorithms.credit import (
    CREDIT_FIELDS,
    Credit,
    CreditConfig,
    Preset,
    ScoredRollout,
    find_preset,
    turn_batch,
    without_removed,
)
from algorithms.credit.config import AliasRule, require_credit_fields
from algorithms.credit.own_estimator import assign
from envs.durable import write_file
from pipeline.analysis.locate import AnalysisError
from pipeline.analysis.logged_facts import logged_facts
from pipeline.analysis.run import Run
from pipeline.analysis.tables_beside import RECREDITS
from pipeline.experiment.experiment import IMPORT
from pipeline.experiment.own_code import named_parts

_ROLLOUTS = """
    SELECT run_id, group_id, episode_id, outcome, termination, initial_scores, scorer,
        coalesce(len(scored_golds), 0) = 0 AS without_belief,
        list_contains(scored_golds[1:1], golds[1]) AS first_gold_is_scored, trained.turns
    FROM episodes JOIN (
        SELECT episode_id, list({{turn_index: turn_index, agent: agent, scores: scores, advantage: advantage,
            bears_gain: NOT is_final AND action <> 'cut_off'}} ORDER BY turn_index) AS turns
        FROM turns WHERE split = 'train' AND iteration = {iteration}
        GROUP BY episode_id HAVING count(advantage) = count(*)
    ) AS trained USING (episode_id)
    WHERE split = 'train' AND iteration = {iteration}
    ORDER BY group_id, episode_id
"""
"""The rollouts that training used, with their turns in time order; those of dropped groups have no advantage.
"""


RUN_SETTINGS = "run_settings"
"""Name of the estimator that the run was trained with."""


@dataclass(frozen=True)
class Estimator:
    """An estimator to recredit with."""

    name: str
    """The preset's name, or `RUN_SETTINGS`; changed settings follow: `a2tgpo,gamma=0.95`."""
    credit: CreditConfig
    alias_rule: AliasRule
    penalties: dict[str, float]
    """Outcome by termination, where a preset brings its own penalties; the logged outcome everywhere else."""
    scorer: str | None
    """Whose belief the estimator is defined on, `current` or `reference`; None: whatever was logged."""
    not_replayed: dict[str, Any]
    """The preset's settings of the loss and of sampling, which had no part in this."""
    preset: Preset
    """May hold an estimator of one's own."""
    of_import: bool = False
    """Whether the rollouts were imported: what their log lacks, another import logs, and no training."""

    @property
    def words(self) -> str:
        """The name as people read it."""
        first, *changes = self.name.split(",")
        return ", ".join(["the run's own settings" if first == RUN_SETTINGS else first, *changes])

    def cure(self, setting: str, value: str) -> str:
        """What logs the column that depends on a setting of training."""
        if not self.of_import:
            return f"train with `{setting}: {value}` to log it"
        model = " --model REFERENCE" if self.scorer == "reference" else ""
        return f"import the rollouts again, with `igpo import ...{model} --preset {self.preset.name}`"


def choose_estimator(
    run: Run, preset: str | None = None, changes: dict[str, Any] | None = None, *, trust: bool = False
) -> Estimator:
    """`preset` (None: the run's own estimator) with `changes` of `CreditConfig` settings.

    Raises AnalysisError for an unknown preset or setting, a value out of range, a run whose settings are not
    logged, or whose own estimator is code that is not to run (`trust`).
    """
    changes = changes or {}
    resolved = _resolved(run)
    settings = _settings(resolved)
    if not (preset or trust) and (own := named_parts({}, settings["preset"])):
        raise AnalysisError(
            f"the run's own estimator is code: {own[0][1]}. If you trust whoever made this run, add "
            "--trust; otherwise name an estimator with --preset."
        )
    try:
        require_credit_fields(changes)
        base: Preset = find_preset(preset or settings["preset"])
    except ValueError as error:
        raise AnalysisError(str(error)) from error
    kept = {name: settings[name] for name in CREDIT_FIELDS if settings.get(name) is not None}
    credit = credit_config({**asdict(base.credit), **({} if preset else kept), **changes})
    env = base.env if preset else {}
    penalties = {
        "malformed": "format_penalty",
        "turn_limit": "truncation_penalty",
        "token_limit": "truncation_penalty",
    }
    batch: dict[str, Any] = {"dynamic_sampling": True} if base.dynamic_sampling else {}
    batch |= {"updates_per_batch": "several"} if base.needs_several_updates else {}
    return Estimator(
        name=",".join([preset or RUN_SETTINGS, *(f"{name}={value}" for name, value in changes.items())]),
        credit=credit,
        alias_rule=env.get("alias_rule", settings["env_config"]["alias_rule"]),
        penalties={termination: env[name] for termination, name in penalties.items() if name in env},
        scorer=base.belief_policy if preset and credit.reads_belief else None,
        not_replayed={**base.loss_changes, **batch} if preset else {},
        preset=base,
        of_import=resolved.get("run") == IMPORT,
    )


def credit_config(values: dict[str, Any]) -> CreditConfig:
    """`CreditConfig(**values)`; AnalysisError for a value of the wrong type or out of range."""
    try:
        return TypeAdapter(CreditConfig).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        name = f"{first['loc'][0]}={first['input']!r}: " if first["loc"] else ""
        raise AnalysisError(name + first["msg"].removeprefix("Value error, ")) from error


def _resolved(run: Run) -> dict[str, Any]:
    """The run's resolved experiment."""
    ((text,),) = run.sql("SELECT config FROM runs ORDER BY attempt DESC LIMIT 1").fetchall()
    return json.loads(text or "{}")


def _settings(resolved: dict[str, Any]) -> dict[str, Any]:
    """Its `config`."""
    settings = resolved.get("config", {})
    if "preset" not in settings or "env_config" not in settings:
        raise AnalysisError(
            "`runs.config` does not hold the settings of this run: it was not written by `rllib train`"
        )
    try:
        return without_removed(settings)
    except ValueError as error:
        raise AnalysisError(f"the run's `config` cannot be credited again: {error}") from error


def iterations(run: Run) -> list[int]:
    """Returns the training iterations of a run, in order."""
    return [
        row[0]
        for row in run.sql(
            "SELECT DISTINCT iteration FROM episodes WHERE split = 'train' ORDER BY 1"
        ).fetchall()
    ]


def recredit(
    run: Run, estimator: Estimator, out: Path, on_done: Callable[[int], object] = lambda iteration: None
) -> None:
    """Writes the table of `RECREDITS` to `out`, which appears when it is complete. `on_done` is called after
    each iteration.

    Raises AnalysisError where the log lacks what the estimator needs.
    """
    schema = RECREDITS.schema.with_metadata(
        {"estimator": estimator.name, "credit": json.dumps(asdict(estimator.credit))}
    )
    parts = []
    for iteration in iterations(run):
        rollouts = run.sql(_ROLLOUTS.format(iteration=iteration)).to_arrow_table().to_pylist()
        if rollouts:
            check_inputs(rollouts, estimator, iteration)
            try:
                scored = [scored_rollout(rollout, estimator) for rollout in rollouts]
                batch = turn_batch(scored, estimator.credit, estimator.alias_rule)
                names = [rollout["episode_id"] for rollout in rollouts]
                facts = logged_facts(run, iteration, names) if estimator.preset.estimator else None
                credit = assign(estimator.preset, estimator.credit, scored, facts, batch)
            except ValueError as error:
                raise AnalysisError(f"iteration {iteration} cannot be credited: {error}") from error
            parts.append(_table(rollouts, iteration, credit, schema))
        on_done(iteration)
    if not parts:
        raise AnalysisError("this log has no turn with an advantage: there is nothing to recredit")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        write_file(out, lambda file: pq.write_table(pa.concat_tables(parts), file, compression="zstd"))
    except OSError as error:
        raise AnalysisError(f"{out}: this file cannot be written: {error.strerror or error}") from error


def check_inputs(rollouts: list[dict[str, Any]], estimator: Estimator, iteration: int) -> None:
    """Raises AnalysisError naming the column that the log lacks and the setting that logs it."""
    if not estimator.credit.reads_belief:
        return
    for rollout in rollouts:
        if rollout["without_belief"]:
            continue
        where = f"for episode {rollout['episode_id']} of iteration {iteration}"
        if estimator.scorer not in (None, rollout["scorer"]):
            raise AnalysisError(
                f"{estimator.words} needs belief scored by the {estimator.scorer} policy, but "
                f"`episodes.scorer` is {rollout['scorer']!r} {where}: "
                f"{estimator.cure('belief_policy', estimator.scorer)}"
            )
        if rollout["initial_scores"] is None:
            raise AnalysisError(
                f"{estimator.words} needs `episodes.initial_scores`, which is null {where}: "
                f"{estimator.cure('belief_policy', estimator.scorer or 'current')}"
            )
        unscored = [
            turn["turn_index"] for turn in rollout["turns"] if turn["bears_gain"] and turn["scores"] is None
        ]
        if unscored:
            raise AnalysisError(
                f"{estimator.words} needs `turns.scores`, which is null {where}, turn {unscored[0]}: "
                f"{estimator.cure('belief_policy', estimator.scorer or 'current')}"
            )
        if estimator.alias_rule == "first" and not rollout["first_gold_is_scored"]:
            raise AnalysisError(
                f"{estimator.words} scores the first gold answer, which is not in `episodes.scored_golds` "
                f"{where}: {estimator.cure('env_config.alias_rule', 'first')}"
            )


def scored_rollout(rollout: dict[str, Any], estimator: Estimator) -> ScoredRollout:
    """Returns the part of a logged rollout that credit reads."""
    turns = rollout["turns"]
    return ScoredRollout(
        id=rollout["episode_id"],
        group=rollout["group_id"],
        outcome=estimator.penalties.get(rollout["termination"], rollout["outcome"]),
        initial_scores_K=rollout["initial_scores"],
        scores_T1K=[turn["scores"] for turn in turns],
        bears_gain_T=[turn["bears_gain"] for turn in turns],
        agents_T=[turn["agent"] for turn in turns],
        malformed=rollout["termination"] == "malformed",
        turn_limit=rollout["termination"] == "turn_limit",
        answered=rollout["termination"] == "answered",
        without_belief=rollout["without_belief"],
    )


def _table(rollouts: list[dict[str, Any]], iteration: int, credit: Credit, schema: pa.Schema) -> pa.Table:
    turns = [(rollout, turn) for rollout in rollouts for turn in rollout["turns"]]
    columns = {
        "iteration": [iteration] * len(turns),
        **{name: [rollout[name] for rollout, _ in turns] for name in ("run_id", "group_id", "episode_id")},
        **{name: [turn[name] for _, turn in turns] for name in ("turn_index", "agent")},
        "gain": pa.array(credit.gains_M, from_pandas=True),
        "normalised_gain": pa.array(credit.normalised_gains_M, from_pandas=True),
        "clip_scale": credit.clip_scale_M,
        "advantage_logged": [turn["advantage"] for _, turn in turns],
        "advantage": credit.advantages_M,
    }
    return pa.table(columns, schema=schema)
