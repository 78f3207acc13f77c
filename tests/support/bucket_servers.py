"""Stand-ins for S3 and Google Cloud Storage on loopback, and a line to them that can be cut.

`moto_server` and `gcp-storage-emulator` are where IGPO_MOTO_SERVER and IGPO_GCS_EMULATOR say; a test
that wants one is skipped where the variable is not set. Each fits an environment of its own:
`pip install "moto[server]>=5.2.5"` (5.2.1 fails to complete uploads), `pip install gcp-storage-emulator`.
"""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from loopback import free_port

BUCKET = "bucket"


@contextmanager
def moto(folder: Path) -> Iterator[int]:
    """moto's server with an empty bucket; yields its port. S3 wants any key of the environment."""
    with _server("moto_server", "IGPO_MOTO_SERVER", folder, "-H", "127.0.0.1", "-p") as port:
        httpx.put(f"http://127.0.0.1:{port}/{BUCKET}", timeout=60).raise_for_status()
        yield port


@contextmanager
def google(folder: Path) -> Iterator[int]:
    """A Google Cloud Storage with an empty bucket; yields its port. It wants `google_credentials`."""
    arguments = ("start", "-H", "127.0.0.1", "-M", "--default-bucket", BUCKET, "--port")
    with _server("gcp-storage-emulator", "IGPO_GCS_EMULATOR", folder, *arguments) as port:
        yield port


def google_credentials(folder: Path) -> Path:
    """The file of a service account that no one knows."""
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    account = {
        "type": "service_account",
        "project_id": "lab",
        "private_key_id": "1",
        "private_key": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        "client_email": "runs@lab.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": "http://127.0.0.1:1/token",
    }
    path = folder / "account.json"
    path.write_text(json.dumps(account))
    return path


@contextmanager
def _server(program: str, variable: str, folder: Path, *arguments: str) -> Iterator[int]:
    found = os.environ.get(variable)
    if not found:
        pytest.skip(f"{variable} names no {program}")
    port = free_port()
    with (folder / f"{program}.log").open("w") as log:
        process = subprocess.Popen([found, *arguments, str(port)], stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while socket.socket().connect_ex(("127.0.0.1", port)):
            assert process.poll() is None and time.monotonic() < deadline, f"{program} did not start"
            time.sleep(0.05)
        yield port
    finally:
        process.kill()
        process.wait()


class Line:
    """A line to a server on loopback, on a port of its own: `port`.

    Args:
        server: the server's port.
    """

    def __init__(self, server: int):
        self._server = server
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.is_held = threading.Event()
        """Set when a request hangs."""
        self.cut = 0
        """Uploads whose connection was reset."""
        self._hold: re.Pattern[bytes] | None = None
        self._resets = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def hold(self, request: str) -> None:
        """The next request whose first line matches hangs, with half of it on its way."""
        self.is_held.clear()
        self._hold = re.compile(request.encode())

    def reset(self, times: int) -> None:
        """Resets the connections of the next uploads."""
        self._resets = times

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._server))
            threading.Thread(target=self._upstream, args=(client, server), daemon=True).start()
            threading.Thread(target=self._downstream, args=(server, client), daemon=True).start()

    def _upstream(self, client: socket.socket, server: socket.socket) -> None:
        try:
            while piece := client.recv(1 << 16):
                if self._hold and self._hold.search(piece):
                    self._hold = None
                    server.sendall(piece[: len(piece) // 2])
                    self.is_held.set()
                    while client.recv(1 << 16):  # until the client is gone
                        pass
                    break
                if self._resets and piece.startswith(b"PUT "):
                    self._resets -= 1
                    self.cut += 1
                    break
                server.sendall(piece)
        except OSError:
            pass
        _shut(client, server)

    def _downstream(self, server: socket.socket, client: socket.socket) -> None:
        try:
            while piece := server.recv(1 << 16):
                client.sendall(piece)
        except OSError:
            pass
        _shut(client, server)


def _shut(*ends: socket.socket) -> None:
    for end in ends:
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            continue
