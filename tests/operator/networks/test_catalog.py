"""Which networks are served: of Routed ones that overlap, the first."""

from typing import Any

import pytest

from tests.operator.objects import claimed, network, placed, vm
from virtplane_api.kube.resources import NETWORKS, VIRTUAL_MACHINES, Key, Object
from virtplane_operator.networks.catalog import Catalog
from virtplane_operator.networks.claims import Claims
from virtplane_operator.world import Store


class World:
    """Networks in a store, and machines on them."""

    def __init__(self) -> None:
        self.store, self.claims = Store(), Claims()
        self.catalog = Catalog(self.store, self.claims)
        self.store.listen(self.claims.observe)
        self.store.listen(self.catalog.observe)
        self._version = 0

    def put(self, name: str, cidr: str = "", *, day: int = 1, mode: str = "Routed", **more: Any) -> Object:
        """A network that was made on a day of the month."""
        self._version += 1
        subnets: dict[str, Any] = {"ipv6" if ":" in cidr else "ipv4": {"cidr": cidr}} if cidr else {}
        created = {"creationTimestamp": f"2026-11-{day:02}T00:00:00Z"}
        made = network(name, version=self._version, mode=mode, metadata=created, **subnets, **more)
        self.store.put(NETWORKS, made)
        return made

    def use(self, name: str, machine: str = "web") -> Object:
        row = claimed("lan", name, "52:54:00:00:00:01")
        user = vm(machine, uid=f"{machine}-uid", placement=placed(interfaces=[row]))
        self.store.put(VIRTUAL_MACHINES, user)
        return user

    @property
    def refused(self) -> dict[str, str]:
        """The networks that are not served, and why."""
        found = {}
        for key in self.store.all(NETWORKS):
            parsed = self.catalog.get(key)
            assert parsed is not None
            why = self.catalog.not_served(parsed)
            if why is not None:
                found[key.name] = why.reason
        return found


@pytest.fixture
def world() -> World:
    return World()


def test_of_routed_networks_that_overlap_the_younger_is_not_served(world: World) -> None:
    world.put("a", "10.20.0.0/24", day=2)
    world.put("b", "10.20.0.0/16", day=1)
    world.put("c", "10.30.0.0/16", day=3)
    assert world.refused == {"a": "NetworksOverlap"}


def test_of_the_same_age_the_first_by_name_is_served(world: World) -> None:
    world.put("b", "10.20.0.0/24")
    world.put("a", "10.20.0.0/24")
    assert world.refused == {"b": "NetworksOverlap"}


def test_one_that_is_not_served_is_in_nobody_s_way(world: World) -> None:
    world.put("a", "10.20.0.0/24", day=1)
    world.put("b", "10.20.0.0/16", day=2)
    world.put("c", "10.20.1.0/24", day=3)
    assert world.refused == {"b": "NetworksOverlap"}


@pytest.mark.parametrize("mode", ["NAT", "Isolated", "Bridge", "Overlay", "User"])
def test_networks_of_other_modes_may_overlap(world: World, mode: str) -> None:
    world.put("a", "10.20.0.0/24", mode=mode)
    world.put("b", "10.20.0.0/24", mode=mode)
    world.put("c", "10.20.0.0/24", mode="Routed")
    assert world.refused == {}


def test_families_are_compared_each_by_itself(world: World) -> None:
    world.put("a", "fd00:20::/64")
    world.put("b", "10.20.0.0/24")
    world.put("c", "fd00:20::/64")
    assert world.refused == {"c": "NetworksOverlap"}


def test_one_that_contradicts_itself_is_in_nobody_s_way(world: World) -> None:
    world.put("a", ipv4={"cidr": "10.20.0.0/24", "gateway": "10.20.0.255"}, day=1)
    world.put("b", "10.20.0.0/24", day=2)
    assert world.refused == {"a": "NetworkInvalid"}


def test_the_younger_is_served_once_the_older_is_gone_or_elsewhere(world: World) -> None:
    older = world.put("a", "10.20.0.0/24", day=1)
    world.put("b", "10.20.0.0/24", day=2)
    assert world.refused == {"b": "NetworksOverlap"}
    world.put("a", "10.30.0.0/24", day=1)
    assert world.refused == {}
    world.put("a", "10.20.0.0/24", day=1)
    assert world.refused == {"b": "NetworksOverlap"}
    world.store.remove(NETWORKS, older)
    assert world.refused == {}


def test_a_network_with_machines_loses_to_none_that_nobody_uses(world: World) -> None:
    world.put("a", "10.30.0.0/24", day=1)
    world.put("b", "10.20.0.0/24", day=2)
    user = world.use("b")
    world.put("a", "10.20.0.0/24", day=1)
    assert world.refused == {"a": "NetworksOverlap"}
    world.store.remove(VIRTUAL_MACHINES, user)
    assert world.refused == {"b": "NetworksOverlap"}


def test_a_network_is_found_by_its_uid_while_it_is_there(world: World) -> None:
    made = world.put("a", "10.20.0.0/24")
    assert world.catalog.key_of("a-uid") == Key("shop", "a")
    world.store.remove(NETWORKS, made)
    assert world.catalog.key_of("a-uid") is None
    assert world.catalog.get(Key("shop", "a")) is None


V4, V6, SLAAC = {"cidr": "10.20.0.0/24"}, {"cidr": "fd00:20::/64"}, {"cidr": "fd00:20::/64", "addressing": "SLAAC"}


@pytest.mark.parametrize(
    ("addresses", "counted"),
    [
        ({"ipv4": V4, "ipv6": V6}, "10.20.0.0/24"),
        ({"ipv4": V4, "ipv6": SLAAC}, "10.20.0.0/24"),
        ({"ipv6": V6}, "fd00:20::/64"),
        ({"ipv6": SLAAC}, "None"),
        ({"bridge": {"name": "br-lan"}}, "None"),
    ],
)
def test_free_are_the_addresses_of_the_first_family_that_are_claimed(
    world: World, addresses: dict[str, Any], counted: str
) -> None:
    parsed = world.catalog.parse(network(**addresses))
    assert str(parsed.counted and parsed.counted.cidr) == counted
