"""A host whose own way out by IPv6 is from router advertisements keeps it when it begins to forward."""

import errno
import os
import socket
import struct
from collections.abc import Callable
from ipaddress import IPv6Address
from pathlib import Path
from unittest import mock

import pytest

from tests.cluster.waiting import eventually
from tests.drivers.network.linux.host import Host, Namespace
from tests.drivers.network.linux.networks import network
from tests.drivers.network.linux.seen import routes
from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import NetworkMode
from virtplane_drivers.network.linux.forwarding import forward_ipv6, forward_ipv6_by_all
from virtplane_drivers.network.linux.links import apply_router
from virtplane_drivers.network.linux.uplinks import Uplinks
from virtplane_drivers.network_stack import NetworkStack

ALL_NODES = ("ff02::1", 0)
PREFIX = "2001:db8:a::"


def advertise(outside: Namespace) -> None:
    """One router advertisement: a default router, and a prefix for addresses (RFC 4861, 4.2 and 4.6.2)."""
    prefix = struct.pack("!BBBBIII16s", 3, 4, 64, 0xC0, 1800, 1800, 0, IPv6Address(PREFIX).packed)
    message = struct.pack("!BBHBBHII", 134, 0, 0, 64, 0, 1800, 0, 0) + prefix

    def send() -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as raw:
            raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
            raw.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, socket.if_nametoindex("eth0"))
            raw.sendto(message, ALL_NODES)

    outside.inside(send)


def default_routes(host: Host) -> set[str]:
    return {line for line in routes(host.machine.path, "eth0") if line.startswith("-6 default")}


def advertised(host: Host) -> Callable[[], bool]:
    def seen() -> bool:
        advertise(host.outside)
        return bool(default_routes(host))

    return seen


@pytest.fixture
def by_advertisement(host: Host) -> Host:
    """The host has its default route by router advertisements and by nothing else."""
    host.machine.ip("-6", "route", "del", "default")
    assert not default_routes(host)
    eventually(advertised(host))
    return host


def with_stack(host: Host, function: Callable[[NetworkStack], None]) -> None:
    def run() -> None:
        with NetworkStack(host.machine.path) as stack:
            function(stack)

    host.machine.inside(run)


def test_where_a_device_can_forward_alone_the_host_stays_as_it_was(by_advertisement: Host) -> None:
    host, before = by_advertisement, default_routes(by_advertisement)
    with_stack(host, lambda stack: forward_ipv6(stack, ["eth0"]))
    assert host.machine.sysctl("net/ipv6/conf/eth0/force_forwarding") == "1"
    assert host.machine.sysctl("net/ipv6/conf/all/forwarding") == "0"
    assert host.machine.sysctl("net/ipv6/conf/eth0/accept_ra") == "1"
    assert default_routes(host) == before


def test_a_host_that_forwards_as_a_whole_keeps_its_default_route_and_renews_it(by_advertisement: Host) -> None:
    host, before = by_advertisement, default_routes(by_advertisement)
    with_stack(host, forward_ipv6_by_all)
    assert host.machine.sysctl("net/ipv6/conf/all/forwarding") == "1"
    assert host.machine.sysctl("net/ipv6/conf/eth0/accept_ra") == "2"
    assert default_routes(host) == before
    host.machine.ip("-6", "route", "del", "default")
    eventually(advertised(host))


def test_without_that_care_the_default_route_is_lost(by_advertisement: Host) -> None:
    """What the two tests before this one are for: a kernel that no longer does so needs no such care."""
    by_advertisement.machine.set_sysctl("net/ipv6/conf/all/forwarding", 1)
    assert not default_routes(by_advertisement)


def test_a_device_with_only_an_address_by_advertisements_is_cared_for_too(by_advertisement: Host) -> None:
    host = by_advertisement
    host.machine.ip("-6", "route", "flush", "proto", "ra")
    with_stack(host, forward_ipv6_by_all)
    assert host.machine.sysctl("net/ipv6/conf/eth0/accept_ra") == "2"


def test_a_device_whose_advertisements_a_program_hears_is_left_to_it(by_advertisement: Host) -> None:
    by_advertisement.machine.set_sysctl("net/ipv6/conf/eth0/accept_ra", 0)
    with_stack(by_advertisement, forward_ipv6_by_all)
    assert by_advertisement.machine.sysctl("net/ipv6/conf/eth0/accept_ra") == "0"


def test_a_host_that_forwards_already_is_not_touched(host: Host) -> None:
    host.machine.set_sysctl("net/ipv6/conf/all/forwarding", 1)
    with_stack(host, lambda stack: forward_ipv6(stack, ["eth0"]))
    assert host.machine.sysctl("net/ipv6/conf/eth0/force_forwarding") == "0"


async def test_a_host_whose_settings_cannot_be_written_is_a_finding_with_the_command(
    host: Host, router: Path, uplinks: Uplinks
) -> None:
    """As in a container whose /proc/sys is read-only; its networks are there all the same."""
    one = network(NetworkMode.NAT)
    await apply_router(router, one)
    write = NetworkStack._write_sysctl

    def refused(self: NetworkStack, path: Path, value: str) -> None:
        if path.name in ("forwarding", "force_forwarding"):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        write(self, path, value)

    with mock.patch.object(NetworkStack, "_write_sysctl", refused):
        transit, findings = await uplinks.apply(router, one)
    assert transit is not None
    assert [finding.reason for finding in findings] == [Reason.NETWORK_ERROR] * 2
    assert "sysctl -w net.ipv4.conf.v" in findings[0].message
    assert "net.ipv4.conf.eth0.forwarding=1" in findings[0].message
    assert "net.ipv6.conf.all.forwarding=1" in findings[1].message
    assert (await uplinks.apply(router, one))[1] == []


async def test_every_device_of_a_default_route_by_several_ways_forwards(
    host: Host, router: Path, uplinks: Uplinks
) -> None:
    machine = host.machine
    machine.ip("link", "add", "eth1", "type", "veth", "peer", "name", "eth2")
    for command in (("link", "set", "eth1", "up"), ("link", "set", "eth2", "up")):
        machine.ip(*command)
    machine.ip("address", "add", "198.51.100.2/24", "dev", "eth1")
    ways = ("nexthop", "via", "203.0.113.1", "dev", "eth0", "nexthop", "via", "198.51.100.1", "dev", "eth1")
    machine.ip("route", "replace", "default", *ways)
    one = network(NetworkMode.NAT)
    await apply_router(router, one)
    await uplinks.apply(router, one)
    forwarding = {name: machine.sysctl(f"net/ipv4/conf/{name}/forwarding") for name in ("eth0", "eth1", "eth2")}
    assert forwarding == {"eth0": "1", "eth1": "1", "eth2": "0"}
