"""Lets the tests of this folder import their shared helpers and those of tests/envs (pytest's importlib mode leaves the folders
off the path)."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "envs")]
