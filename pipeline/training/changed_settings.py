"""Whether a run may go on under a configuration: the one that it began with, or one with wider limits."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from envs.errors import InputError
from envs.settings import dotted
from pipeline.experiment.experiment import experiments_of
from pipeline.experiment.resolved import config_hash, read_run_config, resolved_settings, settings_of_run
from pipeline.run_directory.directory import RunDirectory

LIMITS = (
    "env_config.max_answer_tokens",
    "env_config.max_context_tokens",
    "env_config.max_observation_tokens",
    "env_config.max_turn_tokens",
    "env_config.max_turns",
    "tokens_per_micro_batch",
)
"""Settings that a resumed run may raise: a run that met a limit can go on, and what it did stays valid."""
END = ("stop", "time_budget_s")
"""The keys that say when a run ends."""


@dataclass(frozen=True)
class Change:
    """How a configuration differs from a run's."""

    refused: str | None = None
    """At most three changes that a run cannot go on under, in words; None where there are none."""
    widened: dict[str, list[Any]] = field(default_factory=dict)
    """Limits that are wider now: setting to [before, now]."""


def changed_settings(run: RunDirectory, resolved: dict) -> Change:
    """How `resolved` differs from the configuration of `run`, which is in its `config.yaml`.

    Only `config` is compared: `stop` and the places of files may change. A run of an earlier version is
    resolved again first, because that version wrote its configuration in another form.

    Raises:
        InputError: the run's configuration is damaged, or this version cannot read it.
    """
    (keys,) = resolved.values()
    read_run_config(run.config_path)  # checkpoints get a copy of it: it must be whole
    if run.metadata.get("config_hash") == config_hash(keys["config"]):
        return Change()
    before, now = dotted(_settings_in_force(run)), dotted(keys["config"])
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    widened = {
        key: [before[key], now[key]]
        for key in changed
        if key in LIMITS and key in before and key in now and now[key] > before[key]
    }
    refused = [key for key in changed if key not in widened]
    words = ", ".join(f"`{key}` ({before.get(key)!r} -> {now.get(key)!r})" for key in refused[:3])
    return Change(words or None, widened)


def goes_further(run: RunDirectory, resolved: dict) -> bool:
    """Whether a finished run has more to do by `resolved`: another end than it had, not reached yet.

    Raises:
        InputError: the run's configuration is damaged.
    """
    (now,) = resolved.values()
    _, before = read_run_config(run.config_path)
    last = now["stop"].get("training_iteration")
    return _end(now) != _end(before) and (last is None or last > run.metadata["iteration"])


def take_over(run: RunDirectory, resolved: dict, widened: dict[str, list[Any]]) -> None:
    """Makes another end and wider limits the run's own: in its `config.yaml`, which its checkpoints copy.

    Where `resolved` says no end, as that of a run which Python drives, the run keeps the one that it has. A
    note in `run.json` lists, for each resume that widened something, the attempt and the limits.
    """
    (now,) = resolved.values()
    name, before = read_run_config(run.config_path)
    end = _end(now) or _end(before)
    if widened or end != _end(before):
        keys = now if widened else before
        run.replace_config({name: {key: keys[key] for key in keys if key not in END} | end})
    if widened:
        metadata = run.metadata
        attempt = len(metadata["attempts"]) + 1
        notes = [*metadata.get("widened_limits", []), {"attempt": attempt, "limits": widened}]
        run.note(widened_limits=notes, config_hash=config_hash(now["config"]))


def _end(keys: dict) -> dict[str, Any]:
    return {key: keys[key] for key in END if keys.get(key)}


def _settings_in_force(run: RunDirectory) -> dict[str, Any]:
    try:
        name, keys = settings_of_run(run.config_path)
        (experiment,) = experiments_of(name, keys, run.config_path)
        return resolved_settings(experiment.algorithm_config())
    except InputError as error:
        version = run.metadata.get("versions", {}).get("igpo-rllib", "of unknown version")
        raise InputError(
            f"run {run.path} was made by igpo-rllib {version}, whose configuration this version cannot "
            f"resume: {error}"
        ) from error
