"""A saved policy, opened for answering: the rollout engine and the task, without learner or Ray cluster.

`rllib evaluate`, `igpo ask` and `igpo doctor` use it. It makes rollouts with the loop that training uses.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from envs.data.question_filter import QuestionFilter
from envs.engine.models import resolve_model
from envs.errors import InputError
from pipeline.experiment.conf_files import resolve_config_path
from pipeline.experiment.experiment import load_experiment
from pipeline.experiment.own_code import changed_parts, named_parts, own_code
from pipeline.run_directory.checkpoints import EXPERIMENT, NOTE, check_checkpoint, read_note
from pipeline.run_directory.directory import metadata_in

if TYPE_CHECKING:
    from algorithms.igpo.config import IGPOConfig
    from envs.engine.lora import LoraSettings
    from envs.runner.belief import BeliefQuery
    from envs.runner.rollout_loop import RolloutLoop
    from envs.search.task import SearchTask

logger = logging.getLogger(__name__)

DEFAULT_CONFIG = "conf/igpo.yaml"
RLLIB_FILE = "rllib_checkpoint.json"


@dataclass
class Policy:
    """An opened policy."""

    source: str
    config: IGPOConfig
    task: SearchTask
    folders: dict[str, str]
    """{policy id: Hugging Face folder, of the model or of its adapters}."""
    loop: RolloutLoop

    def beliefs(self, queries: Sequence[BeliefQuery]) -> list[np.ndarray]:
        """Returns belief in the gold answers, under the experiment's alias rule. No rollout may be under way.

        Returns:
            b_t = exp(s_t) at each moment of each query, float64 [T1], in (0, 1].
        """
        from algorithms.credit import beliefs_from_scores, reduce_aliases

        rule = self.task.settings.alias_rule
        return [beliefs_from_scores(reduce_aliases(scores_T1K, rule)) for scores_T1K in self.scores(queries)]

    def scores(self, queries: Sequence[BeliefQuery]) -> list[np.ndarray]:
        """Returns the answering role's scores s_t(a), float64 [T1, K], in nats.

        No rollout may be under way.
        """
        from envs.runner.belief import PrefixScorer

        return PrefixScorer(self.loop.engines[self.task.answering_role.policy]).score(queries)


def open_policy(
    source: str, config: str | None = None, overrides: list[str] | None = None, *, trust: bool = False
) -> Policy:
    """Opens a policy and starts one engine per policy id with the saved weights.

    Args:
        source: a checkpoint, a Hugging Face folder or hub name, `tiny` or `smollm2`.
        config: the experiment file that names the task; None: the checkpoint's own, else `conf/igpo.yaml`.
        overrides: `KEY=VALUE` changes of the experiment.
        trust: run the code that the checkpoint's own experiment names.

    Raises:
        InputError: there is no policy, the checkpoint is another algorithm's, its own experiment names code
            to run, or whatever is wrong with the experiment.
    """
    checkpoint = _as_checkpoint(source)
    if checkpoint is None:
        resolve_model(source, "policy")  # so that what is wrong with it is told before the experiment is read
    own = _experiment_of(checkpoint) if checkpoint and not config else None
    if own and not trust and (named := code_named(Path(own))):
        raise InputError(
            f"{own} names code to run: {', '.join(named)}. If you trust whoever made this checkpoint, add "
            "--trust; otherwise give an experiment file of your own with --config."
        )
    path, _ = resolve_config_path(config or own or DEFAULT_CONFIG)
    experiment = load_experiment(path, overrides)
    settings = experiment.algorithm_config()
    if checkpoint and own:
        _tell_changed_parts(checkpoint, settings)
    return start_policy(settings, source, checkpoint)


def _tell_changed_parts(checkpoint: Path, config: IGPOConfig) -> None:
    """Warns of code that is not what the checkpoint's run began with, where the run is around it."""
    run = metadata_in(checkpoint.parent.parent, read_note(checkpoint).get("run_id"))
    for path in changed_parts(run, own_code(config)) if run else ():
        logger.warning(
            "the file of `%s`, or one that it imports, has changed since run %s began", path, run["run_id"]
        )


def start_policy(config: IGPOConfig, source: str, checkpoint: Path | None = None) -> Policy:
    """Starts the engines of `config`'s task with the weights of `checkpoint`, or of the model `source` for
    every policy id.
    """
    from envs.engine.build import build_engines
    from envs.engine.lora import is_adapter, read_adapter
    from envs.runner.rollout_loop import RolloutLoop
    from envs.search.task import SearchTask

    policies = sorted(config.policies)
    folders = (
        _checkpoint_folders(checkpoint, policies)
        if checkpoint
        else dict.fromkeys(policies, resolve_model(source))
    )
    saved = {policy: read_adapter(folder) for policy, folder in folders.items() if is_adapter(folder)}
    config = config.copy(copy_frozen=False)
    base = resolve_model(config.model_path) if saved else next(iter(folders.values()))
    config.model_path = base
    settings = config.env_settings().model_copy(
        update={"question_filter": QuestionFilter()}
    )  # which is for training
    task = SearchTask(settings)
    # A model has no adapters yet: each policy is the base, on the engine that will serve it.
    served = {} if checkpoint else config.adapters.served
    if config.engine_settings.serves_adapters and len(saved) > 1:
        served = {policy: lora for policy, (lora, _) in saved.items()}
    engines = build_engines(
        {policy: base if policy in saved else folder for policy, folder in folders.items()},
        config.engine_settings,
        served=served,
        max_model_len=settings.max_context_tokens + 1,
        dtype=config.model_dtype,
        seed=config.seed,
        reads_text=bool(task.protocol.stop_strings),
        trust_remote_code=config.trust_remote_code,
    )
    for policy, engine in engines.items():
        adapters = saved.get(policy)
        if policy in served:
            engine.load_weights(adapters[1] if adapters else {}, version=0)
        else:
            engine.load_weights(
                _whole_model(config, base if adapters else folders[policy], adapters), version=0
            )
    return Policy(source, config, task, folders, RolloutLoop(task, engines))


def _whole_model(
    config: IGPOConfig, folder: str, adapters: tuple[LoraSettings, dict[str, Any]] | None
) -> dict[str, Any]:
    """The weights of the model in `folder`, with adapters merged where there are some."""
    from algorithms.igpo.model.causal_lm import DTYPES, load_causal_lm
    from algorithms.igpo.model.lora import add_lora, merged_weights, set_adapters

    model = load_causal_lm(folder, DTYPES[config.model_dtype], config.trust_remote_code)
    if adapters is None:
        return dict(model.state_dict())
    lora, tensors = adapters
    add_lora(model, lora)
    set_adapters(model, tensors)
    return {name: tensor.detach() for name, tensor in merged_weights(model)}


def code_named(experiment: Path) -> list[str]:
    """The code that an experiment file would have run: functions by import path, a model's own code.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        content = yaml.safe_load(experiment.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{experiment}: this file is damaged ({type(error).__name__}).") from error
    found: list[str] = []
    for keys in content.values() if isinstance(content, dict) else ():
        config = _mapping(_mapping(keys).get("config"))
        found += [path for _, path in named_parts(_mapping(config.get("env_config")), config.get("preset"))]
        if config.get("trust_remote_code"):
            found.append("trust_remote_code (the model's own)")
    return found


def _mapping(value: Any) -> dict[str, Any]:
    """`value` where it is a mapping, else an empty one: the file may hold anything."""
    return value if isinstance(value, dict) else {}


def _as_checkpoint(source: str) -> Path | None:
    """Returns the folder, if `source` is a checkpoint of IGPO; None if it is a model.

    Raises `InputError` for another algorithm's.
    """
    folder = Path(source).expanduser()
    if folder.is_file():
        raise InputError(f"{source} is a file; give the folder of a checkpoint or of a Hugging Face model.")
    if not folder.is_dir():
        return None
    folder = folder.resolve()
    if (folder / NOTE).is_file():
        check_checkpoint(folder, "hf/")
        check_checkpoint(folder, EXPERIMENT)
    elif not (folder / RLLIB_FILE).is_file():
        return None
    if not (folder / "hf").is_dir():
        raise InputError(f"{source}: this checkpoint has no `hf` folder, so it is not one of IGPO's.")
    return folder


def _experiment_of(checkpoint: Path) -> str | None:
    file = checkpoint / EXPERIMENT
    return str(file) if file.is_file() else None


def _checkpoint_folders(checkpoint: Path, policies: list[str]) -> dict[str, str]:
    saved = sorted(item.name for item in (checkpoint / "hf").iterdir())
    if saved != policies:
        raise InputError(
            f"{checkpoint}: it holds the policies {', '.join(saved)}, but the experiment's roles speak "
            f"through {', '.join(policies)}; give the experiment file that it was trained with (--config)."
        )
    return {policy: str(checkpoint / "hf" / policy) for policy in policies}
