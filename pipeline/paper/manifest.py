"""The list of the files that the paper's experiment needs."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from pathlib import Path

from pydantic import Field, model_validator

from envs.errors import InputError
from envs.settings import Settings
from pipeline.experiment.file import parse_yaml
from pipeline.experiment.keys import validated


class PublicFile(Settings):
    """One file: where it is, and what is known of its content."""

    name: str = Field(pattern=r"^[\w.-]+$", description="under which it is kept")
    what: str
    url: str
    size: int | None = Field(None, ge=0, description="bytes; None: not known")
    sha256: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    git_blob: str | None = Field(None, pattern=r"^[0-9a-f]{40}$", description="git's hash of the content")
    questions: str | None = Field(None, description="file that its questions are written to")
    without: str | None = Field(None, description="file whose questions are left out of these")
    counts: dict[str, int] = Field({}, description="data set to its number of questions")
    is_corpus: bool = False


class PublicFiles(Settings):
    """All files, in the order in which they are fetched."""

    files: list[PublicFile] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_are_known(self) -> PublicFiles:
        names = [file.name for file in self.files]
        if len(set(names)) != len(names):
            raise ValueError(f"two files have the same name: {', '.join(names)}")
        for file in self.files:
            if file.without and file.without not in names:
                raise ValueError(f"{file.name} is to be without {file.without}, which is not listed")
        return self


def load_manifest(path: Path | None = None) -> list[PublicFile]:
    """Reads the manifest of this package, or the one at `path`.

    Raises:
        InputError: it cannot be read, or has an unknown key or a wrong value.
    """
    source = "the manifest of the paper's data" if path is None else str(path)
    try:
        text = (files("pipeline.paper") / "manifest.yaml" if path is None else path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{source} can't be read: {error}") from error
    content = parse_yaml(text, source)
    if not isinstance(content, dict):
        raise InputError(f"{source}: a manifest has `files`, found {type(content).__name__}")
    return validated(PublicFiles, content, "", source).files


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_blob_of(path: Path) -> str:
    """The hash by which git names the content: SHA-1 over `blob SIZE`, a NUL and the bytes."""
    start = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: start).hexdigest()
