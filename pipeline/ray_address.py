"""Which Ray cluster a command joins, and whether one answers there.

Ray itself would try an address that is dead for minutes, deaf to signals, and then end the process.
"""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass
from urllib.parse import urlsplit

from envs.errors import InputError

OPTION, VARIABLE = "--ray-address", "RAY_ADDRESS"
SECONDS = 10.0
"""Time limit of a knock."""
_HTTP2_GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
"""The preface of HTTP/2, which gRPC speaks, and an empty SETTINGS frame (RFC 9113, section 3.4)."""
_SETTINGS = 4
"""Type of the frame that a server answers with: the fourth byte."""


@dataclass(frozen=True)
class Cluster:
    """A Ray cluster that the user named."""

    address: str
    """As Ray takes it: `HOST:PORT`, `ray://HOST:PORT`, `auto`."""
    source: str
    """What named it: `--ray-address` or `RAY_ADDRESS`."""

    def __str__(self) -> str:
        return f"{self.source}{' ' if self.source == OPTION else '='}{self.address}"


def named_cluster(typed: str | None) -> Cluster | None:
    """The cluster that `--ray-address` or else RAY_ADDRESS names; None: the command starts a Ray of its own.

    `local` is a Ray of its own. `auto` is RAY_ADDRESS where that is set, else a cluster of this machine.
    """
    variable = os.environ.get(VARIABLE)
    if variable and typed in (None, "", "auto"):
        found = Cluster(variable, VARIABLE)
    elif typed:
        found = Cluster(typed, OPTION)
    else:
        return None
    return None if found.address == "local" else found


def knock(cluster: Cluster) -> str:
    """Checks within seconds that a Ray cluster answers. Ray's own checks of it come later.

    Returns:
        The address for `ray.init`; for `auto`, the one that it stands for.

    Raises:
        InputError: there is none, or no address of one.
    """
    address = cluster.address
    if address.startswith(("http://", "https://")):
        host = urlsplit(address).hostname or "HOST"
        raise unreachable(
            cluster,
            f"this is the address of a dashboard or of its jobs; a cluster's own is {host}:6379, "
            f"or ray://{host}:10001 for Ray Client",
        )
    if address == "auto":
        address = _found_here(cluster)
    elif "://" in address and not address.startswith("ray://"):
        return address  # of a module that makes clients: only Ray knows what it means
    found = re.fullmatch(r"(?:ray://)?(?P<host>[^/\s]+):(?P<port>\d{1,5})/?", address)
    if found is None or int(found["port"]) > 65535:
        raise unreachable(cluster, "an address is written HOST:PORT, ray://HOST:PORT, auto or local")
    host, port = found["host"].strip("[]"), int(found["port"])
    if not address.startswith("ray://"):
        from ray._private import services

        host = services.resolve_ip_for_localhost(host)  # as Ray will
    try:
        _greet(host, port)
    except (OSError, UnicodeError) as error:
        elsewhere = "" if address == cluster.address else f"{address}: "
        reason = getattr(error, "strerror", None) or str(error)
        raise unreachable(cluster, f"{elsewhere}{reason}") from error
    return address


def unreachable(cluster: Cluster, reason: str) -> InputError:
    """The error for a cluster that can't be joined, in one sentence with its remedy."""
    undo = f"unset {VARIABLE}" if cluster.source == VARIABLE else f"leave {OPTION} out"
    return InputError(
        f"{cluster}: no Ray cluster can be joined there: {reason}; start one (`ray start --head`) and name "
        f"it, or {undo}, and a Ray is started on this machine."
    )


def _found_here(cluster: Cluster) -> str:
    """The cluster of this machine that Ray takes for `auto`."""
    from ray._private import services

    try:
        address = services.canonicalize_bootstrap_address("auto")
    except (ConnectionError, ValueError) as error:
        raise unreachable(cluster, "no Ray was started on this machine") from error
    assert address is not None, "canonicalize_bootstrap_address raises where it finds none"
    return address


def _greet(host: str, port: int) -> None:
    """Raises OSError where nothing listens, or something that does not speak gRPC."""
    with socket.create_connection((host, port), timeout=SECONDS) as connection:
        if os.environ.get("RAY_USE_TLS", "0") not in ("", "0"):
            return  # behind TLS the greeting would need its certificates
        try:
            connection.sendall(_HTTP2_GREETING)
            answer = connection.recv(9)
        except OSError as error:
            raise OSError(f"what listens there does not answer as Ray does ({error})") from error
    if len(answer) < 4 or answer[3] != _SETTINGS:
        raise OSError("what listens there does not answer as Ray does")
