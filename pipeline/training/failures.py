"""What made a run fail, in one sentence, where Ray's own word for it is many lines long."""

from __future__ import annotations

from pathlib import Path

from envs.disk_errors import disk_trouble
from envs.errors import InputError
from pipeline.training.ray_processes.watch import lost_ray


def cause_of(error: Exception) -> Exception:
    """What was raised in another process, where `error` is Ray's word for it."""
    from ray.exceptions import RayTaskError

    while isinstance(error, RayTaskError):
        error = error.cause
    return error


def in_words(error: Exception, folder: Path) -> str:
    """The first that explains `error`: the loss of Ray, a full disk under `folder`, the loss of a learner, or
    its cause.
    """
    from algorithms.igpo.remote import StartError

    cause = cause_of(error)
    told = lost_ray() or disk_trouble(error, folder) or lost_learner(error)
    if not told and isinstance(cause, InputError | StartError):
        return str(cause)
    return told or f"{type(cause).__name__}: {' '.join(str(cause).split())}"


def lost_learner(error: BaseException) -> str | None:
    """What the loss of a learner did, in a sentence, where `error` follows from it; else None.

    A lost env runner is started again, so the loss of an actor that ends a run is a learner's. Where its node
    is gone, what comes first may be the loss of the weights that lay there for the env runners. An actor that
    never started was not lost.
    """
    from ray.exceptions import ObjectLostError, RayActorError

    from algorithms.igpo.remote import StartError

    seen: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in seen:
        if isinstance(cause, StartError):
            return None
        if isinstance(cause, RayActorError | ObjectLostError):
            return "a learner is lost: its process was killed or out of memory, or its node left the cluster"
        seen.append(cause)
        cause = cause.__cause__ or cause.__context__
    return None
