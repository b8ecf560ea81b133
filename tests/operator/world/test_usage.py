"""How much of each Hypervisor is given away, kept by listening to the store."""

from typing import Any

import pytest

from tests.operator.objects import placed, vm, volume
from virtplane_api.kube.resources import VIRTUAL_MACHINES, VOLUMES
from virtplane_operator.world import Demand, Store, Usage, demand_of

A, B = "host-a-qemu", "host-b-qemu"
NOTHING = Demand(0, 0)
TWO = Demand(2, 1024)
"""What one machine of the builder takes."""


class Counted:
    """A usage that listens to a store."""

    def __init__(self) -> None:
        self.store, self.usage = Store(), Usage()
        self.store.listen(self.usage.observe)
        self._version = 0

    def put(self, on: str = "", **changes: Any) -> None:
        """The watch tells of the machine, placed on `on`."""
        self._version += 1
        placement = placed(on) if on else None
        self.store.put(VIRTUAL_MACHINES, vm(version=self._version, placement=placement, **changes))

    @property
    def used(self) -> tuple[Demand, Demand]:
        """Of the Hypervisors A and B."""
        return self.usage.used(A), self.usage.used(B)


@pytest.fixture
def counted() -> Counted:
    return Counted()


def test_what_has_no_place_takes_nothing(counted: Counted) -> None:
    counted.put()
    assert counted.used == (NOTHING, NOTHING)


def test_machines_are_summed_up_where_they_are_placed(counted: Counted) -> None:
    counted.put(A)
    counted.put(A, name="db", uid="vm-2", cpu={"cores": 8}, memory={"size": "4Gi"})
    counted.put(B, name="ci", uid="vm-3")
    assert counted.used == (Demand(10, 5120), TWO)


def test_a_machine_counts_once_however_often_it_is_told_of(counted: Counted) -> None:
    for _ in range(3):
        counted.put(A)
    assert counted.used == (TWO, NOTHING)


def test_a_stopped_machine_counts_in_full(counted: Counted) -> None:
    counted.put(A, powerState="Stopped")
    assert counted.used == (TWO, NOTHING)


def test_a_machine_that_moved_counts_where_it_is(counted: Counted) -> None:
    counted.put(A)
    counted.put(B)
    assert counted.used == (NOTHING, TWO)


def test_a_machine_that_lost_its_place_or_is_gone_counts_no_longer(counted: Counted) -> None:
    counted.put(A)
    counted.put()
    assert counted.used == (NOTHING, NOTHING)
    counted.put(A)
    counted.store.remove(VIRTUAL_MACHINES, vm())
    assert counted.used == (NOTHING, NOTHING)


def test_a_name_that_was_made_again_counts_for_the_new_machine_alone(counted: Counted) -> None:
    counted.put(A, uid="vm-1", cpu={"cores": 16})
    counted.put(uid="vm-2")
    assert counted.used == (NOTHING, NOTHING)
    counted.put(B, uid="vm-2")
    assert counted.used == (NOTHING, TWO)


def test_a_machine_that_grows_counts_at_once(counted: Counted) -> None:
    counted.put(A)
    counted.put(A, memory={"size": "3Gi"})
    assert counted.used == (Demand(2, 3072), NOTHING)


def test_other_kinds_take_nothing(counted: Counted) -> None:
    counted.store.put(VOLUMES, volume(placement=placed(A)))
    assert counted.used == (NOTHING, NOTHING)


# --- placements that are being written --------------------------------------------------------------------------------


def test_a_placement_that_is_being_written_counts_already(counted: Counted) -> None:
    counted.put()
    with counted.usage.assumed("vm-1", A, TWO):
        assert counted.used == (TWO, NOTHING)


def test_a_placement_that_was_not_seen_written_counts_no_longer(counted: Counted) -> None:
    counted.put()
    with pytest.raises(OSError, match="no answer"), counted.usage.assumed("vm-1", A, TWO):
        raise OSError("no answer")
    assert counted.used == (NOTHING, NOTHING)


def test_a_placement_that_was_seen_meanwhile_counts_on_and_once(counted: Counted) -> None:
    counted.put()
    with counted.usage.assumed("vm-1", A, TWO):
        counted.put(A)
        assert counted.used == (TWO, NOTHING)
    assert counted.used == (TWO, NOTHING)


def test_other_news_of_the_machine_do_not_undo_what_is_being_written(counted: Counted) -> None:
    counted.put()
    with counted.usage.assumed("vm-1", A, TWO):
        counted.put(metadata={"labels": {"a": "b"}})
        assert counted.used == (TWO, NOTHING)
    assert counted.used == (NOTHING, NOTHING)


def test_a_machine_that_goes_while_it_is_being_placed_leaves_nothing_counted(counted: Counted) -> None:
    counted.put()
    with counted.usage.assumed("vm-1", A, TWO):
        counted.store.remove(VIRTUAL_MACHINES, vm())
        assert counted.used == (NOTHING, NOTHING)
    assert counted.used == (NOTHING, NOTHING)


def test_a_name_that_is_made_again_while_the_one_before_is_being_placed_is_not_counted_for_it(
    counted: Counted,
) -> None:
    counted.put(uid="vm-1")
    with counted.usage.assumed("vm-1", A, TWO):
        counted.put(uid="vm-2")
    assert counted.used == (NOTHING, NOTHING)
    counted.put(A, uid="vm-2")
    assert counted.used == (TWO, NOTHING)


# --- demand -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cores", "memory", "demand"),
    [
        pytest.param(1, "512Mi", TWO, id="the spec grew"),
        pytest.param(8, "4Gi", Demand(8, 4096), id="the spec shrank: what runs still takes its part"),
        pytest.param(8, "512Mi", Demand(8, 1024), id="each resource by itself"),
    ],
)
def test_a_change_that_waits_for_a_restart_counts_as_the_greater(cores: int, memory: str, demand: Demand) -> None:
    effective = {"cpu": {"cores": cores, "model": "max"}, "memory": {"size": memory}}
    assert demand_of(vm(status={"effective": effective})) == demand


def test_a_machine_that_never_ran_takes_what_it_asks_for() -> None:
    assert demand_of(vm(memory={"size": "1G"})) == Demand(2, 954)
