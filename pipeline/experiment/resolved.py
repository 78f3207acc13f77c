"""The resolved configuration of a run: all settings with the values in force, and their hash."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from algorithms.igpo.setting_names import WITHOUT_EFFECT
from envs.errors import InputError

if TYPE_CHECKING:
    from algorithms.igpo.config import IGPOConfig

_MISSING = object()


def resolved_settings(config: IGPOConfig) -> dict[str, Any]:
    """Every setting that `config:` of an experiment file may hold, with the value in force (imports Ray).

    What the preset decided is written out: credit, loss, scoring, environment and updates per batch. A
    setting whose value in force is None (no window, no dual clip) is left out. Read as `config:` of an
    experiment file, the answer makes the same run.

    Args:
        config: a validated configuration.

    Returns:
        Values that YAML and JSON can write. Settings that are code are left out, and so are RLlib's own where
        they have RLlib's default.
    """
    from algorithms.igpo.config import IGPOConfig

    known, inherited, always = known_config_keys(IGPOConfig()), _inherited(), _changed_defaults()
    settings = {
        key: value
        for key, value in _plain(config).items()
        if key in known - {"env"} and (key in always or inherited.get(key, _MISSING) != value)
    }
    scoring = config.belief_scoring
    decided = {
        **asdict(config.credit_config()),
        **asdict(config.loss_settings()),
        "belief_policy": scoring.policy,
        "belief_method": scoring.method,
        "num_epochs": config.num_epochs,
        "num_minibatches": config.num_minibatches,
    }
    settings = {key: value for key, value in settings.items() if key not in decided} | {
        key: value for key, value in decided.items() if value is not None
    }
    settings["env_config"] = config.search_settings.model_dump(mode="json", exclude_none=True)
    return settings


def settings_of_run(config_path: Path) -> tuple[str, dict[str, Any]]:
    """Name and experiment keys of a run's `config.yaml`, also of one that an earlier version wrote.

    Earlier versions left out every setting that had RLlib's default, even where IGPO has another one, and
    wrote null for what the preset decided.
    """
    from algorithms.igpo.config import IGPOConfig

    name, keys = read_run_config(config_path)
    known, inherited = known_config_keys(IGPOConfig()), _inherited()
    written = {key: value for key, value in keys["config"].items() if value is not None or key in known}
    left_out = {key: inherited[key] for key in _changed_defaults() - written.keys()}
    return name, {**keys, "config": {**left_out, **written}}


def read_run_config(config_path: Path) -> tuple[str, dict[str, Any]]:
    """Name and experiment keys as a run's `config.yaml` holds them.

    Raises:
        InputError: the file cannot be read, or was cut off or damaged.
    """
    import yaml

    remedy = "restore it from a copy, such as checkpoints/last/experiment.yaml"
    try:
        content = yaml.safe_load(config_path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{config_path}: this file cannot be read: {error.strerror}.") from error
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        reason = getattr(error, "problem", None) or "it is not text"
        raise InputError(f"{config_path}: this file is damaged ({reason}): {remedy}.") from error
    keys = next(iter(content.values())) if isinstance(content, dict) and len(content) == 1 else None
    # `storage_path` is written after `config`: a file without it was cut off before.
    if not isinstance(keys, dict) or not isinstance(keys.get("config"), dict) or "storage_path" not in keys:
        raise InputError(f"{config_path}: this file is damaged (the settings end too early): {remedy}.")
    return next(iter(content)), keys


def config_hash(settings: dict[str, Any]) -> str:
    """12 hexadecimal digits of SHA-256 that name what a run computes.

    The same value stands in `run.json`, in `runs` and `episodes` of the rollout log, and in MLflow.

    Args:
        settings: `config` of a resolved experiment (`resolved_settings`). Name, place and stopping point of
            the run have no part in it.
    """
    text = json.dumps(settings, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def known_config_keys(config: IGPOConfig) -> set[str]:
    """Every key that `config:` may hold: public settings of `IGPOConfig`, but not those RLlib abolished or
    IGPO ignores.
    """
    return {
        key
        for key, value in vars(config).items()
        if not key.startswith("_") and not _is_abolished(value) and key not in WITHOUT_EFFECT
    }


def _inherited() -> dict[str, Any]:
    from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

    return _plain(AlgorithmConfig())


def _changed_defaults() -> set[str]:
    """RLlib's settings for which IGPO has another default than RLlib; without `env`, which is fixed."""
    from algorithms.igpo.config import IGPOConfig

    ours, inherited = _plain(IGPOConfig()), _inherited()
    return {key for key in inherited.keys() & ours.keys() if ours[key] != inherited[key]} - {"env"}


def _plain(config: Any) -> dict[str, Any]:
    """The public settings of an RLlib config that JSON can write."""
    plain = {}
    for key, value in vars(config).items():
        if key.startswith("_") or _is_abolished(value):
            continue
        try:
            plain[key] = json.loads(json.dumps(getattr(config, key)))
        except (TypeError, ValueError):
            continue
    return plain


def _is_abolished(value: Any) -> bool:
    """RLlib marks settings that it no longer has by -1."""
    return isinstance(value, int) and not isinstance(value, bool) and value == -1
