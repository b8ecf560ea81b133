"""Downloads over real connections to a real web server that does wrong what web servers do wrong."""

import asyncio
import random
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from http import HTTPStatus
from pathlib import Path

import pytest

from tests.drivers.storage.directory_host import MIB, QUICK, served_images
from tests.http_images.faults import Faults
from tests.http_images.server import ImageServer, serve_folder
from virtplane_drivers.storage.directory.address_policy import AddressPolicy
from virtplane_drivers.storage.directory.download import Download, Partial
from virtplane_drivers.storage.directory.failures import VolumeFailed
from virtplane_drivers.storage.directory.limits import ImportLimits

CONTENT = random.Random(1).randbytes(3 * MIB + 1)
OTHER = random.Random(2).randbytes(2 * MIB)
PART_BYTES = MIB


class Place:
    """A web server with one image, and a folder for what comes of it."""

    def __init__(self, server: ImageServer, folder: Path) -> None:
        self.server = server
        self.image = server.folder / "image"
        self.image.write_bytes(CONTENT)
        self.partial = Partial(folder / "image.partial", folder / "image.etag")
        self.progress: list[tuple[int, int | None]] = []

    async def download(self, limits: ImportLimits = QUICK, url: str = "", allowed: str = "") -> bytes:
        """The content that one download brings."""
        policy = AddressPolicy([self.server.address, allowed])
        download = Download(url or self.server.url("image"), self.partial, policy, limits)
        await download.run(lambda received, total: self.progress.append((received, total)))
        return self.partial.data.read_bytes()

    async def failure(self, limits: ImportLimits = QUICK, url: str = "", allowed: str = "") -> VolumeFailed:
        """How a download fails."""
        with pytest.raises(VolumeFailed) as failed:
            await self.download(limits, url, allowed)
        return failed.value

    async def interrupted(self) -> None:
        """The beginning of the image, as a download leaves it that was stopped in the middle."""
        faults = self.server.faults
        faults.stall, faults.stall_after_bytes = threading.Event(), PART_BYTES
        downloading = asyncio.create_task(self.download())
        async with asyncio.timeout(10):
            while (PART_BYTES, len(CONTENT)) not in self.progress:
                await asyncio.sleep(0.005)
        downloading.cancel()
        await asyncio.wait([downloading])
        faults.stall.set()
        faults.stall = None
        assert self.partial.data.read_bytes() == CONTENT[:PART_BYTES]
        self.server.requests.clear()

    def ranges(self) -> list[str]:
        return [request.range for request in self.server.requests]


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with served_images(tmp_path) as server:
        yield Place(server, tmp_path)


async def test_a_file_comes_whole_and_tells_how_far_it_is(place: Place) -> None:
    assert await place.download() == CONTENT
    assert len(place.server.requests) == 1
    received = [progress[0] for progress in place.progress]
    assert received == sorted(received)
    assert place.progress[-1] == (len(CONTENT), len(CONTENT))


HEALING: Mapping[str, Callable[[Faults], None]] = {
    "500 once": lambda faults: faults.answers.append(HTTPStatus.INTERNAL_SERVER_ERROR),
    "503 twice": lambda faults: faults.answers.extend([HTTPStatus.SERVICE_UNAVAILABLE] * 2),
    "429 once": lambda faults: faults.answers.append(HTTPStatus.TOO_MANY_REQUESTS),
    "408 once": lambda faults: faults.answers.append(HTTPStatus.REQUEST_TIMEOUT),
}


@pytest.mark.parametrize("name", HEALING)
async def test_a_server_that_is_troubled_for_a_while_is_asked_again(place: Place, name: str) -> None:
    HEALING[name](place.server.faults)
    assert await place.download() == CONTENT
    assert place.server.faults.answers == []


async def test_a_server_that_stays_troubled_is_given_up_and_may_be_asked_later(place: Place) -> None:
    place.server.faults.answers = [HTTPStatus.BAD_GATEWAY] * 9
    failed = await place.failure()
    assert failed.failure.reason == "DownloadFailed"
    assert failed.failure.retry_after_s is not None
    assert "502" in str(failed)
    assert len(place.server.requests) == QUICK.attempts


GONE = {
    HTTPStatus.NOT_FOUND: "SourceNotFound",
    HTTPStatus.GONE: "SourceNotFound",
    HTTPStatus.FORBIDDEN: "SourceForbidden",
    HTTPStatus.UNAUTHORIZED: "SourceForbidden",
    HTTPStatus.NO_CONTENT: "SourceRefused",
    HTTPStatus.BAD_REQUEST: "SourceRefused",
}


@pytest.mark.parametrize("status", GONE)
async def test_an_answer_that_is_final_is_asked_for_once_and_named(place: Place, status: HTTPStatus) -> None:
    place.server.faults.answers = [status] * 9
    failed = await place.failure()
    assert (failed.failure.reason, failed.failure.retry_after_s) == (GONE[status], 60.0)
    assert str(status.value) in str(failed)
    assert len(place.server.requests) == 1


async def test_words_of_a_server_that_are_no_text_can_be_shown(place: Place) -> None:
    place.server.faults.answers = [HTTPStatus.NOT_FOUND]
    place.server.faults.reason = "\xff\xfe gone \x1b[31m"
    str(await place.failure()).encode()


async def test_a_slow_server_is_waited_for_while_bytes_come(place: Place) -> None:
    place.server.faults.slow_s = 0.05
    assert await place.download(replace(QUICK, stall_s=0.4, attempts=1)) == CONTENT


async def test_a_server_that_stalls_is_left_and_asked_for_the_rest(place: Place) -> None:
    place.server.faults.stall = stall = threading.Event()
    place.server.faults.stall_after_bytes = PART_BYTES
    failed = await place.failure(replace(QUICK, stall_s=0.2, attempts=1))
    assert failed.failure.reason == "DownloadFailed"
    assert place.partial.data.stat().st_size == PART_BYTES
    stall.set()
    assert await place.download() == CONTENT
    assert place.ranges()[-1] == f"bytes={PART_BYTES}-"


async def test_a_download_that_takes_too_long_in_all_is_ended(place: Place) -> None:
    place.server.faults.slow_s = 0.2
    failed = await place.failure(replace(QUICK, total_s=0.5))
    assert failed.failure.reason == "DownloadFailed"
    assert "0 s" in str(failed) or "1 s" in str(failed)


async def test_the_hosts_own_proxy_and_passwords_are_not_used(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login agent password secret\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    with serve_folder(place.server.folder) as proxy:
        monkeypatch.setenv("http_proxy", f"http://{proxy.address}")
        monkeypatch.setenv("no_proxy", "")
        assert await place.download() == CONTENT
        assert proxy.requests == []
    assert place.server.requests[0].headers.keys().isdisjoint({"authorization", "cookie", "proxy-authorization"})


async def test_a_server_that_is_not_there_is_asked_again_later(place: Place) -> None:
    with serve_folder(place.server.folder) as gone:
        url = gone.url("image")
    failed = await place.failure(url=url, allowed=gone.address)
    assert failed.failure.reason == "DownloadFailed"
    assert failed.failure.retry_after_s is not None


async def test_after_a_cut_only_the_rest_is_asked_for(place: Place) -> None:
    place.server.faults.cut_after_bytes = PART_BYTES
    place.server.faults.cut_times = 1
    assert await place.download() == CONTENT
    first, second = place.server.requests
    assert (first.range, first.if_range) == ("", "")
    assert second.if_range == place.partial.etag.read_text()
    [received] = re.findall(r"bytes=(\d+)-", second.range)
    assert 0 < int(received) <= PART_BYTES


async def test_a_later_download_goes_on_with_what_an_earlier_one_left(place: Place) -> None:
    await place.interrupted()
    assert await place.download() == CONTENT
    assert place.ranges() == [f"bytes={PART_BYTES}-"]
    assert place.progress[-1] == (len(CONTENT), len(CONTENT))


async def test_content_that_changed_in_between_is_taken_from_its_beginning(place: Place) -> None:
    await place.interrupted()
    place.image.write_bytes(OTHER)
    assert await place.download() == OTHER


NO_RESUMPTION: Mapping[str, Callable[[Faults], None]] = {
    "no tag": lambda faults: setattr(faults, "etag", ""),
    "a weak tag": lambda faults: setattr(faults, "etag", 'W/"1"'),
    "a tag that is no text": lambda faults: setattr(faults, "etag", '"\xff"'),
}


@pytest.mark.parametrize("name", NO_RESUMPTION)
async def test_what_bears_no_tag_of_these_very_bytes_is_not_gone_on_with(place: Place, name: str) -> None:
    NO_RESUMPTION[name](place.server.faults)
    await place.interrupted()
    place.image.write_bytes(OTHER)
    assert await place.download() == OTHER
    assert place.ranges() == [""]


MISTAKEN_RANGES: Mapping[str, Callable[[Faults], None]] = {
    "ranges are not served": lambda faults: setattr(faults, "no_ranges", True),
    "another range than asked for": lambda faults: setattr(faults, "range_shift_bytes", 7),
    "a range in pieces": lambda faults: setattr(faults, "range_bytes", MIB),
    "a range of unknown length": lambda faults: setattr(faults, "no_length", True),
}


@pytest.mark.parametrize("name", MISTAKEN_RANGES)
async def test_a_server_that_answers_ranges_oddly_still_gives_the_whole_file(place: Place, name: str) -> None:
    await place.interrupted()
    MISTAKEN_RANGES[name](place.server.faults)
    assert await place.download(replace(QUICK, attempts=4)) == CONTENT


async def test_a_server_that_ignores_if_range_gives_no_mixture(place: Place) -> None:
    await place.interrupted()
    place.server.faults.if_range_ignored = True
    place.image.write_bytes(CONTENT[: MIB // 2] + OTHER)
    assert await place.download() == CONTENT[: MIB // 2] + OTHER


async def test_a_range_answer_without_a_tag_is_not_trusted(place: Place) -> None:
    await place.interrupted()
    place.server.faults.if_range_ignored = True
    place.server.faults.etag = ""
    place.image.write_bytes(CONTENT[: MIB // 2] + OTHER)
    assert await place.download() == CONTENT[: MIB // 2] + OTHER


async def test_content_that_got_shorter_under_the_same_tag_is_taken_from_its_beginning(place: Place) -> None:
    place.server.faults.etag = '"same"'
    await place.interrupted()
    place.image.write_bytes(OTHER[:1000])
    assert await place.download() == OTHER[:1000]
    assert place.ranges() == [f"bytes={PART_BYTES}-", ""]


async def test_a_file_whose_tag_was_lost_is_taken_from_its_beginning(place: Place) -> None:
    await place.interrupted()
    place.partial.etag.unlink()
    assert await place.download() == CONTENT
    assert place.ranges() == [""]


async def test_a_body_without_a_length_comes_whole(place: Place) -> None:
    place.server.faults.no_length = True
    assert await place.download() == CONTENT
    assert place.progress[-1] == (len(CONTENT), None)


async def test_a_file_that_says_to_be_too_large_is_not_begun(place: Place) -> None:
    failed = await place.failure(replace(QUICK, max_image_bytes=len(CONTENT) - 1))
    assert (failed.failure.reason, failed.failure.retry_after_s) == ("ImageTooLarge", None)
    assert place.progress == []
    assert not place.partial.data.exists()
    assert await place.download(replace(QUICK, max_image_bytes=len(CONTENT))) == CONTENT


async def test_a_body_without_end_is_left_at_the_limit_and_thrown_away(place: Place) -> None:
    place.server.faults.endless = True
    failed = await place.failure(replace(QUICK, max_image_bytes=4 * MIB))
    assert failed.failure.reason == "ImageTooLarge"
    assert not place.partial.data.exists()
    assert len(place.server.requests) == 1


async def test_a_part_that_went_on_beyond_the_limit_is_thrown_away(place: Place) -> None:
    await place.interrupted()
    failed = await place.failure(replace(QUICK, max_image_bytes=2 * MIB))
    assert failed.failure.reason == "ImageTooLarge"
    assert not place.partial.data.exists()


@pytest.mark.parametrize("where", ["/image", "image", "{url}"])
async def test_a_redirect_is_followed_wherever_it_is_told_from(place: Place, where: str) -> None:
    place.server.faults.redirects["/moved"] = where.format(url=place.server.url("image"))
    assert await place.download(url=place.server.url("moved")) == CONTENT


async def test_after_a_cut_the_rest_is_asked_for_through_the_redirect(place: Place) -> None:
    place.server.faults.redirects["/moved"] = "image"
    place.server.faults.cut_after_bytes = PART_BYTES
    place.server.faults.cut_times = 1
    assert await place.download(url=place.server.url("moved")) == CONTENT
    assert [request.path for request in place.server.requests] == ["/moved", "/image"] * 2
    assert place.server.requests[3].range


@pytest.mark.parametrize(("hops", "reason"), [(5, ""), (6, "TooManyRedirects")])
async def test_redirects_end_somewhere(place: Place, hops: int, reason: str) -> None:
    place.server.faults.redirects = {f"/{n}": f"/{n - 1}" for n in range(2, hops + 1)} | {"/1": "/image"}
    url = place.server.url(str(hops))
    if reason:
        assert (await place.failure(url=url)).failure.reason == reason
        assert "/image" not in [request.path for request in place.server.requests]
    else:
        assert await place.download(url=url) == CONTENT


NO_SOURCES = (
    "ftp://127.0.0.1/image",
    "file:///etc/passwd",
    "http://:80/image",
    "http://127.0.0.1:99999/image",
    "http://127.0.0.1:port/image",
    "http://[::1/image",
    "http://a..b/image",
    "http://\udcff/image",
)


@pytest.mark.parametrize("url", NO_SOURCES, ids=ascii)
async def test_what_is_no_web_address_is_refused_for_good(place: Place, url: str) -> None:
    failed = await place.failure(url=url)
    assert (failed.failure.reason, failed.failure.retry_after_s) == ("SourceRefused", None)
    str(failed).encode()


@pytest.mark.parametrize("url", [url for url in NO_SOURCES if url.isascii()])
async def test_a_redirect_to_what_is_no_web_address_is_not_followed(place: Place, url: str) -> None:
    place.server.faults.redirects["/moved"] = url
    failed = await place.failure(url=place.server.url("moved"))
    assert failed.failure.reason == "SourceRefused"
