"""Whether a run may go on under a configuration: it must be the one that the run began with."""

from __future__ import annotations

from typing import Any

from envs.errors import InputError
from pipeline.experiment.experiment import experiments_of
from pipeline.experiment.resolved import config_hash, read_run_config, resolved_settings, settings_of_run
from pipeline.run_directory.directory import RunDirectory


def changed_settings(run: RunDirectory, resolved: dict) -> str | None:
    """The settings in which `resolved` differs from the configuration that `run` began with.

    Only `config` is compared: `stop` and the places of files may change. A run of an earlier version is
    resolved again first, because that version wrote its configuration in another form.

    Returns:
        At most three changes in words; None where nothing changed.

    Raises:
        InputError: the run's configuration is damaged, or this version cannot read it.
    """
    (keys,) = resolved.values()
    read_run_config(run.config_path)  # checkpoints get a copy of it: it must be whole
    if run.metadata.get("config_hash") == config_hash(keys["config"]):
        return None
    before, now = _flat(_settings_in_force(run)), _flat(keys["config"])
    changed = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    return ", ".join(f"`{key}` ({before.get(key)!r} -> {now.get(key)!r})" for key in changed[:3]) or None


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


def _flat(values: dict, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
