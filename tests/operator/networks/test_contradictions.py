"""What a network's spec says against itself, where no schema can tell."""

from typing import Any

import pytest

from tests.operator.objects import network, store_of
from virtplane_api.kube.resources import Key
from virtplane_operator.networks.catalog import Catalog
from virtplane_operator.networks.claims import Claims

V4 = {"cidr": "10.20.0.0/24"}
V6 = {"cidr": "fd00:20::/64"}
BY_FIVE = {"via": "10.20.0.5"}


def contradiction(**spec: Any) -> str:
    found = Catalog(store_of(network(**spec)), Claims()).get(Key("shop", "lan"))
    assert found is not None
    return found.contradiction


def excluded(start: str, end: str) -> dict[str, Any]:
    return {"excludedRanges": [{"start": "10.20.0.200", "end": "10.20.0.210"}, {"start": start, "end": end}]}


FIRST = ", the first one, as spec names none"
NAME_ANOTHER = "name another server, or none for the host's"
LEAVE_IT_OUT = "leave it out, it is never given to a machine, or set spec.ipv4.gateway to another address or to None"

BAD: list[tuple[str, dict[str, Any], str]] = [
    ("the gateway within an excluded range",
     {"ipv4": V4 | {"gateway": "10.20.0.5"} | excluded("10.20.0.2", "10.20.0.9")},
     f"spec.ipv4.excludedRanges[1]: 10.20.0.2 to 10.20.0.9 excludes the gateway 10.20.0.5; {LEAVE_IT_OUT}"),
    ("the gateway that nobody named, excluded", {"ipv4": V4 | excluded("10.20.0.1", "10.20.0.9")},
     f"spec.ipv4.excludedRanges[1]: 10.20.0.1 to 10.20.0.9 excludes the gateway 10.20.0.1{FIRST}; {LEAVE_IT_OUT}"),
    ("a range from its end to its start", {"ipv4": V4 | excluded("10.20.0.9", "10.20.0.2")},
     "spec.ipv4.excludedRanges[1]: its start 10.20.0.9 comes after its end 10.20.0.2; exchange them"),
    ("the broadcast address as gateway", {"ipv4": V4 | {"gateway": "10.20.0.255"}},
     "spec.ipv4.gateway: 10.20.0.255 is the broadcast address of 10.20.0.0/24; take another one"),
    ("loopback", {"ipv4": {"cidr": "127.0.0.0/24"}},
     "spec.ipv4.cidr: 127.0.0.0/24 holds loopback addresses, which no machine can have; take another network"),
    ("multicast", {"ipv6": {"cidr": "ff05::/64"}},
     "spec.ipv6.cidr: ff05::/64 holds multicast addresses, which no machine can have; take another network"),
    ("link-local", {"ipv4": {"cidr": "169.254.64.0/24"}},
     "spec.ipv4.cidr: 169.254.64.0/24 holds link-local addresses, which no machine can have; take another network"),
    ("no address at all", {"ipv6": {"cidr": "::/64"}},
     "spec.ipv6.cidr: ::/64 holds unspecified addresses, which no machine can have; take another network"),
    ("reserved", {"ipv4": {"cidr": "255.255.255.0/24"}},
     "spec.ipv4.cidr: 255.255.255.0/24 holds reserved addresses, which no machine can have; take another network"),
    ("a default route beside that of the host", {"ipv4": V4, "routes": [{"destination": "0.0.0.0/0"} | BY_FIVE]},
     ("spec.routes[0].destination: the way to 0.0.0.0/0 of mode NAT is by the host; route other networks, or take "
      "mode Isolated")),
    ("two ways to one network", {"ipv4": V4, "routes": [{"destination": "10.9.0.0/16"} | BY_FIVE] * 2},
     "spec.routes[1].destination: spec.routes[0] leads to 10.9.0.0/16 too; leave one out"),
    ("a route of the other family", {"ipv4": V4, "routes": [{"destination": "fd00::/64", "via": "10.20.0.5"}]},
     "spec.routes[0]: 10.20.0.5 cannot be the way to fd00::/64, which is of the other family"),
    ("a route by the gateway", {"ipv4": V4, "routes": [{"destination": "10.9.0.0/16", "via": "10.20.0.1"}]},
     "spec.routes[0].via: 10.20.0.1 is the gateway, which does the routing; name a machine's address"),
    ("a route by the broadcast address", {"ipv4": V4, "routes": [{"destination": "10.9.0.0/16", "via": "10.20.0.255"}]},
     "spec.routes[0].via: no machine can have 10.20.0.255"),
    ("a route to the network itself", {"ipv4": V4, "routes": [{"destination": "10.20.0.0/16", "via": "10.20.0.5"}]},
     "spec.routes[0].destination: 10.20.0.0/16 is a part of the network itself or holds it; route other networks"),
    ("routes of machines that do not meet",
     {"mode": "User", "ipv4": V4, "routes": [{"destination": "10.9.0.0/16"} | BY_FIVE]},
     "spec.routes: machines of mode User do not meet, so none leads to another network; leave routes out"),
    ("a name server on the router", {"ipv4": V4, "dns": {"forwarders": ["192.0.2.53", "127.0.0.1"]}},
     f"spec.dns.forwarders[1]: 127.0.0.1 is the router itself, which would ask itself; {NAME_ANOTHER}"),
    ("a router that asks itself", {"ipv4": V4, "dns": {"forwarders": ["10.20.0.1"]}},
     f"spec.dns.forwarders[0]: 10.20.0.1 is the router itself, which would ask itself; {NAME_ANOTHER}"),
    ("a name server nowhere", {"ipv6": V6, "dns": {"forwarders": ["ff02::fb"]}},
     f"spec.dns.forwarders[0]: ff02::fb is the address of no server; {NAME_ANOTHER}"),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "message"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_a_contradiction_is_named_by_its_field_with_the_next_step(spec: dict[str, Any], message: str) -> None:
    assert contradiction(**spec) == message


GOOD: list[tuple[str, dict[str, Any]]] = [
    ("two families", {"ipv4": V4, "ipv6": V6}),
    ("ranges beside the gateway", {"ipv4": V4 | excluded("10.20.0.2", "10.20.0.9")}),
    ("the first one excluded, and no gateway", {"ipv4": V4 | {"gateway": "None"} | excluded("10.20.0.1", "10.20.0.9")}),
    ("a default route by a machine, where there is no other",
     {"mode": "Isolated", "ipv4": V4, "routes": [{"destination": "0.0.0.0/0"} | BY_FIVE]}),
    ("a route by an address that is kept for it",
     {"ipv4": V4 | excluded("10.20.0.2", "10.20.0.9"), "routes": [{"destination": "10.9.0.0/16", "via": "10.20.0.5"}]}),
    ("a name server among the machines", {"ipv4": V4, "dns": {"forwarders": ["10.20.0.53", "fd00:20::53"]}}),
    ("a bridge of which nothing is known", {"mode": "Bridge", "bridge": {"name": "br-lan"}}),
]  # fmt: skip


@pytest.mark.parametrize("spec", [row[1] for row in GOOD], ids=[row[0] for row in GOOD])
def test_what_fits_together_is_no_contradiction(spec: dict[str, Any]) -> None:
    assert contradiction(**spec) == ""
