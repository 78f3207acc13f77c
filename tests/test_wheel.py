"""The wheel installs with its dependencies into a fresh environment, and trains outside the clone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"


def run(*command: str | Path, **options) -> str:
    """Runs a command outside the clone and returns what it prints."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    pip = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation")
    run(*pip, "--wheel-dir", folder, ROOT)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.slow
def test_the_wheel_holds_code_queries_pages_and_experiments(wheel):
    import zipfile

    names = zipfile.ZipFile(wheel).namelist()
    for name in (
        "pipeline/conf/igpo.yaml",
        "pipeline/conf/presets/grpo.yaml",
        "pipeline/analysis/queries/learning_curve.sql",
        "pipeline/analysis/report/report.html",
        "algorithms/credit/presets.py",
    ):
        assert name in names
    assert not [name for name in names if name.startswith(("tests/", "docs/", "benchmarks/"))]


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_fresh_environment_trains_with_the_wheel(wheel, tmp_path):
    """With uv where it is there: pip alone takes ten minutes to choose the versions."""
    python = tmp_path / "venv" / "bin" / "python"
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    wanted = f"{wheel}[cpu]"
    uv = shutil.which("uv")
    if uv:
        found = ["--find-links", os.environ["PIP_FIND_LINKS"]] if os.environ.get("PIP_FIND_LINKS") else []
        install = [uv, "pip", "install", "--quiet", "--python", python, *found, wanted]
    else:
        install = [python, "-m", "pip", "install", "--quiet", wanted]
    if not os.environ.get("PIP_FIND_LINKS"):
        install += ["--extra-index-url", CPU_WHEELS]
    run(*install, timeout=2400)
    # Where PyTorch's index of CPU wheels is not in reach, these are builds for GPUs: the doctor says so.
    listed = run(python, "-m", "pip", "list", "--format", "freeze")
    foreign = re.findall(r"^(torchvision|torchaudio|torchcodec)==[\d.]+$", listed, re.MULTILINE)
    if foreign:
        run(python, "-m", "pip", "uninstall", "--yes", "--quiet", *foreign)
    stop = '{"training_iteration": 1}'
    less = ("--set", "evaluation_interval=null", "--set", "prompts_per_iteration=4")
    said = run(
        python.with_name("rllib"), "train", "file", "conf/igpo.yaml", "--stop", stop, *less, cwd=tmp_path
    )
    assert "using the copy that ships with the package" in said
    assert "finished after iteration 1" in said
    (run_folder,) = (tmp_path / "runs" / "igpo").iterdir()
    assert (run_folder / "results" / "report.html").is_file()
