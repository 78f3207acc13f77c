"""The folder of a log's files: a local one, or one of any file system that fsspec or pyarrow knows by URL
(`s3://...`).

Both keep the one promise that the manifest needs: replacing a file shows a reader the old content or the new
one. A local folder also makes files durable and locks out a second writer; elsewhere the lock of the run's
own directory has to do.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from envs.credentials import refuse_credentials
from envs.durable import TEMPORARY, write_file
from envs.errors import InputError
from envs.locks import FileLock

KEYS_ELSEWHERE = (
    "put them where its library looks: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
    "GOOGLE_APPLICATION_CREDENTIALS, ~/.aws/credentials"
)
"""Where the credentials of a rollout log's file system belong."""


class RolloutLogError(RuntimeError):
    """A rollout log that cannot be read or written, and what to do about it."""


class LocalFolder:
    """A folder of this machine. File names are relative to it."""

    def __init__(self, root: Path):
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError."""
        return (self.root / name).read_bytes()

    def open(self, name: str) -> BinaryIO:
        return (self.root / name).open("rb")

    def size(self, name: str) -> int | None:
        """Returns bytes of the file; None where there is none."""
        path = self.root / name
        return path.stat().st_size if path.exists() else None

    def write(self, name: str, fill: Callable[[BinaryIO], object]) -> int:
        """Lets `fill` write the file's content; returns its bytes.

        They are on disk, and under this name never in part.
        """
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return write_file(path, fill)

    def delete(self, name: str) -> None:
        (self.root / name).unlink()

    def names(self, subfolder: str) -> list[str]:
        """Returns the files in a subfolder."""
        return [
            str(path.relative_to(self.root)) for path in (self.root / subfolder).glob("*") if path.is_file()
        ]

    def path(self, name: str) -> str:
        """Returns the file as DuckDB opens it."""
        return str((self.root / name).resolve())


class RemoteFolder:
    """A folder of another file system, with the methods of `LocalFolder`; how durable a file is, is the file
    system's affair.
    """

    def __init__(self, url: str):
        self.url = url.rstrip("/")
        self.filesystem, self._root = _filesystem(self.url)

    def __str__(self) -> str:
        return self.url

    def read(self, name: str) -> bytes:
        return self.filesystem.cat_file(self._at(name))

    def open(self, name: str) -> BinaryIO:
        return self.filesystem.open(self._at(name), "rb")

    def size(self, name: str) -> int | None:
        self.filesystem.invalidate_cache()
        try:
            return int(self.filesystem.info(self._at(name))["size"])
        except FileNotFoundError:
            return None

    def write(self, name: str, fill: Callable[[BinaryIO], object]) -> int:
        self.filesystem.makedirs(self._at(name).rsplit("/", 1)[0], exist_ok=True)
        with self.filesystem.open(self._at(name + TEMPORARY), "wb") as file:
            fill(file)
            size = file.tell()
        self.filesystem.mv(self._at(name + TEMPORARY), self._at(name))
        return size

    def delete(self, name: str) -> None:
        self.filesystem.rm_file(self._at(name))

    def names(self, subfolder: str) -> list[str]:
        self.filesystem.invalidate_cache()
        try:
            entries = self.filesystem.ls(self._at(subfolder), detail=False)
        except FileNotFoundError:
            return []
        return [f"{subfolder}/{entry.rsplit('/', 1)[-1]}" for entry in entries]

    def path(self, name: str) -> str:
        return self.filesystem.unstrip_protocol(self._at(name))

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"


LogFolder = LocalFolder | RemoteFolder
Location = str | os.PathLike[str] | LogFolder


def is_url(location: Location) -> bool:
    """Whether a location that a person typed is one of a file system other than this machine's."""
    return (
        isinstance(location, str) and "://" in location and urlsplit(location).scheme not in ("file", "local")
    )


def local_path(location: str) -> Path:
    """Returns the path that a person typed, also one written as `file:///folder`.

    Raises InputError where the URL names another machine, which is mostly a slash too few.
    """
    if "://" not in location:
        return Path(location).expanduser()
    parts = urlsplit(location)
    if parts.netloc not in ("", "localhost"):
        three = f"{parts.scheme}:///{parts.netloc}{parts.path}"
        raise InputError(
            f"{location}: a folder of this machine has three slashes, {three}; or write its path alone"
        )
    return Path(unquote(parts.path))


def absolute(location: str) -> str:
    """Returns a path as seen from everywhere, that of a `file:///folder` too; another URL as it is.

    Raises InputError as `local_path`.
    """
    return location if is_url(location) else str(local_path(location).absolute())


def join(location: str, *names: str) -> str:
    """Returns a folder below a folder or URL, whose query (`?endpoint_override=...`) stays at the end."""
    if not is_url(location):
        return str(Path(local_path(location), *names))
    parts = urlsplit(location)
    return parts._replace(path="/".join([parts.path.rstrip("/"), *names])).geturl()


def open_folder(location: Location) -> LogFolder:
    """Returns the folder at a path or URL.

    Raises InputError as `local_path`, and for a URL with credentials, or of a file system that is not
    installed or not known.
    """
    if isinstance(location, LogFolder):
        return location
    if is_url(location):
        refuse_credentials(str(location), "the rollout log", KEYS_ELSEWHERE)
        return RemoteFolder(str(location))
    return LocalFolder(local_path(location) if isinstance(location, str) else Path(location))


def _filesystem(url: str):
    """fsspec's file system for `url`, else pyarrow's own (S3, Google Cloud, HDFS), with the path in it."""
    import fsspec
    import pyarrow.fs

    try:
        return fsspec.url_to_fs(url)
    except (ImportError, ValueError) as error:
        from fsspec.implementations.arrow import ArrowFSWrapper

        try:
            filesystem, root = pyarrow.fs.FileSystem.from_uri(url)
        except (pyarrow.ArrowInvalid, NotImplementedError):
            raise InputError(f"{url}: no file system for this URL: {error}.") from error
        return ArrowFSWrapper(filesystem), root


class WriterLock:
    """At most one process writes a local log; the operating system releases the lock of a process
    that dies.
    """

    def __init__(self, folder: LogFolder):
        self._lock = None
        if isinstance(folder, RemoteFolder):
            return
        try:
            folder.root.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(folder.root / ".lock")
            held = self._lock.acquire()
        except OSError as error:
            raise RolloutLogError(f"nothing can be written in {folder}: {error.strerror}") from error
        if not held:
            raise RolloutLogError(f"{folder} is being written by another process; wait until that run ends")

    def release(self) -> None:
        if self._lock is not None:
            self._lock.release()
