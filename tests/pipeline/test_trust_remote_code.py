"""`trust_remote_code`: whoever builds an engine passes it on, and without it one sentence says what to do."""

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from chat_tokenizers import chat_tokenizer
from coded_model import modules_in, ship_code
from random_llama import plain_logp, pushed_weights, random_llama, results_of
from tiny_policy import write_experiment, write_policy

from algorithms.igpo import IGPOConfig
from algorithms.igpo.model.causal_lm import HFCausalLM, load_causal_lm
from envs.engine.adapters import _linear_layers
from envs.engine.base import EngineSettings, Generate
from envs.engine.build import build_engine
from envs.errors import InputError
from envs.runner.env_runner import IGPOEnvRunner
from envs.search.protocols.build import load_tokenizer
from pipeline.cli.igpo import app
from pipeline.doctor import checks
from pipeline.doctor.findings import Subject
from pipeline.evaluation.saved_policy import open_policy
from pipeline.experiment.experiment import load_experiments

ENGINE = EngineSettings(kind="transformers")
SENTENCE = (
    "model {} runs only with the code that comes with it: read that code and, if you trust it, set "
    "trust_remote_code=true (`igpo import`: --trust), or take a model without code of its own"
)


@pytest.fixture(scope="module", autouse=True)
def modules(tmp_path_factory):
    with modules_in(tmp_path_factory.mktemp("modules")):
        yield


@pytest.fixture(scope="module")
def coded(tmp_path_factory):
    torch.set_num_threads(1)
    return str(ship_code(write_policy(tmp_path_factory.mktemp("coded"))))


@pytest.fixture
def experiment(coded, tmp_path):
    return str(write_experiment(tmp_path / "demo.yaml", coded, engine={"kind": "transformers"}))


@pytest.mark.parametrize("kind", ["transformers", pytest.param("vllm", marks=pytest.mark.slow)])
def test_an_engine_runs_a_trusted_models_code(coded, kind):
    settings = EngineSettings(kind=kind, kv_cache_gib=0.25)
    engine = build_engine(coded, settings, max_model_len=64, dtype="float32", trust_remote_code=True)
    vocabulary = json.loads(Path(coded, "config.json").read_text())["vocab_size"]
    model = random_llama(vocab_size=vocabulary)
    engine.load_weights(pushed_weights(model), version=1)
    turn = results_of(engine, [Generate("a", [7, 8, 9], 4, [], 1.0, 0)])["a"]
    if kind == "transformers":
        assert type(engine._model).__name__ == "ShippedForCausalLM"
    np.testing.assert_allclose(turn.logprobs_L, plain_logp(model, [7, 8, 9], turn.ids), atol=1e-4)


def test_code_that_is_not_trusted_does_not_run(coded):
    with pytest.raises(InputError) as refused:
        build_engine(coded, ENGINE, max_model_len=64, dtype="float32")
    assert str(refused.value) == SENTENCE.format(coded)
    with pytest.raises(InputError, match="runs only with the code that comes with it"):
        load_causal_lm(coded, torch.float32)


@pytest.mark.parametrize("trusts", [True, False])
def test_vllm_is_told(coded, monkeypatch, trusts):
    started = []

    def start(**arguments):
        started.append(arguments["trust_remote_code"])
        if not arguments["trust_remote_code"]:
            raise RuntimeError("a custom model: consider setting `trust_remote_code=True` in LLM")
        return SimpleNamespace(llm_engine=None)

    monkeypatch.setattr("envs.engine.build._require_vllm", lambda: None)
    monkeypatch.setattr("envs.engine.vllm.check_device", lambda settings: None)
    monkeypatch.setattr("envs.engine.vllm.import_vllm", lambda dtype: start)
    with nullcontext() if trusts else pytest.raises(InputError, match="runs only with the code"):
        build_engine(coded, EngineSettings(), max_model_len=64, dtype="float32", trust_remote_code=trusts)
    assert started == [trusts]


def test_an_engine_of_adapters_finds_the_layers_of_a_trusted_model(coded):
    names = ["down_proj", "gate_proj", "k_proj", "o_proj", "q_proj", "up_proj", "v_proj"]
    assert _linear_layers(coded, True) == names
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        _linear_layers(coded, False)


@pytest.mark.parametrize("trusts", [True, False])
def test_an_env_runner_reads_it_from_its_configuration(monkeypatch, trusts):
    passed = []

    def build_engines(folders, settings, **further):
        passed.append(further["trust_remote_code"])
        raise InputError("far enough")

    monkeypatch.setattr("envs.runner.env_runner.build_engines", build_engines)
    config = IGPOConfig().environment("search", env_config={"world": {"train_questions": 9}})
    config.rl_module(model_path="tiny", trust_remote_code=trusts).env_runners(num_env_runners=0)
    with pytest.raises(InputError, match="far enough"):
        IGPOEnvRunner(config=config, worker_index=1)
    assert passed == [trusts]


def test_doctor_and_evaluation(coded, experiment):
    """What passes the check of the model starts, and the other way round."""
    for trusts in ("true", "false"):
        (read,) = load_experiments(experiment, [f"trust_remote_code={trusts}"])
        found = checks.model(Subject(read, read.algorithm_config()))
        assert found.status == ("ok" if trusts == "true" else "fail")
    assert found.message == SENTENCE.format(coded)
    opened = open_policy(coded, experiment, ["trust_remote_code=true"])
    assert type(opened.loop.engines["default_policy"]._model).__name__ == "ShippedForCausalLM"
    with pytest.raises(InputError) as refused:
        open_policy(coded, experiment)
    assert str(refused.value) == SENTENCE.format(coded)


def test_import(run, tmp_path):
    folder = tmp_path / "model"
    tokenizer = chat_tokenizer()
    random_llama(vocab_size=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(ship_code(folder))
    asked = [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "<answer>Ann</answer>"}]
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": asked, "golden_answers": ["Ann"]}))
    command = ("import", tmp_path / "a.jsonl", "--engine", "transformers", "--runs-dir", tmp_path / "runs")
    code, said = run(*command, "--model", folder, app=app)
    assert code == 2 and SENTENCE.format(folder) in said
    code, said = run(*command, "--model", folder, "--trust", app=app)
    assert code == 0 and "1 rollouts and 1 prompts" in said


def test_the_code_goes_with_what_is_exported(coded, tmp_path):
    module = HFCausalLM(model_config={"path": coded, "trust_remote_code": True})
    module.save_pretrained(str(tmp_path))
    model = load_causal_lm(str(tmp_path), torch.float32, True)
    assert type(model).__name__ == "ShippedForCausalLM"


def test_a_tokenizer_beside_such_code_is_read_without_a_question_at_the_terminal(coded, monkeypatch):
    asked = []
    monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or "n")
    assert len(load_tokenizer(coded)) > 0
    assert asked == []


def test_engines_of_code_that_runs_are_not_another_models():
    """Nor those of a model that has both its own code and transformers'."""
    plain = IGPOConfig().training(model_path="tiny")
    assert plain.engine_identity != plain.copy().rl_module(trust_remote_code=True).engine_identity
