"""Starts or joins Ray for a run, and checks that it has the CPUs and GPUs that the run asks for.

Ray itself would wait for missing ones without end.
"""

from __future__ import annotations

import re
import signal
import socket
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from envs.errors import InputError
from pipeline.logging import level_of, native_stderr_aside

if TYPE_CHECKING:
    from algorithms.igpo.config import IGPOConfig


@dataclass(frozen=True)
class RayOptions:
    """Which Ray a run uses: the cluster at `address`, or one that is started on this machine."""

    address: str | None = None
    num_cpus: int | None = None
    """CPUs of a Ray that is started here; None: all of them."""
    num_gpus: int | None = None


def start_ray(options: RayOptions, verbosity: int = 0) -> None:
    """Starts Ray, or joins the cluster at `options.address`.

    Raises:
        InputError: Ray does not start, or no cluster answers there.
    """
    import ray

    if ray.is_initialized():
        return
    arguments: dict[str, Any] = {
        "logging_level": level_of(verbosity),
        "log_to_driver": verbosity > 0,
    }
    if options.address:
        _check_reachable(options.address)
        arguments["address"] = options.address
    else:
        arguments |= {
            "include_dashboard": False,
            "num_cpus": options.num_cpus,
            "num_gpus": options.num_gpus,
        }
    try:
        with native_stderr_aside(verbosity), _sigterm_blocked():
            ray.init(**arguments)
    except Exception as error:  # Ray raises all kinds, plain ones too
        reason = f"{(str(error) or repr(error)).splitlines()[0]} (-v shows why)"
        if options.address:
            raise _unreachable(options.address, reason) from error
        raise InputError(
            f"Ray can't be started on this machine, which may be short of CPU or memory: {reason}"
        ) from error


@contextmanager
def _sigterm_blocked() -> Generator[None]:
    """Processes that start in this context keep SIGTERM blocked, as Ray itself blocks Ctrl-C for its own.

    Slurm and systemd send SIGTERM to every process of a job. Ray must survive it, or the run cannot finish
    its iteration.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _check_reachable(address: str) -> None:
    """Raises InputError if nothing listens at HOST:PORT. Ray itself would try for minutes and end the
    process.
    """
    found = re.fullmatch(r"(?:ray://)?(.+):(\d+)", address)
    if found is None:  # `auto`, `local`
        return
    try:
        socket.create_connection((found[1].strip("[]"), int(found[2])), timeout=10).close()
    except OSError as error:
        raise _unreachable(address, error.strerror or str(error)) from error


def _unreachable(address: str, reason: str) -> InputError:
    return InputError(f"--ray-address {address}: no Ray cluster can be joined there: {reason}")


def missing_resources(config: IGPOConfig) -> str | None:
    """The CPUs or GPUs that env runners and learners ask for beyond the cluster's, in words; None if it has
    all.
    """
    import ray

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
    for kind, number in asked.items():
        present = ray.cluster_resources().get(kind, 0)
        if number > present:
            return (
                f"{runners} env runners and {learners} learners ask for {number:g} {kind}s, "
                f"and Ray has {present:g}"
            )
    return None
