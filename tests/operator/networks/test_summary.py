"""The status of a VirtualNetwork: what is claimed in it, and what the Hypervisors report of it."""

from typing import Any

import pytest

from tests.operator.objects import condition, conditions, hypervisor, network
from virtplane_operator.networks.catalog import NotServed
from virtplane_operator.networks.summary import Row, network_status, row_of

A, B, C = Row("host-a-qemu", "Ready"), Row("host-b-qemu", "Ready"), Row("host-c-qemu", "Ready")
FAILED = Row("host-b-qemu", "Failed", "ForwardingBlocked", "chain FORWARD drops its packets")
SILENT = Row("host-b-qemu", "Unknown", "AgentSilent", "agent host-b is silent")
NEW = Row("host-a-qemu", "Unknown", "NetworkNotReady", "it has not said yet whether it has the network")


def status(*rows: Row, used: int = 1, free: int | None = 252, not_served: NotServed | None = None) -> dict[str, Any]:
    return network_status(network(), used=used, free=free, rows=rows, not_served=not_served)


READY: list[tuple[str, list[Row], tuple[str, str], str]] = [
    ("no machine", [], ("True", "NoMachines"), "the machines on it have no place"),
    ("all report it", [A, B], ("True", "Served"), "2 hypervisors with machines on it"),
    ("one failed", [A, FAILED, C], ("False", "ForwardingBlocked"),
     "failed on 1 of 3 hypervisors: host-b-qemu: chain FORWARD drops its packets"),
    ("one failed and one is silent", [Row("host-a-qemu", "Failed", "NetworkError"), SILENT], ("False", "NetworkError"),
     "failed on 1 of 2 hypervisors: host-a-qemu: NetworkError"),
    ("one is silent", [A, SILENT], ("Unknown", "AgentSilent"),
     "nothing is known of 1 of 2 hypervisors: host-b-qemu: agent host-b is silent"),
    ("one has not said anything yet", [NEW], ("Unknown", "NetworkNotReady"),
     "nothing is known of 1 of 1 hypervisor: host-a-qemu: it has not said yet whether it has the network"),
    ("a silent one comes before a new one", [NEW, SILENT], ("Unknown", "AgentSilent"),
     f"nothing is known of 2 of 2 hypervisors: host-b-qemu: agent host-b is silent; host-a-qemu: {NEW.message}"),
]  # fmt: skip


@pytest.mark.parametrize(("rows", "ready", "message"), [row[1:] for row in READY], ids=[row[0] for row in READY])
def test_a_network_is_ready_while_all_its_machines_are_served(
    rows: list[Row], ready: tuple[str, str], message: str
) -> None:
    said = status(*rows)
    assert conditions(said) == {"Ready": ready}
    assert said["conditions"][0]["message"] == message


def test_a_network_that_is_not_served_says_why_whatever_is_reported() -> None:
    said = status(A, not_served=NotServed("NetworksOverlap", "change the cidr"))
    assert conditions(said) == {"Ready": ("False", "NetworksOverlap")}
    assert said["conditions"][0]["message"] == "change the cidr"


def test_a_network_that_is_to_go_says_who_keeps_it_whatever_else_is_wrong_with_it() -> None:
    users = ["2 machines: shop/db, shop/web", "1 hypervisor: host-a-qemu"]
    said = network_status(
        network(), used=2, free=1, rows=[A, FAILED], not_served=NotServed("NetworksOverlap", "no"), users=users
    )
    assert conditions(said) == {"Ready": ("False", "InUse")}
    assert said["conditions"][0]["message"] == (
        "deletion waits for 2 machines: shop/db, shop/web and 1 hypervisor: host-a-qemu"
    )
    assert said["hypervisors"][1]["message"] == FAILED.message


def test_a_network_that_no_hypervisor_can_have_says_so_unless_one_has_it_already() -> None:
    no_place = "0 of 1 hypervisor fits: 1 lacks network mode Overlay"
    for used in (0, 1):
        said = network_status(network(), used=used, free=252, rows=[], not_served=None, no_place=no_place)
        assert conditions(said) == {"Ready": ("False", "NoHypervisor")}
        assert said["conditions"][0]["message"] == no_place
    served = network_status(network(), used=1, free=252, rows=[A], not_served=None, no_place=no_place)
    assert conditions(served) == {"Ready": ("True", "Served")}
    against_itself = NotServed("NetworkInvalid", "x")
    said = network_status(network(), used=0, free=252, rows=[], not_served=against_itself, no_place=no_place)
    assert conditions(said) == {"Ready": ("False", "NetworkInvalid")}


def test_a_network_without_machines_has_figures_and_no_rows() -> None:
    said = status(used=0)
    assert {name: said[name] for name in said if name != "conditions"} == {
        "observedGeneration": 3, "used": 0, "free": 252, "hypervisorCount": 0,
    }  # fmt: skip
    assert said["conditions"][0]["message"] == "no machine is on it"


def test_every_hypervisor_with_machines_on_it_is_listed() -> None:
    said = status(A, FAILED)
    assert said["hypervisorCount"] == 2
    assert said["hypervisors"] == [
        {"name": "host-a-qemu", "state": "Ready"},
        {"name": "host-b-qemu", "state": "Failed", "message": "chain FORWARD drops its packets"},
    ]


def test_figures_keep_within_the_schema() -> None:
    said = status(*(Row(f"host{number:04}-qemu", "Ready") for number in range(1030)), free=1 << 64)
    assert (len(said["hypervisors"]), said["hypervisorCount"], said["free"]) == (1024, 1024, (1 << 53) - 1)


def test_a_network_that_manages_no_addresses_has_none_left_and_none_free() -> None:
    assert "free" not in status(free=None)


def test_the_time_of_ready_stays_while_it_does() -> None:
    before = network(status={"conditions": [condition("Ready", "True", "NoMachines")]})
    said = network_status(before, used=1, free=1, rows=[A], not_served=None)
    assert said["conditions"][0]["lastTransitionTime"] == "2026-11-24T09:00:00Z"


def report(**more: Any) -> dict[str, Any]:
    return {"uid": "lan-uid", "state": "Ready"} | more


BLOCKED = {"state": "Failed", "reason": "ForwardingBlocked", "message": "chain FORWARD drops its packets"}
FULL = "it has 256 networks, as many as a hypervisor can have, and this one is none of them"
OTHERS = [report(uid=f"uid-{number}") for number in range(256)]
ROWS: list[tuple[str, list[dict[str, Any]], bool, Row]] = [
    ("it has it", [report()], False, A),
    ("another network's report", [report(uid="wan-uid")], False, NEW),
    ("no report", [], False, NEW),
    ("no report and no room for one", OTHERS, False,
     Row("host-a-qemu", "Failed", "TooManyNetworks", FULL)),
    ("it is one of as many as can be", [*OTHERS[1:], report()], False, A),
    ("room for one more", OTHERS[1:], False, NEW),
    ("failed", [report(**BLOCKED)], False,
     Row("host-a-qemu", "Failed", "ForwardingBlocked", "chain FORWARD drops its packets")),
    ("failed without a word", [report(state="Failed")], False, Row("host-a-qemu", "Failed", "NetworkError")),
    ("silent: what it said last is claimed no longer", [report()], True,
     Row("host-a-qemu", "Unknown", "AgentSilent", "agent host-a is silent")),
]  # fmt: skip


@pytest.mark.parametrize(("reports", "silent", "row"), [row[1:] for row in ROWS], ids=[row[0] for row in ROWS])
def test_what_a_hypervisor_says_of_a_network(
    reports: list[dict[str, Any]],
    silent: bool,  # noqa: FBT001
    row: Row,
) -> None:
    seen = hypervisor(networks=reports)
    assert row_of("host-a-qemu", seen, "lan-uid", agent_is_silent=silent) == row


def test_of_a_hypervisor_that_is_gone_nothing_is_known() -> None:
    row = row_of("host-a-qemu", None, "lan-uid", agent_is_silent=False)
    assert (row.state, row.reason) == ("Unknown", "NoSuchHypervisor")
