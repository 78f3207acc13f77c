"""A JSON client for retrieval servers: open connections, bounded concurrency, limits of time and size."""

from __future__ import annotations

import json
import logging
import threading
from collections import defaultdict, deque
from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from envs.proxies import Proxy, check_httpx, is_loopback, proxy_for
from envs.retrieval.base import RetrieverError
from envs.retrieval.config import RemoteSettings
from envs.retrieval.wire import parse_json

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger(__name__)

RETRIED_STATUS = {429, 502, 503, 504}
"""Status codes of a server that is busy or starting. With another code the same request would fail again."""
LONGEST_WAIT = 5.0
"""Limit on the seconds between two attempts."""
MAX_REDIRECTS = 5
KEEPS_METHOD = {307, 308}
"""Redirects that are followed with the same method and body; for a GET all are."""


class JSONClient:
    """A client of the server at `settings.url`. Thread-safe.

    After a refused connection, a time-out or a busy server it tries again for `settings.retry_for` seconds,
    with exponential backoff and jitter, then raises `RetrieverError`. Messages name the host and never a
    header. A server on this machine is asked without a proxy. Redirects that keep method and body are
    followed.

    Args:
        settings: address and limits.
        headers: further headers; may hold a key, which a redirect takes to no other host.

    Raises:
        InputError: the environment names a proxy that can't be used.
    """

    def __init__(self, settings: RemoteSettings, headers: dict[str, str] | None = None):
        import httpx

        from envs.clocked_http import clocked_transport

        self._url = settings.url
        self._retry_for = settings.retry_for
        self._timeout = settings.timeout
        self._max_bytes = int(settings.max_answer_mib * 2**20)
        self._free = threading.BoundedSemaphore(settings.max_concurrency)
        is_here = is_loopback(urlsplit(settings.url).hostname or "")
        self._has_key = bool(headers)
        # `proxy_for` chooses the proxy, so that a message can name it; the environment does not.
        context = httpx.create_ssl_context(trust_env=not is_here)
        self._new_connection = lambda proxy: httpx.Client(
            timeout=settings.timeout,
            headers={"Content-Type": "application/json", **(headers or {})},
            trust_env=False,
            transport=clocked_transport(verify=context, proxy=proxy),
        )
        if proxy := proxy_for(settings.url):
            check_httpx(proxy)
        # One client per connection, because the pool of a shared client compares all pairs of its connections
        # at every request.
        self._idle: defaultdict[Proxy | None, deque[httpx.Client]] = defaultdict(deque)
        self.server = urlsplit(settings.url).netloc

    def post(self, body: dict[str, Any]) -> Any:
        """Posts `body` and returns the JSON of the answer.

        Raises:
            RetrieverError: no answer in time, a status other than 200, an answer beyond the limits, or one
                that is not JSON.
        """
        # httpx would fail on half of a surrogate pair, which a policy may write; `json.dumps` escapes it.
        content = json.dumps(body).encode()
        response = self._patiently("POST", self._url, content)
        if response.status_code != 200:
            raise RetrieverError(self._status(response))
        try:
            return parse_json(response.content)
        except ValueError as error:
            raise RetrieverError(f"the server {self.server} answered with {error}") from error

    def get(self, path: str) -> Any:
        """The JSON at `path` of the same server; None where the server has none there.

        Raises:
            RetrieverError: no answer in time.
        """
        import httpx

        response = self._patiently("GET", str(httpx.URL(self._url).join(path)), None)
        try:
            return parse_json(response.content) if response.status_code == 200 else None
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

        from envs.clocked_http import time_limit

        for _ in range(MAX_REDIRECTS + 1):
            proxy = proxy_for(url)
            through = _through(proxy)
            server = f"the server {urlsplit(url).netloc}"
            try:
                with self._free, self._connection(proxy) as connection, time_limit(self._timeout):
                    response = self._read(connection, method, url, content)
            except httpx.TimeoutException as error:
                raise _TryAgain(f"{server} took longer than {self._timeout:g} s{through}") from error
            except httpx.TransportError as error:
                reason = str(error) or type(error).__name__
                raise _TryAgain(f"{server} can't be reached ({reason}){through}") from error
            except httpx.DecodingError as error:
                raise RetrieverError(f"{server} sent an answer that can't be unpacked ({error})") from error
            if response.status_code in RETRIED_STATUS:
                raise _TryAgain(self._status(response))
            if not response.has_redirect_location:
                return response
            url = self._redirected(response, method)
        raise RetrieverError(f"the server {self.server} redirects more than {MAX_REDIRECTS} times")

    def _read(self, connection: httpx.Client, method: str, url: str, content: bytes | None) -> httpx.Response:
        """The whole response. Raises RetrieverError for one that is too long; the rest is not read."""
        import httpx

        with connection.stream(method, url, content=content) as response:
            parts, size = [], 0
            for part in response.iter_bytes():  # unpacked, so that a bomb is found while it unpacks
                parts.append(part)
                size += len(part)
                if size > self._max_bytes:
                    raise RetrieverError(
                        f"the server {response.url.netloc.decode('ascii')} answered with more than "
                        f"{self._max_bytes / 2**20:g} MiB (`max_answer_mib`)"
                    )
        headers = [(k, v) for k, v in response.headers.multi_items() if k.lower() != "content-encoding"]
        request = response.request
        return httpx.Response(response.status_code, headers=headers, content=b"".join(parts), request=request)

    def _redirected(self, response: httpx.Response, method: str) -> str:
        """Where a redirect leads. Raises RetrieverError where it is not to be followed."""
        answered = self._status(response)
        target = response.url.join(response.headers["Location"])
        cure = f"give {target.copy_with(query=None, userinfo=b'')} as its `url`"
        if target.scheme not in ("http", "https"):
            raise RetrieverError(f"{answered}, to a {target.scheme} address, which can't be asked")
        if method != "GET" and response.status_code not in KEEPS_METHOD:
            raise RetrieverError(f"{answered}, which does not keep a POST: {cure}")
        is_safe = target.host == response.url.host and target.scheme in (response.url.scheme, "https")
        if self._has_key and not is_safe:
            raise RetrieverError(f"{answered}, to another host, which must not get the key: {cure}")
        return str(target)

    @contextmanager
    def _connection(self, proxy: Proxy | None) -> Generator[httpx.Client]:
        idle = self._idle[proxy]
        try:
            client = idle.pop()
        except IndexError:
            if proxy:
                check_httpx(proxy)
            client = self._new_connection(proxy.url if proxy else None)
        try:
            yield client
        finally:
            idle.append(client)

    def _status(self, response: httpx.Response) -> str:
        server = response.url.netloc.decode("ascii")
        answered = f"the server {server} answered {response.status_code} {response.reason_phrase}"
        return answered + _through(proxy_for(str(response.url)))

    def _note_first(self, state) -> None:
        if state.attempt_number == 1:
            logger.info("%s; trying again for %g s", state.outcome.exception(), self._retry_for)


def _through(proxy: Proxy | None) -> str:
    """The end of a message about an answer: who may be to blame besides the server."""
    return f" through {proxy} ({proxy.way_around})" if proxy else ""


class _TryAgain(Exception):
    """A failure that may be temporary."""
