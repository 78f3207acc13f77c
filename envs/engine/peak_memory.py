"""Peak memory of a phase, on the GPU where this process uses one, else the resident set of the process."""

from __future__ import annotations

import contextlib
import resource
import sys
from pathlib import Path

_CLEAR = Path("/proc/self/clear_refs")
_STATUS = Path("/proc/self/status")


def reset_peak_memory() -> None:
    """Begins a phase.

    Where the peak cannot be reset (macOS, a container with a read-only /proc), that of the whole process
    counts.
    """
    import torch

    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    else:
        with contextlib.suppress(OSError):
            _CLEAR.write_text("5")  # proc(5): resets VmHWM


def peak_memory_gib() -> float:
    """Returns the peak since `reset_peak_memory`, in GiB."""
    import torch

    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated() / 2**30
    with contextlib.suppress(OSError):
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)
