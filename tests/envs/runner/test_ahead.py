"""Imports ahead: as many processes as there are env runners, with the threads that Ray would give them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from envs.runner import ahead

PROGRAM = """
import json, os, sys
from envs.runner import ahead
heavy = "envs.runner.env_runner" in sys.modules
print(json.dumps([heavy, os.environ.get("OMP_NUM_THREADS")]))
"""


def process(folder, environment) -> list:
    given = ahead.settings(str(folder), 1, 1.0, "transformers")
    variables = {**os.environ, **environment, ahead.VARIABLE: given}
    answer = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=variables, capture_output=True, text=True, check=True
    )
    return json.loads(answer.stdout.splitlines()[-1])


def test_the_first_process_imports_and_the_second_does_not(tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert process(tmp_path, {}) == [True, "1"]
    assert process(tmp_path, {}) == [False, None]


def test_threads_that_the_user_chose_stay(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert ahead.import_ahead({"folder": str(tmp_path), "runners": 0, "cpus": 1, "engine": "vllm"}) is False
    given = {"folder": str(tmp_path), "runners": 1, "cpus": 2.0, "engine": "transformers"}
    assert ahead.import_ahead(given) is True
    assert os.environ["OMP_NUM_THREADS"] == "3"
