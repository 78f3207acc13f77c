"""Starts the console scripts, once the packages of this project are found to be its own.

The packages are called `algorithms`, `envs` and `pipeline`, which are common names. A file `envs.py` or a
package `pipeline` of a user's, before them on `PYTHONPATH` or beside the script that is run, takes their
place. Here that is told in one sentence.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import os
import sys
import threading

KNOWN_BY = {
    "algorithms": os.path.join("credit", "presets.py"),
    "envs": os.path.join("search", "config.py"),
    "pipeline": os.path.join("cli", "rllib.py"),
}
"""A file that each package of this project holds."""


def taken_names() -> str | None:
    """Says which package another module stands in for; None where all are this project's."""
    for name, file in KNOWN_BY.items():
        loaded = sys.modules.get(name)
        spec = getattr(loaded, "__spec__", None) if loaded else importlib.util.find_spec(name)
        if spec is None:
            return f"the package `{name}` of igpo-rllib is not found: install igpo-rllib again"
        places = list(spec.submodule_search_locations or [])
        if not any(os.path.isfile(os.path.join(place, file)) for place in places):
            where = spec.origin or (places[0] if places else name)
            return (
                f"{where} stands in for the package `{name}` of igpo-rllib: rename it, or take its folder "
                "off PYTHONPATH"
            )
    return None


def check_names() -> None:
    """Raises ImportError where another module stands in for a package of this project."""
    if said := taken_names():
        raise ImportError(said)


def _start(command: str) -> None:
    if said := taken_names():
        print(f"error: {said}", file=sys.stderr)
        raise SystemExit(2)
    module = importlib.import_module(f"pipeline.cli.{command}")
    try:
        module.app()
    except SystemExit as ending:
        _leave(ending.code)
        raise


def _leave(code: object) -> None:
    """Ends the process with `code` as Python would, but without taking its memory apart object by object.

    With RLlib and transformers loaded that takes more than a second, in which the shell's prompt waits. Does
    nothing where a thread is still to be waited for, or `code` is no number.
    """
    others = [thread for thread in threading.enumerate() if thread is not threading.main_thread()]
    if not isinstance(code, int) or not all(thread.daemon for thread in others):
        return
    atexit._run_exitfuncs()  # Ray's, MLflow's and logging's
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):  # nobody reads it any more, or the disk behind it is full
            stream.flush()
    os._exit(code)


def rllib() -> None:
    """The console script `rllib`."""
    _start("rllib")


def igpo() -> None:
    """The console script `igpo`."""
    _start("igpo")
