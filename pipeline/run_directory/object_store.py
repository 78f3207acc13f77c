"""Files of an object store (S3, Google Cloud Storage), written and read whole by pyarrow.

What fails and may pass is tried again. Credentials are those of the environment, as pyarrow finds them.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from tenacity import Retrying, before_sleep_log, retry_if_exception, stop_after_attempt, wait_exponential

from envs.durable import TEMPORARY
from envs.errors import InputError

logger = logging.getLogger(__name__)

SCHEMES = ("s3", "gs", "gcs")
ATTEMPTS = 5
PIECE = 2**23
"""Bytes that are read and written at a time."""
GOOGLE_SECONDS = 30
"""Time in which Google's library tries one request again; of itself it would for 15 minutes."""
PROBE = b"igpo"
Result = TypeVar("Result")


class ObjectStore:
    """The files below a URL. Their names are relative to it.

    Args:
        url: `s3://BUCKET/PATH` or `gs://BUCKET/PATH`; a query (`?endpoint_override=HOST:PORT&scheme=http`)
            is pyarrow's.

    Raises:
        InputError: the URL holds credentials, or is of a file system that pyarrow does not know.
    """

    def __init__(self, url: str):
        parts = urlsplit(url)
        if parts.username or parts.password:
            raise InputError(
                f"storage_path {parts.scheme}://...@{parts.hostname}: credentials are read from the "
                "environment only (AWS_ACCESS_KEY_ID, GOOGLE_APPLICATION_CREDENTIALS, ...): leave them "
                "out of the URL"
            )
        if parts.scheme not in SCHEMES:
            raise InputError(
                f"storage_path {url}: runs are kept in a folder, s3://BUCKET/PATH or gs://BUCKET/PATH"
            )
        self.url = url
        self._filesystem, root = open_filesystem(url)
        self._root = root.rstrip("/")

    def check(self) -> None:
        """Writes, reads and removes a small file of its own. Raises InputError where that fails.

        It is not tried again beyond what pyarrow's clients do, of a busy store S3's for some seconds and
        Google's for `GOOGLE_SECONDS`: a wrong address is to be told soon.
        """
        probe = self._at(f".igpo_probe_{secrets.token_hex(8)}")
        try:
            with _as_oserror():
                self._write(probe, PROBE)
                found = self._read(probe)
                self._filesystem.delete_file(probe)
        except OSError as error:
            raise InputError(
                f"storage_path {self.url}: nothing can be written there: {reason(error)}; "
                "check bucket, region and the credentials of the environment"
            ) from error
        if found != PROBE:
            raise InputError(
                f"storage_path {self.url}: a file that holds {PROBE!r} is read there as {found[:40]!r}; "
                "check the credentials of the environment, and what answers there"
            )

    def read(self, name: str) -> bytes:
        """Raises FileNotFoundError, and OSError where it fails again and again."""
        return _retried(lambda: self._read(self._at(name)))

    def write(self, name: str, content: bytes) -> None:
        """Raises OSError where it fails again and again."""
        _retried(lambda: self._write(self._at(name), content))

    def remove(self, name: str) -> None:
        """Removes a file, if it is there."""

        def remove() -> None:
            try:
                self._filesystem.delete_file(self._at(name))
            except FileNotFoundError:
                return

        _retried(remove)

    def send(self, path: Path, name: str) -> bool:
        """Uploads a file of this machine; False where another thread removed it meanwhile."""

        def send() -> bool:
            try:
                with path.open("rb") as source, self._filesystem.open_output_stream(self._at(name)) as sink:
                    while piece := source.read(PIECE):
                        sink.write(piece)
            except FileNotFoundError:
                if path.exists():
                    raise
                return False
            return True

        return _retried(send)

    def receive(self, name: str, target: Path) -> None:
        """Downloads a file, which never stands under its name in part."""

        def receive() -> None:
            temporary = target.with_name(target.name + TEMPORARY)
            with (
                self._filesystem.open_input_stream(self._at(name)) as stream,
                temporary.open("wb") as file,
            ):
                while piece := stream.read(PIECE):
                    file.write(piece)
            temporary.replace(target)

        target.parent.mkdir(parents=True, exist_ok=True)
        _retried(receive)

    def names(self, folder: str) -> list[str]:
        """Names of all files below a folder; none where there is no such folder."""
        from pyarrow.fs import FileSelector, FileType

        selector = FileSelector(self._at(folder), allow_not_found=True, recursive=True)
        found = _retried(lambda: self._filesystem.get_file_info(selector))
        return [info.path.removeprefix(f"{self._root}/") for info in found if info.type == FileType.File]

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _read(self, path: str) -> bytes:
        with self._filesystem.open_input_stream(path) as stream:
            return stream.read()

    def _write(self, path: str, content: bytes) -> None:
        with self._filesystem.open_output_stream(path) as stream:
            stream.write(content)


def reason(error: OSError) -> str:
    """What went wrong, on one line. Google's library wraps its reason into how often it tried."""
    text = " ".join(str(error).split())
    within = re.search(r"with a last message of (.+?) error_info=", text)
    return within[1] if within else text


def open_filesystem(url: str) -> tuple[Any, str]:
    """pyarrow's file system for a URL, and the path in it."""
    import pyarrow
    import pyarrow.fs

    parts = urlsplit(url)
    if parts.scheme != "s3" and "retry_limit_seconds" not in parts.query:
        query = "&".join(filter(None, [parts.query, f"retry_limit_seconds={GOOGLE_SECONDS}"]))
        parts = parts._replace(query=query)
    try:
        return pyarrow.fs.FileSystem.from_uri(parts.geturl())
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise InputError(f"storage_path {url}: {' '.join(str(error).split())}") from error


def _retried(action: Callable[[], Result]) -> Result:
    """Does it again after a failure that may pass; a missing file stays missing."""

    def attempt() -> Result:
        with _as_oserror():
            return action()

    retrying = Retrying(
        stop=stop_after_attempt(ATTEMPTS),
        wait=wait_exponential(multiplier=0.5, max=20),
        retry=retry_if_exception(
            lambda error: isinstance(error, OSError) and not isinstance(error, FileNotFoundError)
        ),
        before_sleep=before_sleep_log(logger, logging.INFO),
        reraise=True,
    )
    return retrying(attempt)


@contextmanager
def _as_oserror() -> Generator[None]:
    """Of Google's failures pyarrow knows some only as an ArrowException."""
    import pyarrow

    try:
        yield
    except pyarrow.ArrowException as error:
        raise OSError(str(error)) from error
