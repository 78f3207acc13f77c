"""Git LFS pointers: the few lines of text that stand in for a large file until it is pulled."""

from __future__ import annotations

from pathlib import Path

from envs.errors import InputError

_POINTER = b"version https://git-lfs.github.com/spec/"
_TEXTS = (".json", ".txt", ".model", ".jinja")
"""Of a model folder: configuration, tokenizer, chat template."""


def refuse_pointer(path: Path, what: str) -> None:
    """Raises InputError where the file is a Git LFS pointer. A file that cannot be read passes.

    Args:
        path: the file.
        what: its purpose, such as "corpus".
    """
    try:
        with path.open("rb") as file:
            is_pointer = file.read(len(_POINTER)) == _POINTER
    except OSError:
        return  # whoever reads the file says why
    if is_pointer:
        raise InputError(
            f"{what} {path} is a Git LFS pointer, not the file itself: run `git lfs pull` in its repository"
        )


def refuse_pointers_of_model(folder: Path, what: str) -> None:
    """Raises InputError where a file of the model in `folder` is a Git LFS pointer.

    Weights in another format beside `*.safetensors` are not read, so they may be pointers.
    """
    weights = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    for path in [*sorted(path for path in folder.iterdir() if path.suffix in _TEXTS), *weights]:
        refuse_pointer(path, what)
