"""What is claimed, kept by listening to the store."""

import asyncio
from typing import Any

import pytest

from tests.operator.objects import DELETED_AT, claimed, network, placed, vm
from virtplane_api.kube.errors import ApiUnavailable, Conflict
from virtplane_api.kube.resources import NETWORKS, VIRTUAL_MACHINES, Key, Object
from virtplane_operator.networks.addresses import number_of, subnet_of, text_of
from virtplane_operator.networks.claims import Claims, Holder
from virtplane_operator.placement import HostPort
from virtplane_operator.world import Store

A, B = "host-a-qemu", "host-b-qemu"
MAC = "52:54:00:00:00:01"
LAN = subnet_of({"cidr": "10.20.0.0/29"})
WEB = Holder("vm-1", Key("shop", "web"))
DB = Holder("vm-2", Key("shop", "db"))
HTTP = {"name": "lan", "networkName": "lan", "portForwards": [{"hostPort": 8080, "port": 80, "protocol": "TCP"}]}


class Kept:
    """Claims that listen to a store."""

    def __init__(self) -> None:
        self.contested: list[Key] = []
        self.let_go: list[str] = []
        self.store, self.claims = Store(), Claims(self.contested.append, self.let_go.append)
        self.store.listen(self.claims.observe)
        self._version = 0

    def put(self, *ips: str, on: str = A, mac: str = MAC, network: str = "lan", **changes: Any) -> Object:
        """The watch tells of a machine with one interface, with these addresses; without any it has no interface."""
        asked = [one["portForwards"] for one in changes.get("interfaces", ()) if "portForwards" in one]
        row = claimed("lan", network, mac, *ips) | ({"portForwards": asked[0]} if asked else {})
        rows = {"interfaces": [row]} if ips else {}
        return self.tell((placed(on) if on else {"token": 1}) | rows, **changes)

    def tell(self, placement: dict[str, Any] | None, **changes: Any) -> Object:
        self._version += 1
        told = vm(version=self._version, placement=placement, **changes)
        self.store.put(VIRTUAL_MACHINES, told)
        return told

    def held(self, version: int = 4, network: str = "lan") -> dict[str, list[str]]:
        """The machines that hold each address."""
        addresses = self.claims.addresses(f"{network}-uid", 4 if version == 4 else 6)
        return {
            text_of(4 if version == 4 else 6, number): [str(holder) for holder in holders]
            for number, holders in addresses.items()
        }


@pytest.fixture
def kept() -> Kept:
    return Kept()


def test_a_machine_holds_what_its_placement_says(kept: Kept) -> None:
    kept.put("10.20.0.2", "fd00:20::2")
    assert kept.held() == {"10.20.0.2": ["shop/web"]}
    assert kept.held(6) == {"fd00:20::2": ["shop/web"]}
    assert kept.claims.macs("lan-uid") == {MAC: (WEB,)}
    assert kept.claims.used("lan-uid") == 1
    assert kept.claims.hypervisors("lan-uid") == [A]
    assert kept.claims.machines("lan-uid") == [Key("shop", "web")]


def test_a_machine_without_interfaces_holds_nothing(kept: Kept) -> None:
    kept.put()
    assert (kept.held(), kept.claims.used("lan-uid"), kept.claims.interfaces_of("vm-1")) == ({}, 0, [])


def test_two_networks_may_have_the_same_addresses(kept: Kept) -> None:
    kept.put("10.20.0.2")
    kept.put("10.20.0.2", network="wan", name="db", uid="vm-2")
    assert kept.held() == {"10.20.0.2": ["shop/web"]}
    assert kept.held(network="wan") == {"10.20.0.2": ["shop/db"]}


def test_an_unplaced_machine_keeps_its_addresses_and_no_host_port(kept: Kept) -> None:
    kept.put("10.20.0.2", interfaces=[HTTP])
    assert kept.claims.ports("host-a") == {HostPort(8080, "TCP"): (WEB,)}
    kept.put("10.20.0.2", on="", interfaces=[HTTP])
    assert kept.held() == {"10.20.0.2": ["shop/web"]}
    assert kept.claims.ports("host-a") == {}
    assert kept.claims.hypervisors("lan-uid") == []


def test_a_machine_that_moved_takes_the_ports_of_its_new_host(kept: Kept) -> None:
    kept.put("10.20.0.2", interfaces=[HTTP])
    kept.put("10.20.0.2", on=B, interfaces=[HTTP])
    assert kept.claims.ports("host-a") == {}
    assert kept.claims.ports("host-b") == {HostPort(8080, "TCP"): (WEB,)}
    assert kept.claims.hypervisors("lan-uid") == [B]


def test_the_hypervisors_of_one_host_share_its_ports(kept: Kept) -> None:
    kept.put("10.20.0.2", on="host-a-lxc", interfaces=[HTTP])
    assert set(kept.claims.ports("host-a")) == {HostPort(8080, "TCP")}


def test_a_machine_that_is_being_deleted_holds_on_and_one_that_is_gone_does_not(kept: Kept) -> None:
    told = kept.put("10.20.0.2", metadata={"deletionTimestamp": DELETED_AT}, interfaces=[HTTP])
    assert kept.held()
    kept.store.remove(VIRTUAL_MACHINES, told)
    assert (kept.held(), kept.claims.used("lan-uid"), kept.claims.ports("host-a")) == ({}, 0, {})


def test_a_name_that_was_made_again_holds_nothing_of_the_one_before(kept: Kept) -> None:
    kept.put("10.20.0.2")
    kept.tell(None, uid="vm-9")
    assert kept.held() == {}


# --- claims that are given up -----------------------------------------------------------------------------------------


def given_up(kept: Kept, token: int, *reported: Any, heard: int, now: Any = ()) -> None:
    """The placement had 10.20.0.2 in `lan`; now it has `now`; its agent has heard of a token, and reports rows."""
    host = {"hypervisor": A, "token": heard, "state": "Present"}
    kept.tell(placed(A, token=token, interfaces=list(now)), status={"host": host, "interfaces": list(reported)})


ROW = claimed("lan", "lan", MAC, "10.20.0.2")
CHANGED = claimed("lan", "lan", MAC, "10.20.0.3")
MOVED = claimed("lan", "wan", MAC, "10.21.0.2")


@pytest.mark.parametrize("now", [[], [CHANGED], [MOVED]], ids=["removed", "other addresses", "another network"])
def test_what_is_given_up_is_held_until_the_agent_says_that_the_guest_has_it_no_more(kept: Kept, now: Any) -> None:
    given_up(kept, 1, ROW, heard=1, now=[ROW])
    new = [address for row in now if row is CHANGED for address in row["ipAddresses"]]
    given_up(kept, 2, heard=1, now=now)  # it may be plugging it in this moment
    assert sorted(kept.held()) == ["10.20.0.2", *new]
    given_up(kept, 2, ROW, heard=2, now=now)
    assert sorted(kept.held()) == ["10.20.0.2", *new]
    given_up(kept, 2, *now, heard=2, now=now)
    assert sorted(kept.held()) == new


def test_it_is_told_which_network_a_machine_has_let_go_of_also_when_that_shows_in_a_token_alone(kept: Kept) -> None:
    given_up(kept, 1, heard=1, now=[ROW])
    given_up(kept, 2, heard=1, now=[MOVED])
    assert kept.let_go == []
    given_up(kept, 2, heard=2, now=[MOVED])
    assert kept.let_go == ["lan-uid"]


def test_it_is_told_which_network_a_placement_that_was_refused_does_not_take(kept: Kept) -> None:
    machine = kept.tell(None)
    with pytest.raises(Conflict), kept.claims.assumed(machine, wanted("10.20.0.2")):
        raise Conflict("it changed", status=409)
    assert kept.let_go == ["lan-uid"]


def test_an_operator_that_starts_knows_what_guests_still_have(kept: Kept) -> None:
    given_up(kept, 2, ROW, heard=2)
    assert kept.held() == {"10.20.0.2": ["shop/web"]}
    assert kept.claims.used("lan-uid") == 1


def test_rows_of_an_older_agent_which_told_no_network_hold_nothing(kept: Kept) -> None:
    given_up(kept, 2, {"name": "lan", "macAddress": MAC, "ipAddresses": ["10.20.0.2"]}, heard=2, now=[CHANGED])
    assert kept.held() == {"10.20.0.3": ["shop/web"]}


def test_a_machine_that_is_off_its_host_has_nothing_but_its_placement(kept: Kept) -> None:
    host = {"hypervisor": A, "token": 2, "state": "Removed"}
    kept.tell(placed(A, token=2), status={"host": host, "interfaces": [ROW]})
    assert kept.held() == {}


def test_news_from_before_do_not_undo_a_change_that_is_being_written(kept: Kept) -> None:
    given_up(kept, 1, ROW, heard=1, now=[ROW])
    machine = kept.tell(placed(A, token=1, interfaces=[ROW]))
    more = placed(A, token=2, interfaces=[ROW, claimed("dmz", "lan", "52:54:00:00:00:02", "10.20.0.4")])
    with kept.claims.assumed(machine, more):
        given_up(kept, 1, ROW, heard=1, now=[ROW])
        assert sorted(kept.held()) == ["10.20.0.2", "10.20.0.4"]


def test_other_kinds_hold_nothing(kept: Kept) -> None:
    kept.store.put(NETWORKS, network())
    assert kept.claims.used("lan-uid") == 0


def test_what_is_left_is_counted_exactly_and_follows_every_change(kept: Kept) -> None:
    assert kept.claims.left("lan-uid", LAN) == 5
    for index in range(2, 7):
        assert not kept.claims.is_exhausted("lan-uid", LAN)
        last = kept.put(f"10.20.0.{index}", name=f"vm-{index}", uid=f"vm-{index}", mac=f"52:54:00:00:00:0{index}")
        assert kept.claims.left("lan-uid", LAN) == 6 - index
    assert kept.claims.is_exhausted("lan-uid", LAN)
    kept.store.remove(VIRTUAL_MACHINES, last)
    assert kept.claims.left("lan-uid", LAN) == 1
    assert not kept.claims.is_exhausted("lan-uid", LAN)
    assert kept.claims.is_exhausted("lan-uid", LAN, 1)


def test_addresses_that_are_no_longer_usable_hide_none_that_are_left(kept: Kept) -> None:
    for index in range(5):
        kept.put(f"10.99.0.{index}", name=f"vm-{index}", uid=f"vm-{index}", mac=f"52:54:00:00:00:0{index}")
    assert not kept.claims.is_exhausted("lan-uid", LAN)
    assert kept.claims.left("lan-uid", LAN) == 5


def test_it_is_told_when_a_network_gets_its_first_interface_and_loses_its_last(kept: Kept) -> None:
    seen = [kept.claims.in_use_revision]
    told = kept.put("10.20.0.2")
    seen.append(kept.claims.in_use_revision)
    assert seen[1] != seen[0]
    second = kept.put("10.20.0.3", name="db", uid="vm-2", mac="52:54:00:00:00:02")
    assert kept.claims.in_use_revision == seen[1]
    kept.store.remove(VIRTUAL_MACHINES, told)
    assert kept.claims.in_use_revision == seen[1]
    kept.store.remove(VIRTUAL_MACHINES, second)
    assert kept.claims.in_use_revision != seen[1]


# --- claims that are being written ------------------------------------------------------------------------------------


def wanted(*ips: str, **more: Any) -> dict[str, Any]:
    return placed(A, interfaces=[claimed("lan", "lan", MAC, *ips) | more])


def test_claims_that_are_being_written_count_already(kept: Kept) -> None:
    machine = kept.tell(None)
    with kept.claims.assumed(machine, wanted("10.20.0.2", portForwards=HTTP["portForwards"])):
        assert kept.held() == {"10.20.0.2": ["shop/web"]}
        assert set(kept.claims.ports("host-a")) == {HostPort(8080, "TCP")}


@pytest.mark.parametrize("before", [(), ("10.20.0.9",)], ids=["it had none", "it had others"])
def test_claims_that_the_api_server_refused_count_no_longer(kept: Kept, before: tuple[str, ...]) -> None:
    machine = kept.put(*before, on="")
    with pytest.raises(Conflict), kept.claims.assumed(machine, wanted("10.20.0.2")):
        raise Conflict("changed", status=409)
    assert list(kept.held()) == list(before)


def test_claims_that_were_seen_meanwhile_count_on(kept: Kept) -> None:
    machine = kept.tell(None)
    with kept.claims.assumed(machine, wanted("10.20.0.2")):
        kept.put("10.20.0.2")
    assert kept.held() == {"10.20.0.2": ["shop/web"]}


def test_other_news_of_the_machine_do_not_undo_what_is_being_written(kept: Kept) -> None:
    machine = kept.tell(None)
    with kept.claims.assumed(machine, wanted("10.20.0.2")):
        kept.tell(None, metadata={"labels": {"a": "b"}})
        assert kept.held() == {"10.20.0.2": ["shop/web"]}
    assert kept.held() == {}


@pytest.mark.parametrize(
    "error", [ApiUnavailable("no answer"), asyncio.CancelledError()], ids=["no answer", "the pass took too long"]
)
def test_a_write_without_an_answer_may_have_come_through_and_its_claims_are_given_to_nobody(
    kept: Kept, error: BaseException
) -> None:
    machine = kept.tell(None)
    with pytest.raises(type(error)), kept.claims.assumed(machine, wanted("10.20.0.2")):
        raise error
    assert kept.held() == {"10.20.0.2": ["shop/web"]}
    assert kept.claims.interfaces_of("vm-1") == wanted("10.20.0.2")["interfaces"]


def test_news_of_a_machine_settle_whether_a_write_without_an_answer_came_through(kept: Kept) -> None:
    machine = kept.tell(None)
    with pytest.raises(ApiUnavailable), kept.claims.assumed(machine, wanted("10.20.0.2")):
        raise ApiUnavailable("no answer")
    kept.tell(None, metadata={"labels": {"a": "b"}})
    assert kept.held() == {}


def test_a_machine_that_goes_while_it_is_being_placed_leaves_nothing_held(kept: Kept) -> None:
    machine = kept.tell(None)
    with kept.claims.assumed(machine, wanted("10.20.0.2")):
        kept.store.remove(VIRTUAL_MACHINES, machine)
        assert kept.held() == {}
    assert kept.held() == {}


# --- two holders ------------------------------------------------------------------------------------------------------


def test_both_holders_of_an_address_are_kept_and_told(kept: Kept) -> None:
    kept.put("10.20.0.2", interfaces=[HTTP])
    assert kept.contested == []
    second = kept.put("10.20.0.2", name="db", uid="vm-2", interfaces=[HTTP])
    assert kept.held() == {"10.20.0.2": ["shop/web", "shop/db"]}
    assert set(kept.contested) == {WEB.key, DB.key}
    assert [(one.reason, one.what, one.others) for one in kept.claims.contests("vm-2")] == [
        ("AddressInUse", "10.20.0.2", (WEB,)),
        ("MacAddressInUse", MAC, (WEB,)),
        ("HostPortInUse", "host port 8080/TCP", (WEB,)),
    ]
    kept.contested.clear()
    kept.store.remove(VIRTUAL_MACHINES, second)
    assert kept.held() == {"10.20.0.2": ["shop/web"]}
    assert set(kept.contested) == {WEB.key}
    assert list(kept.claims.contests("vm-1")) == []
    assert number_of("10.20.0.2")[1] in kept.claims.addresses("lan-uid", 4)
