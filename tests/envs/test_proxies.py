"""Which proxy stands before an address, and which can be used."""

import pytest

from envs.errors import InputError
from envs.proxies import check_httpx, is_loopback, proxy_for, spare_loopback

NAMES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.mark.parametrize(
    "environment, url, variable",
    [
        ({}, "http://host/x", None),
        ({"HTTP_PROXY": "http://p:1"}, "http://host/x", "HTTP_PROXY"),
        ({"HTTP_PROXY": "http://p:1"}, "https://host/x", None),
        ({"HTTPS_PROXY": "p:1"}, "https://host/x", "HTTPS_PROXY"),
        ({"ALL_PROXY": "socks5://p:1"}, "http://host/x", "ALL_PROXY"),
        ({"ALL_PROXY": "socks5://p:1", "http_proxy": "http://p:1"}, "http://host/x", "http_proxy"),
        ({"HTTP_PROXY": "http://p:1", "http_proxy": "http://q:1"}, "http://host/x", "http_proxy"),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "host"}, "http://host:80/x", None),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "host:80, y"}, "http://host:80/x", None),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "host:80"}, "http://host:81/x", "HTTP_PROXY"),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": ".lab"}, "http://a.lab/x", None),
        ({"HTTP_PROXY": "http://p:1", "NO_PROXY": "*"}, "http://host/x", None),
        ({"HTTP_PROXY": "http://p:1", "no_proxy": "10.0.0.0/8"}, "http://10.1.2.3:80/x", None),
        ({"HTTP_PROXY": "http://p:1", "no_proxy": "10.0.0.0/8"}, "http://11.1.2.3:80/x", "HTTP_PROXY"),
        ({"HTTP_PROXY": "http://p:1", "no_proxy": "fd00::1"}, "http://[fd00::1]:80/x", None),
    ],
)
def test_which_proxy_stands_before_an_address(monkeypatch, environment, url, variable):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    found = proxy_for(url)
    assert (found and found.variable) == variable
    assert found is None or found.url == {"p:1": "http://p:1"}.get(
        environment[variable], environment[variable]
    )


@pytest.mark.parametrize(
    "host, expected",
    [
        ("localhost", True),
        ("LOCALHOST.", True),
        ("a.localhost", True),
        ("127.0.0.1", True),
        ("127.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("0.0.0.0", True),
        ("127.example.com", False),
        ("localhost.example.com", False),
        ("10.0.0.1", False),
    ],
)
def test_loopback_is_never_asked_through_a_proxy(monkeypatch, host, expected):
    monkeypatch.setenv("ALL_PROXY", "socks5://p:1")
    assert is_loopback(host) is expected
    url = f"http://[{host}]:5000/x" if ":" in host else f"http://{host}:5000/x"
    assert (proxy_for(url) is None) is expected


@pytest.mark.parametrize(
    "proxy, refusal",
    [
        ("http://user:secret@p:1", None),
        ("p:1", None),
        ("socks5://user:secret@p:1", r"pip install 'httpx\[socks\]'; or NO_PROXY=host asks without it"),
        ("socks5h://p:1", "SOCKS needs a package that is not installed"),
        ("socks4://p:1", "only http, https and socks5 are spoken, not socks4"),
        ("http://p:port", "it is no address such as http://HOST:PORT"),
        ("http://", "it is no address"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_named(monkeypatch, proxy, refusal):
    monkeypatch.setenv("ALL_PROXY", proxy)
    monkeypatch.setattr("envs.proxies.find_spec", lambda name: None)
    found = proxy_for("http://host/x")
    assert "secret" not in f"{found} {found!r}"
    if refusal is None:
        check_httpx(found)
        return
    with pytest.raises(
        InputError, match=f"of ALL_PROXY, through which host is asked, .*{refusal}"
    ) as refused:
        check_httpx(found)
    assert "secret" not in str(refused.value)


def test_socks_is_used_where_its_package_is_installed(monkeypatch):
    monkeypatch.setenv("ALL_PROXY", "socks5://p:1")
    monkeypatch.setattr("envs.proxies.find_spec", lambda name: object())
    check_httpx(proxy_for("http://host/x"))


def test_loopback_is_spared_in_the_environment_of_other_libraries(monkeypatch):
    """`requests`, which MLflow uses, asks the proxy for 127.0.0.1 too."""
    from requests.utils import get_environ_proxies

    url = "http://127.0.0.1:5000/x"
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("no_proxy", "lab")
    spare_loopback(url)  # no proxy: nothing to do
    monkeypatch.setenv("HTTP_PROXY", "http://p:1")
    assert get_environ_proxies(url)
    spare_loopback("http://host:5000")
    assert get_environ_proxies(url)
    spare_loopback(url)
    assert not get_environ_proxies(url) and not get_environ_proxies("http://a.lab")
    assert get_environ_proxies("http://host:5000")
