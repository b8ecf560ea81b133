"""Machines that wait for each other's addresses: who gives way, and that no address is ever two machines'."""

from typing import Any, cast

import pytest

from tests.operator.machines.test_interfaces import CLUSTER, LAN, SMALL, World
from tests.operator.objects import DELETED_AT, claimed, hypervisor, network, placed, vm
from virtplane_api.kube.client import KubeClient
from virtplane_api.kube.resources import HYPERVISORS, VIRTUAL_MACHINES, Key, Object, key_of
from virtplane_operator.machines.disks import Blocked
from virtplane_operator.machines.interface_changes import Change, interface_change
from virtplane_operator.runtime import Operator


def mac(name: str) -> str:
    return f"52:54:00:00:00:{name.encode()[0]:02x}"


def machine(name: str, has: str, asks: str | None, power: str = "Stopped", *, too: str = "", **more: Any) -> Object:
    """Placed, with an address, and with what its spec asks for (None: for nothing in particular).

    `too`: what it asks for by one more interface.
    """
    asked: list[Object] = [LAN | ({"ipAddresses": [f"10.20.0.{asks}"]} if asks else {})]
    if too:
        asked.append({**LAN, "name": "more", "ipAddresses": [f"10.20.0.{too}"]})
    row = claimed("lan", "lan", mac(name), f"10.20.0.{has}")
    seen = {"powerState": power, "interfaces": [row], "host": {"token": 7, "state": "Present"}}
    return vm(
        name,
        uid=f"{name}-uid",
        interfaces=asked,
        placement=placed(token=7, interfaces=[row]),
        status=seen,
        powerState=power,
        **more,
    )


class Cycles(World):
    """Machines on one host, whose agent does at once what a test says."""

    def __init__(self, *machines: Object, **lan: Any) -> None:
        super().__init__(network(**lan), *machines)
        self.store.put(HYPERVISORS, hypervisor() | {"status": {"networkModes": ["NAT"]}})
        self._version = 1

    def machine(self, name: str) -> Object:
        return next(one for one in self.store.all(VIRTUAL_MACHINES).values() if one["metadata"]["name"] == name)

    def change(self, name: str) -> Change | Blocked | None:
        return interface_change(self.store, self.catalog, self.claims, CLUSTER, self.machine(name))

    def message(self, name: str) -> str:
        change = self.change(name)
        assert isinstance(change, Blocked)
        assert change.reason == "AddressInUse"
        return change.message

    def write(self, name: str, **status: Any) -> None:
        """Operator or agent writes a part of the machine's status."""
        self._version += 1
        now = self.machine(name)
        metadata = now["metadata"] | {"resourceVersion": str(self._version)}
        self.store.put(VIRTUAL_MACHINES, now | {"metadata": metadata, "status": now["status"] | status})

    def report(self, name: str) -> None:
        """Its agent has taken up the placement: its guest has what that says, and nothing else."""
        placement = self.machine(name)["status"]["placement"]
        self.write(name, interfaces=placement["interfaces"], host={"token": placement["token"], "state": "Present"})

    def addresses(self, name: str) -> tuple[str, ...]:
        return tuple(self.machine(name)["status"]["placement"]["interfaces"][0]["ipAddresses"])

    def in_use(self) -> list[str]:
        """By any guest, as far as anybody can know."""
        found: list[str] = []
        for one in self.store.all(VIRTUAL_MACHINES).values():
            rows = [*one["status"]["placement"]["interfaces"], *one["status"]["interfaces"]]
            found += {text for row in rows for text in row["ipAddresses"]}
        return found


def test_machines_that_run_keep_what_they_have_and_are_told_that_they_wait_for_each_other() -> None:
    cycles = Cycles(machine("a", "10", "11", "Running"), machine("b", "11", "10", "Running"))
    way_out = "stop one of them (powerState: Stopped), or give one of them another address first"
    assert cycles.message("a") == (
        "spec.interfaces[0].ipAddresses: 10.20.0.11 is held by VirtualMachine shop/b; "
        f"shop/b and this machine wait for each other's addresses: {way_out}"
    )
    three = Cycles(*(machine(*one, "Running") for one in [("a", "10", "11"), ("b", "11", "12"), ("c", "12", "10")]))
    assert "; shop/c, shop/a and this machine wait for each other's addresses: " in three.message("b")


@pytest.mark.parametrize(
    ("seen", "asked"),
    [("Stopped", "Running"), ("Running", "Stopped"), ("Paused", "Paused"), ("Suspended", "Suspended")],
)
def test_only_a_machine_that_is_stopped_and_is_to_be_gives_way(seen: str, asked: str) -> None:
    cycles = Cycles(machine("a", "10", "11"), machine("b", "11", "10", "Running"))
    assert isinstance(cycles.change("a"), Change)
    cycles = Cycles(machine("a", "10", "11", asked), machine("b", "11", "10", "Running"))
    cycles.write("a", powerState=seen)
    assert "wait for each other" in cycles.message("a")


@pytest.mark.parametrize("size", [2, 3, 7])
def test_a_cycle_with_one_stopped_machine_is_solved_and_no_address_is_two_machines_at_any_time(size: int) -> None:
    names = "abcdefg"[:size]
    wanted = {name: f"10.20.0.{10 + (index + 1) % size}" for index, name in enumerate(names)}
    cycles = Cycles(
        *(
            machine(name, str(10 + index), wanted[name].rpartition(".")[2], "Stopped" if name == "b" else "Running")
            for index, name in enumerate(names)
        )
    )
    changes = 0
    for _ in range(2 * size):
        for name in names:
            change = cycles.change(name)
            if isinstance(change, Change):
                changes += 1
                with cycles.claims.assumed(cycles.machine(name), change.placement):
                    cycles.write(name, placement=change.placement)
                assert len(set(cycles.in_use())) == len(cycles.in_use())
        for name in names:
            cycles.report(name)
            assert len(set(cycles.in_use())) == len(cycles.in_use())
    assert {name: cycles.addresses(name) for name in names} == {name: (text,) for name, text in wanted.items()}
    assert changes == size + 1
    assert [cycles.change(name) for name in names] == [None] * size


def test_a_machine_that_gave_way_waits_for_its_address_and_does_nothing_else() -> None:
    cycles = Cycles(machine("a", "10", "11"), machine("b", "11", "10", "Running"))
    change = cycles.change("a")
    assert isinstance(change, Change)
    [row] = change.placement["interfaces"]
    assert (row["macAddress"], change.placement["token"]) == (mac("a"), 8)
    assert row["ipAddresses"][0] not in ("10.20.0.10", "10.20.0.11")
    cycles.write("a", placement=change.placement)
    # Until its agent has heard of it nobody else has what it gave up.
    assert "10.20.0.10 is held by VirtualMachine shop/a" in cycles.message("b")
    assert cycles.message("a") == "spec.interfaces[0].ipAddresses: 10.20.0.11 is held by VirtualMachine shop/b"
    cycles.report("a")
    assert cycles.message("a").endswith("held by VirtualMachine shop/b")
    assert isinstance(cycles.change("b"), Change)


NO_CYCLE = [
    ("it keeps its address", machine("b", "11", "11")),
    ("it asks for none, and keeps what it has", machine("b", "11", None)),
    ("it can have what it asks for", machine("b", "11", "12")),
    ("it is being deleted", machine("b", "11", "10", metadata={"deletionTimestamp": DELETED_AT})),
]


@pytest.mark.parametrize("holder", [row[1] for row in NO_CYCLE], ids=[row[0] for row in NO_CYCLE])
def test_who_waits_for_one_that_does_not_wait_for_it_keeps_what_it_has(holder: Object) -> None:
    cycles = Cycles(machine("a", "10", "11"), holder)
    assert cycles.message("a") == "spec.interfaces[0].ipAddresses: 10.20.0.11 is held by VirtualMachine shop/b"


@pytest.mark.parametrize("power", ["Stopped", "Running"])
def test_a_machine_that_also_waits_for_what_stays_another_s_is_told_of_that_one(power: str) -> None:
    cycles = Cycles(machine("a", "10", "11", power, too="12"), machine("b", "11", "10"), machine("c", "12", "12"))
    assert cycles.message("a") == "spec.interfaces[1].ipAddresses: 10.20.0.12 is held by VirtualMachine shop/c"


FOR_NOTHING = [
    (
        "the next one also waits for what stays another's",
        [machine("b", "11", "10", too="12"), machine("c", "12", "12")],
    ),
    ("what it asks for has a second holder, which stays", [machine("b", "11", "10"), machine("c", "11", "11")]),
    ("what it has has a second holder, which stays", [machine("b", "11", "10"), machine("c", "10", "10")]),
    ("the next one asks for one address twice", [machine("b", "11", "10", too="10")]),
    (
        "one that the next one waits for as well waits for what stays",
        [machine("b", "11", "10", too="12"), machine("c", "12", "13"), machine("d", "13", "13")],
    ),
]


@pytest.mark.parametrize("others", [row[1] for row in FOR_NOTHING], ids=[row[0] for row in FOR_NOTHING])
def test_nobody_gives_way_for_nothing(others: list[Object]) -> None:
    cycles = Cycles(machine("a", "10", "11"), *others)
    assert cycles.message("a") == "spec.interfaces[0].ipAddresses: 10.20.0.11 is held by VirtualMachine shop/b"


def test_one_that_the_next_one_waits_for_as_well_and_that_can_go_is_waited_for() -> None:
    others = [machine("b", "11", "10", "Running", too="12"), machine("c", "12", "13", "Running")]
    assert isinstance(Cycles(machine("a", "10", "11"), *others).change("a"), Change)


@pytest.mark.parametrize("power", ["Stopped", "Running"])
def test_a_machine_that_asks_for_one_address_twice_is_told_so_and_does_not_give_way(power: str) -> None:
    cycles = Cycles(machine("a", "10", "11"), machine("b", "11", "10", power, too="10"))
    assert cycles.message("b") == "spec.interfaces[1].ipAddresses: 10.20.0.10 is asked for by spec.interfaces[0] too"


def test_a_long_cycle_is_told_with_three_names_and_the_way_out() -> None:
    size, long = 40, "m" * 240
    ring = [(f"{long}{index:02}", str(10 + index), str(10 + (index + 1) % size)) for index in range(size)]
    message = Cycles(*(machine(*one, "Running") for one in ring)).message(f"{long}05")
    names = ", ".join(f"shop/{long}{index:02}" for index in (6, 7, 8))
    assert f"; {names}, ... and this machine wait for each other's addresses: stop one of them" in message
    assert message.endswith(", or give one of them another address first")


async def test_what_one_of_a_cycle_gave_up_is_offered_to_placed_machines_before_new_ones() -> None:
    client = cast("KubeClient", object())  # nothing is asked of it
    operator = Operator(client, system_namespace="virtplane-system", identity="test", cluster_id=CLUSTER)
    gives_way = machine("b", "3", "2")
    gives_way["status"]["placement"] |= {"token": 8, "interfaces": [claimed("lan", "lan", mac("b"), "10.20.0.6")]}
    new = [vm(f"new-{index}", uid=f"new-{index}", interfaces=[LAN]) for index in range(20)]
    for one in [*new, gives_way, machine("a", "2", "3", "Running")]:
        operator.store.put(VIRTUAL_MACHINES, one)
    pending, loop = operator._machines.pending, operator._loops[VIRTUAL_MACHINES.plural]
    pending |= {key_of(one) for one in [*new, gives_way]} | {Key("shop", "a")}
    loop._ready.clear()
    loop._queued.clear()
    reported = {"interfaces": gives_way["status"]["placement"]["interfaces"], "host": {"token": 8, "state": "Present"}}
    newer = gives_way["metadata"] | {"resourceVersion": "1000"}
    operator.store.put(VIRTUAL_MACHINES, gives_way | {"metadata": newer, "status": gives_way["status"] | reported})
    assert set(loop._ready) == pending
    assert {key.name for key in list(loop._ready)[:2]} == {"a", "b"}


def test_where_no_address_is_free_it_is_said_what_to_do() -> None:
    full = [machine(name, last, last) for name, last in zip("cde", "456", strict=True)]
    cycles = Cycles(machine("a", "2", "3"), machine("b", "3", "2"), *full, ipv4=SMALL)
    assert "no free address for one of them meanwhile: take the interface from one of them first" in cycles.message("a")


@pytest.mark.parametrize("name", ["a", "w", "x", "y", "z"])
def test_who_gives_way_takes_nothing_that_another_one_of_the_cycle_asks_for(name: str) -> None:
    """Else it would be in the way again, and give way for ever."""
    other = machine("b", "3", "2", "Running")
    for last in "45":
        other["spec"]["interfaces"].append(LAN | {"name": f"more{last}", "ipAddresses": [f"10.20.0.{last}"]})
    cycles = Cycles(machine(name, "2", "3"), other, ipv4=SMALL)
    change = cycles.change(name)
    assert isinstance(change, Change)
    assert change.placement["interfaces"][0]["ipAddresses"] == ["10.20.0.6"]
