"""Which proxy of the environment (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY) stands before an address."""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass, field
from importlib.util import find_spec
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from envs.errors import InputError


@dataclass(frozen=True)
class Proxy:
    """A proxy that stands before a host."""

    variable: str
    """What names it: an environment variable, as it is written there."""
    url: str = field(repr=False)
    """With a scheme; it may hold a password, so it is never shown."""
    host: str
    """The host that is asked through it."""

    @property
    def kind(self) -> str:
        """Its scheme: `http`, `socks5`."""
        return urlsplit(self.url).scheme.lower()

    @property
    def way_around(self) -> str:
        return f"NO_PROXY={self.host} asks without it"

    def __str__(self) -> str:
        place = urlsplit(self.url).netloc.rpartition("@")[2]
        return f"the proxy {place} of {self.variable}"


def proxy_for(url: str) -> Proxy | None:
    """The proxy through which `url` is asked; None for this machine's own loopback, and where there is none.

    NO_PROXY takes names, addresses and networks (`10.0.0.0/8`).
    """
    parts = urlsplit(url)
    host, scheme = parts.hostname or "", parts.scheme.lower()
    if is_loopback(host):
        return None
    proxies = getproxies()
    kind = next((kind for kind in (scheme, "all") if proxies.get(kind)), None)
    if kind is None or _is_spared(host, parts.netloc.rpartition("@")[2], proxies.get("no", "")):
        return None
    named = [name for name in os.environ if name.lower() == f"{kind}_proxy" and os.environ[name]]
    # The spelling in small letters wins, as everywhere.
    variable = min(named, key=str.isupper, default=f"the system's {kind} proxy")
    address = proxies[kind]
    return Proxy(variable, address if "://" in address else f"http://{address}", host)


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself, which no proxy can reach."""
    name = host.rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    address = _address(name)
    return address is not None and (address.is_loopback or address.is_unspecified)


def spare_loopback(url: str) -> None:
    """Puts the host of `url` into NO_PROXY if it is this machine, for libraries that would ask a proxy."""
    host = urlsplit(url).hostname or ""
    proxies = getproxies()
    spared = proxies.pop("no", "")
    if proxies and is_loopback(host):
        for name in ("NO_PROXY", "no_proxy"):
            os.environ[name] = f"{spared},{host}" if spared else host


def check_httpx(proxy: Proxy) -> None:
    """Raises InputError for a proxy that httpx can't use as it is installed."""
    refusal = f"{proxy}, through which {proxy.host} is asked, can't be used"
    if proxy.kind in ("socks5", "socks5h"):
        if find_spec("socksio") is None:
            raise InputError(
                f"{refusal}: SOCKS needs a package that is not installed: pip install 'httpx[socks]'; or "
                f"{proxy.way_around}"
            )
    elif proxy.kind not in ("http", "https"):
        raise InputError(
            f"{refusal}: only http, https and socks5 are spoken, not {proxy.kind}; {proxy.way_around}"
        )
    elif urlsplit(proxy.url).hostname is None or not _has_port(proxy.url):
        raise InputError(f"{refusal}: it is no address such as http://HOST:PORT; {proxy.way_around}")


def _has_port(url: str) -> bool:
    """Whether the port of an address can be read; none is fine."""
    try:
        _ = urlsplit(url).port
    except ValueError:
        return False
    return True


def _is_spared(host: str, netloc: str, no_proxy: str) -> bool:
    if proxy_bypass(netloc) or proxy_bypass(host):
        return True
    address = _address(host)
    if address is None:
        return False
    return any(address in network for network in map(_network, no_proxy.split(",")) if network is not None)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        try:
            address = ipaddress.ip_address(socket.inet_aton(host))  # 127.1
        except (OSError, ValueError):
            return None
    mapped = getattr(address, "ipv4_mapped", None)  # ::ffff:127.0.0.1
    return mapped or address


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text.strip().strip("[]"), strict=False)
    except ValueError:
        return None
