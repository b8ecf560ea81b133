"""Two machines that hold one thing: the younger one is told."""

from typing import Any

import pytest

from tests.operator.objects import claimed, condition, conditions, placed, vm
from virtplane_api.kube.resources import VIRTUAL_MACHINES, Object
from virtplane_operator.machines.contests import Contested, contested
from virtplane_operator.machines.status import placed_status, placement_of
from virtplane_operator.networks.claims import Claims
from virtplane_operator.world import Store


def holder(name: str, second: int, mac: str, *ips: str, **spec: Any) -> Object:
    """A machine that was placed in that second of the minute."""
    seen = {"conditions": [condition("Placed", "True", "Placed", lastTransitionTime=f"2026-11-24T10:00:{second:02}Z")]}
    placement = placed(interfaces=[claimed("lan", "lan", mac, *ips)])
    return vm(name, uid=f"{name}-uid", placement=placement, status=seen, **spec)


def told(*machines: Object) -> dict[str, str]:
    """Who is told, and what."""
    store, claims = Store(), Claims()
    store.listen(claims.observe)
    for machine in machines:
        store.put(VIRTUAL_MACHINES, machine)
    found = {machine["metadata"]["name"]: contested(store, claims, machine) for machine in machines}
    return {name: contest.message for name, contest in found.items() if contest is not None}


@pytest.mark.parametrize("first", ["web", "db"])
def test_the_one_that_was_placed_later_is_told_whoever_is_heard_of_first(first: str) -> None:
    pair = [holder("web", 1, "52:54:00:00:00:01", "10.20.0.9"), holder("db", 2, "52:54:00:00:00:02", "10.20.0.9")]
    ordered = pair if first == "web" else pair[::-1]
    assert told(*ordered) == {"db": "10.20.0.9 is held by VirtualMachine shop/web as well; make one of them anew"}


def test_of_the_same_second_exactly_one_is_told() -> None:
    assert len(told(holder("web", 1, "52:54:00:00:00:01", "10.20.0.9"), holder("db", 1, "52:54:00:00:00:01"))) == 1


def test_a_placement_of_which_nothing_is_said_yet_is_the_youngest() -> None:
    older = holder("web", 1, "52:54:00:00:00:01")
    older["metadata"]["creationTimestamp"] = "2026-11-24T10:00:00Z"
    new = holder("db", 0, "52:54:00:00:00:01")
    for conditions_now in ([], [condition("Placed", "False", "NetworkNotFound")]):
        new["status"]["conditions"] = conditions_now
        assert set(told(older, new)) == {"db"}


def test_who_holds_something_alone_is_told_nothing() -> None:
    assert told(holder("web", 1, "52:54:00:00:00:01", "10.20.0.8"), holder("db", 2, "52:54:00:00:00:02")) == {}


def test_a_machine_that_is_told_keeps_its_place() -> None:
    machine = holder("web", 1, "52:54:00:00:00:01", "10.20.0.9")
    status = placed_status(machine, placement_of(machine), Contested("AddressInUse", "10.20.0.9 is held"))
    assert conditions(status) == {"Placed": ("True", "AddressInUse")}
    assert status["conditions"][0]["message"] == "on host-a-qemu; 10.20.0.9 is held"
    assert conditions(placed_status(machine, placement_of(machine))) == {"Placed": ("True", "Placed")}
