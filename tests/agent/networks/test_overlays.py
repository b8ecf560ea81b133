"""What a driver is told of a network of mode Overlay beyond its host."""

from ipaddress import ip_address

import pytest

from tests.agent.objects import network, placed_interface, vm
from virtplane_agent.networks.desired import network_value, overlay_value, remote_machines
from virtplane_api.kube.resources import Object, uid_of
from virtplane_api.reasons import Reason
from virtplane_drivers.errors import Unavailable
from virtplane_drivers.network.overlay import Overlay, RemoteMachine, Underlay

STATUS = {
    "vni": 5000,
    "mtu": 1450,
    "peers": [{"agentName": "host-a", "address": "192.0.2.11"}, {"agentName": "host-b", "address": "192.0.2.12"}],
}
UNDERLAY = Underlay(ip_address("192.0.2.11"), 1500)


def test_an_overlay_has_all_other_hosts_as_peers_and_the_mtu_that_was_claimed() -> None:
    wide = network("wide", mode="Overlay", mtu=1400) | {"status": STATUS}
    remote = RemoteMachine("db", (ip_address("10.20.0.9"),))
    overlay = overlay_value(wide, UNDERLAY, [remote])
    assert overlay == Overlay(5000, ip_address("192.0.2.11"), (ip_address("192.0.2.12"),), (remote,))
    value = network_value(wide, (), overlay)
    assert (value.mtu, value.overlay) == (1450, overlay)


def test_an_address_that_two_hosts_have_is_told_to_the_driver() -> None:
    twice = STATUS | {"peers": [{"agentName": name, "address": "192.0.2.11"} for name in ("host-a", "host-b")]}
    overlay = overlay_value(network("wide", mode="Overlay") | {"status": twice}, UNDERLAY, ())
    assert overlay.peers == (UNDERLAY.address,)


@pytest.mark.parametrize("status", [{}, {"vni": 5000}, {"mtu": 1450}])
def test_an_overlay_that_lacks_a_claim_is_not_ready(status: Object) -> None:
    with pytest.raises(Unavailable) as refused:
        overlay_value(network("wide", mode="Overlay") | {"status": status}, UNDERLAY, ())
    assert refused.value.reason == Reason.NETWORK_NOT_READY


def test_names_of_machines_of_other_hosts_are_told_once_they_have_addresses() -> None:
    wide = network("wide")
    there = vm("there", uid="there-uid", agent="host-b", interfaces=[placed_interface("eth0", wide, "10.20.0.9")])
    here = vm("here", uid="here-uid", interfaces=[placed_interface("eth0", wide, "10.20.0.10")])
    gone = vm(
        "gone", uid="gone-uid", interfaces=[placed_interface()], status={"host": {"state": "Removed", "token": 1}}
    )
    found = remote_machines([there, here, gone], uid_of(wide), {"here-uid"})
    assert found == (RemoteMachine("there", (ip_address("10.20.0.9"),)),)
    assert remote_machines([there, here, gone], "other-uid", ()) == ()
