"""The learner's weights as plain Hugging Face folders."""

from __future__ import annotations

import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyarrow.fs import FileSystem, LocalFileSystem, copy_files

from algorithms.igpo.remote import on_learners

if TYPE_CHECKING:
    from ray.rllib.core.learner.learner_group import LearnerGroup


def export_hf(learners: LearnerGroup, module_ids: list[str], tokenizer: Any, folder: Path) -> None:
    """Writes `folder/MODULE_ID/` for each module: weights, configuration and tokenizer.

    Args:
        learners: the learners; the first one writes the weights.
        module_ids: ids of the modules.
        tokenizer: the tokenizer that all modules share.
        folder: where to write; made where it is missing.
    """
    target = str(Path(folder).absolute())

    def export(learner):
        for module_id in learner.module.keys():  # noqa: SIM118 (not a dict)
            module = learner.module[module_id].unwrapped()
            if not learner._learner_index:
                module.save_pretrained(f"{target}/{module_id}")
            elif learner.config.shard_learner:
                module.save_pretrained(None)  # takes part in gathering the weights

    on_learners(learners, export)
    for module_id in module_ids:
        tokenizer.save_pretrained(f"{target}/{module_id}")


def filesystem_of(path: str | PathLike[str] | None) -> FileSystem:
    """The file system of a URL (`s3://...`); that of this machine for a path, and for None."""
    text = "" if path is None else str(path)
    return FileSystem.from_uri(text)[0] if "://" in text else LocalFileSystem()


@contextmanager
def folder_of(path: str, filesystem: FileSystem) -> Generator[Path]:
    """A folder of this machine whose files are at `path` of `filesystem` after the block."""
    if isinstance(filesystem, LocalFileSystem):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="igpo-export-") as folder:
        yield Path(folder)
        copy_files(folder, path, source_filesystem=LocalFileSystem(), destination_filesystem=filesystem)
