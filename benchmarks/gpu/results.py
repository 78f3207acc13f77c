"""The result of one phase, as a file."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any


def add_result(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--result", type=Path, help="write the result there, as JSON")


def write_result(path: Path | None, found: dict[str, Any]) -> None:
    """Prints the result, and writes it to `path` where there is one."""
    text = json.dumps(found, indent=2, default=str)
    print(text, flush=True)
    if path is not None:
        path.write_text(text + "\n")
