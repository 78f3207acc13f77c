"""What a server or a client may send: bytes, depth, numbers, time. Beyond it a call fails, and no run."""

import contextlib
import gzip
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from loopback import answering, serving
from scripted_retriever import ScriptedRetriever

from envs.data.corpus import Corpus, Document
from envs.retrieval.base import Hit, RetrieverError
from envs.retrieval.bm25 import BM25Retriever
from envs.retrieval.config import HTTPSettings
from envs.retrieval.remote.http import HTTPRetriever
from envs.retrieval.serving.joined_searches import JoinedSearches
from envs.retrieval.serving.server import MAX_BODY, retrieval_app
from envs.retrieval.wire import MAX_DEPTH, parse_json

CORPUS = Corpus([Document("d0", "mira", "mother toma"), Document("d1", "kalo", "color red")])


def search(address, **settings):
    settings = {"retry_for": 0.0, "timeout": 5.0, **settings}
    return HTTPRetriever(HTTPSettings(url=f"{address}/retrieve", **settings)).search(["red"], 1)


def hit(**changes):
    return {"result": [[{"document": {"id": "7", "contents": "x"}, "score": 1.5, **changes}]]}


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested deeper than 64"),
        (b"[" * 200_000, "nested deeper than 64"),
        (("[" * 200_000).encode("utf-16"), "nested deeper than 64"),
        (b'{"result": [["' + b"[" * 200_000 + b'"]]}', "does not speak Search-R1's format"),
        (b"x" * (2**20 + 1), r"more than 1 MiB \(`max_answer_mib`\)"),
        (b'{"result": [[{"document": {"contents": "x"}, "score": NaN}]]}', "NaN, which is no number of JSON"),
        (b'{"result": [[{"document": {"contents": "x"}, "score": -Infinity}]]}', "-Infinity, which is no"),
        (b'{"result": [[{"document": {"contents": "x"}, "score": 1e999}]]}', "a finite number"),
        (b'{"result": [[{"document": {"contents": "x"}, "score": 1%s}]]}' % (b"0" * 5000), "else than JSON"),
        (b"\xff\xfe\x00", "something else than JSON"),
    ],
)
def test_an_answer_beyond_the_limits_is_a_failed_call(answer, message):
    with answering(lambda body, headers: (200, answer)) as address:
        started = time.monotonic()
        with pytest.raises(RetrieverError, match=message):
            search(address, max_answer_mib=1.0)
        assert time.monotonic() - started < 2


def test_what_is_deep_or_long_but_within_the_limits_is_read():
    deep = b"[" * MAX_DEPTH + b'"[[[\\"]"' + b"]" * MAX_DEPTH
    assert parse_json(deep) and parse_json(b'"' + b"[" * 1000 + b'"') == "[" * 1000
    with pytest.raises(ValueError, match="nested"):
        parse_json(b"[" + deep + b"]")
    with answering(lambda body, headers: (200, hit(more="x" * 2**20))) as address:
        assert search(address)[0][0].document_id == "7"


@contextlib.contextmanager
def dripping(first: bytes, drop: bytes, seconds: float = 0.05):
    """A server that sends `first` and then `drop` again and again, until the client goes away."""
    listener = socket.create_server(("127.0.0.1", 0))
    gone = threading.Event()

    def serve():
        with contextlib.suppress(OSError):
            connection, _ = listener.accept()
            connection.recv(65536)
            connection.sendall(first)
            while True:
                connection.sendall(drop)
                time.sleep(seconds)
        gone.set()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", gone
    finally:
        listener.close()


LONG = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n"


@pytest.mark.parametrize("first", [b"HTTP/1.1 200 OK\r\nX: ", LONG], ids=["headers", "body"])
def test_a_server_that_drips_has_one_clock_for_its_whole_answer(first):
    with dripping(first, b"x") as (address, gone):
        started = time.monotonic()
        with pytest.raises(RetrieverError, match=r"took longer than 0\.5 s"):
            search(address, timeout=0.5)
        assert 0.4 < time.monotonic() - started < 5  # without the clock: for hours
        assert gone.wait(5), "the connection stays open"


def test_a_bomb_is_found_while_it_is_unpacked():
    packed = gzip.compress(bytes(2**28))
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: {len(packed)}\r\n\r\n".encode()
    with dripping(head + packed, b"") as (address, _), pytest.raises(RetrieverError, match="more than 4 MiB"):
        search(address, max_answer_mib=4)


@pytest.fixture(scope="module")
def address():
    with serving(retrieval_app(BM25Retriever(CORPUS), 1)) as address:
        yield f"{address}/retrieve"


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        (b'{"queries": ["red"], "topk": NaN}', 422, "NaN"),
        (b'{"queries": ["red"], "topk": 1e999}', 422, "topk"),
        (b'{"queries": ["red"], "topk": 1001}', 422, "topk"),
        (json.dumps({"queries": ["red"] * 4097}).encode(), 422, "queries"),
        (b"[" * 100_000, 422, "nested deeper than 64"),
        (b"\xff", 422, "something else than JSON"),
        (b'{"queries": ["' + b"x" * MAX_BODY + b'"]}', 413, "bytes"),
    ],
)
def test_requests_beyond_the_limits(address, body, status, said):
    refused = httpx.post(address, content=body)
    assert refused.status_code == status and said in refused.text
    assert httpx.post(address, json={"queries": ["red"]}).status_code == 200


def test_a_client_that_goes_away_in_its_request_leaves_no_traceback(address, caplog):
    host, port = address.removeprefix("http://").partition("/")[0].split(":")
    with socket.create_connection((host, int(port))) as client:
        client.sendall(b"POST /retrieve HTTP/1.1\r\nHost: x\r\nContent-Length: 99\r\n\r\n{")
        time.sleep(0.3)
    time.sleep(0.3)
    assert httpx.post(address, json={"queries": ["red"]}).status_code == 200
    assert "Exception in ASGI application" not in caplog.text


def test_searches_that_wait_together_become_one():
    held, batches = threading.Event(), []

    class Slow(ScriptedRetriever):
        def search(self, queries, top_k):
            held.wait(5)
            batches.append((list(queries), top_k))
            return super().search(queries, top_k)

    hits = {name: [Hit(name, "", name, 1.0)] for name in "abcde"}
    joined = JoinedSearches(Slow({**hits, "bad": RetrieverError("no")}))
    first = joined.submit(["a"], 1)
    while joined._waiting:
        time.sleep(0.001)
    waiting = [joined.submit(queries, 1) for queries in (["b", "c"], [], ["d"])]
    gone, other, bad = joined.submit(["e"], 1), joined.submit(["e"], 2), joined.submit(["bad"], 2)
    assert gone.cancel()
    held.set()
    ids = [
        [[hit.document_id for hit in of] for of in future.result(5)] for future in [first, *waiting, other]
    ]
    assert ids == [[["a"]], [["b"], ["c"]], [], [["d"]], [["e"]]]
    with pytest.raises(RetrieverError, match="no"):
        bad.result(5)
    assert batches == [(["a"], 1), (["b", "c", "d"], 1), (["e", "bad"], 2), (["e"], 2), (["bad"], 2)]


def test_many_clients_at_once_get_their_own_answers(address):
    words = ["mother", "red", "nothing"] * 40
    with httpx.Client(timeout=60) as client, ThreadPoolExecutor(24) as pool:
        found = list(pool.map(lambda word: client.post(address, json={"queries": [word]}).json(), words))
    ids = [[document["id"] for document in answer["result"][0]] for answer in found]
    assert ids == [["d0"], ["d1"], []] * 40
