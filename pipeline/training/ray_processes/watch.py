"""Whether the Ray that this process started is still there.

Without this a run whose gcs_server was killed would be ended by Ray a minute later, from C++ and without a
word, finished or not; one whose raylet was killed, by whatever call met it first.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from types import FrameType

import psutil

from pipeline.exit_codes import FAILED
from pipeline.training.ray_processes.processes import is_alive, kill_descendants

PARTS = ("gcs_server", "raylet")
INTERVAL = 0.05
"""Seconds between two looks. Ray ends the process from C++, without a word, some 0.4 s after its raylet."""
STUCK = 20.0
"""Seconds in which the main thread may hear of it, before the process is ended: Ray may wait in C++."""
_started: dict[str, psutil.Process] = {}
"""The parts of the Ray that this process started, by name."""


class RayLostError(RuntimeError):
    """A part of the Ray that this process started has ended. Its text is one sentence."""


def forget_ray() -> None:
    """Call it before Ray starts."""
    global _started
    _started = {}


def remember_ray() -> None:
    """Notes the parts that are there and were not noted before. Call it again and again while Ray starts, and
    when it was started; where a cluster was joined, there is nothing to note.
    """
    global _started
    found = dict(_started)
    for process in psutil.Process().children():
        with suppress(psutil.NoSuchProcess):  # another child, which has just ended
            if (name := process.name()) in PARTS:
                found.setdefault(name, process)
    _started = found  # at once: a watcher may be reading it


def lost_ray() -> str | None:
    """What has ended of this process's own Ray, in a sentence; None where all is well or a cluster was
    joined.
    """
    for name, process in _started.items():
        if not is_alive(process):
            return f"Ray's process {name} has ended (killed, or out of memory); nothing goes on without it"
    return None


@contextmanager
def watched_ray(code: int = FAILED, words: str = "the run failed: {}; --resume goes on") -> Generator[None]:
    """Raises RayLostError in the block where a part of this process's own Ray ends. For the main thread.

    So it does with an error that meets the block first, as it follows from that. Where the block goes on for
    `STUCK` seconds all the same, because Ray waits in C++ or something caught the error, the process says the
    sentence and ends: what counts is on disk.

    Args:
        code: the exit code then.
        words: what is said then, with the sentence in the place of {}.

    Raises:
        RayLostError: a part has ended.
    """
    over = threading.Event()
    main = threading.get_ident()

    def tell(number: int, frame: FrameType | None) -> None:
        sentence = lost_ray()
        if sentence is None:  # not the watcher's: a batch system sends it too
            if callable(before):
                before(number, frame)
            else:
                signal.signal(number, before)
                signal.raise_signal(number)
        elif not over.is_set():
            raise RayLostError(sentence)

    def watch() -> None:
        while not over.wait(INTERVAL):
            if (sentence := lost_ray()) is None:
                continue
            signal.pthread_kill(main, signal.SIGUSR1)
            if not over.wait(STUCK):
                sys.stderr.write(words.format(sentence) + "\n")  # stderr itself may be native code's alone
                leave_lost_ray(code)
            return

    before = signal.getsignal(signal.SIGUSR1)
    watcher = threading.Thread(target=watch, name="ray-watch", daemon=True)
    try:  # from here, because Ctrl-C may come before the thread has started
        signal.signal(signal.SIGUSR1, tell)
        watcher.start()
        yield
    except RayLostError:
        raise
    except Exception as error:
        if (sentence := lost_ray()) is not None:
            raise RayLostError(sentence) from error
        raise
    finally:
        over.set()
        if watcher.is_alive():
            watcher.join()
        signal.signal(signal.SIGUSR1, before)


def leave_lost_ray(code: int) -> None:
    """Ends this process with `code` where its own Ray is gone, and what is left of that Ray too.

    Ray's farewell at the interpreter's end would wait for what is gone, and then end with a code of its own.
    """
    if lost_ray() is None:
        return
    kill_descendants()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
