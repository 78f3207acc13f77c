"""Checkpoints of a run: complete or absent, never half-written.

`checkpoints/iteration_000012/` folders, with `last` and `best` as relative symbolic links to two of them. A
checkpoint is saved under a temporary name, flushed to disk and renamed; then the link is replaced atomically;
only then is an older folder deleted.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from envs.durable import remove_leftovers, sync_folder, write_folder, write_text
from envs.errors import InputError
from pipeline.run_directory.directory import read_json

NOTE = "igpo_checkpoint.json"
EXPERIMENT = "experiment.yaml"
SCHEMA_VERSION = 1


class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: where they are.
        num_to_keep: newest folders kept besides the best; None keeps all.
        experiment: file that is copied into each as `experiment.yaml`, so that a checkpoint can be evaluated
            by itself.
    """

    def __init__(self, folder: Path, num_to_keep: int | None = 1, experiment: Path | None = None):
        self.folder = folder
        self.experiment = experiment
        self.num_to_keep = num_to_keep

    @property
    def last(self) -> Path | None:
        """The newest complete checkpoint."""
        return self._target("last")

    @property
    def best(self) -> Path | None:
        """The checkpoint with the highest held-out score."""
        return self._target("best")

    def check_last(self) -> None:
        """Raises InputError where `last` names a checkpoint that is gone or no longer whole."""
        link = self.folder / "last"
        if self.last is not None:
            check_checkpoint(link)
        elif os.path.lexists(link):
            raise InputError(
                f"{link}: the checkpoint that it names is gone or has no {NOTE}: restore it from a copy, or "
                "remove `last` and `best`, and the run begins again from its first weights."
            )

    def save(
        self,
        algorithm: Any,
        iteration: int,
        note: dict[str, Any],
        *,
        best: bool = False,
        before_it_counts: Callable[[], None] = lambda: None,
    ) -> Path:
        """Saves `algorithm` (`save_to_path`) and makes the checkpoint `last`; an iteration is saved once.

        Args:
            algorithm: what is saved.
            iteration: its iteration.
            note: JSON that is stored with it. Where the iteration is saved already, it is laid over what was
                noted then: the sizes of its files, and how it became `best`.
            best: make it `best` too.
            before_it_counts: called when everything but the names is on disk; it waits for data that must be
                on disk before the checkpoint.
        """
        final = self.folder / f"iteration_{iteration:06d}"
        content = {"schema_version": SCHEMA_VERSION, "algorithm": "IGPO", "iteration": iteration, **note}
        if self.last != final.resolve():

            def fill(folder: Path) -> None:
                algorithm.save_to_path(str(folder))
                if self.experiment is not None:
                    shutil.copyfile(self.experiment, folder / EXPERIMENT)
                noted = json.dumps({**content, "files": _sizes(folder)}, indent=2)
                (folder / NOTE).write_text(noted, encoding="utf-8")

            def make_way() -> None:
                before_it_counts()
                if final.exists():  # complete, but of an attempt that died before `last` named it
                    shutil.rmtree(final)

            remove_leftovers(self.folder)
            write_folder(final, fill, before_it_counts=make_way)
            self._link("last", final)
        else:
            before_it_counts()
            write_text(final / NOTE, json.dumps({**read_note(final), **content}, indent=2))
        if best:
            self._link("best", final)
        sync_folder(self.folder)
        self._prune()
        return final

    def _target(self, name: str) -> Path | None:
        link = self.folder / name
        if (link / NOTE).is_file():
            return link.resolve()
        return None

    def _link(self, name: str, target: Path) -> None:
        temporary = self.folder / f".{name}.link"
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target.name, target_is_directory=True)
        temporary.replace(self.folder / name)

    def _prune(self) -> None:
        if self.num_to_keep is None:
            return
        kept = {path for path in (self.last, self.best) if path}
        folders = sorted(self.folder.glob("iteration_*"))
        for folder in folders[: -self.num_to_keep]:
            if folder.resolve() not in kept:
                shutil.rmtree(folder)


def read_note(checkpoint: str | Path) -> dict[str, Any]:
    """The note that was stored with a checkpoint.

    Raises:
        InputError: the folder is no checkpoint that this program can continue.
    """
    folder = Path(checkpoint)
    if not folder.is_dir():
        raise InputError(
            f"{checkpoint}: there is no such checkpoint folder: name RUN/checkpoints/last or .../best "
            "(`igpo runs` lists the runs)."
        )
    if not (folder / NOTE).is_file():
        raise InputError(
            f"{checkpoint}: this folder is not an IGPO checkpoint (it has no {NOTE}): name "
            "RUN/checkpoints/last or .../best."
        )
    note = read_json(folder / NOTE, "restore it from a copy, or use another checkpoint")
    if note.get("algorithm") != "IGPO":
        raise InputError(f"{checkpoint}: this is a checkpoint of {note.get('algorithm')}, not of IGPO.")
    if note.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"{checkpoint}: checkpoint schema version {note.get('schema_version')}, this program reads "
            f"{SCHEMA_VERSION}."
        )
    return note


def iteration_of(checkpoint: str | Path) -> int | None:
    """The iteration after which a checkpoint was saved; None for a folder that is none.

    Raises:
        InputError: as `read_note`.
    """
    folder = Path(checkpoint).expanduser()
    return read_note(folder).get("iteration") if (folder / NOTE).is_file() else None


def check_checkpoint(checkpoint: str | Path, below: str = "") -> None:
    """Raises InputError for a file of a checkpoint that is missing or shorter than when it was saved.

    Args:
        checkpoint: its folder.
        below: only files whose path in the folder begins so.
    """
    folder = Path(checkpoint)
    for name, size in read_note(folder).get("files", {}).items():
        if not name.startswith(below):
            continue
        path = folder / name
        found = path.stat().st_size if path.is_file() else None
        if found is None or found < size:
            what = "is missing" if found is None else f"has {found} bytes of {size}: it was cut off"
            raise InputError(
                f"{checkpoint}: this checkpoint is incomplete: {name} {what}; restore it from a copy, or use "
                "another checkpoint."
            )


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of every file below `folder`, by its path there."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in files}
