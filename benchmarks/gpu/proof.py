"""Runs the phases one after another: each with its limit and its log, all facts in one JSON.

What has succeeded is kept.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Collection, Generator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil

from benchmarks.gpu.phases import ROOT, Phase, Setting, command_of, why_not

LEAST_SECONDS = 25
"""A phase does not start with less time left: it would only load."""
ON_CPU = 5
"""The limits are an H100's; a CPU gets this many times as long."""
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "RAY_USAGE_STATS_ENABLED": "0",
    "VLLM_NO_USAGE_STATS": "1",
    # A bare vLLM would compile FlashInfer's sampler first; no request here asks for what it samples.
    "VLLM_USE_FLASHINFER_SAMPLER": "0",
}


class Proof:
    """The phases that have run, in `proof.json` of a folder. Each is written as soon as it has ended.

    Args:
        setting: how the proof was called.
        seconds: for all phases of this call; the last one is cut to what is left.
    """

    def __init__(self, setting: Setting, seconds: float):
        self._setting, self._end = setting, time.monotonic() + seconds
        self._file = setting.out / "proof.json"
        self.found: dict[str, dict[str, Any]] = self._read()

    def _read(self) -> dict[str, dict[str, Any]]:
        if not self._file.is_file():
            return {}
        kept = json.loads(self._file.read_text())
        same = kept["device"] == self._setting.device and kept["tiny"] == self._setting.tiny
        return kept["phases"] if same else {}

    def run(self, phases: Sequence[Phase], again: Collection[str] = ()) -> None:
        """Runs the phases that have not succeeded yet, and those whose names are in `again`."""
        self._setting.out.mkdir(parents=True, exist_ok=True)
        for phase in phases:
            if phase.name not in again and self.found.get(phase.name, {}).get("status") == "ok":
                print(f"{phase.name}: done before", flush=True)
                continue
            self.found[phase.name] = self._of(phase)
            self._write()
            print(told(phase.name, self.found[phase.name]), flush=True)

    def _of(self, phase: Phase) -> dict[str, Any]:
        failed = [name for name in phase.needs if self.found.get(name, {}).get("status") != "ok"]
        left = self._end - time.monotonic()
        reason = why_not(phase, self._setting)
        if failed:
            reason = f"phase {failed[0]} has not succeeded"
        elif reason is None and left < LEAST_SECONDS:
            reason = f"{max(0, left):.0f} s were left"
        if reason is not None:
            return {"status": "left out", "why": reason}
        slower = ON_CPU if self._setting.device == "cpu" else 1
        return self._start(phase, min(slower * phase.seconds, left))

    def _start(self, phase: Phase, limit: float) -> dict[str, Any]:
        result, log = (self._setting.out / f"{phase.name}.{end}" for end in ("json", "log"))
        result.unlink(missing_ok=True)
        command = command_of(phase, self._setting, result)
        print(f"{phase.name}: {phase.what} (at most {limit:.0f} s) ...", flush=True)
        started = time.monotonic()
        code = call(command, log, limit)
        found: dict[str, Any] = {
            "status": "ok" if code == 0 else "too slow" if code is None else "failed",
            "seconds": round(time.monotonic() - started, 1),
            "limit": round(limit, 1),
            "command": command,
            "log": log.name,
        }
        if code:
            found["exit_code"] = code
        if result.is_file():
            found["result"] = json.loads(result.read_text())
        if found["status"] != "ok":
            found["end_of_log"] = log.read_text(errors="replace")[-2000:]
        return found

    def _write(self) -> None:
        kept = {
            "written": datetime.now(UTC).isoformat(timespec="seconds"),
            "device": self._setting.device,
            "tiny": self._setting.tiny,
            "phases": self.found,
        }
        part = self._file.with_suffix(".part")
        part.write_text(json.dumps(kept, indent=2) + "\n")
        part.replace(self._file)


def call(command: list[str], log: Path, limit: float) -> int | None:
    """Runs a command from the project's folder, its output in `log`.

    Returns:
        The exit code; None where it took longer than `limit` seconds and was ended, with all that it started.
    """
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(paths)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=output, stderr=output, start_new_session=True
        )
        try:
            return process.wait(limit)
        except subprocess.TimeoutExpired:
            _end(process)
            return None
        except BaseException:
            _end(process)
            raise


def _end(process: subprocess.Popen) -> None:
    """Ends the process and everything it started: Ray's and vLLM's processes would keep the GPU's memory."""
    with contextlib.suppress(psutil.NoSuchProcess):
        started = psutil.Process(process.pid).children(recursive=True)
        for one in (*started, psutil.Process(process.pid)):
            with contextlib.suppress(psutil.NoSuchProcess):
                one.send_signal(signal.SIGKILL)
        psutil.wait_procs(started, timeout=10)
    process.wait(10)


@contextlib.contextmanager
def gpu_watched(out: Path) -> Generator[None]:
    """Writes use, memory and power of the GPUs to `gpu.csv`, once a second, where nvidia-smi is there."""
    if shutil.which("nvidia-smi") is None:
        yield
        return
    columns = "--query-gpu=timestamp,index,utilization.gpu,memory.used,power.draw"
    out.mkdir(parents=True, exist_ok=True)
    with (out / "gpu.csv").open("ab") as output:
        watcher = subprocess.Popen(
            ["nvidia-smi", columns, "--format=csv,noheader", "-l", "1"], stdout=output, stderr=output
        )
        try:
            yield
        finally:
            watcher.terminate()
            watcher.wait(10)


NUMBERS = {
    "teraflops": "{:.0f} TFLOP/s",
    "loop_tokens_per_second": "loop {:,.0f} tokens/s",
    "against_replay": "{:.2f} of the replay",
    "score_share": "scores {:.1%}",
    "naive_score_share": "naive scores {:.1%}",
    "unseeded_tokens_per_second": "{:,.0f} tokens/s",
    "tokens_per_second": "{:,.0f} tokens/s",
    "mfu": "MFU {:.1%}",
    "peak_gib": "peak {:.1f} GiB",
    "estimated_gib": "estimated {:.1f} GiB",
    "swap_share": "swap {:.1%}",
}


def told(name: str, found: dict[str, Any]) -> str:
    """One phase in one line."""
    if found["status"] == "left out":
        return f"{name}: left out: {found['why']}"
    result = found.get("result", {})
    parts = [form.format(result[key]) for key, form in NUMBERS.items() if result.get(key) is not None]
    heldout, iterations = result.get("heldout", []), result.get("iterations", [])
    if heldout:
        parts.append("held-out EM " + " -> ".join(f"{point['em']:.2f}" for point in heldout))
    gaps = [point["logp_gap_mean"] for point in iterations if "logp_gap_mean" in point]
    if gaps:
        parts.append(f"largest mean gap {max(gaps):.1e} nats")
    return f"{name}: {found['status']} in {found['seconds']:.0f} s" + "".join(f", {part}" for part in parts)


def summary(found: dict[str, dict[str, Any]]) -> dict[str, float]:
    """What follows from several phases together."""
    result = {name: phase.get("result", {}) for name, phase in found.items()}
    loop = result.get("sampling", {}).get("loop_tokens_per_second")
    bare = result.get("bare_vllm", {}).get("unseeded_tokens_per_second")
    return {"against_bare_vllm": loop / bare} if loop and bare else {}
