"""Finds experiment files: the path as given, else the copy that ships with the package."""

from __future__ import annotations

import difflib
import os
from contextlib import suppress
from pathlib import Path

from envs.errors import InputError

SUFFIXES = (".yaml", ".yml", ".py")
"""Endings of experiment files."""


def is_file(path: Path) -> bool:
    """Whether `path` is a file; False too for what no file system can name (too long, or with a NUL)."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def packaged_conf() -> Path | None:
    """The `conf/` folder of this installation: in the package of a wheel, else at the top of the clone."""
    here = Path(__file__).resolve().parent.parent
    for folder in (here / "conf", here.parent / "conf"):
        if folder.is_dir():
            return folder
    return None


def packaged_file(path: str | Path) -> Path | None:
    """The packaged file that `conf/igpo.yaml` or `igpo.yaml` names; None if there is none."""
    given, conf = Path(path), packaged_conf()
    if conf is None or given.is_absolute():
        return None
    inside = Path(*given.parts[1:]) if given.parts[:1] == ("conf",) and len(given.parts) > 1 else given
    if not is_file(conf / inside):
        return None
    candidate = (conf / inside).resolve()
    return candidate if candidate.is_relative_to(conf) else None


def resolve_config_path(path: str | Path) -> tuple[Path, bool]:
    """Finds the file to read. `conf/igpo.yaml` and `igpo.yaml` name packaged files where no such file is
    here.

    Returns:
        The file, and whether it is a packaged copy.

    Raises:
        InputError: there is no such file.
    """
    given = Path(path).expanduser()
    if is_file(given):
        return given, False
    if os.path.isdir(given):
        raise InputError(f"{path} is a folder; give an experiment file in it (.yaml, .yml or .py).")
    packaged = packaged_file(given)
    if packaged is not None:
        return packaged, True
    if near := _alike(given):
        raise InputError(f"{str(path)[:100]}: there is no such experiment file; did you mean {near}?")
    conf = packaged_conf()
    start = "conf/igpo.yaml to begin with, conf/study.yaml for a study"
    hint = f" The package ships {start}, and more in {conf}." if conf else ""
    raise InputError(f"{str(path)[:100]}: there is no such experiment file.{hint}")


def _alike(given: Path) -> str | None:
    """The file beside `given`, or the packaged one, of the same name up to its ending, or of a like one."""
    conf, known = packaged_conf(), {}
    if conf is not None and not given.is_absolute():
        known = {file.name: f"conf/{file.relative_to(conf)}" for file in conf.rglob("*.yaml")}
    with suppress(OSError, ValueError):  # no such folder, or no name of one
        known |= {file.name: str(file) for file in given.parent.iterdir() if file.suffix in SUFFIXES}
    same = [name for name in sorted(known) if Path(name).stem == given.stem]
    near = same or difflib.get_close_matches(given.name, sorted(known), n=1, cutoff=0.8)
    return known[near[0]] if near else None
