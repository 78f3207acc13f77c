"""Imports what an env runner needs as its process starts, while the driver imports and checks.

Ray imports this module in the processes that it starts ahead of any actor (`preload_python_modules`), and
gives the first of them to the first actors: the env runners. So as many processes as there are env runners
import; the others stay small. `settings` is how the driver says what to import.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

VARIABLE = "IGPO_IMPORTS_AHEAD"


def settings(folder: str, runners: int, cpus: float, engine: str) -> str:
    """The value of `VARIABLE`, in the environment that Ray starts in.

    Args:
        folder: an empty folder, in which the processes take numbers.
        runners: env runners.
        cpus: CPUs of each.
        engine: `vllm` or `transformers`.
    """
    return json.dumps({"folder": folder, "runners": runners, "cpus": cpus, "engine": engine})


def import_ahead(given: Mapping[str, Any]) -> bool:
    """Imports if this process is one of the first `runners`. Returns whether it is."""
    if not any(_is_mine(Path(given["folder"]) / str(number)) for number in range(given["runners"])):
        return False
    # As Ray sets it for an actor, but before torch reads it.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, int(given["cpus"]))))
    with contextlib.suppress(Exception):  # the env runner imports again, and tells what is wrong
        import transformers

        import envs.runner.env_runner  # noqa: F401

        _ = transformers.AutoConfig, transformers.AutoTokenizer  # transformers imports by attribute
        if given["engine"] == "vllm":
            from envs.engine.vllm import import_vllm

            import_vllm()
    return True


def _is_mine(place: Path) -> bool:
    try:
        place.mkdir()
    except OSError:
        return False
    return True


if VARIABLE in os.environ:
    import_ahead(json.loads(os.environ[VARIABLE]))
