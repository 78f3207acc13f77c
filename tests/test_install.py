"""The Pythons that are allowed, tried and announced are the same; the image builds from what it copies."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def test_setup_the_matrix_and_the_package_name_the_same_pythons():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = re.findall(r"Python :: (3\.\d+)", " ".join(project["classifiers"]))
    first, last = (int(version.removeprefix("3.")) for version in (named[0], named[-1]))
    assert named == [f"3.{minor}" for minor in range(first, last + 1)]
    assert project["requires-python"] == f">=3.{first},<3.{last + 1}"
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(r"^PYTHONS \?= (.*)$", makefile, re.MULTILINE)[1].split() == named
    setup = (ROOT / "requirements/setup.sh").read_text()
    assert re.search(r"^tested\(\) .* in (3.*?)\) ;;", setup, re.MULTILINE)[1].split(" | ") == named


def test_the_package_builds_from_what_the_image_copies(tmp_path):
    """Without a file that the wheel includes, `docker build` would end minutes later, in its last step."""
    lines = (ROOT / "Dockerfile").read_text().splitlines()
    for *names, target in (line.split()[1:] for line in lines if line.startswith("COPY ")):
        for name in names:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, tmp_path / target, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(source, tmp_path / target)
    build = "import hatchling.build, sys; print(hatchling.build.build_editable(sys.argv[1]))"
    command = [sys.executable, "-c", build, tmp_path]
    built = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / built.stdout.strip()).is_file()
    assert (tmp_path / "requirements/setup.sh").is_file()


@pytest.mark.parametrize("packages", [0, 2])
def test_setup_says_how_far_it_is_and_stops_with_its_step(tmp_path, packages):
    """Without a terminal, a line now and then; a step that fails leaves nothing running."""
    setup = (ROOT / "requirements/setup.sh").read_text()
    subprocess.run(["bash", "-n", ROOT / "requirements/setup.sh"], check=True)
    assert (
        len(re.findall("^begin ", setup, re.MULTILINE)) == len(re.findall("^end$", setup, re.MULTILINE)) == 2
    )
    for number in range(packages):
        (tmp_path / f"lib/python3.11/site-packages/p{number}-1.dist-info").mkdir(parents=True)
    pieces = setup[setup.index("installed() {") : setup.index("packages=$(grep")]
    step = (
        "set -euo pipefail\nVENV=$1 packages=239 EVERY=1\n" + pieces + "begin installed\nsleep 2.5\nfalse\n"
    )
    done = subprocess.run(
        ["bash", "-c", step, "setup", tmp_path], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 1 and done.stdout == ""
    said = f"setup: {packages} of 239 packages are installed (downloads come first), 1 s"
    assert done.stderr.splitlines()[0] == said
