"""docs/first_run.ipynb runs from its first cell to its last, and shows what its text says."""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path

import pytest
from run_notebook import code_cells, run_cells

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "docs/first_run.ipynb"


def test_the_notebook_has_ten_cells_of_code():
    assert len(code_cells(NOTEBOOK)) == 10


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_notebook_runs(tmp_path, monkeypatch):
    shutil.copytree(ROOT / "conf", tmp_path / "conf")
    monkeypatch.chdir(tmp_path)
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    python_path = f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    environment = {**os.environ, "PATH": path, "PYTHONPATH": python_path}
    cells = [re.sub("training_iteration=20", "training_iteration=3", cell) for cell in code_cells(NOTEBOOK)]
    left = run_cells(cells, tmp_path, environment)
    assert list(left["by_turn"]["turn_index"])[:3] == [0, 1, 2]
    gain = dict(zip(left["deserved"]["gold_hit"], left["deserved"]["gain"], strict=True))
    assert gain[True] > gain[False]
    assert [len(values) for values in left["paid"]["igpo"]] == [3, 2]
    assert (tmp_path / "runs/first-run.html").stat().st_size > 100_000
