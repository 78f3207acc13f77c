"""Starts or joins Ray for a run, and checks that it has the CPUs and GPUs that the run asks for.

Ray itself would wait for missing ones without end.
"""

from __future__ import annotations

import atexit
import os
import re
import signal
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from envs.errors import InputError
from pipeline.logging import level_of, native_stderr_aside
from pipeline.ray_address import Cluster, knock, named_cluster, unreachable
from pipeline.training.ray_processes.end import end_at_once
from pipeline.training.ray_processes.watch import remember_ray

if TYPE_CHECKING:
    from algorithms.igpo.config import IGPOConfig

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells know it."""
GRACE = 2.0
"""Seconds in which a signal may end Ray's start in good order."""
SHOW_CURSOR = "\x1b[?25h"


@dataclass(frozen=True)
class RayOptions:
    """Which Ray a run uses: the cluster that is named, or one that is started on this machine.

    Raises:
        InputError: CPUs or GPUs are given for a cluster that is joined.
    """

    address: str | None = None
    """What `--ray-address` says; None: what RAY_ADDRESS says."""
    num_cpus: int | None = None
    """CPUs of a Ray that is started here; None: all of them."""
    num_gpus: int | None = None

    def __post_init__(self):
        if self.cluster and (self.num_cpus is not None or self.num_gpus is not None):
            raise InputError(
                "--ray-num-cpus and --ray-num-gpus are for a Ray that is started here, not for one at "
                f"{self.cluster}."
            )

    @property
    def cluster(self) -> Cluster | None:
        """The cluster that is joined; None: a Ray is started here."""
        return named_cluster(self.address)


def start_ray(options: RayOptions, verbosity: int = 0) -> None:
    """Starts a Ray of the run's own, or joins the cluster that is named.

    A cluster that someone else started on this machine is joined only by name: another one's CPUs are not
    the run's, and it may end before the run. Afterwards SIGTERM raises KeyboardInterrupt.

    Raises:
        InputError: Ray does not start, or no cluster answers there.
        KeyboardInterrupt: Ctrl-C or SIGTERM.
    """
    import ray

    if ray.is_initialized():
        remember_ray()
        return
    cluster = options.cluster
    arguments: dict[str, Any] = {
        "address": knock(cluster) if cluster else "local",
        "logging_level": level_of(verbosity),
        "log_to_driver": verbosity > 0,
    }
    if not cluster:
        arguments |= {
            "include_dashboard": False,
            "num_cpus": options.num_cpus,
            "num_gpus": options.num_gpus,
        }
    try:
        with native_stderr_aside(verbosity), _signals_heard():
            ray.init(**arguments)
    except SystemExit:  # by the handler of SIGTERM that `ray.init` sets
        raise KeyboardInterrupt from None
    except Exception as error:  # Ray raises all kinds, plain ones too
        reason = " ".join(str(error).split()).rstrip(".") or repr(error)
        if cluster:
            raise unreachable(cluster, f"{reason} (-v shows why)") from error
        raise InputError(not_started(reason)) from error
    remember_ray()
    end_at_once()
    if not verbosity:  # Ray's own farewell first waits half a second for what workers may still print
        atexit.register(ray.shutdown)


def not_started(reason: str) -> str:
    """Says in one sentence that no Ray started here, and what to do; `reason` is what Ray says of it."""
    told = f"Ray can't be started on this machine: {reason.partition('. ')[0][:140]}"
    if re.search(r"time[ds]?[ -]?out", reason, re.IGNORECASE):
        return f"{told}: the machine is too busy or short of memory, so try again when it is less busy."
    return f"{told}: it may be short of CPU or memory; `rllib train file ... -v` shows Ray's own log."


@contextmanager
def _signals_heard() -> Generator[None]:
    """Ctrl-C and SIGTERM end this block, even where Ray waits in C++ and no Python runs.

    Processes that start in it keep SIGTERM blocked, as Ray itself blocks Ctrl-C for its own. Slurm and
    systemd send SIGTERM to every process of a job. Ray must survive it, or the run cannot finish its
    iteration.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # raises KeyboardInterrupt
    inner, outer = os.pipe()
    os.set_blocking(outer, False)
    before = signal.set_wakeup_fd(outer, warn_on_full_buffer=False)
    ended = threading.Event()
    listener = threading.Thread(target=_listen, args=(inner, ended), name="signals", daemon=True)
    listener.start()  # before the mask: it hears what this thread does not
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        ended.set()
        signal.set_wakeup_fd(before)
        os.write(outer, bytes(1))
        listener.join()
        os.close(inner), os.close(outer)
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def _listen(signals: int, ended: threading.Event) -> None:
    """Ends the process where a signal has not ended the block within `GRACE`."""
    while not ended.is_set():
        (number,) = os.read(signals, 1)
        if number == signal.SIGTERM:  # which the main thread does not get, so it may be asleep
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
        if number in (signal.SIGINT, signal.SIGTERM) and not ended.wait(GRACE):
            sys.__stdout__.write(SHOW_CURSOR if sys.__stdout__.isatty() else "")
            sys.__stdout__.flush()
            os._exit(INTERRUPTED)


def asked_resources(config: IGPOConfig) -> dict[str, float]:
    """The CPUs, GPUs and custom resources that env runners and learners ask Ray for."""
    settings: Any = config  # RLlib types its numbers as `int | None`
    runners, learners, per_learner = (
        settings.num_env_runners,
        settings.num_learners,
        settings.num_cpus_per_learner,
    )
    if per_learner == "auto":  # RLlib's rule
        per_learner = 0 if settings.num_gpus_per_learner else 1
    asked = {
        "CPU": runners * settings.num_cpus_per_env_runner + learners * per_learner,
        "GPU": runners * settings.num_gpus_per_env_runner + learners * settings.num_gpus_per_learner,
    }
    for number, custom in (
        (runners, settings.custom_resources_per_env_runner),
        (learners, settings.custom_resources_per_learner),
    ):
        for kind, amount in custom.items():
            asked[kind] = asked.get(kind, 0) + number * amount
    return asked


def missing_resources(config: IGPOConfig) -> str | None:
    """What env runners and learners ask for beyond the cluster's, in words; None if it has all."""
    import ray

    for kind, number in asked_resources(config).items():
        present = ray.cluster_resources().get(kind, 0)
        if number > present:
            return (
                f"{config.num_env_runners} env runners and {config.num_learners} learners ask for "
                f"{number:g} {f'{kind}s' if kind in ('CPU', 'GPU') else f'of `{kind}`'}, "
                f"and Ray has {present:g}"
            )
    return None
