"""Where an image may not be fetched from: as a table, over real sockets, and through names and redirects."""

from pathlib import Path

import pytest

from tests.drivers.storage.directory_host import DirectoryHost, failure_of, made, volume
from tests.drivers.storage.programs.running import can_unshare, result_in_namespaces
from virtplane_drivers.storage.contract import HttpImage, VolumeState
from virtplane_drivers.storage.directory.address_policy import AddressPolicy, danger

DANGERS = {
    "127.0.0.1": "loopback",
    "127.8.8.8": "loopback",
    "::1": "loopback",
    "0.0.0.0": "unspecified",  # noqa: S104  # Linux connects it to loopback
    "0.1.2.3": "unspecified",
    "::": "unspecified",
    "169.254.0.1": "link-local",
    "fe80::1": "link-local",
    "fe80::1%eth0": "link-local",
    "fec0::1": "link-local",
    "169.254.169.254": "metadata",
    "100.100.100.200": "metadata",
    "168.63.129.16": "metadata",
    "192.0.0.192": "metadata",
    "fd00:ec2::254": "metadata",
    "fd20:ce::254": "metadata",
    "224.0.0.1": "multicast",
    "ff02::1": "multicast",
    "240.0.0.1": "reserved",
    "255.255.255.255": "reserved",
    # IPv4 within IPv6: mapped, 6to4, NAT64 (well-known and of a site's own), translated, compatible.
    "::ffff:127.0.0.1": "loopback",
    "::ffff:169.254.169.254": "metadata",
    "2002:7f00:1::": "loopback",
    "2002:a9fe:a9fe::1": "metadata",
    "64:ff9b::7f00:1": "loopback",
    "64:ff9b::169.254.169.254": "metadata",
    "64:ff9b:1::7f00:1": "loopback",
    "::ffff:0:127.0.0.1": "loopback",
    "::127.0.0.1": "loopback",
    "::169.254.169.254": "metadata",
}
HARMLESS = (
    "8.8.8.8",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "fd00::1",
    "2606:4700::1",
    "::ffff:8.8.8.8",
    "::ffff:10.0.0.1",
    "2002:808:808::",
    "64:ff9b::8.8.8.8",
)


@pytest.mark.parametrize("address", DANGERS)
def test_an_address_that_only_this_host_should_reach_is_refused(address: str) -> None:
    assert danger(address) == DANGERS[address]
    assert AddressPolicy(["127.0.0.1:81"]).why_refused(address, host=address, port=80) == DANGERS[address]


@pytest.mark.parametrize("address", HARMLESS)
def test_a_public_or_private_address_is_not_refused(address: str) -> None:
    assert AddressPolicy().why_refused(address, host=address, port=80) is None


ALLOWED = [
    ("127.0.0.1:8080", "127.0.0.1", 8080),
    ("images.test:80", "images.test", 80),
    ("Images.Test:80", "images.test", 80),
    ("[::1]:80", "::1", 80),
]
NOT_ALLOWED = [
    ("127.0.0.1:8080", "127.0.0.1", 8081),
    ("127.0.0.1:8080", "127.0.0.2", 8080),
    ("127.0.0.1:8080", "localhost", 8080),
    ("images.test:80", "x.images.test", 80),
    ("[::1]:80", "::1", 8),
]


@pytest.mark.parametrize(("allowed", "host", "port"), ALLOWED)
def test_what_is_allowed_is_a_host_as_it_was_asked_for_and_a_port(allowed: str, host: str, port: int) -> None:
    assert AddressPolicy([allowed]).why_refused("127.0.0.1", host=host, port=port) is None


@pytest.mark.parametrize(("allowed", "host", "port"), NOT_ALLOWED)
def test_another_host_or_port_than_the_allowed_one_is_refused(allowed: str, host: str, port: int) -> None:
    assert AddressPolicy([allowed]).why_refused("127.0.0.1", host=host, port=port) == "loopback"


SPELLINGS = (
    "127.0.0.1",
    "127.1",
    "2130706433",
    "0x7f000001",
    "0177.0.0.1",
    "localhost",
    "LOCALHOST",
    "localhost.",
    "0.0.0.0",  # noqa: S104
    "0",
    "[::1]",
    "[::]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
)


@pytest.mark.parametrize("host", SPELLINGS)
async def test_no_spelling_of_loopback_is_connected_to(directory: DirectoryHost, host: str) -> None:
    source = directory.publish("image", b"x")
    port = directory.server.port
    async with directory.open(allowed_sources=["127.0.0.9:80", f"127.0.0.1:{port + 1}"]) as storage:
        seen = await made(storage, directory.pool, volume(HttpImage(f"http://{host}:{port}/image", source.sha256)))
    # A spelling that aiohttp takes for no address, and the resolver for no name, is not found.
    assert failure_of(seen) in {"SourceAddressRefused", "DownloadFailed"}
    assert directory.server.requests == []


async def test_a_refusal_is_for_good_and_says_what_would_allow_it(directory: DirectoryHost) -> None:
    async with directory.open(allowed_sources=[]) as storage:
        seen = await made(storage, directory.pool, volume(directory.publish("image", b"x")))
    assert failure_of(seen) == "SourceAddressRefused"
    assert seen.failure is not None
    assert seen.failure.retry_after_s is None
    assert "127.0.0.1, a loopback address" in seen.failure.message
    assert "--allow-source" in seen.failure.message


async def test_a_redirect_from_an_allowed_server_to_one_that_is_not_ends_there(directory: DirectoryHost) -> None:
    directory.publish("image", b"x")
    server = directory.server
    server.faults.redirects["/moved"] = f"http://localhost:{server.port}/image"
    desired = volume(HttpImage(server.url("moved")))
    async with directory.open() as storage:
        assert failure_of(await made(storage, directory.pool, desired)) == "SourceAddressRefused"
    assert [request.path for request in server.requests] == ["/moved"]
    async with directory.open(allowed_sources=[server.address, f"localhost:{server.port}"]) as storage:
        assert (await made(storage, directory.pool, desired)).state is VolumeState.READY


@pytest.mark.skipif(not can_unshare(), reason="needs namespaces of its own")
async def test_names_and_redirects_lead_nowhere_that_an_address_would_not(tmp_path: Path) -> None:
    found = await result_in_namespaces("own_addresses", folder=tmp_path)
    assert found.pop("addresses of both.test") == ["10.9.9.9", "127.0.0.1"]
    assert found.pop("touched") == []
    served = {name for name, reason in found.items() if not reason}
    assert served == {
        "private address",
        "name of a private address",
        "name of a private address and of loopback",
        "redirect to what is allowed",
    }
    assert found.pop("nobody listens at the harmless one of two addresses") == "DownloadFailed"
    assert {reason for name, reason in found.items() if name not in served} == {"SourceAddressRefused"}
