"""Peak memory of a phase: of the GPU where this process uses one, else of the process (its resident set)."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


def reset_peak_memory() -> None:
    """Begins a phase.

    Where the system keeps no peak that can be reset (macOS), it is that of the whole process so far.
    """
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    elif _CLEAR.exists():
        _CLEAR.write_text("5")  # proc(5): resets VmHWM


def peak_memory_gib() -> float:
    """GiB at the highest point since `reset_peak_memory`."""
    import torch

    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**30
    if _CLEAR.exists():
        (line,) = (line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)
