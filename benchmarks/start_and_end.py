"""Measures how long a run takes to its first rollout, and from its last line to its end.

    OMP_NUM_THREADS=1 python -m benchmarks.start_and_end conf/igpo.yaml
    OMP_NUM_THREADS=1 python -m benchmarks.start_and_end conf/igpo.yaml --tree ../before --tree . --repeats 3

Each repeat measures the floor too, in the same minutes: a process that starts Ray, and in one actor a bare
vLLM engine of the embedded policy. Processor seconds, of all processes together, hardly depend on other work
on the machine; of the seconds, the ratio to the floor is what to compare.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

FLOOR = """
import ray
from envs.engine.models import resolve_model

@ray.remote(num_cpus=1)
class Engine:
    def __init__(self, folder):
        import os
        os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        from vllm import LLM
        LLM(folder, dtype="float32", enforce_eager=True, skip_tokenizer_init=True, load_format="dummy",
            max_model_len=513, kv_cache_memory_bytes=2**30, hf_overrides={"tie_word_embeddings": False})

    def ready(self):
        return True

ray.init(address="local", include_dashboard=False, log_to_driver=False, logging_level="ERROR")
ray.get(Engine.remote(resolve_model("tiny")).ready.remote())
print("first rollout", flush=True)
"""
RUN = "import igpo_start; igpo_start.rllib()"
FIRST_ROLLOUT = ("first rollout", "held-out evaluation before", "iteration 1/")
"""What is printed when the first rollout begins; without held-out questions, when the first ones ended."""
QUIET = {"VLLM_LOGGING_LEVEL": "ERROR", "RAY_USAGE_STATS_ENABLED": "0", "VLLM_NO_USAGE_STATS": "1"}


class Processes:
    """Processor seconds of a process and of all that came of it, as far as they were seen."""

    def __init__(self, process: subprocess.Popen):
        self._seconds: dict[int, float] = {}
        self._process = process
        threading.Thread(target=self._look, daemon=True).start()

    @property
    def seconds(self) -> float:
        return sum(self._seconds.values())

    def _look(self) -> None:
        try:
            root = psutil.Process(self._process.pid)
            while self._process.poll() is None:
                for process in (root, *root.children(recursive=True)):
                    times = process.cpu_times()
                    self._seconds[process.pid] = times.user + times.system
                time.sleep(0.1)
        except psutil.NoSuchProcess:
            if self._process.poll() is None:  # a child ended between two looks
                self._look()


def measure(tree: Path, code: str, *arguments: str) -> dict[str, float]:
    """Seconds and processor seconds of a command of the code in `tree`: to its first rollout, and its end."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    environment |= QUIET | {"PYTHONPATH": str(tree), "PYTHONUNBUFFERED": "1"}
    with tempfile.TemporaryDirectory() as folder:
        started, found = time.perf_counter(), {}
        process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments], cwd=folder, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        seen, last, lines = Processes(process), started, []
        for line in process.stdout or ():
            last = time.perf_counter()
            lines.append(line)
            if "start" not in found and any(words in line for words in FIRST_ROLLOUT):
                found |= {"start": last - started, "start CPU": seen.seconds}
        before = seen.seconds
        process.wait()
        found |= {"end": time.perf_counter() - last, "end CPU": seen.seconds - before}
        if process.returncode or "start CPU" not in found:
            raise SystemExit(f"the command ended with {process.returncode}:\n{''.join(lines)}")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("config", help="experiment file; two iterations of it are made")
    parser.add_argument("--tree", action="append", help="a clone to measure; several take turns; default: .")
    parser.add_argument("--repeats", type=int, default=3, metavar="N")
    arguments = parser.parse_args()
    config = str(Path(arguments.config).absolute())
    trees = [Path(tree).absolute() for tree in arguments.tree or ["."]]
    found: dict[str, list[dict[str, float]]] = {}
    for _ in range(arguments.repeats):
        found.setdefault("floor", []).append(measure(trees[-1], FLOOR))
        for tree in trees:
            typed = ("train", "file", config, "--set", "stop.training_iteration=2")
            found.setdefault(str(tree), []).append(measure(tree, RUN, *typed))
    floor = statistics.median(one["start"] for one in found["floor"])
    for name, measured in found.items():
        median = {key: statistics.median(one[key] for one in measured) for key in measured[0]}
        print(
            f"{name}: first rollout after {median['start']:.1f} s ({median['start CPU']:.1f} s of CPU), "
            f"{median['start'] / floor:.2f} of the floor; end {median['end']:.1f} s "
            f"({median['end CPU']:.1f} s of CPU) after the last line"
        )


if __name__ == "__main__":
    main()
