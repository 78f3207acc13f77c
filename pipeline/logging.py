"""Logging of commands: the libraries' messages go to the run's log file, and to the terminal under `-v`."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from envs.credentials import masked
from envs.errors import InputError
from pipeline.terminal import visible

OWN = ("algorithms", "envs", "pipeline")
"""Our own packages, whose warnings are for the user."""

_QUIET_ENVIRONMENT = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONWARNINGS": "ignore",
}
_VERBOSE_ENVIRONMENT = {
    "VLLM_LOGGING_LEVEL": "INFO",
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def configure_logging(verbosity: int) -> None:
    """Configures logging; call it before Ray, vLLM and transformers are imported, which read the environment.

    Variables that the user set in the environment keep their values.

    Args:
        verbosity: 0 is quiet, 1 informs, 2 debugs.
    """
    for name, value in (_VERBOSE_ENVIRONMENT if verbosity else _QUIET_ENVIRONMENT).items():
        os.environ.setdefault(name, value)
    if verbosity > 1:
        os.environ["VLLM_LOGGING_LEVEL"] = "DEBUG"
    level = level_of(verbosity)
    handler = _Terminal()
    handler.setFormatter(
        logging.Formatter("%(levelname)s %(name)s: %(message)s" if verbosity else "%(message)s")
    )
    handler.addFilter(
        lambda record: record.levelno >= (min(level, logging.WARNING) if _is_own(record.name) else level)
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(min(level, logging.INFO))
    if not verbosity:
        warnings.filterwarnings("ignore")


def configure_ray_logging(verbosity: int) -> None:
    """Imports Ray, which sets up its own logger then, and routes that logger through ours."""
    import ray.rllib  # noqa: F401

    for name in [
        name for name in logging.root.manager.loggerDict if name == "ray" or name.startswith("ray.")
    ]:
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True
        logger.setLevel(logging.NOTSET)
    logging.getLogger("ray").setLevel(level_of(verbosity))
    if not verbosity:  # our own sampler already reports a runner that died
        logging.getLogger("ray.rllib.utils.actor_manager").setLevel(logging.CRITICAL)


def level_of(verbosity: int) -> int:
    """Returns the logging level of the libraries at `verbosity`."""
    return (logging.ERROR, logging.INFO, logging.DEBUG)[min(verbosity, 2)]


@contextmanager
def log_to_file(path: Path) -> Generator[None]:
    """Writes everything from INFO up that this process logs to `path` too, and an exception that ends the
    block.
    """
    handler = _File(path, encoding="utf-8")
    handler.setLevel(logging.INFO)
    handler.setFormatter(_Masked("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    except Exception:
        record = logging.makeLogRecord(
            {"name": "run", "levelno": logging.ERROR, "levelname": "ERROR", "msg": "the run failed"}
        )
        record.exc_info = sys.exc_info()
        handler.handle(record)
        raise
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


@contextmanager
def native_stderr_to(path: Path) -> Generator[None]:
    """Sends the stderr of C++ code and child processes to `path`; Python's own still reaches the terminal."""
    sys.stderr.flush()
    terminal, old = os.dup(2), sys.stderr
    pythons = os.fdopen(os.dup(terminal), "w", buffering=1)
    try:
        with path.open("ab") as file:
            os.dup2(file.fileno(), 2)
        sys.stderr = pythons
        yield
    finally:
        sys.stderr = old
        pythons.close()
        os.dup2(terminal, 2)
        os.close(terminal)


@contextmanager
def native_stderr_aside(verbosity: int) -> Generator[None]:
    """As `native_stderr_to`, for a command without a run directory: the output is shown only if the command
    fails.
    """
    if verbosity:
        yield
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "native.log"
        try:
            with native_stderr_to(file):
                yield
        except (InputError, KeyboardInterrupt):
            raise
        except Exception:
            sys.stderr.write(file.read_text(encoding="utf-8", errors="replace"))
            raise


def _is_own(name: str) -> bool:
    return name.partition(".")[0] in OWN


class _Terminal(logging.Handler):
    """Writes to whatever stderr is at the time, so that a live line is not torn."""

    def emit(self, record: logging.LogRecord) -> None:
        print(visible(masked(self.format(record))), file=sys.stderr)


class _File(logging.FileHandler):
    """A log file that says once, in one sentence, that it can't be written; logging prints a traceback each
    time.
    """

    def __init__(self, path: Path, **options: Any):
        super().__init__(path, **options)
        self._told = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._told:
            self._told = True
            print(visible(f"{self.baseFilename} is cut from here on: {error.strerror}"), file=sys.stderr)

    def close(self) -> None:
        try:
            super().close()
        except OSError:  # what is left in its buffer, on a full disk
            self.stream = None


class _Masked(logging.Formatter):
    """A formatter of a file that others may read: no credentials, in tracebacks neither."""

    def format(self, record: logging.LogRecord) -> str:
        return masked(super().format(record))
