"""Starts or joins Ray for a run, and checks that it has the CPUs and GPUs that the run asks for.

Ray itself would wait for missing ones without end.
"""

from __future__ import annotations

import atexit
import ctypes
import logging
import re
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from envs.errors import InputError
from pipeline.doctor.gpus import RAY_DIGITS
from pipeline.logging import level_of, native_stderr_aside
from pipeline.ray_address import Cluster, knock, named_cluster, unreachable
from pipeline.training.ray_processes.end import end_at_once
from pipeline.training.ray_processes.processes import kill_descendants
from pipeline.training.ray_processes.watch import INTERVAL, forget_ray, remember_ray

if TYPE_CHECKING:
    from algorithms.igpo.config import IGPOConfig


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


@contextmanager
def starting_ray(options: RayOptions, verbosity: int = 0) -> Generator[RayStart]:
    """Starts a Ray of the run's own, or joins the cluster that is named, while the block does something else.

    When the block ends, Ray is there. A cluster that someone else started on this machine is joined only by
    name: another one's CPUs are not the run's, and it may end before the run. From a start on, SIGTERM raises
    KeyboardInterrupt. Where the block raises, nothing waits for Ray.

    Yields:
        The start; who has nothing left to do may wait for it.

    Raises:
        InputError: Ray does not start, or no cluster answers there.
        KeyboardInterrupt: Ctrl-C or SIGTERM.
    """
    import ray

    start = RayStart(options.cluster)
    forget_ray()
    with native_stderr_aside(verbosity):
        try:
            if ray.is_initialized():
                remember_ray()
                start.ended.set()
            else:
                start.begin(options, verbosity)
            yield start
            start.wait()
        finally:
            if start.is_under_way:
                start.abandon()


class RayStart:
    """`ray.init` in a thread of its own: the main thread hears signals, also where Ray waits in C++.

    The thread lives as long as the process, because the kernel ends Ray's processes with the thread that
    started them. They keep SIGTERM blocked, as Ray itself blocks Ctrl-C for its own: Slurm and systemd send
    SIGTERM to every process of a job, and Ray must survive it, or the run cannot finish its iteration.
    """

    def __init__(self, cluster: Cluster | None):
        self._cluster = cluster
        self._error: BaseException | None = None
        self._has_begun = False
        self.ended = threading.Event()

    @property
    def is_under_way(self) -> bool:
        return self._has_begun and not self.ended.is_set()

    def begin(self, options: RayOptions, verbosity: int) -> None:
        """Starts the thread. Raises InputError where no cluster answers."""
        arguments: dict[str, Any] = {
            "address": knock(self._cluster) if self._cluster else "local",
            "logging_level": level_of(verbosity),
            "log_to_driver": verbosity > 0,
        }
        if not self._cluster:
            arguments |= {
                "include_dashboard": False,
                "num_cpus": options.num_cpus,
                "num_gpus": options.num_gpus,
            }
        signal.signal(signal.SIGTERM, signal.default_int_handler)  # raises KeyboardInterrupt
        # In its thread Ray sets no handler of its own, and warns of that.
        logging.getLogger("ray._private.worker").addFilter(_is_not_about_sigterm)
        work = partial(self._run, arguments, is_quiet=not verbosity)
        self._has_begun = True
        threading.Thread(target=work, name="ray-start", daemon=True).start()
        threading.Thread(target=self._watch, name="ray-start-watch", daemon=True).start()

    def _run(self, arguments: dict[str, Any], *, is_quiet: bool) -> None:
        import ray

        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            with _sigterm_kept():
                ray.init(**arguments)
            remember_ray()
            end_at_once()
            if is_quiet:  # Ray's own farewell first waits half a second for what workers may still print
                atexit.register(ray.shutdown)
        except BaseException as error:  # Ray raises all kinds, plain ones and SystemExit too
            self._error = error
        self.ended.set()
        threading.Event().wait()

    def _watch(self) -> None:
        """A part that ends during the start is known for lost: Ray would wait for it, and end the process."""
        while not self.ended.wait(INTERVAL):
            remember_ray()

    def wait(self) -> None:
        """Returns when Ray is there.

        Raises:
            InputError: it does not start.
        """
        self.ended.wait()
        if self._error is None:
            return
        reason = " ".join(str(self._error).split()).rstrip(".") or repr(self._error)
        if self._cluster:
            raise unreachable(self._cluster, f"{reason} (-v shows why)") from self._error
        raise InputError(not_started(reason)) from self._error

    def abandon(self) -> None:
        """Lets the process end, later and without a farewell, with a Ray that is still starting."""
        from ray._private import worker

        atexit.unregister(worker.shutdown)
        atexit.register(kill_descendants)


@contextmanager
def _sigterm_kept() -> Generator[None]:
    """Puts back the handler of SIGTERM: Ray's C++ sets one that takes it for a crash, and aborts.

    `signal.signal`, which does that too, is for the main thread alone.
    """
    get, put = ctypes.pythonapi.PyOS_getsig, ctypes.pythonapi.PyOS_setsig
    get.restype = put.restype = ctypes.c_void_p
    put.argtypes = [ctypes.c_int, ctypes.c_void_p]
    handler = get(signal.SIGTERM)
    try:
        yield
    finally:
        put(signal.SIGTERM, handler)


def _is_not_about_sigterm(record: logging.LogRecord) -> bool:
    return "SIGTERM handler is not set" not in record.getMessage()


def not_started(reason: str) -> str:
    """Says in one sentence that no Ray started here, and what to do; `reason` is what Ray says of it."""
    told = f"Ray can't be started on this machine: {reason.partition('. ')[0][:140]}"
    if re.search(r"time[ds]?[ -]?out", reason, re.IGNORECASE):
        return f"{told}: the machine is too busy or short of memory, so try again when it is less busy."
    return f"{told}: it may be short of CPU or memory; `rllib train file ... -v` shows Ray's own log."


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
    return {kind: round(number, RAY_DIGITS) for kind, number in asked.items()}


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
