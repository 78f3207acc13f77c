"""Loading what stays for the life of a process: modules by the thousand, corpora, models."""

from __future__ import annotations

import atexit
import gc
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


def keep_loaded() -> None:
    """Takes all objects that are there out of later collections. Call it once, when what stays is loaded.

    Else a whole collection walks the objects of all modules: half a second with RLlib, transformers and vLLM.
    Garbage that is there already stays, too.
    """
    gc.freeze()
    atexit.register(gc.unfreeze)  # else extensions take what is left at the end for leaks, and say so
