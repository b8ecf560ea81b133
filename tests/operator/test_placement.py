"""Where a machine goes, as tables: no API, no clock."""

import dataclasses
from ipaddress import ip_network
from typing import Any

import pytest

from virtplane_api.host_networks import GivenNetwork, HostNetwork, VlanRange
from virtplane_operator.placement import (
    Candidate,
    HostPort,
    NoFit,
    Request,
    StorageNeed,
    choose,
    no_place_for_networks,
)


def hypervisor(name: str, **changes: Any) -> Candidate:
    """A healthy host with 40 virtual CPUs and 8 GiB to give, all of it free."""
    base = Candidate(
        name=name,
        agent_name=name.removesuffix("-qemu"),
        driver="qemu",
        allocatable_cores=40,
        allocatable_memory_mib=8192,
        pool_types=frozenset({"directory"}),
        ready_pool_uids=frozenset({"fast-uid"}),
        network_modes=frozenset({"NAT", "Isolated"}),
    )
    return dataclasses.replace(base, **changes)


def request(**changes: Any) -> Request:
    return dataclasses.replace(Request(cores=2, memory_mib=1024), **changes)


ON_FAST = StorageNeed(pool_name="fast", pool_uid="fast-uid", pool_type="directory", disk_name="root")

LAN, PHONES = HostNetwork("br-lan"), HostNetwork("br-dmz", 20)
V4, V6 = ip_network("10.22.4.0/24"), ip_network("fd00:22::/64")
NO_LAN = "bridge br-lan does not exist on the host: make it"
ABSENT_LAN = GivenNetwork("br-lan", missing=NO_LAN)
BRIDGES = {"network_modes": frozenset({"NAT", "Bridge"})}

FULL = frozenset(f"uid-{number}" for number in range(256))

HTTP, HTTPS = HostPort(8080, "TCP"), HostPort(8443, "TCP")

ONE_FITS = [
    ("the driver asked for", {"driver": "fake"}, {"driver": "fake"}),
    ("the name asked for", {"hypervisor_name": "b-qemu"}, {}),
    ("the labels asked for", {"match_labels": {"zone": "b"}}, {"labels": {"zone": "b", "rack": "1"}}),
    ("the pool of a disk", {"storage": (dataclasses.replace(ON_FAST, pool_uid="new"),)}, {"ready_pool_uids": {"new"}}),
    ("beside an existing local volume", {"storage": (dataclasses.replace(ON_FAST, agent_name="b"),)}, {}),
    ("the mode of a network", {"network_modes": frozenset({"Overlay"})}, {"network_modes": {"NAT", "Overlay"}}),
    (
        "a host whose networks can have firewalls",
        {"network_capabilities": frozenset({"NetworkFirewall"})},
        {"missing_capabilities": {"NetworkVLAN": "modprobe 8021q"}},
    ),
    (
        "a host that gives the bridge",
        {"network_modes": frozenset({"Bridge"}), "host_networks": frozenset({LAN})},
        BRIDGES | {"host_networks": (GivenNetwork("br-lan"),)},
    ),
    (
        "a host that gives the VLAN",
        {"host_networks": frozenset({PHONES, LAN})},
        {"host_networks": (GivenNetwork("br-lan"), GivenNetwork("br-dmz", VlanRange(10, 20)))},
    ),
    (
        "a host that has the bridge which others give too",
        {"host_networks": frozenset({HostNetwork("br-spare")})},
        {"host_networks": (GivenNetwork("br-spare"), ABSENT_LAN)},
    ),
    (
        "a host that routes the addresses of both families",
        {"routed": frozenset({V4, V6})},
        {"routed": (ip_network("10.0.0.0/8"), ip_network("fd00::/8"))},
    ),
    (
        "a host whose agent does not say what it gives",
        {"host_networks": frozenset({PHONES}), "routed": frozenset({V4})},
        {"host_networks": None, "routed": None},
    ),
    ("a host that has room for two more networks", {"networks": frozenset({"lan-uid", "wan-uid"})}, {}),
    (
        "a host that has as many networks as it can, of which the machine's are some",
        {"networks": frozenset({"uid-0", "uid-1"})},
        {"networks": FULL},
    ),
    ("more memory than the other has", {"memory_mib": 9000}, {"allocatable_memory_mib": 9000}),
    ("more CPUs than the other has", {"cores": 41}, {"allocatable_cores": 41}),
]


@pytest.mark.parametrize(("asked", "has"), [row[1:] for row in ONE_FITS], ids=[row[0] for row in ONE_FITS])
def test_a_machine_goes_where_it_fits(asked: dict[str, Any], has: dict[str, Any]) -> None:
    others = {
        "missing_capabilities": {"NetworkFirewall": "modprobe br_netfilter"},
        "host_networks": (
            GivenNetwork("br-dmz"),
            GivenNetwork("br-lan", VlanRange(1, 4094)),
            GivenNetwork("br-spare", missing="it is not there"),
        ),
        "routed": (V6,),
        "networks": FULL - {"uid-0", "uid-1"} | {"old-uid"},
    }
    chosen = choose(
        request(**asked), [hypervisor("a-qemu", **others), hypervisor("b-qemu", **has), hypervisor("c-qemu", **others)]
    )
    assert isinstance(chosen, Candidate)
    assert chosen.name == "b-qemu"


def test_a_machine_goes_where_its_host_ports_are_free() -> None:
    taken = hypervisor("a-qemu", host_ports={HTTP: ("shop/web",)})
    same_number = hypervisor("b-qemu", host_ports={HostPort(8080, "UDP"): ("shop/dns",)}, used_cores=30)
    chosen = choose(request(host_ports=frozenset({HTTP})), [taken, same_number])
    assert isinstance(chosen, Candidate)
    assert chosen.name == "b-qemu"


@pytest.mark.parametrize(
    ("a", "b", "winner"),
    [
        pytest.param({"used_memory_mib": 4096}, {"used_memory_mib": 1024}, "b-qemu", id="less memory placed"),
        pytest.param({"used_cores": 1}, {"used_cores": 20}, "a-qemu", id="fewer CPUs placed"),
        pytest.param(
            {"used_cores": 30}, {"used_memory_mib": 7000}, "a-qemu", id="the scarcer resource of each is compared"
        ),
        pytest.param({}, {}, "a-qemu", id="equals: the first by name"),
        pytest.param(
            {"used_memory_mib": 4096},
            {"used_memory_mib": 5000, "allocatable_memory_mib": 65536},
            "b-qemu",
            id="shares, not amounts",
        ),
    ],
)
def test_the_least_loaded_of_those_that_fit_wins(a: dict[str, Any], b: dict[str, Any], winner: str) -> None:
    chosen = choose(request(), [hypervisor("b-qemu", **b), hypervisor("a-qemu", **a)])
    assert isinstance(chosen, Candidate)
    assert chosen.name == winner


NOTHING_FITS = [
    (
        "memory here, cordoned there",
        {"memory_mib": 65536},
        [{}, {"used_memory_mib": 5120}, {"allocatable_memory_mib": 131072, "unschedulable": True}],
        "0 of 3 hypervisors fit: 2 lack memory (need 64Gi, most free 8Gi), 1 unschedulable",
    ),
    ("CPU", {"cores": 64}, [{"used_cores": 10}], "0 of 1 hypervisor fits: 1 lacks CPU (need 64, most free 30)"),
    (
        "overcommitted below zero",
        {"cores": 1},
        [{"used_cores": 50}],
        "0 of 1 hypervisor fits: 1 lacks CPU (need 1, most free 0)",
    ),
    (
        "driver, then label",
        {"driver": "qemu", "match_labels": {"zone": "b"}},
        [{"driver": "fake"}, {}],
        "0 of 2 hypervisors fit: 1 not of driver qemu, 1 without label zone=b",
    ),
    ("a name that no one has", {"hypervisor_name": "x"}, [{}], "0 of 1 hypervisor fits: 1 not named x"),
    ("a silent agent", {}, [{"healthy": False}], "0 of 1 hypervisor fits: 1 not ready"),
    (
        "a pool that is not there",
        {"storage": (dataclasses.replace(ON_FAST, pool_uid="x"),)},
        [{}],
        "0 of 1 hypervisor fits: 1 cannot use pool fast",
    ),
    (
        "a network mode that is not to be had",
        {"network_modes": frozenset({"NAT", "Overlay"})},
        [{}],
        "0 of 1 hypervisor fits: 1 lacks network mode Overlay",
    ),
    (
        "hosts that lack different modes",
        {"network_modes": frozenset({"NAT", "Overlay"})},
        [{}, {"network_modes": frozenset()}],
        "0 of 2 hypervisors fit: 2 lack network modes NAT, Overlay",
    ),
    (
        "a firewall and a VLAN, which hosts lack each for its own reason",
        {"network_capabilities": frozenset({"NetworkFirewall", "NetworkVLAN"})},
        [
            {"missing_capabilities": {"NetworkFirewall": "no br_netfilter", "Network": "other"}},
            {"missing_capabilities": {"NetworkVLAN": "no 8021q"}},
        ],
        "0 of 2 hypervisors fit: 2 lack NetworkFirewall: no br_netfilter; NetworkVLAN: no 8021q",
    ),
    (
        "a mode that the agent would have under another flag",
        {"network_modes": frozenset({"Bridge"})},
        [{"missing_capabilities": {"NetworkBridge": "start the agent with --allow-bridge NAME"}}, {}],
        "0 of 2 hypervisors fit: 2 lack network mode Bridge (start the agent with --allow-bridge NAME)",
    ),
    (
        "a bridge that no host gives",
        {"host_networks": frozenset({LAN})},
        [{"host_networks": (GivenNetwork("br-dmz"), GivenNetwork("br-lan", VlanRange(1, 4094)))}],
        (
            "0 of 1 hypervisor fits: 1 gives no bridge br-lan to networks: h0-qemu (start its agent with "
            "--allow-bridge br-lan)"
        ),
    ),
    (
        "one network more than hosts can have",
        {"networks": frozenset({"lan-uid"})},
        [{"networks": FULL}] * 2,
        "0 of 2 hypervisors fit: 2 have as many networks as each can have (256): h0-qemu, h1-qemu",
    ),
    (
        "a bridge and a VLAN, of which each of many hosts gives one or none",
        {"host_networks": frozenset({LAN, PHONES})},
        [
            {"host_networks": (GivenNetwork("br-lan"),)},
            {"host_networks": (GivenNetwork("br-dmz", VlanRange(20, 20)),)},
            *[{"host_networks": ()}] * 2,
        ],
        (
            "0 of 4 hypervisors fit: 4 give no VLAN 20 of bridge br-dmz and no bridge br-lan to networks: h0-qemu, "
            "h1-qemu, h2-qemu, ... (start the agent of one with --allow-bridge br-dmz:20 --allow-bridge br-lan)"
        ),
    ),
    (
        "a bridge that hosts give and have not, and one does not give",
        {"host_networks": frozenset({LAN})},
        [{"host_networks": (ABSENT_LAN,)}, {"host_networks": ()}, {"host_networks": (ABSENT_LAN,)}],
        (
            "0 of 3 hypervisors fit: 1 gives no bridge br-lan to networks: h1-qemu (start its agent with "
            f"--allow-bridge br-lan), 2 cannot join bridge br-lan now: h0-qemu, h2-qemu ({NO_LAN})"
        ),
    ),
    (
        "two bridges of which each host lacks another one",
        {"host_networks": frozenset({LAN, PHONES})},
        [
            {"host_networks": (ABSENT_LAN, GivenNetwork("br-dmz", VlanRange(20, 20)))},
            {"host_networks": (GivenNetwork("br-lan"), GivenNetwork("br-dmz", VlanRange(20, 20), "it is down"))},
        ],
        (
            "0 of 2 hypervisors fit: 2 cannot join VLAN 20 of bridge br-dmz or bridge br-lan now: h0-qemu, h1-qemu "
            f"({NO_LAN}; it is down)"
        ),
    ),
    (
        "addresses of which the hosts route those of one family",
        {"routed": frozenset({V4, V6})},
        [{"routed": (V4,)}, {"routed": (ip_network("10.0.0.0/8"),)}],
        (
            "0 of 2 hypervisors fit: 2 route no fd00:22::/64 for networks: h0-qemu, h1-qemu (start the agent of one "
            "with --allow-routed fd00:22::/64)"
        ),
    ),
    (
        "a host port that another machine has",
        {"host_ports": frozenset({HTTP})},
        [{"host_ports": {HTTP: ("shop/web",)}}],
        "0 of 1 hypervisor fits: 1 has host port 8080/TCP in use by shop/web",
    ),
    (
        "host ports that others have, each host another",
        {"host_ports": frozenset({HTTP, HTTPS})},
        [{"host_ports": {HTTP: ("shop/web",), HTTPS: ("lab/x",)}}, {"host_ports": {HTTPS: ("lab/y", "lab/z")}}],
        "0 of 2 hypervisors fit: 2 have host ports 8080/TCP, 8443/TCP in use by lab/x, lab/y, lab/z, ...",
    ),
    (
        "a volume beside another host",
        {"storage": (dataclasses.replace(ON_FAST, agent_name="z"),)},
        [{}],
        "0 of 1 hypervisor fits: 1 cannot use pool fast (the volume of root must be beside the machine)",
    ),
]


@pytest.mark.parametrize(
    ("asked", "hosts", "message"), [row[1:] for row in NOTHING_FITS], ids=[row[0] for row in NOTHING_FITS]
)
def test_why_nothing_fits_is_said_with_figures(
    asked: dict[str, Any], hosts: list[dict[str, Any]], message: str
) -> None:
    candidates = [hypervisor(f"h{index}-qemu", **host) for index, host in enumerate(hosts)]
    assert choose(request(**asked), candidates) == NoFit(message)


def test_without_any_hypervisor_the_next_step_is_named() -> None:
    assert choose(request(), []) == NoFit("there is no hypervisor: start an agent (virtplane-agent) on a host")


def test_where_networks_can_be_does_not_depend_on_what_is_free_there() -> None:
    full = hypervisor("a-qemu", used_memory_mib=8192, unschedulable=True, healthy=False, host_networks=(), routed=(V4,))
    assert no_place_for_networks(request(memory_mib=0, routed=frozenset({V4})), [full]) is None
    assert no_place_for_networks(request(host_networks=frozenset({LAN})), [full, full]) == NoFit(
        "0 of 2 hypervisors fit: 2 give no bridge br-lan to networks: a-qemu, a-qemu (start the agent of one with "
        "--allow-bridge br-lan)"
    )
    assert no_place_for_networks(request(host_networks=frozenset({LAN})), []) is None
