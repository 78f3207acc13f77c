"""Another run with the engines of the one before: `igpo study` does it for every cell; Tune would call it
reuse of actors.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from envs.engine.models import resolve_model

if TYPE_CHECKING:
    from algorithms.igpo.algorithm import IGPO
    from algorithms.igpo.config import IGPOConfig


def fits_engines(old: IGPOConfig, new: IGPOConfig) -> bool:
    """Whether engines that were built for `old` serve `new`."""
    return _engine_keys(old) == _engine_keys(new)


def start_over(algorithm: IGPO, config: IGPOConfig) -> None:
    """Fresh weights, optimizer, cursor, counters and task, all of `config`, around the engines that run
    already.
    """
    config = config.copy(copy_frozen=False)
    config.validate()
    config.freeze()
    algorithm.config = config
    group = algorithm.env_runner_group
    expected = group.num_healthy_env_runners()
    done = group.foreach_env_runner(lambda runner: runner.start_over(config))  # ty: ignore[missing-attribute]
    if len(done) != expected:
        raise RuntimeError(
            f"{expected - len(done)} of {expected} env runners could not start over: see their logs"
        )
    spaces = algorithm.env_runner_group.get_spaces()
    algorithm.learner_group.shutdown()
    algorithm.learner_group = config.build_learner_group(
        rl_module_spec=config.get_multi_rl_module_spec(spaces=spaces, inference_only=False)
    )
    algorithm.metrics = MetricsLogger(root=True, stats_cls_lookup=config.stats_cls_lookup)  # ty: ignore[invalid-argument-type]
    # Tune's `Trainable.reset` does this after `reset_config`; here the algorithm is used without Tune, too.
    algorithm._iteration = 0
    algorithm._iterations_since_restore = 0
    algorithm._weights_version = 0
    algorithm.records = []


def _architecture(config: IGPOConfig) -> Any:
    """What an engine is built from.

    It starts without weights and gets the learner's: another start of the same model will do.
    """
    folder = Path(resolve_model(config.model_path))
    files = [folder / name for name in ("config.json", "tokenizer.json")]
    return (
        [file.read_bytes() for file in files] if all(file.is_file() for file in files) else config.model_path
    )


def _engine_keys(config: IGPOConfig) -> tuple[Any, ...]:
    settings = config.env_settings()
    policies = sorted({role.policy for role in settings.roles})
    return (
        _architecture(config),
        config.model_dtype,
        config.engine,
        config.num_env_runners,
        config.num_learners,
        policies,
        settings.max_context_tokens,
        settings.protocol,
    )
