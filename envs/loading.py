"""Loading what stays for the life of a process: modules by the thousand, corpora, models."""

from __future__ import annotations

import gc
import importlib
import threading
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def without_collecting() -> Generator[None]:
    """A block that loads what stays. Python's garbage collector rests in it.

    RLlib, transformers and vLLM make a million objects and hardly any garbage. The collector would walk
    all of them again and again while their number grows.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@contextmanager
def imported_meanwhile(*modules: str) -> Generator[None]:
    """A block that waits for other processes, beside which a thread imports `modules`.

    Raises:
        ImportError: a module cannot be imported, and the block raised nothing itself.
    """
    failures: list[ImportError] = []

    def load() -> None:
        try:
            for module in modules:
                importlib.import_module(module)
        except ImportError as error:  # raised again below
            failures.append(error)

    thread = threading.Thread(target=load, name="imports")
    thread.start()
    try:
        yield
    finally:
        thread.join()
    if failures:
        raise failures[0]
