"""The container image is made of what its Dockerfile copies."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_package_builds_from_what_the_image_copies(tmp_path):
    """Without one of the files that the wheel includes, `docker build` ends minutes later, in its last step."""
    copies = [line.split()[1:] for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("COPY ")]
    for *sources, target in copies:
        for name in sources:
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
