"""The HTTP client against the project's own server, and against servers that are dead, slow, busy or speak
otherwise.
"""

import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler
from types import SimpleNamespace

import httpx
import pytest
from loopback import answering, free_port, handled_by, serving
from scripted_retriever import ScriptedRetriever

from envs.data.corpus import Corpus, Document
from envs.errors import InputError
from envs.retrieval.base import Hit, RetrieverError
from envs.retrieval.bm25 import BM25Retriever
from envs.retrieval.build import build_retriever
from envs.retrieval.config import HTTPSettings, RetrieverSettings
from envs.retrieval.remote.client import JSONClient
from envs.retrieval.remote.http import HTTPRetriever
from envs.retrieval.serving.server import retrieval_app

CORPUS = Corpus(
    [
        Document("d0", "mira", "mother toma\nand a second line"),
        Document("d1", "", "color red red"),
        Document("d2", "kalo", "color blue"),
    ]
)
FORMAT = {"result": [[{"document": {"id": "7", "contents": '"kalo"\ncolor blue'}, "score": 1.5}]]}


def client(address: str, **settings) -> HTTPRetriever:
    return HTTPRetriever(
        HTTPSettings(url=f"{address}/retrieve", **{"retry_for": 0.0, "timeout": 5.0, **settings})
    )


@pytest.fixture(scope="module")
def address():
    with serving(retrieval_app(BM25Retriever(CORPUS), default_top_k=1)) as address:
        yield address


def test_client_and_server_are_the_retriever_behind_them(address):
    local = BM25Retriever(CORPUS)
    queries = ["color red", "mother", "nothing at all", "kalo \ud800"]
    found = client(address).search(queries, 2)
    assert found == local.search(queries[:3] + ["kalo"], 2)
    assert found[1] == [Hit("d0", "mira", "mother toma\nand a second line", found[1][0].score)]
    assert client(address).search([], 2) == []


def test_the_clients_identity_is_the_servers(address):
    identity = client(address).identity
    assert identity["server"] == json.loads(json.dumps(BM25Retriever(CORPUS).identity))
    assert identity["kind"] == "http" and identity["url"] == f"{address}/retrieve"


def test_the_identity_is_not_lost_while_the_server_is_away():
    port = free_port()
    away = client(f"http://127.0.0.1:{port}", retry_for=0.2)
    with pytest.raises(RetrieverError, match="can't be reached"):
        _ = away.identity
    with serving(retrieval_app(BM25Retriever(CORPUS), 1), port):
        assert away.identity["server"]["documents"] == len(CORPUS)


def test_a_server_on_this_machine_is_asked_without_a_proxy(address, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    assert client(address).search(["kalo"], 1)[0][0].document_id == "d2"


@pytest.fixture
def elsewhere(monkeypatch):
    """An address on this machine that stands for one on another, and no proxy yet."""
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr("envs.proxies.is_loopback", lambda host: False)
    monkeypatch.setattr("envs.retrieval.remote.client.is_loopback", lambda host: False)
    return monkeypatch


def test_a_server_elsewhere_is_asked_through_the_proxy(elsewhere):
    asked = []

    class Proxy(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append((self.path, self.headers["Proxy-Authorization"]))
            data = json.dumps(FORMAT).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *args):
            pass

    with handled_by(Proxy) as address:
        elsewhere.setenv("HTTP_PROXY", address.replace("://", "://user:secret@"))
        [[hit]] = client("http://retriever.invalid:8000").search(["red"], 1)
    assert hit.document_id == "7"
    assert asked == [("http://retriever.invalid:8000/retrieve", "Basic dXNlcjpzZWNyZXQ=")]


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "all_proxy"])
def test_a_proxy_that_is_away_is_named(elsewhere, variable):
    elsewhere.setenv(variable, f"http://user:secret@127.0.0.1:{free_port()}")
    with pytest.raises(RetrieverError) as failed:
        client("http://retriever.invalid:8000").search(["red"], 1)
    said = str(failed.value)
    assert "the server retriever.invalid:8000 can't be reached" in said and "secret" not in said
    assert (
        "through the proxy 127.0.0.1:" in said and f"of {variable} (NO_PROXY=retriever.invalid asks" in said
    )


@pytest.mark.parametrize("status", [403, 503])
def test_a_proxy_that_refuses_is_named(elsewhere, status):
    with answering(lambda body, headers: (status, {})) as proxy:
        elsewhere.setenv("HTTP_PROXY", proxy)
        with pytest.raises(RetrieverError, match=f"answered {status} .* of HTTP_PROXY .NO_PROXY="):
            client("http://retriever.invalid:8000").search(["red"], 1)


def test_a_socks_proxy_without_its_package_is_bad_input(elsewhere, address):
    elsewhere.setattr("envs.proxies.find_spec", lambda name: None)
    elsewhere.setenv("ALL_PROXY", "socks5://127.0.0.1:1080")
    with pytest.raises(InputError, match="the proxy 127.0.0.1:1080 of ALL_PROXY.* pip install 'httpx"):
        client(address)
    elsewhere.setenv("NO_PROXY", "127.0.0.0/8")
    assert client(address).search(["kalo"], 1)[0][0].document_id == "d2"


def redirecting(status, target):
    """A server that sends every request on to `target(path)`; yields the address."""
    from fastapi import FastAPI, Request, Response

    app = FastAPI()

    @app.api_route("/{path:path}", methods=["GET", "POST"])
    def redirect(path: str, request: Request):
        return Response(status_code=status, headers={"Location": target(path)})

    return serving(app)


@pytest.mark.parametrize("status", [307, 308])
def test_a_redirect_that_keeps_the_post_is_followed(address, status):
    with redirecting(status, lambda path: f"{address}/{path}") as moved:
        found = client(moved)
        assert found.search(["kalo"], 1)[0][0].document_id == "d2"
        assert found.identity["server"]["documents"] == len(CORPUS)


@pytest.mark.parametrize("status, reason", [(301, "Moved Permanently"), (302, "Found"), (303, "See Other")])
def test_a_redirect_that_loses_the_post_says_what_to_write(address, status, reason):
    with (
        redirecting(status, lambda path: f"{address}/{path}") as moved,
        pytest.raises(RetrieverError, match=f"{reason}, which does not keep a POST: give {address}/"),
    ):
        client(moved).search(["kalo"], 1)


def test_redirects_have_an_end_and_lead_to_http():
    for target, message in (
        (lambda path: f"/{path}", "redirects more than 5 times"),
        (lambda path: "ftp://host/x", "to a ftp address"),
        (lambda path: "http://host:port/", "Invalid URL in location header"),
    ):
        with redirecting(307, target) as moved, pytest.raises(RetrieverError, match=message):
            client(moved).search(["kalo"], 1)


def test_a_key_goes_to_no_other_host():
    settings = HTTPSettings(url="http://127.0.0.1/x", retry_for=0.0)
    heard = []

    def answer(body, headers):
        heard.append(headers.get("X-API-KEY"))
        return 200, {}

    with answering(answer) as target:
        other = target.replace("127.0.0.1", "localhost")
        with redirecting(307, lambda path: f"{other}/x") as moved:
            asking = JSONClient(settings.model_copy(update={"url": moved}), headers={"X-API-KEY": "k"})
            with pytest.raises(RetrieverError, match=f"must not get the key: give {other}/x as its"):
                asking.post({})
        assert heard == []
        with redirecting(307, lambda path: f"{target}/x") as moved:
            JSONClient(settings.model_copy(update={"url": moved}), headers={"X-API-KEY": "k"}).post({})
        assert heard == ["k"], "another port of the same host"


def test_a_server_of_another_corpus_is_refused(address):
    settings = RetrieverSettings(kind="http", http={"url": f"{address}/retrieve"})
    assert build_retriever(settings, CORPUS).search(["kalo"], 1)[0][0].document_id == "d2"
    for other in (Document("d2", "mira", "color blue"), Document("2", "kalo", "color blue")):
        with pytest.raises(
            InputError, match="other documents than env_config.corpus mine.jsonl, which has no 'kalo' of id"
        ):
            build_retriever(settings, Corpus([other], source="mine.jsonl")).search(["kalo"], 1)


def test_the_wire_format_is_search_r1s(address):
    def post(**body):
        return httpx.post(f"{address}/retrieve", json=body)

    scored = post(queries=["mother", "red"], topk=2, return_scores=True).json()["result"]
    assert scored[0][0]["document"]["contents"] == '"mira"\nmother toma\nand a second line'
    assert scored[0][0]["document"]["id"] == "d0" and scored[0][0]["score"] > 0
    assert post(queries=["color"], topk=2).json()["result"][0][1]["contents"] == '"kalo"\ncolor blue'
    assert len(post(queries=["color"]).json()["result"][0]) == 1
    assert httpx.get(f"{address}/health").json()["status"] == "ok"


@pytest.mark.parametrize(
    "body", [{}, {"queries": "red"}, {"queries": ["red"], "topk": 0}, {"queries": ["red"], "topk": 10**6}]
)
def test_the_server_refuses_what_is_not_a_request(address, body):
    assert httpx.post(f"{address}/retrieve", json=body).status_code == 422


def test_a_failed_search_behind_the_server_is_an_unavailable_server():
    broken = ScriptedRetriever({"down": RetrieverError("the disk is gone")})
    with (
        serving(retrieval_app(broken, 1)) as address,
        pytest.raises(RetrieverError, match="503 Service Unavailable"),
    ):
        client(address).search(["down"], 1)


def test_a_dead_server_is_an_error_after_the_time_for_retries():
    started = time.perf_counter()
    with pytest.raises(
        RetrieverError, match=r"^the server 127.0.0.1:\d+ can't be reached \(.*Connection refused\)$"
    ):
        client(f"http://127.0.0.1:{free_port()}", retry_for=0.5).search(["red"], 1)
    assert 0.4 < time.perf_counter() - started < 5


def test_no_wait_goes_beyond_the_time_for_retries(monkeypatch):
    waits = []
    monkeypatch.setattr("random.uniform", lambda low, high: high)  # 0.2 s, 0.4 s, 0.8 s ...
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=waits.append))
    monkeypatch.setattr("tenacity.RetryCallState.seconds_since_start", property(lambda state: sum(waits)))
    with pytest.raises(RetrieverError, match="can't be reached"):
        client(f"http://127.0.0.1:{free_port()}", retry_for=1.0).search(["red"], 1)
    assert waits == pytest.approx([0.2, 0.4, 0.4])


def test_a_server_that_comes_back_is_waited_for():
    port = free_port()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client(f"http://127.0.0.1:{port}", retry_for=30).search, ["red"], 1)
        time.sleep(1.5)
        assert not waiting.done()
        with serving(retrieval_app(BM25Retriever(CORPUS), 1), port):
            assert waiting.result(timeout=20)[0][0].document_id == "d1"


@pytest.mark.slow
def test_the_command_comes_back_after_ten_seconds(tmp_path):
    (tmp_path / "passages.jsonl").write_text('{"id": "d1", "contents": "\\"toma\\"\\ncolor red"}\n')
    port = free_port()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(client(f"http://127.0.0.1:{port}", retry_for=60).search, ["red"], 1)
        time.sleep(10)
        command = [
            sys.executable,
            "-m",
            "pipeline.cli.igpo",
            "serve-retriever",
            str(tmp_path / "passages.jsonl"),
        ]
        server = subprocess.Popen([*command, "--port", str(port)])
        try:
            [[hit]] = waiting.result(timeout=60)
        finally:
            server.terminate()
            server.wait()
    assert (hit.document_id, hit.title, hit.text) == ("d1", "toma", "color red")


def test_a_slow_server_is_an_error():
    def slow(body, headers):
        time.sleep(1)
        return 200, FORMAT

    with answering(slow) as address, pytest.raises(RetrieverError, match="took longer than 0.2 s"):
        client(address, timeout=0.2).search(["red"], 1)


def test_an_answer_that_cannot_be_unpacked_is_an_error():
    from fastapi import FastAPI, Response

    app = FastAPI()

    @app.post("/retrieve")
    def retrieve(body: dict):
        return Response(b"no gzip", headers={"Content-Encoding": "gzip"})

    with (
        serving(app) as address,
        pytest.raises(RetrieverError, match="sent an answer that can't be unpacked"),
    ):
        client(address).search(["red"], 1)


def test_a_busy_server_is_asked_again_and_a_broken_one_is_not():
    asked = []

    def answer(body, headers):
        asked.append(body["queries"])
        return (429, {}) if len(asked) < 3 else (200, FORMAT) if body["queries"] == ["busy"] else (500, {})

    with answering(answer) as address:
        assert client(address, retry_for=10).search(["busy"], 1)[0][0].document_id == "7"
        assert asked == [["busy"]] * 3
        with pytest.raises(RetrieverError, match="answered 500 Internal Server Error"):
            client(address, retry_for=10).search(["broken"], 1)
    assert asked[3:] == [["broken"]]


@pytest.mark.parametrize(
    "answer, message",
    [
        (b"<html>", "something else than JSON"),
        ({"results": []}, r"does not speak Search-R1's format \(at result: Field required\)"),
        ([], r"at its top: Input should be a valid dictionary"),
        ({"result": [[{"text": "no document"}]]}, r"at result.0.0.document: Field required"),
        ({"result": [[{"document": {"id": "7"}}]]}, "a document needs `contents`"),
        ({"result": []}, "answered 0 results for 1 queries"),
    ],
)
def test_another_format_is_an_error_that_says_so(answer, message):
    with (
        answering(lambda body, headers: (200, answer)) as address,
        pytest.raises(RetrieverError, match=message),
    ):
        client(address).search(["red"], 1)


def test_documents_without_ids_or_scores():
    documents = [{"document": {"contents": text}} for text in ('"a"\nfirst', "only text", '"a"\nfirst')]
    with answering(lambda body, headers: (200, {"result": [documents]})) as address:
        [[first, second, again]] = client(address).search(["red"], 3)
        assert (first.title, first.text, first.score) == ("a", "first", 1.0)
        assert (second.title, second.text, second.score) == ("", "only text", 0.5)
        assert first.document_id == again.document_id != second.document_id
        assert len(client(address).search(["red"], 2)[0]) == 2
        assert client(address).identity["server"] is None


def test_no_more_requests_at_once_than_allowed():
    running, most, lock = 0, 0, threading.Lock()

    def answer(body, headers):
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.05)
        with lock:
            running -= 1
        return 200, FORMAT

    with answering(answer) as address, ThreadPoolExecutor(16) as pool:
        retriever = client(address, max_concurrency=3)
        list(pool.map(lambda _: retriever.search(["red"], 1), range(16)))
    assert most == 3


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "ftp://host/x",
        "http://user:secret@host/x",
        "http://host/x?api_key=secret",
        "http://",
    ],
)
def test_addresses_that_cannot_be_logged_or_reached_are_refused(url):
    with pytest.raises(ValueError) as refused:
        HTTPSettings(url=url)
    assert "secret" not in str(refused.value)


def test_kind_http_needs_no_corpus(address):
    settings = RetrieverSettings(kind="http", http={"url": f"{address}/retrieve"})
    assert build_retriever(settings, None).search(["kalo"], 1)[0][0].document_id == "d2"
