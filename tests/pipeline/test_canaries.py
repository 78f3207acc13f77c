"""Canaries: credentials in every variable and address. Each component fails, and none writes a credential."""

import json
import logging
import re

import duckdb
import pytest
from command import Command
from loopback import answering
from tiny_policy import write_experiment

from envs.errors import InputError
from envs.retrieval.config import WebSettings
from envs.retrieval.remote.web import WebRetriever
from envs.search.tools.base import Tool, Toolbox, ToolError, ToolFailure
from envs.search.trajectory import ToolCall
from envs.world.words import vocabulary
from pipeline.logging import configure_logging, log_to_file
from pipeline.rollout_log.folder import open_folder
from pipeline.run_directory.directory import RunDirectory
from pipeline.terminal import Console, say
from pipeline.tracking import MlflowTracker
from pipeline.tracking.names import parameters_of

VARIABLES = {
    "MLFLOW_TRACKING_URI": "http://canary-user:canary-mlflow@127.0.0.1:9",
    "MLFLOW_TRACKING_PASSWORD": "canary-password",
    "MLFLOW_TRACKING_TOKEN": "canary-token",
    "SERPER_API_KEY": "canary-serper",
    "HTTP_PROXY": "http://canary-user:canary-proxy@127.0.0.1:9",
    "AWS_SECRET_ACCESS_KEY": "canary/aws+secret",
    "HF_TOKEN": "canary-hub",
}
ADDRESS = "s3://canary-key:canary/typed@bucket/logs"


@pytest.fixture
def canaries(monkeypatch):
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    return f"{' '.join(VARIABLES.values())} {ADDRESS}"


def test_terminal_and_log_file(canaries, tmp_path, capsys, monkeypatch):
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    configure_logging(0)
    say(canaries)
    say(canaries, error=True)
    console = Console(stderr=True)
    console.print(canaries, soft_wrap=True)
    with pytest.raises(RuntimeError), log_to_file(tmp_path / "driver.log"):
        try:
            raise RuntimeError(canaries)
        except RuntimeError:
            console.print_exception()
            logging.getLogger("pipeline.x").warning("gone: %s", canaries, exc_info=True)
            raise
    said = capsys.readouterr()
    text = said.out + said.err + (tmp_path / "driver.log").read_text()
    assert text.count("***@bucket") == 9 and "Traceback" in text and "canary" not in text


def test_files_and_trackers(canaries, tmp_path):
    run = RunDirectory.create(tmp_path, "demo", {"demo": {}}, {"command": ["rllib", canaries]})
    run.note(mlflow_ui=f"open {canaries}", attempts=[{"how": canaries}])
    tracker = MlflowTracker(
        run.path, name="demo", run_id="1", config={"a": {"b": [canaries]}}, tags={"t": canaries}
    )
    tracker.close("failed", timeout=0.1)
    sent = f"{tracker._wanted.tags} {parameters_of({'a': {'b': [canaries]}})}"
    text = sent + run.metadata_path.read_text() + repr(run.metadata)
    assert text.count("***@bucket") >= 6 and "canary" not in text


def test_what_the_policy_reads(canaries):
    def slip(word: str) -> str:
        """Slips."""
        raise ToolError(canaries) if word == "mine" else ToolFailure(canaries)

    toolbox = Toolbox([Tool(slip, "slip")])
    for word in ("mine", "away"):
        call = toolbox(ToolCall("slip", {"word": word}))
        assert call.error and "***@bucket" in call.error and "canary" not in call.error


def test_refusals(canaries, monkeypatch, tmp_path):
    monkeypatch.setenv("SERPER_API_KEY", "canary-serper\nX-Other: 1")
    for attempt in (lambda: WebRetriever(WebSettings(), tmp_path), lambda: open_folder(ADDRESS)):
        with pytest.raises(InputError) as refused:
            attempt()
        assert "canary" not in str(refused.value)


@pytest.mark.parametrize(("key", "value"), [("rollout_log", ADDRESS), ("env_config.questions", ADDRESS)])
def test_an_experiment_file_with_credentials(refused, tmp_path, monkeypatch, key, value):
    monkeypatch.chdir(tmp_path)
    write_experiment(tmp_path / "demo.yaml", "tiny")
    if key == "rollout_log":
        text = (tmp_path / "demo.yaml").read_text()
        (tmp_path / "demo.yaml").write_text(
            re.sub(r"(?m)^(\w+:\n)", rf"\1  rollout_log: {value}\n", text, count=1)
        )
        said = refused("train", "file", "demo.yaml")
    else:
        said = refused("train", "file", "demo.yaml", "--set", f"env_config.questions={value}")
    assert "s3://***@bucket/logs carries credentials" in said and "canary" not in said
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_a_run_whose_search_and_tracking_server_fail(tmp_path):
    """Both servers answer with an error that repeats what they were sent."""

    def answer(body, headers):
        return 403, {"error": str(headers)}

    with answering(answer) as address:
        web = {"kind": "web", "web": {"url": f"{address}/search"}}
        questions = tmp_path / "questions.jsonl"
        questions.write_text(
            "".join(
                json.dumps({"id": str(k), "question": f"trade of {word} ?", "golden_answers": ["coach"]})
                + "\n"
                for k, word in enumerate(vocabulary()[:40])
            )
        )
        env = {"corpus": "remote", "questions": "questions.jsonl", "heldout_share": 0.1, "retriever": web}
        write_experiment(tmp_path / "demo.yaml", "tiny", env=env, iterations=1)
        server = address.replace("http://", "http://canary-user:canary-mlflow@")
        environment = {**VARIABLES, "MLFLOW_TRACKING_URI": server, "IGPO_CACHE": str(tmp_path / "cache")}
        run = Command(
            tmp_path,
            "train",
            "file",
            "demo.yaml",
            "--set",
            "max_tool_error_share=1.0",
            environment=environment,
        )
        run.end()
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    for table in tmp_path.rglob("*.parquet"):
        files.append(table.with_suffix(".txt"))
        files[-1].write_text(str(duckdb.sql(f"SELECT * FROM read_parquet('{table}')").fetchall()))
    assert any(b"403" in path.read_bytes() for path in files), run.said
    left = {
        path: re.findall(rb".{40}canary.{20}", path.read_bytes())
        for path in files
        if b"canary" in path.read_bytes()
    }
    assert not left
