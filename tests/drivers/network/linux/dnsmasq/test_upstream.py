"""Whom dnsmasq asks for other names: state in, state out."""

from pathlib import Path

import pytest

from tests.drivers.network.linux.dnsmasq.networks import addresses, network
from virtplane_api.vocabulary import NetworkMode
from virtplane_drivers.network.linux.dnsmasq.upstream import findings, host_servers, servers_of


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        pytest.param(["nameserver 192.0.2.1\nnameserver 2001:db8::1\n"], ["192.0.2.1", "2001:db8::1"], id="both"),
        pytest.param(["nameserver 127.0.0.53\n", "nameserver 192.0.2.1\n"], ["192.0.2.1"], id="systemd-resolved"),
        pytest.param(
            ["nameserver 192.0.2.1\n", "nameserver 192.0.2.2\n"], ["192.0.2.1"], id="the first file that does"
        ),
        pytest.param(["nameserver ::1\nnameserver 127.0.0.1\n"], [], id="loopback alone"),
        pytest.param(["nameserver fe80::1%eth0\nnameserver 169.254.1.1\nnameserver 0.0.0.0"], [], id="of one link"),
        pytest.param(["# nameserver 192.0.2.1\nsearch x\nnameserver\nnameserver no.ip\n"], [], id="others"),
        pytest.param(["nameserver 192.0.2.1 # ours\r\n nameserver 192.0.2.1\n"], ["192.0.2.1"], id="twice"),
        pytest.param([], [], id="no file"),
    ],
)
def test_the_hosts_servers_are_those_that_a_namespace_reaches(
    files: list[str], expected: list[str], tmp_path: Path
) -> None:
    paths = [tmp_path / "absent", *(tmp_path / str(number) for number in range(len(files)))]
    for path, text in zip(paths[1:], files, strict=True):
        path.write_text(text)
    assert host_servers(paths) == list(addresses(*expected))


def test_the_networks_servers_go_before_the_agents_and_those_before_the_hosts(tmp_path: Path) -> None:
    resolv_conf = tmp_path / "resolv.conf"
    resolv_conf.write_text("nameserver 192.0.2.3\n")
    own, agents, hosts = addresses("192.0.2.1", "192.0.2.2", "192.0.2.3")
    assert servers_of(network(forwarders=(own,)), (agents,), [resolv_conf]) == [own]
    assert servers_of(network(), (agents,), [resolv_conf]) == [agents]
    assert servers_of(network(), (), [resolv_conf]) == [hosts]
    assert servers_of(network(mode=NetworkMode.ISOLATED), (agents,), [resolv_conf]) == []
    assert servers_of(network(mode=NetworkMode.ISOLATED, forwarders=(own,)), (), [resolv_conf]) == [own]


def test_no_server_is_found_and_said_unless_the_network_has_no_outside() -> None:
    assert [finding.reason for finding in findings(network(), [])] == ["NoUpstreamDNS"]
    assert findings(network(), addresses("192.0.2.1")) == []
    assert findings(network(mode=NetworkMode.ISOLATED), []) == []
