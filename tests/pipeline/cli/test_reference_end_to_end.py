"""Preset `trace` from the command line: belief scored by a frozen reference on the learner's side, then
credited again.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_policy import write_experiment, write_policy

from pipeline.analysis import open_run

pytestmark = pytest.mark.slow


def command(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=folder, capture_output=True, text=True, timeout=400,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return " ".join(done.stdout.split())


def test_trace_trains_on_the_belief_of_a_frozen_reference(tmp_path):
    import torch

    from algorithms.igpo.belief.naive import NaiveScorer
    from algorithms.igpo.model.causal_lm import load_causal_lm
    from envs.runner.belief import BeliefQuery
    from envs.search.task import SearchTask
    from pipeline.experiment.experiment import load_experiments

    policy = write_policy(tmp_path / "policy")
    write_experiment(tmp_path / "demo.yaml", policy, iterations=2, preset="trace", lr=0.01)
    command(tmp_path, "pipeline.cli.rllib", "train", "file", "demo.yaml")
    (folder,) = (item.parent for item in (tmp_path / "runs/demo").glob("*/run.json"))

    config = load_experiments(folder / "config.yaml")[0].algorithm_config()
    task = SearchTask(config.env_settings())
    questions = {question.id: question for question in task.train_questions}
    scorer = NaiveScorer(load_causal_lm(str(policy), torch.float32))
    with open_run(folder) as run:
        assert run.sql("SELECT DISTINCT scorer FROM episodes WHERE split = 'train'").fetchall() == [
            ("reference",)
        ]
        rows = run.sql(
            "SELECT question_id, initial_scores FROM episodes WHERE split = 'train' AND iteration = 2 ORDER "
            "BY ALL"
        ).fetchall()
    for question_id, initial_scores in rows:  # after one update the policy has moved, its reference has not
        question = questions[question_id]
        context = np.asarray(task.protocol.prompt("", question.text, ["search", "answer"]))
        ((expected,),) = scorer.score([BeliefQuery([context], task.answer_templates(question).suffixes_K)])
        np.testing.assert_allclose(initial_scores, expected, atol=1e-4)

    said = command(tmp_path, "pipeline.cli.igpo", "recredit", str(folder), "--preset", "trace")
    assert "turns whose sign flips │ 0.0%" in said
    with (folder / "run.json").open() as metadata:
        assert json.load(metadata)["status"] == "finished"
