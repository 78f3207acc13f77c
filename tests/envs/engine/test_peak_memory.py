"""Peak memory of a phase, also where the system lets nobody reset it."""

import numpy as np
import pytest
import torch

from envs.engine import peak_memory
from envs.engine.peak_memory import peak_memory_gib, reset_peak_memory


@pytest.fixture(autouse=True)
def without_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: False)


def test_a_phase_has_its_own_peak():
    if not peak_memory._CLEAR.exists():
        pytest.skip("this system cannot reset its peak")
    large = np.ones(2**25)  # 0.25 GiB
    before = peak_memory_gib()
    del large
    reset_peak_memory()
    assert peak_memory_gib() < before - 0.2


@pytest.mark.parametrize("has_peak", [True, False])
def test_where_it_cannot_be_reset_the_peak_of_the_process_counts(monkeypatch, tmp_path, has_peak):
    """A container with a read-only /proc; and one whose kernel tells no peak there."""
    monkeypatch.setattr(peak_memory, "_CLEAR", tmp_path)  # a folder: writing to it is an OSError
    status = tmp_path / "status"
    status.write_text("Name:\tpython\n" + ("VmHWM:\t 3145728 kB\n" if has_peak else ""))
    monkeypatch.setattr(peak_memory, "_STATUS", status)
    reset_peak_memory()
    peak = peak_memory_gib()
    assert peak == 3.0 if has_peak else 0.01 < peak < 1000
