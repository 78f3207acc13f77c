"""Which configurations can use the same running engines."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from envs.engine.models import resolve_model

if TYPE_CHECKING:
    from algorithms.igpo.config import IGPOConfig


def engine_identity(config: IGPOConfig) -> tuple[Any, ...]:
    """Everything that the engines of `config` depend on. Equal identities can use the same engines.

    The model counts with its architecture and tokenizer alone: an engine starts without weights and receives
    the learner's.
    """
    folder, settings = Path(resolve_model(config.model_path)), config.search_settings
    files = [folder / name for name in ("config.json", "tokenizer.json")]
    is_known = all(file.is_file() for file in files)
    return (
        [file.read_bytes() for file in files] if is_known else config.model_path,
        config.model_dtype,
        config.engine_settings,
        config.num_env_runners,
        config.num_learners,
        config.policy_ids,
        settings.max_context_tokens,
        settings.protocol,
    )
