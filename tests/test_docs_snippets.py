"""Every snippet of the pages runs: Python and SQL as they stand, commands and YAML up to options and keys."""

import ast
import json
import re
import shlex
from pathlib import Path
from types import SimpleNamespace

import click
import duckdb
import numpy as np
import pytest
import typer
import yaml
from rollout_log_samples import write_run

import pipeline.cli.igpo
import pipeline.cli.rllib
from algorithms.igpo.config import IGPOConfig
from envs.search.tools.base import Tool
from pipeline.analysis import open_run
from pipeline.experiment.experiment import EXPERIMENT_KEYS
from pipeline.experiment.keys import check_keys
from pipeline.importing.conversation import read_conversations
from pipeline.study.plan import Plan

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
KINDS = {"bash", "json", "python", "sql", "yaml", "text", ""}
"""Blocks without a language and of `text` show what was printed, or the files of a folder."""


def snippets(kind):
    for page in PAGES:
        for number, block in enumerate(BLOCK.finditer(page.read_text()), 1):
            if block[2] == kind:
                text = re.sub(rf"^{block[1]}", "", block[3], flags=re.MULTILINE)
                yield pytest.param(page.name, text, id=f"{page.name}-{number}")


def test_every_snippet_has_a_kind_that_is_tested():
    for page in PAGES:
        assert page.read_text().count("```") == 2 * len(BLOCK.findall(page.read_text())), page.name
        assert {block[2] for block in BLOCK.finditer(page.read_text())} <= KINDS, page.name


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a run of `igpo`."""
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "runs" / "igpo")
    return tmp_path


@pytest.mark.parametrize(("page", "text"), snippets("sql"))
def test_sql(folder, page, text):
    if "runs/study/" in text:  # the tables of a study, which DuckDB reads by itself
        cell = folder / "runs" / "study" / "cells" / "igpo" / "hard" / "seed.parquet"
        cell.parent.mkdir(parents=True)
        duckdb.sql("SELECT 1 AS iteration, 'heldout' AS split, 2 AS tokens, 0.5 AS em").write_parquet(
            str(cell)
        )
        assert duckdb.sql(text).fetchall() == [(str(cell.relative_to(folder)), 1, 2, 0.5)]
        return
    assert not text.startswith("-"), "a query that is typed after `igpo sql RUN` would be taken for an option"
    with open_run("last") as run:
        for query in filter(str.strip, text.split(";")):
            run.sql(query).fetchall()


def commands():
    for case in snippets("bash"):
        page, text = case.values
        variables = dict(re.findall(r'^(\w+)="(.*)"$', text, re.MULTILINE))
        for name, value in variables.items():
            text = text.replace(f"${name}", value)
        for line in re.sub(r"\\\n\s*", " ", text).splitlines():
            if re.match(r"(igpo|rllib|make) ", line):
                yield pytest.param(line, id=f"{page}: {line[:60]}")


@pytest.mark.parametrize("line", commands())
def test_command(line):
    """The command exists and takes these options; it is not run."""
    program, *words = shlex.split(line.split(" > ")[0], comments=True)
    if program == "make":
        names = re.findall(r"^([\w-]+):|\$\((\w+)\)|\b(GPU)=", (ROOT / "Makefile").read_text(), re.MULTILINE)
        known = {name for found in names for name in found}
        assert {word.partition("=")[0] for word in words} <= known
        return
    command = typer.main.get_command({"igpo": pipeline.cli.igpo, "rllib": pipeline.cli.rllib}[program].app)
    context = click.Context(command)
    while hasattr(command, "commands"):
        assert words and words[0] in command.commands, line
        command = command.commands[words.pop(0)]
    command.make_context(command.name, words, parent=context)
    for word in words:
        if word.startswith("conf/"):
            assert (ROOT / word).exists(), line


@pytest.mark.parametrize(("page", "text"), snippets("yaml"))
def test_yaml(page, text):
    """Its keys are those of an experiment file, of its `config`, or of one experiment in a file."""
    keys = yaml.safe_load(text)
    if "methods" in keys:  # part of a study's plan
        assert set(keys) <= set(Plan.model_fields)
        return
    [named, *others] = keys.values()
    if not others and isinstance(named, dict) and "config" in named:  # a whole file, with a name of one's own
        check_keys(named, EXPERIMENT_KEYS | {"extends"}, "", page)
        keys = named["config"]
    known = set(vars(IGPOConfig())) | EXPERIMENT_KEYS
    for key in keys if not {"protocol", "roles"} & set(keys) else {"env_config"}:
        assert key in known, f"{page}: {key}"


def python_of(name):
    [text] = [case.values[1] for case in snippets("python") if name in case.values[1]]
    return text


def run_python(text, names=None):
    """Runs a snippet; returns its names, and the value of its last line as `_`."""
    tree, names = ast.parse(text), {} if names is None else names
    if isinstance(tree.body[-1], ast.Expr):
        tree.body[-1] = ast.Assign([ast.Name("_", ast.Store())], tree.body[-1].value)
    exec(compile(ast.fix_missing_locations(tree), "snippet", "exec"), names)
    return names


def test_python_snippets_are_those_tested_here():
    tested = (
        "advantages(",
        "open_run",
        "log_to",
        "tune.Tuner",
        "def population",
        "later_M",
        "def log_rollout",
    )
    for case in snippets("python"):
        if case.values[0] == "your_own_parts.md":  # tests/test_own_parts.py runs all of that page
            continue
        assert any(name in case.values[1] for name in tested), case.id


def test_python_of_the_readme():
    first, second = run_python(python_of('[[0.5, 0.2], [0.1]], preset="igpo")'))["_"]
    assert (len(first), len(second)) == (3, 2)


def test_python_of_the_log(folder):
    pytest.importorskip("pandas")
    text = python_of("open_run")
    names = run_python(text)
    assert len(names["_"]) > 0
    for method in re.findall(r"\.(\w+)\(\)(?=[, ]+(?:\.|\())", text.rpartition("#")[2]):
        assert callable(getattr(type(names["run"].turns()), method)), method


def test_python_of_training(monkeypatch):
    """Up to what it builds, which needs minutes."""
    rollouts = [SimpleNamespace(rollouts=["rollout"])]
    trained = SimpleNamespace(train=lambda: {"igpo": {"em": 0.5}}, records=rollouts, stop=lambda: "stopped")
    monkeypatch.setattr(IGPOConfig, "build_algo", lambda self: self.validate() or trained)
    begun = []
    monkeypatch.setattr("pipeline.logging.configure_logging", lambda level: begun.append(level))
    monkeypatch.setattr("pipeline.logging.configure_ray_logging", lambda level: begun.append(level))
    monkeypatch.setattr("ray.init", lambda **options: begun.append(options))
    names = run_python(python_of("log_to"))
    assert names["_"] == "stopped"
    assert begun == [0, 0, {"address": "local", "include_dashboard": False, "log_to_driver": False}]
    tuned = {}
    monkeypatch.setattr("ray.tune.Tuner.fit", lambda self: tuned.update(fit=True))
    run_python(python_of("tune.Tuner"), names)
    assert tuned


def test_python_of_a_tool():
    tool = Tool(run_python(python_of("def population"))["population"], "population")
    assert "how many people" in tool.schema["function"]["description"].lower()
    assert "2020" in tool({"city": "Rome"}).text


@pytest.mark.parametrize(("page", "text"), snippets("json"))
def test_json_is_a_rollout_and_python_writes_the_same(tmp_path, monkeypatch, page, text):
    monkeypatch.chdir(tmp_path)
    row = json.loads(text)
    names = run_python(python_of("def log_rollout"))
    with (tmp_path / "rollouts.jsonl").open("w") as file:
        names["log_rollout"](
            file, row["messages"], row["golden_answers"], row["reward"], row["group"], row["step"]
        )
    assert json.loads((tmp_path / "rollouts.jsonl").read_text()) == row
    (one,) = read_conversations(tmp_path / "rollouts.jsonl")
    assert (one.step, one.reward, len(one.exchanges), one.question.golds) == (3, 1.0, 3, ["Malmö"])


def test_python_of_the_notation():
    """The last letters of a name are its dimensions."""
    sizes = {"M": 5, "N": 2, "D": 4, "E": 3, "H": 7}
    names = {
        "config": SimpleNamespace(ig_weight=0.5),
        "batch": SimpleNamespace(rollout_M=np.array([0, 0, 0, 1, 1])),
        "token_of_D": np.array([0, 2, 2, 1]),
    }
    for name in ("later_M", "advantages_M", "outcome_N", "hidden_EH"):
        names[name] = np.zeros([sizes[letter] for letter in name.rpartition("_")[2]])
    for name, value in run_python(python_of("later_M"), names).items():
        if isinstance(value, np.ndarray) and name != "_":
            assert list(value.shape) == [sizes[letter] for letter in name.rpartition("_")[2]], name
