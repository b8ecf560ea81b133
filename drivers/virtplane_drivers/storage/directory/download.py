"""One file from a web server, into a file that a later attempt can go on with.

Beside `<name>.partial` lies `<name>.etag` with the server's word for that very content: only bytes of the same content
are put together (RFC 9110, Range and If-Range). Every hop of a redirect is checked as the first one is.
"""

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import aiohttp

from virtplane_drivers.storage.directory.address_policy import AddressPolicy, GuardedConnector
from virtplane_drivers.storage.directory.failures import VolumeFailed, from_os_error
from virtplane_drivers.storage.directory.limits import ImportLimits

_log = logging.getLogger(__name__)

_MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CHUNK_BYTES = 1 << 20
_PORTS = {"http": 80, "https": 443}
_GONE = {404: "SourceNotFound", 410: "SourceNotFound", 401: "SourceForbidden", 403: "SourceForbidden"}

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
        wait_s = 1.0
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
            raise VolumeFailed("DownloadFailed", message, retry_after_s=60.0) from error
        raise VolumeFailed("DownloadFailed", f"{self._url}: {last}", retry_after_s=30.0)

    async def _attempt(self, progress: Progress) -> None:
        url = self._url
        for _ in range(_MAX_REDIRECTS + 1):
            target = await self._hop(url, progress)
            if target is None:
                return
            url = urljoin(url, target)
        message = f"{self._url}: more than {_MAX_REDIRECTS} redirects"
        raise VolumeFailed("TooManyRedirects", message, retry_after_s=60.0)

    async def _hop(self, url: str, progress: Progress) -> str | None:
        """One request: the content, or where it is said to be."""
        parts = urlsplit(url)
        if parts.scheme not in _PORTS or not parts.hostname:
            raise VolumeFailed("SourceRefused", f"{url}: only http and https are fetched", retry_after_s=None)
        connector = GuardedConnector(self._policy, host=parts.hostname, port=parts.port or _PORTS[parts.scheme])
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=15.0, sock_read=self._limits.stall_s)
        # No proxy and no credentials of ours: a user's URL goes out as the user's.
        async with aiohttp.ClientSession(
            connector=connector, timeout=timeout, trust_env=False, auto_decompress=False
        ) as session:
            try:
                async with session.get(url, headers=self._headers(), allow_redirects=False) as response:
                    if response.status in _REDIRECTS and "Location" in response.headers:
                        return response.headers["Location"]
                    await self._take(response, url, progress)
                    return None
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                if connector.refusals:
                    message = f"{connector.refusals[0]}; start the agent with --allow-source if that is meant"
                    raise VolumeFailed("SourceAddressRefused", message, retry_after_s=None) from error
                raise _Again(str(error) or type(error).__name__) from error

    def _headers(self) -> dict[str, str]:
        headers = {"Accept-Encoding": "identity", "User-Agent": "virtplane"}
        offset = self._partial.offset()
        if offset:
            headers |= {"Range": f"bytes={offset}-", "If-Range": self._partial.etag.read_text()}
        return headers

    async def _take(self, response: aiohttp.ClientResponse, url: str, progress: Progress) -> None:
        offset = self._check(response, url)
        length = response.content_length
        total = offset + length if length is not None else None
        self._check_size(url, total or 0)
        if not offset:
            self._partial.discard()
            etag = response.headers.get("ETag", "")
            if etag and not etag.startswith("W/"):  # a weak one does not promise the same bytes
                self._partial.etag.write_text(etag)
        try:
            with self._partial.data.open("ab") as file:
                async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
                    await asyncio.to_thread(file.write, chunk)
                    offset += len(chunk)
                    self._check_size(url, offset)
                    progress(offset, total)
        except ConnectionError:
            raise
        except OSError as error:
            if isinstance(error, aiohttp.ClientError):
                raise
            raise from_os_error(error, f"the image {url} is written to the cache") from error

    def _check(self, response: aiohttp.ClientResponse, url: str) -> int:
        """The offset that the body begins at; an answer that brings no body ends here."""
        status = response.status
        if status == 206:
            offset = self._partial.offset()
            if response.headers.get("Content-Range", "").startswith(f"bytes {offset}-"):
                return offset
            self._partial.discard()
            raise _Again("the server sent another range than the one asked for")
        if status == 416:
            self._partial.discard()
            raise _Again("what is there is no part of the content any more")
        if status == 200:
            return 0
        words = f"{url}: the server said {status} {response.reason}"
        if status >= 500 or status == 429:
            raise _Again(words)
        raise VolumeFailed(_GONE.get(status, "SourceRefused"), words, retry_after_s=60.0)

    def _check_size(self, url: str, size_bytes: int) -> None:
        if size_bytes > self._limits.max_image_bytes:
            self._partial.discard()
            message = f"{url}: larger than the {self._limits.max_image_bytes} bytes that this agent accepts"
            raise VolumeFailed("ImageTooLarge", message, retry_after_s=None)
