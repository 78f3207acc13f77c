"""Phases of the proof with an engine and a vLLM that follow a script: what they count and write."""

import json
import logging
import sys
from types import SimpleNamespace

import pytest
from rollout_log_samples import write_run
from scripted_engine import ScriptedEngine, tiny_task

from benchmarks.gpu import bare_vllm, learning, random_model, sampling, training, versions
from benchmarks.sampling import rollout_throughput, scoring_share


@pytest.fixture(autouse=True)
def other_tests_hear_warnings():
    """A phase has its process to itself and switches logging off in it."""
    yield
    logging.disable(logging.NOTSET)


class Engine(ScriptedEngine):
    def _submit_score(self, request, *, read_cache):
        self.submit(request)


def run(module, monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, arguments)])
    module.main()


def test_sampling_counts_turns_and_writes_its_requests(tmp_path, monkeypatch):
    task = tiny_task(tmp_path, max_turns=2, max_turn_tokens=4)
    engine = Engine(task, lambda context, turn: "<search> mira <end>")
    monkeypatch.setattr(sampling, "open_task", lambda args: task)
    monkeypatch.setattr(sampling, "open_engine", lambda args, task: engine)
    monkeypatch.setattr(sampling, "replay", lambda engine, recorder: 1e6)
    for module in (rollout_throughput, scoring_share):
        monkeypatch.setattr(module, "forget", lambda engine: None)
    result, requests = tmp_path / "result.json", tmp_path / "requests.json"
    few = ("--prompts", 2, "--group-size", 2, "--repeats", 1, "--device", "cpu", "--turns", 2)
    run(sampling, monkeypatch, *few, "--requests", requests, "--result", result)
    found = json.loads(result.read_text())
    assert (found["rollouts"], found["turns"], found["tokens"]) == (4, 8, 24)
    assert found["against_replay"] == pytest.approx(found["loop_tokens_per_second"] / 1e6)
    assert 0 <= found["naive_score_share"] <= 1 and found["score_share"] < 1
    written = json.loads(requests.read_text())
    assert len(written) == 8 and {request["tokens"] for request in written} == {3}
    assert all(request["ids"] and isinstance(request["seed"], int) for request in written)


def test_a_bare_vllm_gets_the_same_requests(tmp_path, monkeypatch):
    requests = tmp_path / "requests.json"
    requests.write_text(
        json.dumps([{"ids": [1, 2], "tokens": 5, "seed": 7}, {"ids": [3], "tokens": 2, "seed": 8}])
    )
    started, asked = {}, []

    class LLM:
        def __init__(self, **arguments):
            started.update(arguments)

        def reset_prefix_cache(self):
            return True

        def generate(self, prompts, sampling, use_tqdm):
            asked.append(
                [
                    (prompt["prompt_token_ids"], s["max_tokens"], s["seed"])
                    for prompt, s in zip(prompts, sampling, strict=True)
                ]
            )
            return [
                SimpleNamespace(outputs=[SimpleNamespace(token_ids=[0] * s["max_tokens"])]) for s in sampling
            ]

    fake = SimpleNamespace(LLM=LLM, SamplingParams=dict, TokensPrompt=dict)
    monkeypatch.setitem(sys.modules, "vllm", fake)
    result = tmp_path / "result.json"
    run(bare_vllm, monkeypatch, "folder", "--requests", requests, "--repeats", 2, "--result", result)
    assert asked[:2] == [[([1, 2], 5, None), ([3], 2, None)]] * 2
    assert asked[2:] == [[([1, 2], 5, 7), ([3], 2, 8)]] * 2
    assert started["max_model_len"] == 8 and started["model"] == "folder"
    assert set(json.loads(result.read_text())) == {"unseeded_tokens_per_second", "seeded_tokens_per_second"}


def test_a_run_s_log_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "train", lambda config, iterations, out, changes: 12.0)
    write_run(tmp_path / "experiment")
    result = tmp_path / "result.json"
    run(training, monkeypatch, "conf/igpo.yaml", "--out", tmp_path, "--result", result)
    found = json.loads(result.read_text())
    assert found["seconds"] == 12.0 and [row["iteration"] for row in found["iterations"]] == [1, 2]
    assert found["heldout"] and all(0 <= point["em"] <= 1 for point in found["heldout"])


def test_learning_and_versions_in_tiny_shapes(tmp_path, monkeypatch):
    result = tmp_path / "result.json"
    tiny = ("--rows", 2, "--longest", 130, "--tokens-per-micro-batch", 200, "--repeats", 1)
    run(learning, monkeypatch, *tiny, "--device", "cpu", "--without-bare", "--result", result)
    found = json.loads(result.read_text())
    assert found["against_bare"] is None and found["mfu"] is None and found["tokens_per_second"] > 0
    assert found["estimated_gib"] > 0 and found["peak_gib"] > 0
    run(versions, monkeypatch, "--device", "cpu", "--size", 64, "--result", result)
    found = json.loads(result.read_text())
    assert found["teraflops"] > 0 and found["attention_error"] < 0.1 and found["versions"]["torch"]


def test_the_shapes_are_qwen_s():
    from pipeline.estimate.model import model_sizes

    for name, parameters in (("1.5B", 1_543_714_304), ("7B", 7_615_616_512)):
        config = random_model.shape_of(name)
        assert model_sizes(config).parameters == parameters
