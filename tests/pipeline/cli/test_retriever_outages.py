"""A retriever that goes away while a run is under way, by the real command line: the table of
docs/your_data.md, row by row.
"""

import json
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from command import Command
from loopback import answering, free_port
from tiny_policy import write_experiment

from envs.data.corpus import Corpus
from envs.retrieval.bm25 import BM25Retriever
from envs.retrieval.wire import WireDocument
from envs.world.config import WorldSettings
from envs.world.world import build_world
from pipeline.analysis import open_run

pytestmark = pytest.mark.slow

WORLD: dict[str, Any] = {"train_questions": 100, "heldout_questions": 20}
DOCUMENTS = Corpus(build_world(WorldSettings(**WORLD)).documents)
STOPPED = (
    "tool calls failed in this iteration, more than max_tool_error_share 0.2; "
    "the commonest error: the search failed: "
)


def experiment(folder: Path, address: str, **settings) -> None:
    """The embedded policy, which searches from the first turn, with its world behind a server."""
    retriever = {"kind": "http", "http": {"url": f"{address}/retrieve", **settings}}
    env = {"world": WORLD, "retriever": retriever, "max_observation_tokens": 64}
    write_experiment(folder / "demo.yaml", "tiny", env=env, iterations=1000)


@contextmanager
def retriever_server(folder: Path, port: int):
    passages = folder / "passages.jsonl"
    passages.write_text("".join(json.dumps({"id": d.id, "contents": d.contents}) + "\n" for d in DOCUMENTS))
    server = Command(
        folder, "serve-retriever", str(passages), "--port", str(port), module="pipeline.cli.igpo"
    )
    server.wait_for("POST http://")
    try:
        yield
    finally:
        server.process.kill()
        server.end()


def test_a_server_that_is_gone_for_ten_seconds_is_waited_for(tmp_path):
    port = free_port()
    experiment(tmp_path, f"http://127.0.0.1:{port}", retry_for=60)
    with retriever_server(tmp_path, port):
        run = Command(tmp_path, "train", "file", "demo.yaml")
        run.wait_for_iteration()
    time.sleep(10)
    done = max(run.iterations)
    with retriever_server(tmp_path, port):
        run.wait_for_iteration(after=done + 1)
        assert run.interrupt() == 130, run.said
    with open_run(next((tmp_path / "runs/demo").glob("*/run.json")).parent) as log:
        [(failed, slowest)] = log.sql(
            "SELECT count(*) FILTER (failed), max(seconds) FROM tool_calls"
        ).fetchall()
    assert failed == 0 and 9 < slowest < 60


def test_a_server_that_fails_stops_the_run_which_goes_on_once_it_is_mended(tmp_path):
    retriever, behave = BM25Retriever(DOCUMENTS), "well"

    def answer(body, headers):
        if "queries" not in body:  # Search-R1's server knows no other request, such as for its health
            return 404, {}
        if behave == "slowly":
            time.sleep(2)
        if behave == "in another format":
            return 200, {"hits": []}
        found = retriever.search(body["queries"], body["topk"])
        shown = [
            [{"document": WireDocument.of(hit).model_dump(), "score": hit.score} for hit in hits]
            for hits in found
        ]
        return 200, {"result": shown}

    faults = {
        "slowly": "took longer than 0.5 s",
        "in another format": "does not speak Search-R1's format (at result: Field required)",
    }
    with answering(answer) as address:
        experiment(tmp_path, address, retry_for=0.5, timeout=0.5)
        command = ["train", "file", "demo.yaml"]
        for fault, error in faults.items():
            behave = "well"
            run = Command(tmp_path, *command)
            run.wait_for_iteration()
            behave = fault
            assert run.end() == 1, run.said
            assert f"{STOPPED}the server {address.removeprefix('http://')} {error}" in run.said
            assert "--resume" in run.said
            with open_run("demo", runs_dir=tmp_path / "runs") as log:  # the newest run
                last = "FROM tool_calls WHERE iteration = (SELECT max(iteration) FROM iterations)"
                [(share, commonest)] = log.sql(f"SELECT avg(failed::INT), mode(error) {last}").fetchall()
            assert share > 0.2 and error in commonest  # what it stopped over is in the log
        behave = "well"
        run = Command(tmp_path, *command)
        run.wait_for_iteration()
        assert run.interrupt() == 130, run.said
