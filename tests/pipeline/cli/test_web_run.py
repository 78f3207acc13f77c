"""A run that searches the web (a server on this machine that answers as serper.dev documents), with every log
switched on.
"""

import json
from pathlib import Path
from typing import Any

import diskcache
import pytest
from command import Command
from loopback import answering
from tiny_policy import write_experiment

from envs.data.corpus import Corpus
from envs.retrieval.bm25 import BM25Retriever
from envs.world.config import WorldSettings
from envs.world.world import build_world
from pipeline.analysis import open_run

pytestmark = pytest.mark.slow

KEY = "secret-key-1234"
WORLD: dict[str, Any] = {"train_questions": 100, "heldout_questions": 20}


def written(folder: Path, run: Path) -> str:
    """Everything that a run leaves: every file as it is, and what is compressed (rollout log, cache of
    answers) as text.
    """
    files = [path.read_bytes().decode(errors="replace") for path in folder.rglob("*") if path.is_file()]
    with open_run(run) as log:
        tables = [
            str(log.sql(f"SELECT * FROM {name}").fetchall())
            for name in ("runs", "iterations", "episodes", "turns", "tool_calls")
        ]
    with diskcache.Cache(str(folder / "cache" / "web"), disk=diskcache.JSONDisk) as cache:
        answers = [f"{key} {cache[key]}" for key in cache]
    return "\n".join([*files, *tables, *answers])


def test_the_key_is_in_no_file_of_a_run_and_the_cost_is_in_its_log(tmp_path, monkeypatch):
    world, asked = build_world(WorldSettings(**WORLD)), []
    retriever, questions = BM25Retriever(Corpus(world.documents)), tmp_path / "questions.jsonl"
    records = [{"id": q.id, "question": q.text, "golden_answers": q.golds} for q in world.questions("train")]
    questions.write_text("".join(json.dumps(record) + "\n" for record in records))

    def answer(body, headers):
        asked.append(headers["X-API-KEY"])
        [hits] = retriever.search([body["q"]], body["num"])
        pages = [
            {"title": hit.title, "link": f"https://{hit.document_id}", "snippet": hit.text} for hit in hits
        ]
        return 200, {"organic": pages, "credits": 1}

    monkeypatch.setenv("SERPER_API_KEY", KEY)
    monkeypatch.setenv("IGPO_CACHE", str(tmp_path / "cache"))
    with answering(answer) as address:
        web = {"kind": "web", "top_k": 1, "web": {"url": f"{address}/search"}}
        env = {"corpus": "remote", "questions": str(questions), "heldout_share": 0.1, "retriever": web}
        write_experiment(tmp_path / "demo.yaml", "tiny", env=env, iterations=1)
        run = Command(tmp_path, "train", "file", "demo.yaml", "-vv")
        assert run.end() == 0, run.said
    assert asked and set(asked) == {KEY}
    [folder] = (path.parent for path in (tmp_path / "runs/demo").glob("*/run.json"))
    left = written(tmp_path, folder)
    assert "https://world-0" in left and KEY not in left
    with open_run(folder) as log:
        # The doctor's own question before the run was paid for too, but is no tool call of a rollout.
        [(credits, failed)] = log.sql(
            "SELECT sum(credits), count(*) FILTER (failed) FROM tool_calls"
        ).fetchall()
    assert failed == 0 and credits == len(asked) - 1
