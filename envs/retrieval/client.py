"""A JSON client for retrieval servers: open connections, bounded concurrency, a time limit, retries."""

from __future__ import annotations

import json
import logging
import threading
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from envs.retrieval.base import RetrieverError
from envs.retrieval.config import RemoteSettings

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger(__name__)

RETRIED_STATUS = {429, 502, 503, 504}
"""Status codes of a server that is busy or starting. With another code the same request would fail again."""
LONGEST_WAIT = 5.0
"""Limit on the seconds between two attempts."""


class JSONClient:
    """A client of the server at `settings.url`. Thread-safe.

    After a refused connection, a time-out or a busy server it tries again for `settings.retry_for` seconds,
    with exponential backoff and jitter, then raises `RetrieverError`. Messages name the host and never a
    header.

    Args:
        settings: address and limits.
        headers: further headers; may hold a key.
    """

    def __init__(self, settings: RemoteSettings, headers: dict[str, str] | None = None):
        import httpx

        self._url = settings.url
        self._retry_for = settings.retry_for
        self._timeout = settings.timeout
        self._free = threading.BoundedSemaphore(settings.max_concurrency)
        host = urlsplit(settings.url).hostname or ""
        # A proxy from the environment cannot reach this machine's own loopback.
        is_here = host in ("localhost", "::1") or host.startswith("127.")
        self._new_connection = partial(
            httpx.Client,
            timeout=settings.timeout,
            headers={"Content-Type": "application/json", **(headers or {})},
            trust_env=not is_here,
            verify=httpx.create_ssl_context(trust_env=not is_here),
        )
        # One client per connection, because the pool of a shared client compares all pairs of its connections
        # at every request.
        self._idle: deque[httpx.Client] = deque()
        self.server = urlsplit(settings.url).netloc

    def post(self, body: dict[str, Any]) -> Any:
        """Posts `body` and returns the JSON of the answer.

        Raises:
            RetrieverError: no answer in time, a status other than 200, or an answer that is not JSON.
        """
        # httpx would fail on half of a surrogate pair, which a policy may write; `json.dumps` escapes it.
        content = json.dumps(body).encode()
        response = self._patiently("POST", self._url, content)
        if response.status_code != 200:
            raise RetrieverError(self._status(response))
        try:
            return response.json()
        except ValueError as error:
            raise RetrieverError(
                f"the server {self.server} answered with something else than JSON"
            ) from error

    def get(self, path: str) -> Any:
        """The JSON at `path` of the same server; None where the server has none there.

        Raises:
            RetrieverError: no answer in time.
        """
        import httpx

        response = self._patiently("GET", str(httpx.URL(self._url).join(path)), None)
        try:
            return response.json() if response.status_code == 200 else None
        except ValueError:
            return None

    def _patiently(self, method: str, url: str, content: bytes | None) -> httpx.Response:
        """The server's response after retries, with any status but those of `RETRIED_STATUS`."""
        import tenacity

        backoff = tenacity.wait_random_exponential(multiplier=0.2, max=LONGEST_WAIT)
        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_TryAgain),
            stop=tenacity.stop_after_delay(self._retry_for),
            wait=lambda state: min(
                backoff(state), max(0.0, self._retry_for - (state.seconds_since_start or 0.0))
            ),
            before_sleep=self._note_first,
        )
        try:
            return attempts(self._once, method, url, content)
        except tenacity.RetryError as error:
            raise RetrieverError(str(error.last_attempt.exception())) from error

    def _once(self, method: str, url: str, content: bytes | None) -> httpx.Response:
        import httpx

        try:
            with self._free, self._connection() as connection:
                response = connection.request(method, url, content=content)
        except httpx.TimeoutException as error:
            raise _TryAgain(f"the server {self.server} took longer than {self._timeout:g} s") from error
        except httpx.TransportError as error:
            raise _TryAgain(
                f"the server {self.server} can't be reached ({str(error) or type(error).__name__})"
            ) from error
        except httpx.DecodingError as error:
            raise RetrieverError(
                f"the server {self.server} sent an answer that can't be unpacked ({error})"
            ) from error
        if response.status_code in RETRIED_STATUS:
            raise _TryAgain(self._status(response))
        return response

    @contextmanager
    def _connection(self) -> Generator[httpx.Client]:
        try:
            client = self._idle.pop()
        except IndexError:
            client = self._new_connection()
        try:
            yield client
        finally:
            self._idle.append(client)

    def _status(self, response: httpx.Response) -> str:
        return f"the server {self.server} answered {response.status_code} {response.reason_phrase}"

    def _note_first(self, state) -> None:
        if state.attempt_number == 1:
            logger.info("%s; trying again for %g s", state.outcome.exception(), self._retry_for)


class _TryAgain(Exception):
    """A failure that may be temporary."""
