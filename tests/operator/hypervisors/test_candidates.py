"""Which Hypervisors networks count on, and what of one is a reason to look at networks again."""

import pytest

from tests.agent.doubles import InMemoryClient
from tests.operator.objects import hypervisor
from virtplane_api.kube.resources import HYPERVISORS, Object
from virtplane_api.names import SYSTEM_NAMESPACE
from virtplane_operator.hypervisors.candidates import Candidates, networks_facts_of
from virtplane_operator.networks.claims import Claims
from virtplane_operator.world import AgentHealth, Store, Usage


def of(*, spoken: bool = True, leaves: bool = False, **status: object) -> Object:
    one = hypervisor()
    one["status"] |= status | ({"capacity": {"cpuCores": 4}} if spoken else {})
    one["metadata"] |= {"deletionTimestamp": "2026-11-30T10:00:00Z"} if leaves else {}
    return one


def test_a_candidate_has_the_networks_that_it_reports() -> None:
    store = Store()
    store.put(HYPERVISORS, of(networks=[{"uid": "lan-uid", "state": "Failed"}]))
    health = AgentHealth(InMemoryClient(), SYSTEM_NAMESPACE, lambda _agent: None)
    (found,) = Candidates(store, Usage(), Claims(), health).all()
    assert found.networks == {"lan-uid"}


@pytest.mark.parametrize(
    ("one", "counts"), [(of(), True), (of(spoken=False), False), (of(leaves=True), False)], ids=["stays", "new", "goes"]
)
def test_networks_count_on_who_has_spoken_and_stays(one: Object, *, counts: bool) -> None:
    store = Store()
    store.put(HYPERVISORS, one)
    health = AgentHealth(InMemoryClient(), SYSTEM_NAMESPACE, lambda _agent: None)
    found = [candidate.name for candidate in Candidates(store, Usage(), Claims(), health).reported()]
    assert found == (["host-a-qemu"] if counts else [])
    # Who comes to count, or does no more, is a reason to look again.
    assert (networks_facts_of(one) != networks_facts_of(None)) == counts


@pytest.mark.parametrize(
    "status",
    [
        {"networkModes": ["NAT"]},
        {"missingCapabilities": [{"name": "NetworkVLAN", "message": "none is given"}]},
        {"hostNetworks": []},
        {"routedCIDRs": []},
        {"networks": [{"uid": f"uid-{number}", "state": "Ready"} for number in range(256)]},
        {"underlay": {"address": "192.0.2.1", "mtu": 1500}, "networkModes": ["Overlay"]},
    ],
)
def test_what_it_gives_to_networks_is_a_reason_to_look_again_and_a_report_of_them_is_none(status: Object) -> None:
    assert networks_facts_of(of()) != networks_facts_of(of(**status))
    assert networks_facts_of(of()) == networks_facts_of(of(networks=[{"uid": "lan-uid", "state": "Ready"}]))
