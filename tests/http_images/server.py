"""A real web server for images, on loopback unless told: ranges, entity tags, and faults that a test switches on.

with serve_folder(folder) as server:
    url = server.url("disk.qcow2")
"""

import contextlib
import email.utils
import hashlib
import http.server
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path

from tests.http_images.faults import Faults

_ZEROS = bytes(64 * 1024)


@dataclass
class Request:
    """What was asked for."""

    path: str
    headers: dict[str, str]
    """By names in lower case."""

    @property
    def range(self) -> str:
        """The bytes that were asked for. Empty: all."""
        return self.headers.get("range", "")

    @property
    def if_range(self) -> str:
        """The tag of the content that they are to be of."""
        return self.headers.get("if-range", "")


@dataclass
class ImageServer:
    """A running server."""

    folder: Path
    host: str
    port: int
    faults: Faults = field(default_factory=Faults)
    requests: list[Request] = field(default_factory=list)

    @property
    def address(self) -> str:
        """`host:port`, as an agent's --allow-source takes it."""
        return f"{self.host}:{self.port}"

    def url(self, name: str) -> str:
        """Of a file of the folder."""
        return f"http://{self.address}/{name}"


@contextmanager
def serve_folder(folder: Path, *, host: str = "127.0.0.1") -> Iterator[ImageServer]:
    """Serve a folder's files on a free port until the end of the block."""
    listener = http.server.ThreadingHTTPServer((host, 0), _Handler)
    listener.daemon_threads = True
    server = ImageServer(folder, host, listener.server_port)
    listener.images = server  # type: ignore[attr-defined]
    thread = threading.Thread(target=listener.serve_forever, kwargs={"poll_interval": 0.05}, name="images")
    thread.start()
    try:
        yield server
    finally:
        if server.faults.stall is not None:
            server.faults.stall.set()
        listener.shutdown()
        thread.join()
        listener.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        server: ImageServer = self.server.images  # type: ignore[attr-defined]
        self._stall = server.faults.stall  # before the request can be seen: who sees it may change the fault
        headers = {name.lower(): value for name, value in self.headers.items()}
        server.requests.append(Request(self.path, headers))
        self.close_connection = True
        if server.faults.answers:
            status = server.faults.answers.pop(0)
            self.send_response(status, server.faults.reason or None)
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif self.path in server.faults.redirects:
            self._head(HTTPStatus.FOUND, 0, {"Location": server.faults.redirects[self.path]})
        else:
            with contextlib.suppress(ConnectionError):  # the client may go away at any time
                self._file(server)

    def _file(self, server: ImageServer) -> None:
        path = server.folder / self.path.lstrip("/")
        if not path.is_file():
            self.send_error(HTTPStatus.NOT_FOUND)
            return
        faults, content = server.faults, path.read_bytes()
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"' if faults.etag is None else faults.etag
        headers = {"Last-Modified": email.utils.formatdate(path.stat().st_mtime, usegmt=True)}
        if etag:
            headers["ETag"] = etag
        first = self._first_byte(etag, faults)
        if first is not None and first >= len(content):
            self._head(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, 0, {"Content-Range": f"bytes */{len(content)}"})
            return
        if first is None:
            body = content
            self._head(HTTPStatus.OK, None if faults.no_length or faults.endless else len(body), headers)
        else:
            first -= faults.range_shift_bytes
            end = len(content) if faults.range_bytes is None else first + faults.range_bytes
            body = content[first:end]
            headers["Content-Range"] = f"bytes {first}-{first + len(body) - 1}/{len(content)}"
            self._head(HTTPStatus.PARTIAL_CONTENT, None if faults.no_length else len(body), headers)
        self._body(faults, body)

    def _body(self, faults: Faults, body: bytes) -> None:
        if faults.takes_cut():
            self.wfile.write(body[: faults.cut_after_bytes])
            return
        if self._stall is not None:
            self.wfile.write(body[: faults.stall_after_bytes])
            self._stall.wait()
            body = body[faults.stall_after_bytes :]
        if faults.slow_s:
            size = -(-len(body) // 16)
            for at in range(0, len(body), size):
                self.wfile.write(body[at : at + size])
                time.sleep(faults.slow_s)
        else:
            self.wfile.write(body)
        while faults.endless:
            self.wfile.write(_ZEROS)

    def _first_byte(self, etag: str, faults: Faults) -> int | None:
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if match is None or faults.no_ranges:
            return None
        if self.headers.get("If-Range", etag) != etag and not faults.if_range_ignored:
            return None
        return int(match[1])

    def _head(self, status: HTTPStatus, length: int | None, headers: dict[str, str]) -> None:
        self.send_response(status)
        lengths = {} if length is None else {"Content-Length": str(length)}
        for name, value in {**headers, **lengths, "Connection": "close"}.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the base class's name
        """Requests are kept in `requests`, not printed."""
