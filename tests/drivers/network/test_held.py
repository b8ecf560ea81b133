"""Which ports of before stay served while a hypervisor holds them."""

from dataclasses import replace
from ipaddress import ip_address

import pytest

from virtplane_api.vocabulary import ForwardProtocol, NetworkMode
from virtplane_drivers.network.contract import Network, Port, PortForward
from virtplane_drivers.network.held import still_served

FORWARD = PortForward(ForwardProtocol.TCP, 8080, 80)
OLD = Port("vm-old", "old", "lan", "52:54:00:00:00:01", (ip_address("10.20.0.9"),), (FORWARD,))
OTHER = Port("vm-new", "new", "lan", "52:54:00:00:00:02", (ip_address("10.20.0.10"),))


def network(*ports: Port) -> Network:
    return Network("net-1", "shop", "lan", NetworkMode.NAT, ports=ports)


@pytest.mark.parametrize("now", [(), (OTHER,)], ids=["nobody", "another"])
def test_one_that_is_not_asked_for_any_more_may_go_on(now: tuple[Port, ...]) -> None:
    assert still_served(network(OLD), network(*now)) == (OLD,)


@pytest.mark.parametrize(
    "now",
    [
        replace(OTHER, mac=OLD.mac),
        replace(OTHER, addresses=OLD.addresses),
        replace(OTHER, forwards=(PortForward(ForwardProtocol.TCP, 8080, 81),)),
    ],
    ids=["MAC", "address", "host port"],
)
def test_what_another_one_is_given_is_that_one_s(now: Port) -> None:
    assert still_served(network(OLD), network(now)) == ()


def test_one_that_is_asked_for_is_as_it_is_asked_for() -> None:
    changed = replace(OLD, addresses=(ip_address("10.20.0.11"),))
    assert still_served(network(OLD), network(changed)) == ()
    udp = replace(OTHER, forwards=(PortForward(ForwardProtocol.UDP, 8080, 81),))
    assert still_served(network(OLD), network(udp)) == (OLD,)
