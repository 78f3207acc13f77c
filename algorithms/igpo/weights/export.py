"""The learner's weights as plain Hugging Face folders."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from pyarrow.fs import FileSystem, LocalFileSystem, copy_files

from algorithms.igpo.remote import on_learners
from algorithms.igpo.weights.between_nodes import bring_folder

if TYPE_CHECKING:
    from ray.rllib.core.learner.learner_group import LearnerGroup


def export_hf(learners: LearnerGroup, module_ids: list[str], tokenizer: Any, folder: Path) -> None:
    """Writes `folder/MODULE_ID/` for each module: weights, configuration and tokenizer.

    Args:
        learners: the learners. The first one writes the weights; from another node they are brought here.
        module_ids: ids of the modules.
        tokenizer: the tokenizer that all modules share.
        folder: where to write; made where it is missing.
    """
    target, here = str(Path(folder).absolute()), _node_ip()

    def export(learner) -> tuple[str, str] | None:
        """Returns the first learner's node, and its folder there."""
        modules = {module_id: learner.module[module_id] for module_id in learner.module.keys()}  # noqa: SIM118 (not a dict)
        if learner._learner_index:
            for module in modules.values() if learner.config.shard_learner else ():
                module.save_pretrained(None)  # takes part in gathering the weights
            return None
        node = _node_ip()
        written = target if node == here else tempfile.mkdtemp(prefix="igpo-export-")
        for module_id, module in modules.items():
            module.save_pretrained(f"{written}/{module_id}")
        return node, written

    ((node, written),) = filter(None, on_learners(learners, export))
    if node != here:
        bring_folder(node, written, here, target)
        on_learners(learners, lambda learner: shutil.rmtree(written), ids=[0])
    for module_id in module_ids:
        tokenizer.save_pretrained(f"{target}/{module_id}")


def _node_ip() -> str:
    """The address of this process's node, as Ray knows it; empty without Ray."""
    return ray.util.get_node_ip_address() if ray.is_initialized() else ""


def located(path: str | PathLike[str] | None) -> tuple[FileSystem, str]:
    """The file system of a URL (`s3://...`), that of this machine for a path and for None; the path there."""
    text = "" if path is None else str(path)
    return FileSystem.from_uri(text) if "://" in text else (LocalFileSystem(), text)


@contextmanager
def folder_of(path: str, filesystem: FileSystem) -> Generator[Path]:
    """A folder of this machine whose files are at `path` of `filesystem` after the block."""
    if isinstance(filesystem, LocalFileSystem):
        yield Path(path)
        return
    with tempfile.TemporaryDirectory(prefix="igpo-export-") as folder:
        yield Path(folder)
        copy_files(folder, path, source_filesystem=LocalFileSystem(), destination_filesystem=filesystem)
