"""A real web server on loopback for images: ranges, entity tags, and faults that a test switches on.

with serve_folder(folder) as server:
    url = server.url("disk.qcow2")
"""

import email.utils
import hashlib
import http.server
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path


@dataclass
class Faults:
    """What the server does wrong; may be changed at any time."""

    cut_after_bytes: int | None = None
    """Each connection ends after so many bytes of a body."""
    no_ranges: bool = False
    unavailable_times: int = 0
    """So many requests are answered by 503."""
    redirect_to: str = ""
    """Every request is sent there."""
    stall: threading.Event | None = None
    """No body is sent until it is set."""


@dataclass
class Request:
    """What was asked for."""

    path: str
    range: str


@dataclass
class ImageServer:
    """A running server."""

    folder: Path
    port: int
    faults: Faults = field(default_factory=Faults)
    requests: list[Request] = field(default_factory=list)

    @property
    def address(self) -> str:
        """`host:port`, as an agent's --allow-source takes it."""
        return f"127.0.0.1:{self.port}"

    def url(self, name: str) -> str:
        """Of a file of the folder."""
        return f"http://{self.address}/{name}"


@contextmanager
def serve_folder(folder: Path) -> Iterator[ImageServer]:
    """Serve a folder's files on a free port until the end of the block."""
    listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    listener.daemon_threads = True
    server = ImageServer(folder, listener.server_port)
    listener.images = server  # type: ignore[attr-defined]
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05}, name="images")
    thread.start()
    try:
        yield server
    finally:
        listener.shutdown()
        thread.join()
        listener.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server: ImageServer = self.server.images  # type: ignore[attr-defined]
        server.requests.append(Request(self.path, self.headers.get("Range", "")))
        self.close_connection = True
        if server.faults.unavailable_times > 0:
            server.faults.unavailable_times -= 1
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE)
        elif server.faults.redirect_to:
            self._head(HTTPStatus.FOUND, 0, {"Location": server.faults.redirect_to})
        else:
            self._file(server)

    def _file(self, server: ImageServer) -> None:
        path = server.folder / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        content = path.read_bytes()
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        first = self._first_byte(etag, len(content), server.faults)
        headers = {"ETag": etag, "Last-Modified": email.utils.formatdate(path.stat().st_mtime, usegmt=True)}
        if first is None:
            first = 0
            self._head(HTTPStatus.OK, len(content), headers)
        else:
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
            self._head(HTTPStatus.PARTIAL_CONTENT, len(content) - first, headers)
        if server.faults.stall is not None:
            server.faults.stall.wait()
        body = content[first:]
        cut = server.faults.cut_after_bytes
        try:
            self.wfile.write(body if cut is None else body[:cut])
        except ConnectionError:
            return

    def _first_byte(self, etag: str, size: int, faults: Faults) -> int | None:
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if match is None or faults.no_ranges or self.headers.get("If-Range", etag) != etag:
            return None
        first = int(match[1])
        return first if first < size else None

    def _head(self, status: HTTPStatus, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(length), "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        """Requests are kept in `requests`, not printed."""
