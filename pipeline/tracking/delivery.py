"""One background thread that hands jobs to an MLflow store, in order, and retries until the run ends."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Queue
from threading import Event, Thread
from typing import TYPE_CHECKING

from tenacity import (
    RetryCallState,
    Retrying,
    retry_if_exception,
    stop_when_event_set,
    wait_exponential,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

SECONDS_AT_THE_END = 1.0
"""Longest time between two attempts once the run is over."""
LOCAL_MISTAKES = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)


@dataclass(frozen=True, slots=True)
class Connection:
    """A store that answered, and this run in it."""

    client: MlflowClient
    run_id: str
    experiment_id: str


Job = Callable[[Connection], object]


class Delivery:
    """Does jobs in order, once `connect` succeeds. Transient failures are retried, refused jobs are warned
    about.

    Args:
        connect: connects to the store; retried as a job is.
        store: names the store in messages.
        meanwhile: tells, in messages, what happens while the store does not answer.
    """

    def __init__(self, connect: Callable[[], Connection], store: str, meanwhile: str):
        self._connect = connect
        self._store = store
        self._meanwhile = meanwhile
        self._connection: Connection | None = None
        self._warned: set[str] = set()
        self._undelivered = 0
        self._silent_since: float | None = None
        self._closing = Event()
        self._give_up = Event()
        self._queue: Queue[Job | None] = Queue()
        self._thread = Thread(target=self._work, name="mlflow", daemon=True)

    @property
    def connection(self) -> Connection | None:
        """None until the store has answered for the first time."""
        return self._connection

    def start(self) -> None:
        """Connects at once; jobs may be put before."""
        self.put(lambda connection: None)
        self._thread.start()

    def put(self, job: Job) -> None:
        """Does `job` after those before it.

        It may be done twice, because a failure can come after the store has acted: it must be idempotent.
        """
        self._queue.put(job)

    def flush(self, timeout: float) -> bool:
        """Waits until everything put so far is done; False if that took longer than `timeout` seconds."""
        done = Event()
        self.put(lambda connection: done.set())
        return done.wait(timeout)

    def close(self, timeout: float) -> bool:
        """Finishes the jobs that are left; a store that was silent is asked at once, and then each second.

        Returns:
            False if the store refused a job, or did not answer for `timeout` seconds and jobs were dropped.
        """
        self._queue.put(None)
        self._closing.set()
        started = time.monotonic()
        while self._thread.is_alive():
            silent_since = self._silent_since
            if silent_since is not None and time.monotonic() - max(started, silent_since) > timeout:
                break
            self._thread.join(0.05)
        self._give_up.set()
        self._thread.join(5.0)
        return not (self._thread.is_alive() or self._undelivered)

    def warn_once(self, message: str) -> None:
        if message not in self._warned:
            self._warned.add(message)
            logger.warning(message)

    def _work(self) -> None:
        retrying = Retrying(
            retry=retry_if_exception(_is_transient),
            wait=wait_exponential(max=60),
            stop=stop_when_event_set(self._give_up),
            sleep=self._sleep,
            before_sleep=self._warn_silent,
            reraise=True,
        )
        while (job := self._queue.get()) is not None:
            try:
                retrying(self._do, job)
            except (
                Exception
            ) as error:  # Tracking must not stop training; a refused job is logged and counted.
                self._undelivered += 1
                self.warn_once(f"MLflow at {self._store} did not take something: {_brief(error)}")

    def _do(self, job: Job) -> None:
        if self._connection is None:
            # MLflow's own retries (minutes per request) would keep `close` waiting.
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
            os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
            self._connection = self._connect()
        job(self._connection)
        self._silent_since = None

    def _sleep(self, seconds: float) -> None:
        """Waits before the next attempt: at the end of a run, when nobody waits for less, a second."""
        if self._closing.wait(seconds):
            self._give_up.wait(min(seconds, SECONDS_AT_THE_END))

    def _warn_silent(self, state: RetryCallState) -> None:
        if self._silent_since is None:
            self._silent_since = time.monotonic()
        error = state.outcome.exception() if state.outcome else None
        self.warn_once(f"MLflow at {self._store} does not answer ({_brief(error)}); {self._meanwhile}")


def _is_transient(error: BaseException) -> bool:
    """Whether a retry may help: network, server errors, a locked database; not a request that was refused."""
    from mlflow.exceptions import MlflowException
    from requests import HTTPError
    from sqlalchemy.exc import OperationalError

    if isinstance(error, MlflowException):
        return _is_trouble(error.get_http_status_code())
    if isinstance(error, HTTPError) and error.response is not None:
        return _is_trouble(error.response.status_code)
    return isinstance(error, OSError | OperationalError) and not isinstance(error, LOCAL_MISTAKES)


def _is_trouble(status: int) -> bool:
    return status >= 500 or status == 429


def _brief(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
