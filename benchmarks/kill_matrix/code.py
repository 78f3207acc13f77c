"""Which code makes a run: runs of different code are not compared."""

from __future__ import annotations

import hashlib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PRODUCT = ("algorithms", "envs", "pipeline", "benchmarks/kill_matrix")


def code_digest(root: Path = ROOT) -> str:
    """A digest of every file of the product and of this benchmark, committed or not.

    A commit that changes pages alone keeps it.
    """
    digest = hashlib.sha256()
    for top in PRODUCT:
        for file in sorted((root / top).rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(f"{file.relative_to(root)}\0".encode())
                digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
