"""Tab completion answers with names, ids and presets, as the shell asks for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from rollout_log_samples import write_run
from typer.testing import CliRunner

from envs.errors import InputError
from pipeline.cli.igpo import app
from pipeline.cli.options import policy_named


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("igpo show ig", ["igpo", "igpo-grpo"]),
        ("igpo show 2026", ["20260102-000000-bbbb", "20260101-000000-aaaa"]),
        ("igpo report la", ["last"]),
        ("igpo runs igpo-", ["igpo-grpo"]),
        ("igpo recredit last --preset igpo_o", ["igpo_official"]),
        ("igpo sql last --named learning_c", ["learning_curve"]),
    ],
)
def test_the_last_word_is_completed(tmp_path, monkeypatch, words, expected):
    for name, run in (("igpo", "20260101-000000-aaaa"), ("igpo-grpo", "20260102-000000-bbbb")):
        (tmp_path / "runs" / name / run).mkdir(parents=True)
        (tmp_path / "runs" / name / run / "run.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    environment = {
        "_IGPO_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split()) - 1),
    }
    result = CliRunner().invoke(app, env=environment, prog_name="igpo")
    assert result.stdout.split() == expected


def test_a_run_names_its_last_checkpoint(tmp_path, monkeypatch):
    """For `igpo ask` and `rllib evaluate`: whatever names no run is a checkpoint or a model."""
    monkeypatch.chdir(tmp_path)
    run = write_run(tmp_path / "runs" / "igpo", run_id="one")
    (run / "run.json").write_text("{}")
    with pytest.raises(InputError, match=r"last: this run has no checkpoint yet: .*checkpoints/last"):
        policy_named("last")
    (run / "checkpoints" / "last").mkdir(parents=True)
    expected = str(Path("runs") / "igpo" / "one" / "checkpoints" / "last")
    for words in ("last", "igpo", "one", "runs/igpo", "runs/igpo/one"):
        assert policy_named(words) == expected, words
    for words in ("tiny", "smollm2", "org/model", f"{expected}"):
        assert policy_named(words) == words
    with pytest.raises(InputError, match=r"^nowhere: there is no such run .*, checkpoint or model: "):
        policy_named("nowhere")
