"""Finds experiment files: the path as given, else the copy that ships with the package."""

from __future__ import annotations

from pathlib import Path

from envs.errors import InputError


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
    candidate = (conf / inside).resolve()
    return candidate if candidate.is_file() and candidate.is_relative_to(conf) else None


def resolve_config_path(path: str | Path) -> tuple[Path, bool]:
    """Finds the file to read. `conf/igpo.yaml` and `igpo.yaml` name packaged files where no such file is
    here.

    Returns:
        The file, and whether it is a packaged copy.

    Raises:
        InputError: there is no such file.
    """
    given = Path(path).expanduser()
    if given.is_file():
        return given, False
    if given.is_dir():
        raise InputError(f"{path} is a folder; give an experiment file in it (.yaml, .yml or .py).")
    packaged = packaged_file(given)
    if packaged is not None:
        return packaged, True
    conf = packaged_conf()
    shipped = (
        [f"conf/{item.name}" for item in sorted(conf.glob("*.yaml"))] + ["conf/presets/*.yaml"]
        if conf
        else []
    )
    hint = f" Shipped with the package: {', '.join(shipped)}." if shipped else ""
    raise InputError(f"{path}: there is no such experiment file.{hint}")
