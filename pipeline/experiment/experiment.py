"""From an experiment file to validated `Experiment`s, one per run.

The format is RLlib's: `{NAME: {run: IGPO, env: search, stop: {...}, config: {...}, num_samples: 1,
checkpoint_config: {...}}}`, or a Python file with a variable `config` (an `IGPOConfig`) and optionally
`stop`. With `extends: OTHER.yaml` an experiment states only its differences. Everything is checked here,
before Ray starts; the schema is checked before Ray is even imported.
"""

from __future__ import annotations

import dataclasses
import re
import runpy
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from algorithms.credit import CreditConfig, find_preset, without_removed
from algorithms.igpo.bounds import check_number
from algorithms.igpo.loss_settings import LossSettings
from envs.credentials import refuse_credentials_in
from envs.engine.base import EngineSettings
from envs.engine.lora import LoraSettings
from envs.errors import InputError
from envs.search.config import SearchEnvSettings
from pipeline.experiment import file as experiment_file
from pipeline.experiment.catalogue import catalogue
from pipeline.experiment.conf_files import resolve_config_path
from pipeline.experiment.keys import (
    EXPERIMENT_KEYS,
    TUNE_ONLY_KEYS,
    check_config_keys,
    check_keys,
    check_policies,
    check_types,
    shown,
    usable,
    validated,
)
from pipeline.experiment.naming import Given
from pipeline.experiment.resolved import resolved_settings
from pipeline.experiment.run_settings import CheckpointSettings, RunSettings
from pipeline.experiment.stop import stop_criteria
from pipeline.rollout_log.folder import absolute
from pipeline.run_directory.remote import places_of
from pipeline.tracking.settings import TrackingSettings

if TYPE_CHECKING:
    from algorithms.igpo.config import IGPOConfig

ALGORITHM = "IGPO"
IMPORT = "import"
"""What `run` says of rollouts that `igpo import` took."""
ENVIRONMENT = "search"


@dataclass(frozen=True)
class Experiment:
    """One run to be made: a name, what RLlib is given, and when to stop.

    `config` holds flat `IGPOConfig` keys.
    """

    name: str
    source: Path
    config: dict[str, Any]
    env_settings: SearchEnvSettings
    stop: dict[str, float] = field(default_factory=dict)
    checkpoint: CheckpointSettings = field(default_factory=CheckpointSettings)
    mlflow: TrackingSettings = field(default_factory=TrackingSettings)
    storage_path: Path = Path("runs")
    remote: str | None = None
    """The file's `storage_path`, where that is a URL: runs are written to its mirror here, and uploaded."""
    rollout_log: str | None = None
    """Folder or URL (of any file system that fsspec or pyarrow knows) of the runs' logs; None: in the run's
    own folder."""
    restore: Path | None = None
    time_budget_s: float | None = None
    choices: dict[str, Any] = field(default_factory=dict)
    """The grid's choices that made this run, dotted key -> value; empty without `grid_search`."""
    sample: int = 0
    base: IGPOConfig | None = None
    """The configuration of a Python experiment file, else None."""

    @property
    def label(self) -> str:
        """The choices that distinguish this run from its siblings: `lr=1e-05, sample 2`, or empty."""
        parts = [f"{key}={value}" for key, value in self.choices.items()]
        return ", ".join(parts + ([f"sample {self.sample}"] if self.sample else []))

    def algorithm_config(self) -> IGPOConfig:
        """A new, validated `IGPOConfig` (imports Ray).

        Raises:
            InputError: an unknown key, or a value that the configuration refuses.
        """
        from algorithms.igpo.config import IGPOConfig

        config = self.base.copy(copy_frozen=False) if self.base is not None else IGPOConfig()
        where = str(self.source)
        with usable(where):
            preset = find_preset(str(self.config.get("preset", config.preset)))
        loss = LossSettings(**preset.loss_changes)
        given = {
            key: value
            for key, value in self.config.items()
            if value is not None or vars(config).get(key) is not None
        }
        defaults = {**vars(config), **dataclasses.asdict(preset.credit), **dataclasses.asdict(loss)}
        check_types(given, {**defaults, "num_minibatches": preset.num_minibatches}, where)
        with usable(where):
            config.update_from_dict({**self.config, "env": ENVIRONMENT})
        if any(key.startswith("evaluation/") for key in self.stop) and not config.evaluation_interval:
            raise InputError(
                f"{where}: `stop` waits for a held-out score, so `config.evaluation_interval` must be set."
            )
        with usable(where):
            config.validate()
        if "igpo/kl" in self.stop and not config.policies_with_kl:
            raise InputError(
                f"{where}: `stop` waits for igpo/kl, which nobody measures where `config.kl_coeff` is 0."
            )
        return config

    def resolved(self) -> dict:
        """This run as an experiment file that `rllib train file` takes, with every value in force (imports
        Ray).
        """
        keys: dict[str, Any] = {"run": ALGORITHM, "env": ENVIRONMENT, "stop": dict(self.stop)}
        keys["config"] = resolved_settings(self.algorithm_config())
        keys["checkpoint_config"] = self.checkpoint.model_dump()
        keys["mlflow"] = self.mlflow.model_dump(exclude_none=True)
        keys["storage_path"] = self.remote or str(self.storage_path)
        if self.rollout_log:
            keys["rollout_log"] = self.rollout_log
        if self.restore:
            keys["restore"] = str(self.restore)
        if self.time_budget_s:
            keys["time_budget_s"] = self.time_budget_s
        return {self.name: keys}


def load_experiments(
    path: str | Path,
    overrides: list[str] | None = None,
    stop: dict | None = None,
    name: str | None = None,
) -> list[Experiment]:
    """The runs that an experiment file asks for, in the order in which they are made.

    Args:
        path: the file, or the name of one that ships with the package.
        overrides: `KEY=VALUE` assignments of `--set`.
        stop: criteria, merged over the file's own.
        name: the experiment's name; None: the file's, and what `overrides` change of the method.

    Raises:
        InputError: the schema refuses a key or value. `Experiment.algorithm_config()` checks the rest.
    """
    source, _ = resolve_config_path(path)
    if source.suffix == ".py":
        base, keys = _read_python(source)
        named = {source.stem: keys}
    elif source.suffix in (".yaml", ".yml"):
        base, named = None, experiment_file.read_experiment_file(source)
    else:
        raise InputError(f"{source}: an experiment file ends in .yaml, .yml or .py.")
    experiments = []
    for own_name, keys in named.items():
        given = Given.of(keys, name, alone=len(named) == 1)
        for assignment in overrides or []:
            _check_preset_has_effect(keys, assignment, source)
            experiment_file.apply_override(keys, assignment, EXPERIMENT_KEYS)
        if stop:
            keys["stop"] = {**(keys.get("stop") or {}), **stop}
        experiments += experiments_of(given.name_of(own_name, keys), keys, source, base)
    return experiments


def load_experiment(path: str | Path, overrides: list[str] | None = None) -> Experiment:
    """The one run that an experiment file asks for, as `load_experiments`.

    Raises:
        InputError: as `load_experiments`, or the file asks for several runs.
    """
    experiments = load_experiments(path, overrides)
    if len(experiments) > 1:
        shown = "; ".join(f"{one.name} {one.label}".strip() for one in experiments[:3])
        raise InputError(
            f"{path} asks for {len(experiments)} runs ({shown}{'; ...' if len(experiments) > 3 else ''}) and "
            "this command looks at one: choose with --set KEY=VALUE (of several samples: --set "
            "num_samples=1), or give a file of one experiment."
        )
    return experiments[0]


def _check_preset_has_effect(keys: dict, assignment: str, source: Path) -> None:
    """Raises InputError for a preset over a resolved configuration, whose settings would all win."""
    stated = {field.name for field in dataclasses.fields(CreditConfig) if field.default is not None}
    if assignment.partition("=")[0].strip() == "preset" and stated <= (keys.get("config") or {}).keys():
        raise InputError(
            f"--set {assignment}: {source} is the resolved configuration of a run and states all settings "
            "of its estimator, so another preset changes none of them: set it over the experiment's file."
        )


def check_name(name: str, where: str) -> None:
    """Raises InputError for a name that can be no folder."""
    if not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", name):
        raise InputError(
            f"{where}: an experiment's name becomes a folder: use letters, digits, `_`, `-`, `.` and `+`."
        )


def experiments_of(name: str, keys: dict, source: Path, base: IGPOConfig | None = None) -> list[Experiment]:
    """The runs that experiment `name` with `keys` asks for. `source` is the file that errors name.

    Raises:
        InputError: an unknown key or a value that the schema refuses.
    """
    where = f"{source} ({name})"
    check_name(name, where)
    for key in keys:
        if key in TUNE_ONLY_KEYS:
            raise InputError(
                f"{where}: `{key}` belongs to Ray Tune's trial scheduling, which `rllib train file` does "
                "not use; remove it."
            )
    check_keys(keys, EXPERIMENT_KEYS, "", where)
    if keys.get("run") == IMPORT:
        raise InputError(
            f"{where}: its rollouts were imported, so there is nothing to train or to run again."
        )
    if keys.get("run") != ALGORITHM:
        raise InputError(f"{where}: `run` must be `{ALGORITHM}`, found {shown(keys.get('run'))}.")
    config = keys.get("config") or {}
    if not isinstance(config, dict):
        raise InputError(f"{where}: `config` must hold keys, found {shown(config)}.")
    try:
        config = without_removed(config)
    except ValueError as error:
        raise InputError(f"{where}: {error}; leave it out.") from error
    for env in (keys.get("env"), config.pop("env", None)):
        if env not in (None, ENVIRONMENT):
            raise InputError(f"{where}: `env` must be `{ENVIRONMENT}`, found {shown(env)}.")
    run = validated(
        RunSettings, {key: keys[key] for key in RunSettings.model_fields if key in keys}, "", where
    )
    shared: dict[str, Any] = {
        "name": name,
        "source": source,
        "stop": stop_criteria(keys.get("stop") or {}, where),
        "mlflow": validated(TrackingSettings, keys.get("mlflow") or {}, "mlflow", where),
        "checkpoint": validated(
            CheckpointSettings, keys.get("checkpoint_config") or {}, "checkpoint_config", where
        ),
        **places_of(run.storage_path),
        "rollout_log": run.rollout_log and absolute(run.rollout_log),
        "restore": Path(run.restore).expanduser() if run.restore else None,
        "time_budget_s": run.time_budget_s,
        "base": base,
    }
    check_config_keys(config, where)
    experiments = []
    for variant, choices, sample in experiment_file.expand_variants(config, run.num_samples):
        settings = validated(SearchEnvSettings, variant.get("env_config") or {}, "config.env_config", where)
        validated(EngineSettings, variant.get("engine") or {}, "config.engine", where)
        given = {key: value for key, value in variant.items() if value is not None}
        check_types(given, {path: one.default for path, one in catalogue().items()}, where)
        with usable(where):
            find_preset(str(variant.get("preset", "igpo")))
            for key, value in given.items():
                if isinstance(value, int | float):  # `lr` may be a schedule
                    check_number(key, value)
        if variant.get("lora") is not None:
            validated(LoraSettings, variant["lora"], "config.lora", where)
        check_policies(variant, where)
        refuse_credentials_in(variant, f"{where}: config")
        experiments.append(
            Experiment(config=variant, env_settings=settings, choices=choices, sample=sample, **shared)
        )
    return experiments


def _read_python(source: Path) -> tuple[IGPOConfig, dict]:
    try:
        variables = runpy.run_path(str(source), run_name="experiment")
    except InputError:
        raise
    except Exception as error:  # a user's own file may fail in any way; the message says where and why
        raise InputError(f"{source}: running this file failed: {type(error).__name__}: {error}") from error
    from algorithms.igpo.config import IGPOConfig

    config, stop = variables.get("config"), variables.get("stop") or {}
    if not isinstance(config, IGPOConfig):
        raise InputError(
            f"{source}: it must set a variable `config` to an IGPOConfig, found {type(config).__name__}."
        )
    return config, {"run": ALGORITHM, "stop": stop, "config": {"env_config": dict(config.env_config)}}
