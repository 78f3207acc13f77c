"""`rllib train file` on experiments and options of any content, through the real command: exit code 2 and one
sentence of at most 300 characters, or the end of all checks. Seeded and bounded.
"""

import random
import re
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import yaml

from envs.errors import InputError

BASE = {
    "run": "IGPO",
    "env": "search",
    "stop": {"training_iteration": 1},
    "config": {
        "model_path": "tiny",
        "env_config": {"world": {"train_questions": 20, "heldout_questions": 5}},
    },
}
KEYS = re.findall(
    r"\S+",
    """lr seed preset group_size prompts_per_iteration num_epochs grad_clip model_path model_dtype loss engine
    engine.kind engine.max_num_seqs env_config.max_turns env_config.world.hops env_config.world.seed
    env_config.retriever.top_k env_config.retriever.http.url env_config.tools env_config.roles
    env_config.corpus env_config.outcome max_weight_lag num_env_runners num_learners lora""",
)
VALUES = re.findall(
    r"\S+",
    """-1 0 1e999 .nan .inf null true '' ' [] {} [[]] [[[[ }{ {a: [1,2] 3.5 9999999999 2020-01-01 ~ &a *a
    !!python/object/apply:os.system !!int !x ? : - --- 1_000 0x1f 0o8 +1 1.5.5 x x:y x:y:z ../../x /dev/null
    \\ http://u:p@h s3://b {3:1} {true:1} {null:1}""",
)
VALUES += ["9" * 5000, "[" * 200, "x" * 2000, "a\x00b", "\ud800", "a: b: c", "é" * 400, "1 2", "\t", "%", "#"]
CASES = 40
"""Each takes a second on a busy machine."""


@pytest.fixture
def judged(run, monkeypatch, tmp_path):
    """Calls `rllib train file` up to the start of Ray. Returns the exit code."""
    monkeypatch.chdir(tmp_path)

    @contextmanager
    def starting(*_):
        yield SimpleNamespace(wait=lambda: None)
        raise InputError("Ray would start here.")

    monkeypatch.setattr("pipeline.training.launch.starting_ray", starting)

    def judge(*words):
        code, said = run("train", "file", "f.yaml", *words)
        told = said.rpartition("error: ")[2]
        assert code == 2 and "Traceback" not in said and said.count("error: ") <= 1, (words, said)
        assert len(told) <= 300 or "Usage" in said, (words, told)
        assert not (tmp_path / "runs").exists(), words
        return told

    return judge


def test_settings_of_the_command_line(judged, tmp_path):
    (tmp_path / "f.yaml").write_text(yaml.safe_dump({"demo": BASE | {"storage_path": "runs"}}))
    assert judged() == "Ray would start here."
    draw, told = random.Random(5), set()
    for _ in range(CASES):
        words = [
            part
            for _ in range(draw.choice((1, 1, 2)))
            for part in ("--set", f"{draw.choice(KEYS)}={draw.choice(VALUES)}")
        ]
        told.add(judged(*words))
    for text in VALUES:
        told.add(judged("--stop", text))
    assert len(told) > 30, "the cases are refused for many reasons"


def test_bytes_of_a_file(judged, tmp_path):
    """A good file with some bytes changed, removed or doubled."""
    good = yaml.safe_dump({"demo": BASE | {"storage_path": "runs"}}).encode()
    draw, told = random.Random(6), set()
    for _ in range(CASES):
        text = bytearray(good)
        for _ in range(draw.choice((1, 2, 5, 20))):
            place = draw.randrange(len(text))
            match draw.randrange(3):
                case 0:
                    text[place] = draw.randrange(256)
                case 1:
                    del text[place : place + draw.randrange(1, 20)]
                case _:
                    text[place:place] = text[place : place + draw.randrange(1, 40)]
            text = text or bytearray(b"x")
        (tmp_path / "f.yaml").write_bytes(bytes(text))
        told.add(judged())
    assert len(told) > 20
