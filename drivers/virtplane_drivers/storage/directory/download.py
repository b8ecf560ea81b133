"""One file from a web server, into a file that a later attempt can go on with.

Beside `<name>.partial` lies `<name>.etag` with the server's word for that very content: only bytes of the same content
are put together (RFC 9110, Range and If-Range), also where a server does not keep to that. Every hop of a redirect is
checked as the first one is.
"""

import asyncio
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urljoin, urlsplit

import aiohttp

from virtplane_api.reasons import Reason
from virtplane_drivers.storage.directory.address_policy import AddressPolicy, GuardedConnector
from virtplane_drivers.storage.directory.failures import VolumeFailed, from_os_error
from virtplane_drivers.storage.directory.limits import ImportLimits

_log = logging.getLogger(__name__)

_MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CHUNK_BYTES = 1 << 20
_PORTS = {"http": 80, "https": 443}
_GONE = {
    404: Reason.SOURCE_NOT_FOUND,
    410: Reason.SOURCE_NOT_FOUND,
    401: Reason.SOURCE_FORBIDDEN,
    403: Reason.SOURCE_FORBIDDEN,
}
_BUSY = frozenset({408, 425, 429})
_PHRASES = {status.value: status.phrase for status in HTTPStatus}
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")

Progress = Callable[[int, int | None], None]
"""Told the bytes that are there, and how many it will be where that is known."""


class _Again(Exception):
    """The attempt failed in a way that another may not."""


@dataclass(frozen=True, slots=True)
class Partial:
    """A download's files."""

    data: Path
    etag: Path

    def offset(self) -> int:
        """Bytes that are there already, of the content that `etag` names."""
        return self.data.stat().st_size if self.data.exists() and self.etag.exists() else 0

    def discard(self) -> None:
        """Begin anew."""
        self.data.unlink(missing_ok=True)
        self.etag.unlink(missing_ok=True)


class Download:
    """Fetches one URL."""

    def __init__(self, url: str, partial: Partial, policy: AddressPolicy, limits: ImportLimits) -> None:
        self._url = url
        self._partial = partial
        self._policy = policy
        self._limits = limits

    async def run(self, progress: Progress) -> None:
        """The whole file is in `partial.data` when it returns.

        Raises:
            VolumeFailed: why it cannot be had.
        """
        wait_s = self._limits.first_wait_s
        try:
            async with asyncio.timeout(self._limits.total_s):
                for attempt in range(1, self._limits.attempts + 1):
                    try:
                        return await self._attempt(progress)
                    except _Again as error:
                        _log.info("%s: attempt %d: %s", self._url, attempt, error)
                        last = str(error)
                    if attempt < self._limits.attempts:
                        await asyncio.sleep(wait_s)
                        wait_s *= 2
        except TimeoutError as error:
            message = f"{self._url}: not complete after {self._limits.total_s:.0f} s"
            raise VolumeFailed(Reason.DOWNLOAD_FAILED, message, retry_after_s=60.0) from error
        raise VolumeFailed(Reason.DOWNLOAD_FAILED, f"{self._url}: {last}", retry_after_s=30.0)

    async def _attempt(self, progress: Progress) -> None:
        url = self._url
        for _ in range(_MAX_REDIRECTS + 1):
            target = await self._hop(url, progress)
            if target is None:
                return
            url = target
        message = f"{self._url}: more than {_MAX_REDIRECTS} redirects"
        raise VolumeFailed(Reason.TOO_MANY_REDIRECTS, message, retry_after_s=60.0)

    async def _hop(self, url: str, progress: Progress) -> str | None:
        """One request: the content, or the address where it is said to be."""
        host, port = self._host_and_port(url)
        connector = GuardedConnector(self._policy, host=host, port=port)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=15.0, sock_read=self._limits.stall_s)
        # No proxy and no credentials of ours: a user's URL goes out as the user's.
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, trust_env=False, auto_decompress=False
        ) as session:
            try:
                async with session.get(url, headers=self._headers(), allow_redirects=False) as response:
                    if response.status in _REDIRECTS and "Location" in response.headers:
                        return self._joined(url, response.headers["Location"])
                    await self._take(response, url, progress)
                    return None
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                if connector.refusals and not connector.passed:
                    message = f"{connector.refusals[0]}; start the agent with --allow-source if that is meant"
                    raise VolumeFailed(Reason.SOURCE_ADDRESS_REFUSED, message, retry_after_s=None) from error
                raise _Again(str(error) or type(error).__name__) from error

    def _host_and_port(self, url: str) -> tuple[str, int]:
        try:
            url.encode()
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)
            host.encode("idna")  # as the resolver does it: no label is empty or too long
        except ValueError as error:
            raise VolumeFailed(Reason.SOURCE_REFUSED, f"{url} is no address: {error}", retry_after_s=None) from error
        if not host or parts.scheme not in _PORTS:
            raise VolumeFailed(Reason.SOURCE_REFUSED, f"{url}: only http and https are fetched", retry_after_s=None)
        return host, port

    def _joined(self, url: str, location: str) -> str:
        try:
            return urljoin(url, location)
        except ValueError as error:
            message = f"{url} leads to {location}, which is no address: {error}"
            raise VolumeFailed(Reason.SOURCE_REFUSED, message, retry_after_s=None) from error

    def _headers(self) -> dict[str, str]:
        headers = {"Accept-Encoding": "identity", "User-Agent": "virtplane"}
        offset = self._partial.offset()
        if offset:
            headers |= {"Range": f"bytes={offset}-", "If-Range": self._partial.etag.read_text()}
        return headers

    async def _take(self, response: aiohttp.ClientResponse, url: str, progress: Progress) -> None:
        offset, total = self._check(response, url)
        self._check_size(url, total or 0)
        if not offset:
            self._partial.discard()
            etag = response.headers.get("ETag", "")
            # A weak one does not promise the same bytes, and one of other characters may not come back the same.
            if etag and etag.isascii() and not etag.startswith("W/"):
                self._partial.etag.write_text(etag)
        try:
            with self._partial.data.open("ab") as file:
                async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                    await asyncio.to_thread(_append, file, chunk)
                    offset += len(chunk)
                    self._check_size(url, offset)
                    progress(offset, total)
        except ConnectionError:
            raise
        except OSError as error:
            if isinstance(error, aiohttp.ClientError):
                raise
            failed = from_os_error(error, f"the image {url} is written to the cache")
            if failed.failure.reason == "NoSpace":
                self._partial.discard()  # on this disk others want to write too
            raise failed from error
        if total is not None and offset != total:
            raise _Again(f"the server sent {offset} bytes of {total}")

    def _check(self, response: aiohttp.ClientResponse, url: str) -> tuple[int, int | None]:
        """The offset that the body begins at, and the size of the whole; an answer that brings no body ends here."""
        status, length = response.status, response.content_length
        if status == 200:
            return 0, length
        if status == 206:
            return self._check_range(response)
        if status == 416:
            self._partial.discard()
            raise _Again("what is there is no part of the content any more")
        words = f"{url}: the server said {status} {_PHRASES.get(status, '')}"
        if status >= 500 or status in _BUSY:
            raise _Again(words)
        raise VolumeFailed(_GONE.get(status, Reason.SOURCE_REFUSED), words, retry_after_s=60.0)

    def _check_range(self, response: aiohttp.ClientResponse) -> tuple[int, int | None]:
        offset = self._partial.offset()
        told = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if told is None or int(told[1]) != offset:
            self._partial.discard()
            raise _Again("the server sent another range than the one asked for")
        # Some servers know no If-Range, and send a part of whatever lies there now.
        if offset and response.headers.get("ETag") != self._partial.etag.read_text():
            self._partial.discard()
            raise _Again("the server sent a part of another content")
        return offset, None if told[2] == "*" else int(told[2])

    def _check_size(self, url: str, size_bytes: int) -> None:
        if size_bytes > self._limits.max_image_bytes:
            self._partial.discard()
            message = f"{url}: larger than the {self._limits.max_image_bytes} bytes that this agent accepts"
            raise VolumeFailed(Reason.IMAGE_TOO_LARGE, message, retry_after_s=None)


def _append(file: BinaryIO, chunk: bytes) -> None:
    file.write(chunk)
    file.flush()  # else the rest of a chunk stays with us until more comes, and is lost with us
