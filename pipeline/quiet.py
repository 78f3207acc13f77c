"""Keeps the libraries below from talking over the run: what they say goes to the run's log file unless `-v` asks for it."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path

OWN = ("algorithms", "envs", "pipeline")
"""Our own packages: their warnings are for the person who runs the experiment."""

_QUIET = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONWARNINGS": "ignore",
}
_TALKATIVE = {
    "VLLM_LOGGING_LEVEL": "INFO",
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def quieten(verbosity: int) -> None:
    """Sets what must be set before Ray, vLLM and transformers are imported. `verbosity` 0 is quiet, 1 informs, 2 debugs.

    What the user has set in the environment stays as it is.
    """
    for name, value in (_TALKATIVE if verbosity else _QUIET).items():
        os.environ.setdefault(name, value)
    if verbosity > 1:
        os.environ["VLLM_LOGGING_LEVEL"] = "DEBUG"
    level = (logging.ERROR, logging.INFO, logging.DEBUG)[min(verbosity, 2)]
    handler = _Terminal()
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s" if verbosity else "%(message)s"))
    handler.addFilter(lambda record: record.levelno >= (min(level, logging.WARNING) if _is_own(record.name) else level))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(min(level, logging.INFO))
    logging.getLogger("ray").setLevel(level)
    logging.getLogger("ray").propagate = True
    if not verbosity:
        warnings.filterwarnings("ignore")


def log_to_file(path: Path) -> logging.Handler:
    """Everything from INFO up that this process logs, into `path` as well. Remove the handler when the run ends."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setLevel(logging.INFO)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    return handler


def _is_own(name: str) -> bool:
    return name.partition(".")[0] in OWN


class _Terminal(logging.Handler):
    """Writes to whatever stderr is at the time, so that a live line is not torn."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr)
