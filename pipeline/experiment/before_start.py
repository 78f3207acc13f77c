"""What can be said of an experiment in a moment, before Ray, model and engines are loaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from difflib import get_close_matches
from functools import cache
from itertools import islice
from pathlib import Path

from envs.data.corpus import iter_documents
from envs.data.questions import iter_questions
from envs.engine.models import SMOLLM2, TINY
from envs.errors import InputError
from envs.settings import Settings
from envs.user_code import import_function
from pipeline.experiment.experiment import Experiment
from pipeline.experiment.own_code import named_parts

LINES = 100_000
"""Lines of a file that are looked at; those of a larger one are read when the task is loaded."""


def check_start(experiment: Experiment) -> None:
    """Looks whether a model is named, imports the parts of one's own, and looks at the first lines of corpus
    and questions.

    Raises:
        InputError: no model is named, a part cannot be imported, a file is missing, or one of these lines is
            malformed; the message names file and line.
    """
    model = experiment.config.get("model_path") or getattr(experiment.base, "model_path", None)
    if not model:
        raise InputError(
            f"{experiment.source} ({experiment.name}): `config.model_path` is missing: name a Hugging Face "
            "folder or hub name, or `tiny`, which ships with the package."
        )
    if near := _misspelt(str(model)):
        raise InputError(f"{experiment.source}: model_path {model} is no folder here; did you mean `{near}`?")
    settings = experiment.env_settings
    for what, path in named_parts(settings.model_dump(), preset=None):  # the preset is looked up on reading
        import_function(path, what)
    if settings.corpus not in ("world", "remote"):
        _look_at(settings.corpus, iter_documents, settings.corpus_fields)
    sources = settings.questions if isinstance(settings.questions, dict) else [settings.questions]
    for source in [*sources, settings.heldout_questions]:
        if source and not source.startswith("hf:") and Path(source).suffix != ".parquet":
            _look_at(source, iter_questions, settings.fields)


def _misspelt(model: str) -> str | None:
    """The packaged model that `model` nearly names; None for a folder, and for a hub name with its owner."""
    if "/" in model or os.path.exists(model):  # False, not an exception, for what no file system can name
        return None
    near = get_close_matches(model, [*TINY, SMOLLM2], n=1, cutoff=0.8)
    return near[0] if near and near[0] != model else None


@cache
def _look_at(path: str, read: Callable[..., Iterator[object]], names: Settings) -> None:
    for _ in islice(read(path, names), LINES):
        pass
