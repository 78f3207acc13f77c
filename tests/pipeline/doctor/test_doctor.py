"""What the doctor's cheap checks refuse, and what they must not: a check that is wrong stops a run that would
have worked.
"""

import io
import json
import math
import re
import subprocess
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from random_experts import random_qwen3_moe
from rich.console import Console
from scripted_engine import ScriptedEngine, tiny_task
from transformers import CONFIG_MAPPING

from algorithms.igpo.config import IGPOConfig
from algorithms.igpo.model.lora import add_lora
from envs.engine.accelerator import check_device
from envs.engine.base import EngineSettings, ScoreAnswer, Scored
from envs.errors import InputError
from envs.runner.rollout_loop import RolloutLoop
from envs.world.words import VALUES
from pipeline.analysis.sandbox import connect
from pipeline.doctor import checks, measurements
from pipeline.doctor.findings import Finding, Subject
from pipeline.doctor.words import words
from pipeline.estimate.capacity import estimate
from pipeline.estimate.estimate import show
from pipeline.estimate.machines import GIB, GPUS, Device, this_cpu
from pipeline.estimate.model import model_of
from pipeline.estimate.workload import Expected, workload_of
from pipeline.evaluation.saved_policy import Policy
from pipeline.experiment.experiment import load_experiments
from pipeline.run_directory import provenance
from pipeline.training.plan import Plan, check_plan

GPU = 80e9
NO_GPU = ("num_gpus_per_env_runner=0", "num_gpus_per_learner=0")
SMALL = ("model_path=tiny", "model_dtype=float32", "engine.kv_cache_gib=1")


def subject(*overrides: str) -> Subject:
    alone = ("num_env_runners=1", "num_learners=1", "shard_learner=false")
    experiment = load_experiments("conf/qwen2.5_7b.yaml", [*alone, *overrides])[0]
    return Subject(experiment, experiment.algorithm_config())


def with_model(*overrides: str) -> Subject:
    found = subject(*overrides)
    found.model = model_of(found.config)
    return found


def estimated(found: Subject, memory: float, *, on_cpu: bool):
    """What `igpo estimate` says of a machine with that memory."""
    work = workload_of(found.config, Expected(), on_cpu=on_cpu)
    device = Device("this", memory, flops=1e12, bandwidth=1e12)
    return estimate(model_of(found.config), work, device)


@pytest.fixture
def gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda index: SimpleNamespace(name="a GPU", total_memory=GPU)
    )


@pytest.mark.parametrize(
    "size, said",
    [
        ("gpu_memory_utilization=0.1", "raise engine.gpu_memory_utilization or lower max_context_tokens"),
        ("kv_cache_gib=0.01", "raise engine.kv_cache_gib or lower max_context_tokens"),
        ("kv_cache_gib=100", "lower engine.kv_cache_gib: 1 engines share a GPU"),
    ],
)
def test_the_setting_of_a_cache_that_does_not_fit_on_a_gpu_is_named(gpus, size, said):
    found = checks.memory(with_model("lora={rank: 16}", f"engine.{size}"))
    assert found.status == "fail" and said in found.message


@pytest.mark.parametrize(
    "overrides, status",
    [
        ((), "fail"),  # 16 bytes a parameter for the learner, and 2 for its reference
        (("num_learners=2",), "fail"),
        (("num_learners=2", "shard_learner=true"), "warn"),
        (("lora={rank: 16}",), "ok"),
        (("lora={rank: 16}", "engine.gpu_memory_utilization=0.1"), "fail"),  # no room for a rollout
        (("num_gpus_per_learner=0",), "ok"),
        (SMALL, "ok"),
    ],
)
def test_memory_on_gpus_is_what_the_estimate_says(gpus, overrides, status):
    asked = with_model(*overrides)
    found, expected = checks.memory(asked), estimated(asked, GPU, on_cpu=False)
    sizes = f"on each role's GPU about {expected.memory.by_role()}"
    assert f"{sizes}; a GPU here has {GPU / GIB:.1f} GiB" in found.message
    assert f"learner {expected.memory.learner / GIB:.1f} GiB (weights " in found.message
    assert found.status == status
    assert not (expected.fits and status == "fail")


@pytest.mark.parametrize("overrides", [(), ("num_env_runners=4",), ("num_learners=2",), ("lora={rank: 4}",)])
@pytest.mark.parametrize("free, status", [(1.0, "fail"), (1e12, "ok")])
def test_memory_of_a_cpu_is_what_the_estimate_says(monkeypatch, overrides, free, status):
    monkeypatch.setattr("pipeline.doctor.memory.free_memory", lambda: free)
    asked = with_model(*SMALL, *NO_GPU, *overrides)
    found, memory = checks.memory(asked), estimated(asked, free, on_cpu=True).memory
    assert found.status == status
    if status == "fail":  # it prints the sum that is compared
        assert f"{(memory.engine + memory.state) / GIB:.1f} GiB are needed whatever" in found.message
        engine, state = (f"{size / GIB:.1f}" for size in (memory.engine, memory.state))
        assert f" GiB are free (engines {engine}; learners {state}: weights " in found.message
        return
    assert f"about {(memory.engine + memory.learner) / GIB:.1f} GiB of " in found.message
    assert f"all engines and learners: {memory.by_role()}" in found.message


def test_whoever_asks_for_memory_learns_of_a_container_s_limit(monkeypatch):
    """`docker run --memory 8g`: the kernel ends the run there, whatever the host has free."""
    limited = {"/proc/self/cgroup": "0::/\n", "/sys/fs/cgroup/memory.max": f"{2**33}\n",
               "/sys/fs/cgroup/memory.current": f"{2**31}\n"}  # fmt: skip
    monkeypatch.setattr("envs.memory._read", lambda path: limited.get(str(path), ""))
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=2**38, available=2**37))
    found = checks.memory(with_model(*SMALL, *NO_GPU, "engine.kv_cache_gib=7"))
    assert found.status == "fail" and "needed whatever the rollouts and 6.0 GiB are free" in found.message
    monkeypatch.setattr("envs.engine.accelerator.sees_gpu", lambda: False)
    monkeypatch.setattr("envs.engine.accelerator.vllm_is_for_cpus", lambda: True)
    with pytest.raises(InputError, match=r"kv_cache_gib is 7 but only 6\.0 GiB of memory are free: lower it"):
        check_device(EngineSettings(kv_cache_gib=7))
    assert this_cpu(1).memory == 2**33 and provenance.hardware()["memory_gib"] == 8.0
    with connect() as connection:
        assert connection.sql("SELECT current_setting('memory_limit')").fetchall() == [("4.0 GiB",)]


def test_memory_that_short_rollouts_do_not_need_fails_no_run(monkeypatch):
    asked = with_model(*SMALL, *NO_GPU)
    parts = estimated(asked, 1e12, on_cpu=True).memory.parts
    of_rollouts = ("activations", "logits", "autocast")
    certain = sum(parts.values()) - sum(parts[f"learner: {part}"] for part in of_rollouts)
    for free, status in ((certain * 1.01, "warn"), (certain * 0.99, "fail")):
        monkeypatch.setattr("pipeline.doctor.memory.free_memory", lambda free=free: free)
        assert checks.memory(asked).status == status
        advice = checks.memory(asked).message
        assert ("lower tokens_per_micro_batch" in advice) is (status == "warn")
        assert "set kl_coeff=0, which needs no reference" in advice and "set `lora`" in advice
        without = checks.memory(with_model(*SMALL, *NO_GPU, "kl_coeff=0")).message
        assert "kl_coeff=0" not in without
    transformers = with_model(*SMALL, *NO_GPU, "engine.kind=transformers")
    assert checks.memory(transformers).status == "ok", "its cache grows with the rollouts under way"


def test_eight_gpus_do_not_make_one_learner_fit(monkeypatch, gpus):
    """Each role's need is compared with one GPU; the sum of eight would have room for it twice."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    asked = with_model("num_env_runners=7")
    found = checks.memory(asked)
    assert found.status == "fail" and "learner 152.0 GiB (" in found.message
    assert "a GPU here has 74.5 GiB" in found.message and "`igpo estimate FILE --gpus N`" in found.message
    joined = "RAY_ADDRESS=10.0.0.1:6379"
    monkeypatch.setenv(*joined.split("="))
    found = checks.memory(asked)
    assert found.status == "warn" and f"not looked at: the machines of {joined}" in found.message


TEN = (
    (),
    ("num_learners=4", "shard_learner=true"),
    ("num_learners=2", "shard_learner=true", "offload_optimizer=true"),
    ("lora={rank: 16}",),
    ("gradient_checkpointing=false",),
    ("model_path=Qwen/Qwen2.5-1.5B-Instruct",),
    ("model_path=Qwen/Qwen3-8B", "kl_coeff=0"),
    ("model_path=meta-llama/Llama-3.1-70B", "num_gpus_per_env_runner=4", "engine.tensor_parallel_size=4"),
    ("num_gpus_per_env_runner=0.5", "num_gpus_per_learner=0.5", "engine.gpu_memory_utilization=0.3"),
    ("num_gpus_per_env_runner=0.5", "num_gpus_per_learner=0.5", "engine.placement=colocated"),
)


@pytest.mark.parametrize("overrides", TEN)
def test_doctor_preflight_and_estimate_say_the_same(monkeypatch, gpus, overrides):
    """Also of models that only the hub has: their sizes are known."""
    asked = subject(*overrides)
    monkeypatch.setattr("transformers.AutoConfig.from_pretrained", no_hub)
    monkeypatch.setattr(checks, "gpus", lambda subject: Finding("gpus", "ok", "enough"))
    findings = list(checks.cheap_checks(asked))
    assert [finding.name for finding in findings[-2:]] == ["model", "memory"]
    assert findings[-2].status == "fail", "the hub is out of reach"
    device = next(device for device in GPUS.values() if device.memory == GPU)
    expected = estimate(model_of(asked.config), workload_of(asked.config, Expected(), on_cpu=False), device)
    assert expected.memory.by_role() in findings[-1].message
    said = io.StringIO()
    show(asked.experiment, "h100", Expected(), Console(file=said, width=80))
    engine, learner = (f"{size / GIB:.1f}" for size in (expected.memory.engine, expected.memory.learner))
    (row,) = [line.split() for line in said.getvalue().splitlines() if line.split()[:1] == ["h100"]]
    assert row[1:4] == [engine, learner, "74.5"]
    assert not (row[-1] == "yes" and findings[-1].status == "fail")


def no_hub(*_, **__):
    raise OSError("no network")


def test_a_machine_without_a_gpu_compares_with_kinds_of_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    found = checks.memory(with_model())
    assert found.status == "warn" and "this machine has no GPU; on each role's NVIDIA H200 about engine " in (
        found.message
    )
    assert "fits on none of the kinds that are known, and with short rollouts on h200" in found.message
    found = checks.memory(with_model("lora={rank: 16}"))
    assert found.status == "ok" and "fits on h200, h100, a100" in found.message
    huge = with_model("model_path=Qwen/Qwen2.5-72B-Instruct")
    assert checks.memory(huge).status == "warn"


@pytest.mark.parametrize(
    "kind, settings, refused",
    [
        ("mistral", {"sliding_window": 4096}, True),
        ("mistral", {"sliding_window": 8192}, False),
        ("mistral", {"sliding_window": None}, False),
        ("qwen2", {"sliding_window": 4096, "use_sliding_window": False}, False),
        ("gemma3_text", {"sliding_window": 4096, "head_dim": 16}, True),
    ],
)
def test_contexts_are_no_longer_than_a_sliding_window(tmp_path, kind, settings, refused):
    sizes = {
        "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 6,
        "num_attention_heads": 2, "num_key_value_heads": 1,
    }  # fmt: skip
    CONFIG_MAPPING[kind](**sizes, **settings).save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").touch()
    given = (f"model_path={tmp_path}", "model_dtype=float32")
    found = checks.model(subject(*given, "env_config.max_context_tokens=8192"))
    assert found.status == ("fail" if refused else "ok")
    if refused:
        assert found.message == (
            f"model_path {tmp_path} ({kind}) has a sliding window of 4096 tokens, beyond which the learner "
            "cannot reproduce it, and contexts may have 8192: lower env_config.max_context_tokens to 4096"
        )
    assert checks.model(subject(*given, "env_config.max_context_tokens=4096")).status == "ok"


@pytest.mark.parametrize(
    "targets, said",
    [
        ("all-linear", "the experts of a mixture, whose adapters cannot be merged"),
        (["down_proj", "q_proj"], "the experts of a mixture, whose adapters cannot be merged"),
        (["up_proj"], "up_proj without also targeting gate_proj"),
        (["lm_head"], "tie_word_embeddings"),
        (["nope"], "peft: Target modules {'nope'} not found"),
        (["q_proj", "nope"], "name nope, which no layer of this model is called"),
        (["experts"], "Target module Qwen3MoeExperts"),
    ],
)
def test_adapters_that_training_refuses_are_refused_before(tmp_path, targets, said):
    model = random_qwen3_moe()
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(tmp_path)
    lora = f"lora={{targets: {targets if isinstance(targets, str) else '[' + ', '.join(targets) + ']'}}}"
    asked = subject(f"model_path={tmp_path}", "model_dtype=float32", lora)
    with pytest.raises(InputError, match=re.escape(said)) as at_training:
        add_lora(model, asked.config.adapters.by_policy["default_policy"])
    assert str(at_training.value).startswith("lora.targets ") and len(str(at_training.value)) <= 300
    for before in (lambda: model_of(asked.config), lambda: checks.model(asked)):
        with pytest.raises(InputError) as refused:
            before()
        assert str(refused.value) == str(at_training.value)


def test_adapters_of_a_router_are_counted(tmp_path):
    random_qwen3_moe().save_pretrained(tmp_path)
    asked = subject(f"model_path={tmp_path}", "model_dtype=float32", "lora={rank: 3, targets: [gate]}")
    assert checks.model(asked).status == "ok"
    assert asked.model is not None and asked.model.trained == 2 * 3 * (64 + 4)


@pytest.mark.parametrize("rule, belief", [("max", 0.9), ("mean", 0.3), ("first", 0.1)])
def test_belief_is_under_the_alias_rule(tmp_path, rule, belief):
    class TwoAliases(ScriptedEngine):
        def _answer(self, request):
            if isinstance(request, ScoreAnswer):
                first = request.suffix_ids == suffixes[0].ids
                return Scored(request.request_id, math.log(0.1 if first else 0.9))
            return super()._answer(request)

    task = tiny_task(tmp_path, alias_rule=rule)
    questions = [replace(question, golds=list(VALUES["trade"][:2])) for question in task.heldout_questions]
    task._questions.heldout[:] = questions
    suffixes = [task.protocol.scoring_suffix(gold) for gold in questions[0].golds]
    engine = TwoAliases(task, lambda context, turn: "<search> mira <end>")
    loop = RolloutLoop(task, {"default_policy": engine})
    policy = Policy("scripted", IGPOConfig(), task, {}, loop)
    found = measurements.belief(policy)
    assert f"{belief:.3f} before and {belief:.3f} with the gold documents" in found.message


PLANNER = [
    {"name": "planner", "actions": ["message"]},
    {"name": "searcher", "actions": ["search", "answer"]},
]


@pytest.mark.parametrize(
    "roles, first, written",
    [
        (PLANNER, "<message> mother <end>", "<message> mother <end> <search> friend <end>"),
        (PLANNER, "mother <end>", "mother <end>"),
        (PLANNER[1:], "", "<search> friend <end>"),
    ],
)
def test_the_documents_that_belief_is_measured_with_follow_a_search(tmp_path, roles, first, written):
    """Also where another role speaks first. Where no role that may search speaks, they follow what was
    written.
    """
    task = tiny_task(tmp_path, roles=roles)
    question = next(q for q in task.heldout_questions if len(q.gold_document_ids) == 1)
    task._questions.heldout[:] = [question]
    engine = ScriptedEngine(
        task, lambda context, turn: first if "<reader>" in context else "<search> friend <end>"
    )
    loop = RolloutLoop(task, {"default_policy": engine})
    measurements.belief(Policy("scripted", IGPOConfig(), task, {}, loop))
    text = task.corpus.by_id(question.gold_document_ids[0]).contents
    shown = task.protocol.observation(text, decision_ids=[], sender="tool", max_tokens=512).ids
    prompt = f"<bos> <searcher> {question.text}"
    before, evidence = (task.protocol.text(context) for context in engine.scored_contexts)
    assert (before, evidence) == (prompt, f"{prompt} {written} {task.protocol.text(shown)}")


def test_belief_is_not_measured_where_the_documents_are_at_a_server_alone(tmp_path):
    task = tiny_task(tmp_path)
    assert task.heldout_questions[0].gold_document_ids
    task.corpus = None
    found = measurements.belief(Policy("scripted", IGPOConfig(), task, {}, None))
    assert found.status == "ok" and "not measured: the documents are at the server alone" in found.message


@pytest.mark.parametrize("joins_cluster", [False, True])
def test_a_cluster_may_have_the_memory_that_this_machine_lacks(monkeypatch, joins_cluster):
    lack = Finding("memory", "fail", "at least 9 GiB of 1 GiB free memory")
    monkeypatch.setattr("pipeline.training.plan.cheap_checks", lambda subject: iter([lack]))
    monkeypatch.setattr(
        "pipeline.training.plan.Subject",
        lambda *_, **__: SimpleNamespace(task=SimpleNamespace(identity={}), questions={}),
    )
    nothing: Any = SimpleNamespace(source="demo.yaml", storage_path=Path("runs"), remote=None)
    plan, said = Plan(nothing, nothing, {}, None), io.StringIO()
    with nullcontext() if joins_cluster else pytest.raises(InputError, match="demo.yaml: at least 9 GiB"):
        check_plan(plan, Console(file=said), joins_cluster=joins_cluster)
    assert ("warning: memory: at least 9 GiB" in said.getvalue()) is joins_cluster


@pytest.mark.parametrize("kind, status", [("vllm", "fail"), ("transformers", "ok")])
def test_a_machine_without_vllm_may_use_the_other_engine(monkeypatch, kind, status):
    monkeypatch.setattr(provenance, "versions", lambda: {"python": "3.13", "ray": "2"})
    found = checks.environment(subject(f"engine.kind={kind}", "model_dtype=float32"))
    assert found.status == status
    assert status == "ok" or "set `engine.kind: transformers`" in found.message


@pytest.mark.parametrize("able, status", [({"avx512_bf16": False}, "warn"), ({"avx512_bf16": True}, "ok")])
def test_emulated_bfloat16_is_slower_than_float32(monkeypatch, able, status):
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: able)
    found = checks.environment(subject("model_dtype=bfloat16", *NO_GPU))
    assert (found.status, "set model_dtype float32" in found.message) == (status, status == "warn")
    assert checks.environment(subject("model_dtype=float32", *NO_GPU)).status == "ok"
    assert checks.environment(subject("model_dtype=bfloat16", "num_gpus_per_env_runner=1")).status == "ok"


def test_facts_about_a_machine_stop_nothing(monkeypatch):
    monkeypatch.delattr("os.sched_getaffinity", raising=False)  # as on macOS

    def hangs(command, **_):
        raise subprocess.TimeoutExpired(command, 10)

    monkeypatch.setattr(
        provenance, "subprocess", SimpleNamespace(run=hangs, TimeoutExpired=subprocess.TimeoutExpired)
    )
    facts = provenance.hardware()
    assert facts["cores"] and facts["gpus"] == [] and provenance.git_commit() is None
    monkeypatch.setenv("IGPO_GIT_COMMIT", "abc")
    assert provenance.git_commit() == "abc", "an image has no clone, and is told"


def subject_of(folder, documents, golds, **settings) -> Subject:
    """A task of our own documents {title: text} and gold answers {question: answer}."""
    lines = [{"id": title, "contents": f'"{title}"\n{text}'} for title, text in documents.items()]
    (folder / "corpus.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    lines = [{"id": text[:2], "question": text, "golden_answers": [gold]} for text, gold in golds.items()]
    for name in ("questions", "heldout"):
        (folder / f"{name}.jsonl").write_text(
            "".join(json.dumps(line) + "\n" for line in lines[name == "heldout" :])
        )
    files = {"corpus": str(folder / "corpus.jsonl"), "questions": str(folder / "questions.jsonl")}
    found = Subject(cast(Any, None), cast(Any, None))
    found.task = tiny_task(folder, **files, heldout_questions=str(folder / "heldout.jsonl"), **settings)
    return found


CHINESE = {"红堡": "红堡是米拉在一七一〇年建造的。", "米拉": "米拉出生于奥斯陆。"}


def test_searches_of_heldout_questions_that_find_nothing_are_warned_of(tmp_path):
    asked = {"红堡是谁建造的？": "米拉", "米拉出生在哪里？": "奥斯陆", "Who built the Red Fort?": "Mira"}
    found = checks.retriever(subject_of(tmp_path, CHINESE, asked))
    assert found.status == "warn" and found.message.endswith(
        "1 of 2 held-out questions find 0 documents (first: 'Who built the Red Fort?'): "
        "check that questions and corpus belong together and are in one language"
    )
    del asked["Who built the Red Fort?"]
    assert checks.retriever(subject_of(tmp_path, CHINESE, asked)).status == "ok"


def test_answers_that_the_outcome_does_not_compare_are_warned_of(tmp_path):
    asked = {"红堡是谁建造的？": "米拉", "米拉出生在哪里？": "!!!"}
    found = checks.answers(subject_of(tmp_path, CHINESE, asked))
    assert found.status == "warn" and "nothing but punctuation ('!!!' of 米拉)" in found.message
    assert "set `outcome: f1_chars`" in found.message
    asked["米拉出生在哪里？"] = "奥斯陆"
    found = checks.answers(subject_of(tmp_path, CHINESE, asked, outcome="f1_chars"))
    assert found == Finding("answers", "ok", "outcome f1_chars")


@pytest.mark.parametrize(
    ("text", "status", "share"),
    [
        ("zazo color red", "ok", "0%"),
        ("zazo color red " * 4 + "Beaujolais wine", "warn", "12%"),  # 2 of 14 and 3
        ("Beaujolais is a French wine", "fail", "62%"),  # 5 of 5 and 3
    ],
)
def test_a_corpus_whose_words_the_policy_cannot_read(tmp_path, text, status, share):
    """Of the training question's three words all are known."""
    asked = {"color of zazo": "red", "food of zazo": "red"}
    found = words(subject_of(tmp_path, {"zazo": text}, asked))
    assert (found.status, found.message.split()[0]) == (status, share), found.message
    assert ("take a chat model" in found.message) == (status != "ok")


def test_a_tokenizer_that_spells_any_word_knows_all(tmp_path):
    found = subject_of(tmp_path, {"zazo": "Beaujolais"}, {"color of zazo": "red", "food of zazo": "red"})
    assert found.task is not None
    found.task.protocol.tokenizer.unk_token = None
    assert words(found) == Finding("words", "ok", "the tokenizer can spell any word")
