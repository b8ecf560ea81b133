"""The status of a StoragePool: what the Hypervisors report of it, summed up."""

from typing import Any

import pytest

from tests.operator.objects import condition, conditions, hypervisor, pool
from virtplane_api.kube.resources import Object
from virtplane_operator.pools.summary import pool_status


def report(size: str = "", *, uid: str = "fast-uid", **more: Any) -> dict[str, Any]:
    """A pool as a Hypervisor reports it: Ready, unless `more` says otherwise."""
    return {"name": "fast", "uid": uid, "state": "Ready"} | ({"capacity": size} if size else {}) | more


FAILED = report(state="Failed", message="/srv/fast: Permission denied")


def status(*hypervisors: Object, silent: set[str] | None = None, **spec: Any) -> dict[str, Any]:
    return pool_status(pool(**spec), hypervisors, silent or set())


CAPACITIES = [
    ("local: the sum", "Local", {"host-a-qemu": "100Gi", "host-b-qemu": "50Gi"}, "150Gi"),
    ("local: two hypervisors of one host see the same disk", "Local",
     {"host-a-qemu": "100Gi", "host-a-lxc": "100Gi", "host-b-qemu": "50Gi"}, "150Gi"),
    ("local: of one host the larger", "Local", {"host-a-qemu": "1Gi", "host-a-lxc": "2Gi"}, "2Gi"),
    ("shared: the largest that anyone sees", "Shared",
     {"host-a-qemu": "100Gi", "host-b-qemu": "100Gi", "host-c-qemu": "99Gi"}, "100Gi"),
    ("one that reports no size", "Local", {"host-a-qemu": "100Gi", "host-b-qemu": ""}, "100Gi"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("access", "sizes", "capacity"), [row[1:] for row in CAPACITIES], ids=[row[0] for row in CAPACITIES]
)
def test_capacity_is_counted_once_per_host_and_once_where_it_is_shared(
    access: str, sizes: dict[str, str], capacity: str
) -> None:
    hypervisors = [hypervisor(name, pools=[report(size)]) for name, size in sizes.items()]
    assert status(*hypervisors, access=access)["capacity"] == capacity


def test_every_hypervisor_that_reaches_it_is_listed_by_name() -> None:
    said = status(
        hypervisor("host-b-qemu", pools=[FAILED]),
        hypervisor("host-c-qemu", pools=[report("1Gi", uid="other-uid")]),
        hypervisor("host-a-qemu", pools=[report("1Gi", uid="other-uid"), report("1Gi")]),
    )
    assert said["hypervisors"] == [
        {"name": "host-a-qemu", "state": "Ready"},
        {"name": "host-b-qemu", "state": "Failed", "message": "/srv/fast: Permission denied"},
    ]


def test_what_a_silent_agent_reported_is_claimed_no_longer() -> None:
    said = status(
        hypervisor("host-a-qemu", pools=[report("1Gi")]),
        hypervisor("host-b-qemu", pools=[FAILED]),
        silent={"host-a", "host-b"},
    )
    assert said["hypervisors"] == [
        {"name": "host-a-qemu", "state": "Unknown", "message": "agent host-a is silent"},
        {"name": "host-b-qemu", "state": "Unknown", "message": "agent host-b is silent"},
    ]
    assert conditions(said) == {"Ready": ("False", "Unreachable")}


READY: list[tuple[str, list[Object], set[str], tuple[str, str], str]] = [
    ("one of two", [hypervisor("host-a-qemu", pools=[report()]), hypervisor("host-b-qemu", pools=[FAILED])], set(),
     ("True", "Reachable"), "1 of 2 hypervisors can use it"),
    ("the silent one is not counted",
     [hypervisor("host-a-qemu", pools=[report()]), hypervisor("host-b-qemu", pools=[report()])], {"host-a"},
     ("True", "Reachable"), "1 of 2 hypervisors can use it"),
    ("none", [hypervisor("host-a-qemu", pools=[FAILED])], set(), ("False", "Unreachable"),
     "none of 1 hypervisors can use it: host-a-qemu: /srv/fast: Permission denied"),
    ("nobody reports it", [hypervisor("host-a-qemu")], set(), ("False", "NoHypervisor"),
     "no hypervisor that can use pools of type directory reports it (see spec.hypervisorSelector)"),
    ("there is no hypervisor", [], set(), ("False", "NoHypervisor"),
     "no hypervisor that can use pools of type directory reports it (see spec.hypervisorSelector)"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("hypervisors", "silent", "ready", "message"), [row[1:] for row in READY], ids=[row[0] for row in READY]
)
def test_a_pool_is_ready_while_somebody_can_use_it(
    hypervisors: list[Object], silent: set[str], ready: tuple[str, str], message: str
) -> None:
    said = status(*hypervisors, silent=silent)
    assert conditions(said) == {"Ready": ready}
    assert said["conditions"][0]["message"] == message
    assert said["observedGeneration"] == 3


IN_USE = [
    ("one", ["shop/data"], "1 volume: shop/data"),
    ("more than are shown", ["shop/a", "shop/b", "shop/c", "shop/d"], "4 volumes: shop/a, shop/b, shop/c, ..."),
]


@pytest.mark.parametrize(("users", "said"), [row[1:] for row in IN_USE], ids=[row[0] for row in IN_USE])
def test_a_pool_that_is_to_go_names_who_keeps_it_and_says_of_its_hosts_what_they_say(
    users: list[str], said: str
) -> None:
    status = pool_status(pool(), [hypervisor(pools=[report("1Gi")])], set(), users)
    assert conditions(status) == {"Ready": ("False", "InUse")}
    end = "; it goes on once they and the machines that use them are deleted"
    assert status["conditions"][0]["message"] == f"deletion waits for {said}{end}"
    assert (status["capacity"], status["hypervisors"]) == ("1Gi", [{"name": "host-a-qemu", "state": "Ready"}])


def test_a_pool_that_nobody_reports_has_neither_rows_nor_size() -> None:
    assert not {"hypervisors", "capacity"} & set(status())


def test_the_time_of_ready_stays_while_it_does() -> None:
    made = pool(status={"conditions": [condition("Ready", "True", "Reachable")]})
    said = pool_status(made, [hypervisor(pools=[report()])], set())
    assert said["conditions"][0]["lastTransitionTime"] == "2026-11-24T09:00:00Z"


def test_no_more_hypervisors_are_listed_than_the_schema_takes() -> None:
    many = [hypervisor(f"host{number:04}-qemu", pools=[report("1Gi")]) for number in range(1030)]
    said = status(*many)
    assert len(said["hypervisors"]) == 1024
    assert said["capacity"] == "1030Gi"
