"""Which Ray cluster a command joins, and whether one answers there and takes this process.

Ray itself would try an address that is dead for minutes, deaf to signals, and then end the process. A cluster
that refuses its token it would ask for 20 seconds, and then say that it cannot connect.
"""

from __future__ import annotations

import os
import re
import socket
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from envs.errors import InputError

OPTION, VARIABLE = "--ray-address", "RAY_ADDRESS"
SECONDS = 7.0
"""Time limit of each of a knock's two steps: a connection, and an answer."""
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
    """Checks within seconds that a Ray cluster answers and takes this process: its token, its version of Ray.

    A cluster behind Ray Client (`ray://`) is not asked for the last two.

    Returns:
        The address for `ray.init`; for `auto`, the one that it stands for.

    Raises:
        InputError: there is none, or no address of one, or it refuses this process.
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
        _take_token_of_this_machine()
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
    if not address.startswith("ray://"):
        _ask(cluster, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
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


def _take_token_of_this_machine() -> None:
    """Ray does this for `auto` only, not for an address, which is what it gets from here."""
    from ray._private.authentication.authentication_token_setup import (
        maybe_enable_token_auth_if_token_available,
    )

    maybe_enable_token_auth_if_token_available(warn_if_disabled=False)


def _ask(cluster: Cluster, address: str) -> None:
    """Asks the cluster's control service whether it is alive, with this process's token.

    Raises:
        InputError: it refuses the token, does not answer, or is of another version of Ray.
    """
    import grpc
    import ray
    from ray._private.grpc_utils import init_grpc_channel
    from ray.core.generated import gcs_service_pb2
    from ray.core.generated.gcs_service_pb2_grpc import NodeInfoGcsServiceStub
    from ray.exceptions import AuthenticationError

    messages: Any = gcs_service_pb2
    try:
        with init_grpc_channel(address) as channel:
            service = NodeInfoGcsServiceStub(channel)
            answer = service.CheckAlive(messages.CheckAliveRequest(), timeout=SECONDS)
    except AuthenticationError as error:
        raise InputError(
            f"{cluster}: RAY_AUTH_MODE=token is set and there is no token: {_TOKEN_PLACES}"
        ) from error
    except grpc.RpcError as error:
        call: Any = error  # of a call it has its code, too
        if call.code() == grpc.StatusCode.UNAUTHENTICATED:
            raise InputError(f"{cluster}: the cluster refuses this process: {_refused_token()}") from error
        raise unreachable(cluster, call.details() or str(call.code())) from error
    if answer.ray_version != ray.__version__:
        raise unreachable(
            cluster, f"the cluster runs Ray {answer.ray_version}, this process has {ray.__version__}"
        )


_TOKEN_PLACES = (
    "put the cluster's into RAY_AUTH_TOKEN, into a file that RAY_AUTH_TOKEN_PATH names, or into "
    "~/.ray/auth_token (`ray get-auth-token`, on its head node, shows it)"
)


def _refused_token() -> str:
    from ray._private.authentication.authentication_utils import is_token_auth_enabled

    if not is_token_auth_enabled():
        return f"it wants a token, and none is sent: set RAY_AUTH_MODE=token, and {_TOKEN_PLACES}"
    variables = [name for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH") if os.environ.get(name)]
    return f"the token of {(*variables, '~/.ray/auth_token')[0]} is not its own: {_TOKEN_PLACES}"


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
