"""The operator's part of a Volume's status: where it is made, and who may use it."""

from typing import Any

import pytest

from tests.operator.objects import condition, conditions, placed, pool, volume
from virtplane_operator.volumes.status import (
    claim_of,
    first_placement,
    placed_status,
    placement_of,
    unplaced_status,
)

HERE = placed("host-a-qemu", token=1, poolName="fast", poolUID="fast-uid")
CLAIM = {"vmName": "web", "vmUID": "vm-1"}


@pytest.mark.parametrize(
    ("before", "token"), [(None, 1), ({"token": 4}, 5)], ids=["never placed", "it had a place once"]
)
def test_a_first_placement_names_host_and_pool_under_the_next_token(before: dict[str, Any] | None, token: int) -> None:
    placement = first_placement(volume(placement=before), hypervisor="host-a-qemu", agent="host-a", pool=pool())
    assert placement == HERE | {"token": token}


@pytest.mark.parametrize("claim", [CLAIM, {}], ids=["given to a machine", "given to nobody"])
def test_a_placed_volume_says_where_it_is_and_who_may_use_it(claim: dict[str, str]) -> None:
    status = placed_status(volume(), HERE, claim)
    assert status["placement"] == HERE
    assert status.get("claim", {}) == claim
    assert conditions(status) == {"Placed": ("True", "Placed")}
    assert status["conditions"][0]["message"] == "host-a-qemu holds it in pool fast"


def test_giving_a_volume_free_leaves_the_claim_out() -> None:
    """Server-side apply removes what the writer leaves out."""
    assert "claim" not in placed_status(volume(placement=HERE, claimed_by="vm-1"), HERE, {})


def test_ready_of_a_placed_volume_is_its_agents() -> None:
    before = {"conditions": [condition("Ready", "True", "Made"), condition("Placed", "True", "Placed")]}
    assert set(conditions(placed_status(volume(placement=HERE, status=before), HERE, {}))) == {"Placed"}


def test_placed_speaks_of_the_generation_that_was_placed() -> None:
    fresh = placed_status(volume(), HERE, {})
    again = placed_status(volume(status={"conditions": [condition("Placed", "True", "Placed")]}), HERE, {})
    waited = placed_status(volume(status={"conditions": [condition("Placed", "False", "NoDefaultPool")]}), HERE, {})
    assert [one["conditions"][0]["observedGeneration"] for one in (fresh, again, waited)] == [3, 1, 3]


def test_a_volume_without_a_place_says_why_and_is_not_ready() -> None:
    status = unplaced_status(volume(), "NoDefaultPool", "spec: no poolName")
    assert conditions(status) == {"Placed": ("False", "NoDefaultPool"), "Ready": ("False", "NoDefaultPool")}
    assert {one["message"] for one in status["conditions"]} == {"spec: no poolName"}
    assert status["observedGeneration"] == 3
    assert not {"placement", "claim"} & set(status)


def test_a_volume_that_lost_its_place_keeps_its_token_and_its_claim() -> None:
    status = unplaced_status(volume(placement={"token": 4}, claimed_by="vm-1"), "NoHypervisorFits", "")
    assert status["placement"] == {"token": 4}
    assert status["claim"]["vmUID"] == "vm-1"


def test_what_is_not_there_reads_as_empty() -> None:
    assert placement_of(volume()) == claim_of(volume()) == placement_of({}) == claim_of({}) == {}
    assert placement_of(volume(placement=HERE)) == HERE
    assert claim_of(volume(claimed_by="vm-1"))["vmUID"] == "vm-1"
