"""Retrievers from the command line: what is broken is refused before Ray starts, in one sentence, and no
secret is repeated.
"""

import json
import socket

import pytest
from fastapi.testclient import TestClient
from loopback import answering, free_port, serving
from tiny_policy import write_experiment, write_policy

import pipeline.cli.igpo

KEY = "secret-key-1234"
PASSAGES = [{"id": "d1", "contents": '"toma"\ncolor red'}, {"id": "d2", "contents": '"kalo"\ncolor blue'}]


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return write_policy(tmp_path_factory.mktemp("policy"))


@pytest.fixture
def files(tmp_path):
    questions = [
        {"id": f"q{n}", "question": f"color of toma {n} ?", "golden_answers": ["red"]} for n in range(20)
    ]
    paths = {"corpus": tmp_path / "passages.jsonl", "questions": tmp_path / "questions.jsonl"}
    for path, records in zip(paths.values(), (PASSAGES, questions), strict=True):
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return {name: str(path) for name, path in paths.items()}


def experiment(tmp_path, policy, files, retriever, **env):
    return write_experiment(tmp_path / "demo.yaml", policy, env={**files, "retriever": retriever, **env})


def http(address, **settings):
    return {"kind": "http", "http": {"url": f"{address}/retrieve", "retry_for": 0.0, **settings}}


def test_a_dead_server(refused, tmp_path, policy, files):
    """At once, although a search would be tried again for 50 s."""
    retriever = http(f"http://127.0.0.1:{free_port()}", retry_for=50)
    said = refused("train", "file", experiment(tmp_path, policy, files, retriever, corpus="remote"))
    assert "retriever `http` does not work: the server 127.0.0.1:" in said and "Connection refused" in said
    assert "; start it with `igpo serve-retriever PASSAGES --port " in said
    assert "or change env_config.retriever" in said
    assert not (tmp_path / "runs").exists()


def test_a_server_of_another_format(refused, tmp_path, policy, files):
    with answering(lambda body, headers: (200, {"hits": []})) as address:
        assert "does not speak Search-R1's format" in refused(
            "train", "file", experiment(tmp_path, policy, files, http(address))
        )


def test_a_server_of_another_corpus(refused, tmp_path, policy, files):
    found = {"result": [[{"document": {"id": "d1", "contents": '"kalo"\ncolor blue'}, "score": 1.0}]]}
    with answering(lambda body, headers: (200, found)) as address:
        said = refused("train", "file", experiment(tmp_path, policy, files, http(address)))
    assert (
        "searches other documents than env_config.corpus" in said and "which has no 'kalo' of id 'd1'" in said
    )


def test_a_slow_server(refused, tmp_path, policy, files):
    from fastapi import FastAPI

    app = FastAPI()

    @app.post("/retrieve")
    def never(body: dict) -> dict:
        import time

        time.sleep(2)
        return {}

    with serving(app) as address:
        said = refused("train", "file", experiment(tmp_path, policy, files, http(address, timeout=0.2)))
    assert "took longer than 0.2 s" in said


def test_a_corpus_without_documents(refused, tmp_path, policy, files):
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    assert "empty.jsonl holds no documents" in refused(
        "train", "file", experiment(tmp_path, policy, files, {"kind": "bm25"}, corpus=str(empty))
    )
    assert "empty.jsonl holds no documents" in refused("serve-retriever", empty, app=pipeline.cli.igpo.app)


@pytest.mark.parametrize(
    "retriever, env, expected",
    [
        ({"kind": "bm52"}, {}, "env_config.retriever.kind"),
        ({"kind": "http", "http": {"ulr": "x"}}, {}, "env_config.retriever.http.ulr`. Did you mean `url`?"),
        ({"kind": "dense"}, {}, "kind `dense` needs an encoder"),
        (
            {"kind": "dense", "dense": {"encoder": "e", "index": "ivf"}},
            {},
            "env_config.retriever.dense.index",
        ),
        (
            {"kind": "bm25"},
            {"corpus": "remote"},
            "retriever `bm25` searches `corpus`, so that can't be `remote`",
        ),
        (
            {"kind": "http"},
            {"corpus": "remote", "tools": ["open"]},
            "the tool `open` reads documents of `corpus`",
        ),
        ({"kind": "bm25"}, {"tools": ["serch"]}, "unknown tool 'serch'. Known: search, open, calculator"),
        ({"kind": "bm25"}, {"tools": ["nowhere:tool"]}, "module 'nowhere' can't be imported"),
        (
            {"kind": "web"},
            {"corpus": "remote"},
            "needs a key of serper.dev in the environment variable SERPER_API_KEY",
        ),
        ({"kind": "web"}, {}, "retriever `web` finds pages of the web, not documents of `corpus`"),
        (
            {"kind": "http", "http": {"retry_for": 90}},
            {},
            "retriever.http.retry_for (90 s) is longer than tool_timeout (60 s)",
        ),
        (
            {"kind": "http"},
            {"tool_timeout": 10},
            "retriever.http.retry_for (30 s) is longer than tool_timeout (10 s)",
        ),
    ],
)
def test_settings_that_cannot_be(refused, tmp_path, policy, files, retriever, env, expected, monkeypatch):
    monkeypatch.delenv("SERPER_API_KEY", raising=False)
    assert expected in refused("train", "file", experiment(tmp_path, policy, files, retriever, **env))


def test_a_secret_in_an_address_is_refused_and_not_repeated(refused, tmp_path, policy, files):
    retriever = http(f"http://user:{KEY}@127.0.0.1:8000")
    said = refused("train", "file", experiment(tmp_path, policy, files, retriever))
    assert "neither credentials nor a query string" in said and KEY not in said


def test_the_key_is_in_nothing_that_a_run_writes(tmp_path, policy, files, monkeypatch):
    from pipeline.experiment.experiment import load_experiments
    from pipeline.run_directory import provenance
    from pipeline.tracking.names import parameters_of

    monkeypatch.setenv("SERPER_API_KEY", KEY)
    [loaded] = load_experiments(
        experiment(tmp_path, policy, files, {"kind": "web", "top_k": 3}, corpus="remote")
    )
    resolved = loaded.resolved()
    assert resolved["demo"]["config"]["env_config"]["retriever"] == {
        "kind": "web",
        "top_k": 3,
        "arguments": {},
    }
    written = [resolved, parameters_of(resolved), provenance.versions(), provenance.hardware()]
    assert not any(KEY in json.dumps(value, default=str) for value in written)


def test_serve_retriever_says_what_is_wrong(refused, tmp_path, files):
    def serve(*arguments):
        return refused("serve-retriever", *arguments, app=pipeline.cli.igpo.app)

    assert "nowhere.jsonl does not exist" in serve(tmp_path / "nowhere.jsonl")
    assert "--kind hybrid needs an encoder" in serve(files["corpus"], "--kind", "hybrid")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = serve(files["corpus"], "--port", port)
    assert (
        f"can't listen on 127.0.0.1 port {port} (Address already in use): choose another with --port" in said
    )


def test_serve_retriever_listens_on_loopback_unless_told(run, files, monkeypatch):
    asked = []
    monkeypatch.setattr("uvicorn.run", lambda app, **options: asked.append(options))
    for more in ([], ["--host", "0.0.0.0"]):
        code, said = run(
            "serve-retriever", files["corpus"], "--port", free_port(), *more, app=pipeline.cli.igpo.app
        )
        assert code == 0 and "2 documents, bm25: POST http://" in said
    assert [options["host"] for options in asked] == ["127.0.0.1", "0.0.0.0"]


@pytest.mark.parametrize("command", [["serve-retriever", "--port", "0"], ["data", "index"]])
def test_a_corpus_with_names_of_ones_own(run, refused, tmp_path, monkeypatch, command):
    served = []
    monkeypatch.setattr("uvicorn.run", lambda app, **options: served.append(app))
    command = [free_port() if part == "0" else part for part in command]
    corpus = tmp_path / "wiki.csv"
    corpus.write_text("key,page,said\n1,toma,color red\n2,kalo,color blue\n")
    said = refused(*command, corpus, app=pipeline.cli.igpo.app)
    assert said == (
        f"{corpus}:2: no `contents` or `text` (found 'key', 'page', 'said'): say which is which with "
        "`--field id=NAME --field title=NAME --field text=NAME`"
    )
    names = ["--field", "id=key", "--field", "title=page", "--field", "text=said"]
    code, said = run(*command, corpus, *names, app=pipeline.cli.igpo.app)
    assert code == 0 and "2 documents, bm25: " in said
    said = refused(*command, corpus, *names, "--field", "page=x", app=pipeline.cli.igpo.app)
    assert "unknown key `corpus_fields.page`" in said
    said = refused(*command, corpus, "--field", "text", app=pipeline.cli.igpo.app)
    assert said == "--field text: write PART=NAME, such as text=content"
    if served:
        found = TestClient(served[0]).post("/retrieve", json={"queries": ["toma"], "topk": 1})
        assert found.json()["result"][0][0]["contents"] == '"toma"\ncolor red'
