"""Tab completion answers with names, ids and presets, as the shell asks for it."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from pipeline.cli.igpo import app


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("igpo show ig", ["igpo", "igpo-grpo"]),
        ("igpo show 2026", ["20260102-000000-bbbb", "20260101-000000-aaaa"]),
        ("igpo report la", ["last"]),
        ("igpo track la", ["last"]),
        ("igpo estimate conf/igpo.yaml --like ig", ["igpo", "igpo-grpo"]),
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
