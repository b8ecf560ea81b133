"""Networks and interfaces as users write them: what the API server takes, and what it says against the rest."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from tests.cluster.control_plane import CommandError, ControlPlane

Object = dict[str, Any]


def network(**spec: Any) -> Object:
    base = {"mode": "NAT", "ipv4": {"cidr": "10.20.0.0/24"}}
    return {
        "apiVersion": "virtplane.dev/v1alpha1",
        "kind": "VirtualNetwork",
        "metadata": {"name": "lan"},
        "spec": {name: value for name, value in (base | spec).items() if value is not None},
    }


def ipv4(**subnet: Any) -> Object:
    return network(ipv4={"cidr": "10.20.0.0/24"} | subnet)


def ipv6(cidr: str = "fd00:20::/64", **subnet: Any) -> Object:
    return network(ipv6={"cidr": cidr} | subnet)


def walled(*names: str, **rule: Any) -> Object:
    """A network with a rule of that content, of each name."""
    base = {"direction": "Ingress", "action": "Allow"} | rule
    return network(firewall={"rules": [{"name": name} | base for name in names or ("web",)]})


def vm(*interfaces: Object) -> Object:
    return {
        "apiVersion": "virtplane.dev/v1alpha1",
        "kind": "VirtualMachine",
        "metadata": {"name": "web"},
        "spec": {
            "powerState": "Running",
            "cpu": {"cores": 1},
            "memory": {"size": "64Mi"},
            "interfaces": list(interfaces),
        },
    }


def on_lan(name: str = "lan", **interface: Any) -> Object:
    return {"name": name, "networkName": "lan"} | interface


def apply(server: ControlPlane, obj: Mapping[str, Any], *options: str) -> str:
    return server.kubectl("apply", "-f", "-", *options, input=json.dumps(obj))


GOOD: list[tuple[str, Object]] = [
    ("a NAT network", network()),
    ("an IPv6 network alone", network(ipv4=None, ipv6={"cidr": "2001:db8:1::/64"})),
    ("no gateway", ipv4(gateway="None")),
    ("a gateway at the end", ipv4(gateway="10.20.0.254")),
    ("a gateway whose digits begin the network's", network(ipv4={"cidr": "10.20.0.16/28", "gateway": "10.20.0.17"})),
    ("the largest", network(ipv4={"cidr": "10.0.0.0/8"})),
    ("the smallest", network(ipv4={"cidr": "10.20.0.4/30"})),
    ("an excluded range", ipv4(excludedRanges=[{"start": "10.20.0.2", "end": "10.20.0.9"}])),
    ("somebody else's addresses", network(mode="Bridge", ipv4=None, bridge={"name": "br-lan"})),
    ("a bridge with addresses of ours", network(mode="Bridge", bridge={"name": "vmbr0.100"})),
    ("addresses of the machines' own choice", ipv6(addressing="SLAAC", gateway="None")),
    (
        "SLAAC of the bridge's own router, and a firewall that allows peers",
        network(
            mode="Bridge",
            bridge={"name": "br-lan"},
            ipv4=None,
            ipv6={"cidr": "2001:db8:1::/64", "addressing": "SLAAC"},
            firewall=walled(peers={"matchLabels": {"role": "front"}})["spec"]["firewall"],
        ),
    ),
    ("a VLAN of a bridge", network(mode="Bridge", ipv4=None, bridge={"name": "br-lan", "vlan": 4094})),
    ("a route", network(routes=[{"destination": "10.99.0.0/16", "via": "10.20.0.5"}])),
    (
        "an IPv6 route",
        ipv6() | network(ipv6={"cidr": "fd00:20::/64"}, routes=[{"destination": "::/0", "via": "fd00:20::5"}]),
    ),
    ("a firewall of defaults alone", network(firewall={"defaults": {"ingress": "Deny"}})),
    ("a firewall rule without limits", walled()),
    (
        "a firewall rule with all",
        walled(
            protocol="TCP",
            ports=[{"port": 80}, {"port": 443, "endPort": 443}],
            cidrs=["192.0.2.0/24", "::/0"],
            peers={"matchLabels": {"role": "front"}},
        ),
    ),
    (
        "a label with a prefix",
        walled(peers={"matchLabels": {"shop.test/role": "", "Tier": "v1.2_x"}}),
    ),
    ("a firewall rule for every machine", walled(peers={"matchLabels": {}})),
    (
        "a machine's firewall",
        vm() | {"spec": vm()["spec"] | {"firewall": walled()["spec"]["firewall"]}},
    ),
    ("an overlay with an MTU of its own", network(mode="Overlay", mtu=1400)),
    ("a machine with a wish for each family", vm(on_lan(ipAddresses=["10.20.0.9", "fd00:20::9"]))),
    ("a machine without wishes", vm(on_lan())),
    ("a limit of each way", vm(on_lan(linkState="Down", bandwidth={"ingress": "10M", "egress": "500k"}))),
    (
        "one host port for each protocol",
        vm(
            on_lan(
                portForwards=[
                    {"hostPort": 5300, "port": 53, "protocol": "TCP"},
                    {"hostPort": 5300, "port": 53, "protocol": "UDP"},
                ]
            )
        ),
    ),
]


@pytest.mark.parametrize("obj", [row[1] for row in GOOD], ids=[row[0] for row in GOOD])
def test_what_makes_sense_is_taken(server: ControlPlane, obj: Object) -> None:
    assert "created (server dry run)" in apply(server, obj, "--dry-run=server")


BAD: list[tuple[str, Object, str]] = [
    ("a mode that there is not", network(mode="nat"), 'supported values: "NAT", "Routed", "Isolated", "Bridge"'),
    ("no addresses", network(ipv4=None), "ipv4, ipv6 or both say which addresses the network has"),
    ("Bridge without a bridge", network(mode="Bridge"), "bridge names the host's bridge of mode Bridge"),
    ("a bridge of another mode", network(bridge={"name": "br0"}), "bridge names the host's bridge of mode Bridge"),
    ("a path for a bridge", network(mode="Bridge", bridge={"name": "../x"}), "spec.bridge.name: Invalid value"),
    ("SLAAC for IPv4", ipv4(addressing="SLAAC"), "spec.ipv4.addressing: Invalid value: SLAAC is of IPv6"),
    (
        "SLAAC of a program",
        network(mode="User", ipv6={"cidr": "fd00:20::/64", "addressing": "SLAAC"}),
        "spec.ipv6.addressing: Invalid value: SLAAC is of the modes NAT, Routed, Isolated and Bridge",
    ),
    (
        "SLAAC less some addresses",
        ipv6(addressing="SLAAC", excludedRanges=[{"start": "fd00:20::2", "end": "fd00:20::9"}]),
        "spec.ipv6.excludedRanges: Invalid value: machines choose their own addresses",
    ),
    (
        "a route by way of nobody",
        network(
            ipv6={"cidr": "fd00:20::/64", "addressing": "SLAAC"},
            routes=[{"destination": "fd99::/64", "via": "fd00:20::5"}],
        ),
        "spec.routes: Invalid value: no machine is known by an IPv6 address of SLAAC",
    ),
    (
        "a firewall against whom nobody knows",
        network(
            ipv6={"cidr": "fd00:20::/64", "addressing": "SLAAC"},
            firewall=walled(action="Deny", peers={"matchLabels": {}})["spec"]["firewall"],
        ),
        "spec.firewall.rules: Invalid value: peers are not known by their IPv6 addresses of SLAAC",
    ),
    (
        "the VLAN of no VLAN",
        network(mode="Bridge", bridge={"name": "br-lan", "vlan": 0}),
        "spec.bridge.vlan: Invalid value: 0",
    ),
    (
        "a VLAN that is reserved",
        network(mode="Bridge", bridge={"name": "br-lan", "vlan": 4095}),
        "spec.bridge.vlan in body should be less than or equal to 4094",
    ),
    ("no CIDR", ipv4(cidr="10.20.0.0"), "must be a network in CIDR notation, for example 10.20.0.0/24"),
    ("bits behind the prefix", ipv4(cidr="10.20.0.1/24"), "no bits may be set behind the prefix"),
    ("IPv6 for IPv4", ipv4(cidr="fd00:20::/64"), "must be an IPv4 network of at least four addresses"),
    ("too small", ipv4(cidr="10.20.0.0/31"), "must be an IPv4 network of at least four addresses, from /8 to /30"),
    ("an IPv6 network that is no /64", ipv6("fd00:20::/56"), "must be an IPv6 network of length /64"),
    ("a link-local network", ipv6("fe80::/64"), "and not link-local"),
    ("a gateway elsewhere", ipv4(gateway="10.21.0.1"), "gateway must be an address within cidr"),
    ("the network's own address", ipv4(gateway="10.20.0.0"), "and not the network's own"),
    ("a gateway that is none", ipv4(gateway="none"), "must be an IP address of the CIDR, or None"),
    (
        "an excluded gateway",
        ipv4(gateway="10.20.0.1", excludedRanges=[{"start": "10.20.0.1", "end": "10.20.0.9"}]),
        "gateway is excluded by excludedRanges",
    ),
    (
        "a range elsewhere",
        ipv4(excludedRanges=[{"start": "10.21.0.1", "end": "10.21.0.9"}]),
        "excludedRanges must lie within cidr",
    ),
    ("a long way to write an address", ipv6(gateway="fd00:0020::1"), "must be written in its shortest form"),
    ("an upper-case address", vm(on_lan(ipAddresses=["FD00:20::9"])), "must be written in its shortest form"),
    (
        "a route by way of elsewhere",
        network(routes=[{"destination": "10.99.0.0/16", "via": "10.21.0.5"}]),
        "via must be",
    ),
    ("a domain that is none", network(dns={"domain": "shop_test"}), "spec.dns.domain: Invalid value"),
    ("a tiny MTU", network(mtu=576), "spec.mtu: Invalid value"),
    (
        "two IPv4 addresses",
        vm(on_lan(ipAddresses=["10.20.0.9", "10.20.0.10"])),
        "at most one IPv4 and one IPv6 address",
    ),
    ("no address", vm(on_lan(ipAddresses=["10.20.0.999"])), "must be an IP address, for example 10.20.0.9"),
    ("a multicast MAC", vm(on_lan(macAddress="53:54:00:00:00:01")), "makes it a multicast address"),
    ("a MAC of zeros", vm(on_lan(macAddress="00:00:00:00:00:00")), "must not be all zeros"),
    ("a MAC with dashes", vm(on_lan(macAddress="52-54-00-00-00-01")), "spec.interfaces[0].macAddress: Invalid value"),
    (
        "one MAC for two",
        vm(on_lan(macAddress="52:54:00:00:00:01"), on_lan("dmz", macAddress="52:54:00:00:00:01")),
        "two interfaces ask for one macAddress",
    ),
    ("a firewall action that there is not", walled(action="Reject"), 'supported values: "Allow", "Deny"'),
    ("a firewall direction that there is not", walled(direction="In"), 'supported values: "Ingress", "Egress"'),
    ("firewall ports of any protocol", walled(ports=[{"port": 80}]), "ports are of protocol TCP or UDP"),
    ("firewall ports of ICMP", walled(protocol="ICMP", ports=[{"port": 8}]), "ports are of protocol TCP or UDP"),
    (
        "a firewall's range that ends before it begins",
        walled(protocol="TCP", ports=[{"port": 443, "endPort": 80}]),
        "endPort must not be below port",
    ),
    (
        "a firewall port that is none",
        walled(protocol="TCP", ports=[{"port": 0}]),
        "spec.firewall.rules[0].ports[0].port",
    ),
    ("an address where a firewall takes a network", walled(cidrs=["192.0.2.1"]), "must be a network in CIDR notation"),
    ("firewall bits behind the prefix", walled(cidrs=["192.0.2.1/24"]), "no bits may be set behind the prefix"),
    ("no firewall ports at all", walled(protocol="TCP", ports=[]), "should have at least 1 items"),
    ("firewall peers without labels", walled(peers={}), "spec.firewall.rules[0].peers.matchLabels: Required value"),
    (
        "a label that no machine can carry",
        walled(peers={"matchLabels": {"role": "front end"}}),
        "spec.firewall.rules[0].peers.matchLabels.role: Invalid value",
    ),
    (
        "a label of a name that is none",
        walled(peers={"matchLabels": {"the role": "front"}}),
        "spec.firewall.rules[0].peers.matchLabels: Invalid value: the name of a label is of letters, digits",
    ),
    ("two firewall rules of one name", walled("web", "web"), "Duplicate value"),
    (
        "more firewall rules than there may be",
        walled(*(f"r{number}" for number in range(65))),
        "spec.firewall.rules: Too many: 65: must have at most 64 items",
    ),
    ("two interfaces of one name", vm(on_lan(), on_lan()), "Duplicate value"),
    ("no network", vm({"name": "lan"}), "spec.interfaces[0].networkName: Required value"),
    ("a model that there is not", vm(on_lan(model="rtl8139")), 'supported values: "virtio", "e1000e"'),
    (
        "a port of the host's own services",
        vm(on_lan(portForwards=[{"hostPort": 22, "port": 22, "protocol": "TCP"}])),
        "should be greater than or equal to 1024",
    ),
    (
        "one host port twice",
        vm(
            on_lan(
                portForwards=[
                    {"hostPort": 8080, "port": 80, "protocol": "TCP"},
                    {"hostPort": 8080, "port": 81, "protocol": "TCP"},
                ]
            )
        ),
        "Duplicate value",
    ),
    ("a link that is neither up nor down", vm(on_lan(linkState="down")), 'supported values: "Up", "Down"'),
    (
        "bytes for bits",
        vm(on_lan(bandwidth={"ingress": "10MB"})),
        "spec.interfaces[0].bandwidth.ingress: Invalid value",
    ),
    ("a tiny bandwidth", vm(on_lan(bandwidth={"egress": "8k"})), "must be at least 64k bits per second"),
    ("an endless bandwidth", vm(on_lan(bandwidth={"egress": "1T"})), "must be at most 32G bits per second"),
]


@pytest.mark.parametrize(("obj", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_input_is_refused_at_admission_with_the_field(server: ControlPlane, obj: Object, message: str) -> None:
    with pytest.raises(CommandError) as refused:
        apply(server, obj, "--dry-run=server")
    text = refused.value.stderr.replace('"object": ', "").replace('"string": ', "").replace('"integer": ', "")
    assert message in text


def is_used(server: ControlPlane, namespace: str, count: int) -> None:
    patch = json.dumps({"status": {"used": count}})
    server.kubectl("patch", "vpnet", "lan", "-n", namespace, "--subresource=status", "--type=merge", "-p", patch)


def test_mode_and_addresses_of_a_network_are_kept_while_machines_are_on_it(
    server: ControlPlane, namespace: str
) -> None:
    apply(server, network(), "-n", namespace)
    apply(server, network(mode="Isolated"), "-n", namespace)  # nobody is on it
    is_used(server, namespace, 1)
    with pytest.raises(CommandError, match=r"spec.mode cannot be changed while machines are on the network"):
        apply(server, network(mode="NAT"), "-n", namespace)
    with pytest.raises(CommandError, match=r"spec.ipv4.cidr cannot be changed while machines are on the network"):
        apply(server, network(mode="Isolated", ipv4={"cidr": "10.21.0.0/24"}), "-n", namespace)
    with pytest.raises(CommandError, match=r"spec.ipv6.cidr cannot be changed while machines are on the network"):
        apply(server, network(mode="Isolated", ipv6={"cidr": "fd00:20::/64"}), "-n", namespace)
    apply(server, network(mode="Isolated", mtu=1400), "-n", namespace)
    is_used(server, namespace, 0)
    chosen, given = ({"cidr": "fd00:20::/64", "addressing": how} for how in ("SLAAC", "DHCP"))
    apply(server, network(mode="Isolated", ipv6=chosen), "-n", namespace)
    is_used(server, namespace, 1)
    with pytest.raises(CommandError, match=r"spec.ipv6.addressing: SLAAC cannot be taken up or given up while"):
        apply(server, network(mode="Isolated", ipv6=given), "-n", namespace)
    is_used(server, namespace, 0)
    apply(server, network(mode="NAT", ipv4={"cidr": "10.21.0.0/24"}), "-n", namespace)


def reported(server: ControlPlane, namespace: str, **status: Any) -> str:
    patch = json.dumps({"status": status})
    return server.kubectl("patch", "vpnet", "lan", "-n", namespace, "--subresource=status", "--type=merge", "-p", patch)


def test_the_number_of_an_overlay_is_kept_while_machines_are_on_it(server: ControlPlane, namespace: str) -> None:
    apply(server, network(mode="Overlay"), "-n", namespace)
    reported(server, namespace, vni=5000)
    reported(server, namespace, vni=5001)  # nobody is on it
    reported(server, namespace, used=1)
    for other in (5002, None):
        with pytest.raises(CommandError, match=r"status.vni cannot be changed while machines are on the network"):
            reported(server, namespace, vni=other)
    reported(server, namespace, mtu=1450, vni=5001)


@pytest.mark.parametrize(
    ("status", "message"),
    [
        ({"vni": 4095}, "status.vni: Invalid value: 4095"),
        ({"vni": 1 << 24}, "status.vni: Invalid value: 16777216"),
        ({"mtu": 1279}, "status.mtu: Invalid value: 1279"),
        ({"peers": [{"agentName": "host-a", "address": "host-a"}]}, "must be an IP address, for example 192.0.2.11"),
        ({"peers": [{"agentName": "host-a", "address": "192.0.2.1"}] * 2}, "Duplicate value"),
    ],
)
def test_what_no_overlay_has_is_refused_in_its_status(
    server: ControlPlane, namespace: str, status: Object, message: str
) -> None:
    apply(server, network(mode="Overlay"), "-n", namespace)
    with pytest.raises(CommandError) as refused:
        reported(server, namespace, **status)
    assert message in refused.value.stderr.replace('"integer": ', "")


@pytest.mark.parametrize(("before", "after"), [(20, 30), (20, None), (None, 20)])
def test_the_vlan_of_a_network_is_kept_while_machines_are_on_it(
    server: ControlPlane, namespace: str, before: int | None, after: int | None
) -> None:
    def of(vlan: int | None, name: str = "br-lan") -> Object:
        return network(mode="Bridge", bridge={"name": name} | ({"vlan": vlan} if vlan is not None else {}))

    apply(server, of(before), "-n", namespace)
    is_used(server, namespace, 1)
    with pytest.raises(CommandError, match=r"spec.bridge.vlan cannot be changed while machines are on the network"):
        apply(server, of(after), "-n", namespace)
    apply(server, of(before, "br-other"), "-n", namespace)
    is_used(server, namespace, 0)
    apply(server, of(after), "-n", namespace)


def test_a_network_s_columns_tell_what_one_looks_for(server: ControlPlane, namespace: str) -> None:
    apply(server, network(), "-n", namespace)
    header, row = server.kubectl("get", "vpnet", "-n", namespace).splitlines()
    assert header.split() == ["NAME", "MODE", "CIDR", "USED", "FREE", "HYPERVISORS", "READY", "AGE"]
    assert row.split()[:3] == ["lan", "NAT", "10.20.0.0/24"]


def test_interfaces_of_a_machine_come_go_and_move(server: ControlPlane, namespace: str) -> None:
    apply(server, vm(on_lan()), "-n", namespace)
    apply(server, vm(on_lan(linkState="Down"), on_lan("dmz", macAddress="52:54:00:00:00:01")), "-n", namespace)
    apply(server, vm(on_lan("dmz", networkName="other", macAddress="52:54:00:00:00:02")), "-n", namespace)
    apply(server, vm(), "-n", namespace)


def test_an_interface_keeps_the_mac_address_that_was_asked_for(server: ControlPlane, namespace: str) -> None:
    apply(server, vm(on_lan(macAddress="52:54:00:00:00:01")), "-n", namespace)
    with pytest.raises(CommandError, match="keeps its macAddress for as long as it is on its network"):
        apply(server, vm(on_lan(macAddress="52:54:00:00:00:02")), "-n", namespace)
    apply(server, vm(on_lan()), "-n", namespace)
