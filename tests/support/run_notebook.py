"""Runs a notebook's code cells in order, in one namespace, as a reader would."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any


def code_cells(notebook: Path) -> list[str]:
    """The code of a notebook, cell by cell."""
    cells = json.loads(notebook.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


def run_cells(cells: list[str], folder: Path, environment: dict[str, str]) -> dict[str, Any]:
    """Runs the cells in `folder`. A line that begins with `!` is a command of the shell.

    Returns:
        The names that the cells left.
    """
    names: dict[str, Any] = {}
    for cell in cells:
        lines = cell.splitlines()
        if lines and all(line.startswith(("!", "%")) or not line.strip() for line in lines):
            for line in (line for line in lines if line.startswith("!")):
                subprocess.run(line[1:], shell=True, cwd=folder, env=environment, check=True)
        else:
            exec(compile(cell, "cell", "exec"), names)
    return names
