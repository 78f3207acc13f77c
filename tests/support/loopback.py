"""Servers on a free loopback port, for tests of clients."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def serving(app, port: int | None = None) -> Iterator[str]:
    """An ASGI application under uvicorn; yields the address."""
    import uvicorn

    port = port or free_port()
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def handled_by(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serves on a thread; yields the address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def answering(answer: Callable[[dict, dict], tuple[int, object]]) -> Iterator[str]:
    """A server that answers a POST or GET with `answer(body, headers)` -> (status, JSON or bytes); yields its
    address.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = json.loads(content) if content else {}
            status, value = answer(body, dict(self.headers))
            data = value if isinstance(value, bytes) else json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST

        def log_message(self, *args):
            pass

    with handled_by(Handler) as address:
        yield address


class FileServer:
    """Files under their names, with ranges. `asked` keeps (name, first byte) of each request.

    Args:
        files: name to content; may be changed while it serves.
        pause: seconds before each piece of 256 KiB.
    """

    PIECE = 1 << 18

    def __init__(self, files: dict[str, bytes], pause: float = 0.0):
        self.files, self.pause = files, pause
        self.asked: list[tuple[str, int]] = []

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Yields the address."""
        served = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                name = self.path.lstrip("/")
                asked = self.headers.get("Range", "bytes=0-")
                first = int(asked.removeprefix("bytes=").partition("-")[0])
                served.asked.append((name, first))
                content = served.files.get(name)
                if content is None or first >= len(content):
                    self.send_error(404 if content is None else 416)
                    return
                self.send_response(206 if "Range" in self.headers else 200)
                self.send_header("Content-Length", str(len(content) - first))
                if "Range" in self.headers:
                    self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
                self.end_headers()
                try:
                    for at in range(first, len(content), served.PIECE):
                        time.sleep(served.pause)
                        self.wfile.write(content[at : at + served.PIECE])
                        self.wfile.flush()
                except OSError:  # the client is gone
                    pass

            def log_message(self, *args):
                pass

        with handled_by(Handler) as address:
            yield address
