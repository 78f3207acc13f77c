"""Connections whose requests have one clock each: connecting, sending and reading share one time limit.

httpx has a limit for each read. A server that sends one byte now and then would stay below it for ever.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

import httpcore
import httpx

_clock = threading.local()


@contextmanager
def time_limit(seconds: float) -> Generator[None]:
    """All that this thread's clocked connections do in the context must end within `seconds`."""
    _clock.deadline = time.monotonic() + seconds
    try:
        yield
    finally:
        _clock.deadline = None


def clocked_transport(**options: Any) -> httpx.HTTPTransport:
    """An httpx transport with `options` whose connections obey `time_limit`."""
    transport = httpx.HTTPTransport(trust_env=False, **options)
    # httpx hands no backend through to the pool that it makes.
    pool = cast(Any, transport._pool)
    pool._network_backend = _Backend(pool._network_backend)
    return transport


def _left(timeout: float | None, expired: type[httpcore.TimeoutException]) -> float | None:
    deadline = getattr(_clock, "deadline", None)
    if deadline is None:
        return timeout
    left = deadline - time.monotonic()
    if left <= 0:
        raise expired("the time for the whole answer is over")
    return left if timeout is None else min(timeout, left)


class _Backend(httpcore.NetworkBackend):
    def __init__(self, inner: httpcore.NetworkBackend):
        self._inner = inner

    def connect_tcp(self, host, port, timeout=None, local_address=None, socket_options=None):
        left = _left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._inner.connect_tcp(host, port, left, local_address, socket_options))

    def connect_unix_socket(self, path, timeout=None, socket_options=None):
        left = _left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._inner.connect_unix_socket(path, left, socket_options))

    def sleep(self, seconds):
        self._inner.sleep(seconds)


class _Stream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream):
        self._inner = inner

    def read(self, max_bytes, timeout=None):
        return self._inner.read(max_bytes, _left(timeout, httpcore.ReadTimeout))

    def write(self, buffer, timeout=None):
        self._inner.write(buffer, _left(timeout, httpcore.WriteTimeout))

    def close(self):
        self._inner.close()

    def start_tls(self, ssl_context, server_hostname=None, timeout=None):
        left = _left(timeout, httpcore.ConnectTimeout)
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, left))

    def get_extra_info(self, info):
        return self._inner.get_extra_info(info)
