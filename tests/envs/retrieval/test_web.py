"""Web search against a loopback server of Serper's documented format: hits, cost, cache, and a key that stays
where it is.
"""

import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from loopback import answering, free_port

from envs.errors import InputError
from envs.retrieval.base import Hit, RetrieverError
from envs.retrieval.build import build_retriever
from envs.retrieval.config import RetrieverSettings, WebSettings
from envs.retrieval.remote.web import WebRetriever

KEY = "secret-key-1234"


def serper(body, headers):
    """As https://serper.dev documents it: the key in a header, `organic` results, the credits that were
    charged.
    """
    if headers.get("X-API-KEY") != KEY:
        return 403, {"message": "Unauthorized."}
    pages = [
        {
            "title": f"{body['q']} {n}",
            "link": f"https://example.org/{n}",
            "snippet": f"about {n}",
            "position": n,
        }
        for n in range(1, body["num"] + 2)
    ]
    del pages[1]["snippet"]
    parameters = {"q": body["q"], "num": body["num"], "type": "search"}
    return 200, {"searchParameters": parameters, "organic": pages, "credits": 2 if body["num"] > 10 else 1}


@pytest.fixture(autouse=True)
def key(monkeypatch):
    monkeypatch.setenv("SERPER_API_KEY", KEY)


def web(address: str, cache, **settings) -> WebRetriever:
    return WebRetriever(WebSettings(url=f"{address}/search", retry_for=0.0, **settings), cache)


def test_pages_are_hits(tmp_path):
    with answering(serper) as address:
        [hits] = web(address, tmp_path).search(["red"], 2)
    assert hits == [
        Hit("https://example.org/1", "red 1", "about 1", 1.0),
        Hit("https://example.org/2", "red 2", "", 0.5),
    ]


def test_what_is_cached_costs_nothing(tmp_path):
    asked = []

    def counting(body, headers):
        asked.append(body)
        return serper(body, headers)

    with answering(counting) as address:
        first = web(address, tmp_path).search(["red", "blue"], 3)
        again = web(address, tmp_path).search(["blue", "red", "green"], 3)
        large = web(address, tmp_path).search(["red"], 20)
    assert (first.credits, again.credits, large.credits) == (2, 1, 2)
    assert again[:2] == [first[1], first[0]]
    assert sorted(body["q"] for body in asked) == ["blue", "green", "red", "red"]
    assert asked[0]["num"] == 3


def test_failures_are_not_cached(tmp_path):
    answers = iter([(500, {}), (200, {"organic": "none"}), (200, {"organic": []})])
    with answering(lambda body, headers: next(answers)) as address:
        retriever = web(address, tmp_path)
        with pytest.raises(RetrieverError, match="answered 500"):
            retriever.search(["red"], 1)
        with pytest.raises(RetrieverError, match="Serper's format"):
            retriever.search(["red"], 1)
        assert retriever.search(["red"], 1) == [[]]


def test_a_key_is_needed(monkeypatch, tmp_path):
    monkeypatch.delenv("SERPER_API_KEY")
    with pytest.raises(InputError, match="environment variable SERPER_API_KEY"):
        build_retriever(RetrieverSettings(kind="web"), None)
    monkeypatch.setenv("OTHER", KEY)
    with answering(serper) as address:
        assert web(address, tmp_path, api_key_variable="OTHER").search(["red"], 1)[0]


def test_the_key_never_leaves_the_request(monkeypatch, tmp_path, caplog):
    caplog.set_level(logging.DEBUG)
    with answering(serper) as address:
        retriever = web(address, tmp_path)
        retriever.search(["red"], 1)
        monkeypatch.setenv("SERPER_API_KEY", "wrong-secret")
        with pytest.raises(RetrieverError) as refused:
            web(address, tmp_path).search(["blue"], 1)
    dead = web(f"http://127.0.0.1:{free_port()}", tmp_path)
    with pytest.raises(RetrieverError) as unreachable:
        dead.search(["green"], 1)
    settings = RetrieverSettings(kind="web", web=WebSettings(url=f"{address}/search"))
    seen = [
        caplog.text,
        str(refused.value),
        str(unreachable.value),
        repr(retriever.identity),
        settings.model_dump_json(),
    ]
    assert "403" in str(refused.value) and len(caplog.records) > 0
    assert not any("secret" in text for text in seen)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert files and not any(b"secret" in file.read_bytes() for file in files)


def test_equal_queries_are_bought_once(tmp_path):
    """In one call, and of two rollouts that ask at the same time."""
    asked, second_waits = [], threading.Event()

    def slow(body, headers):
        asked.append(body["q"])
        second_waits.wait(0.5)
        return serper(body, headers)

    with answering(slow) as address:
        retriever = web(address, tmp_path)
        found = retriever.search(["red", "blue", "red"], 2)
        assert sorted(asked) == ["blue", "red"] and found.credits == 2 and found[0] == found[2]
        with ThreadPoolExecutor(4) as pool:
            rollouts = list(pool.map(lambda _: retriever.search(["green"], 2), range(4)))
    assert asked.count("green") == 1 and sum(hits.credits for hits in rollouts) == 1
    assert all(hits == rollouts[0] for hits in rollouts)


def test_a_failure_is_that_of_all_who_wait_for_it_and_is_not_kept(tmp_path):
    asked = []

    def failing_once(body, headers):
        asked.append(body["q"])
        time.sleep(0.2)
        return (500, {}) if len(asked) == 1 else serper(body, headers)

    with answering(failing_once) as address:
        retriever = web(address, tmp_path)
        with pytest.raises(RetrieverError, match="answered 500"):
            retriever.search(["red", "red"], 1)
        assert retriever.search(["red"], 1).credits == 1
    assert asked == ["red", "red"]
