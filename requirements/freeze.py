"""Regenerates requirements/cpu.txt: resolves pyproject.toml's `cpu`, `smollm2` and `dev` extras, without
installing anything.

    .venv/bin/python requirements/freeze.py        (4 minutes; then read `git diff requirements/cpu.txt` and
    run `make test-all`)

Packages that are named by others' metadata but used by nothing here are left out. torchvision, torchaudio and
torchcodec on the package index are CUDA builds that do not import beside a CPU torch; vLLM generates text
without them and without triton.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TORCH = "torch==2.13.0+cpu"
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"
UNUSED = {
    *("torchvision", "torchaudio", "torchcodec", "triton"),
    *(
        "llm",
        "llama-cpp-python",
        "sqlite-utils",
        "sqlite-fts4",
        "click-default-group",
        "condense-json",
        "puremagic",
    ),
    *("python-ulid", "pip", "setuptools", "wheel"),
}
BUILD = ("hatchling", "editables")
HEADER = """\
# The set that is installed and tested (Python 3.11, Linux, CPU), installed with pip --no-deps by
# requirements/setup.sh. Made by requirements/freeze.py; do not edit by hand.
"""


def resolve(*requirements: str) -> dict:
    """pip's report of what it would install."""
    command = (
        sys.executable,
        "-m",
        "pip",
        "install",
        "--dry-run",
        "--ignore-installed",
        "--quiet",
        "--report",
        "-",
    )
    return json.loads(
        subprocess.run([*command, *requirements], check=True, stdout=subprocess.PIPE, text=True).stdout
    )


def where_torch_is() -> tuple[str, ...]:
    """pip's options for finding a CPU torch: none where it looks already, else PyTorch's index (for every
    package: slow).
    """
    try:
        resolve("--no-deps", TORCH)
    except subprocess.CalledProcessError:
        return ("--extra-index-url", CPU_WHEELS)
    return ()


def main() -> None:
    report = resolve(*where_torch_is(), f"{ROOT}[cpu,smollm2,dev]", TORCH, *BUILD)
    pins = {item["metadata"]["name"]: item["metadata"]["version"] for item in report["install"]}
    kept = {
        name: version
        for name, version in pins.items()
        if name.lower().replace("_", "-") not in UNUSED | {"igpo-rllib"}
    }
    lines = [f"{name}=={version}" for name, version in sorted(kept.items(), key=lambda item: item[0].lower())]
    (ROOT / "requirements" / "cpu.txt").write_text(HEADER + "\n".join(lines) + "\n")
    print(f"{len(lines)} packages pinned, {len(pins) - len(lines)} left out")


if __name__ == "__main__":
    main()
