"""What an agent says of its Hypervisor and of the pools that it reaches."""

import asyncio
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from tests.agent.doubles import InMemoryClient
from tests.agent.objects import HYPERVISOR, conditions, hypervisor, pool, tell
from virtplane_agent.endpoints import Endpoint
from virtplane_agent.hypervisors.pools import PoolProbe
from virtplane_agent.hypervisors.reconcile import NameTaken, register
from virtplane_agent.hypervisors.status import hypervisor_status
from virtplane_api.host_networks import GivenNetwork, VlanRange
from virtplane_api.kube.informer import Informer
from virtplane_api.kube.resources import HYPERVISORS, STORAGE_POOLS, Object
from virtplane_drivers.attachment import FakeAttachment
from virtplane_drivers.hypervisor.contract import Facts
from virtplane_drivers.hypervisor.fake import FakeHypervisor
from virtplane_drivers.storage.contract import Pool, PoolFacts
from virtplane_drivers.storage.directory import DirectoryStorage
from virtplane_drivers.storage.fake import FakeStorage

FACTS = Facts(
    version="7.2.22",
    cpu_cores=16,
    memory_mib=65536,
    allocatable_memory_mib=61440,
    attachments=frozenset({FakeAttachment}),
    capabilities=frozenset({"ShutDown", "SerialConsole"}),
    missing={"OwnCgroup": "start the agent as root", "HardwareAcceleration": "/dev/kvm: no such device"},
)
CIDR = ip_network("10.22.0.0/16")
ENDPOINT = Endpoint(HYPERVISOR, FakeHypervisor(), FACTS, ("fake",))


def status(**changes: Any) -> dict[str, Any]:
    lists: dict[str, Any] = {field: [] for field in ("pools", "network_modes", "networks", "orphans")}
    said = {"agent_version": "0.1.0", "pool_types": ["fake", "directory"]} | lists | changes
    return hypervisor_status(hypervisor(), FACTS, **said)


def test_a_hypervisor_says_what_its_host_is_and_can_do() -> None:
    said = status()
    assert conditions(said) == {"Ready": ("True", "Running")}
    del said["conditions"]
    assert said == {
        "observedGeneration": 3,
        "version": "7.2.22",
        "agentVersion": "0.1.0",
        "capacity": {"cpuCores": 16, "memory": "64Gi", "allocatableMemory": "60Gi"},
        "capabilities": ["SerialConsole", "ShutDown"],
        "missingCapabilities": [
            {"name": "HardwareAcceleration", "message": "/dev/kvm: no such device"},
            {"name": "OwnCgroup", "message": "start the agent as root"},
        ],
        "poolTypes": ["directory", "fake"],
    }


def test_what_is_given_to_networks_is_said_also_when_it_is_nothing() -> None:
    given = status(host_networks=[GivenNetwork("br-dmz", VlanRange(20, 20)), GivenNetwork("br-lan")], routed=[CIDR])
    assert given["hostNetworks"] == [{"name": "br-dmz", "vlans": {"first": 20, "last": 20}}, {"name": "br-lan"}]
    assert given["routedCIDRs"] == ["10.22.0.0/16"]
    nothing = status(host_networks=(), routed=())
    assert (nothing["hostNetworks"], nothing["routedCIDRs"]) == ([], [])
    assert not {"hostNetworks", "routedCIDRs"} & status().keys()


def test_pools_and_orphans_are_said_where_there_are_some() -> None:
    reports, orphans = [{"name": "fast"}], [{"uid": "vm-1"}]
    said = status(pools=reports, orphans=orphans)
    assert (said["pools"], said["orphans"]) == (reports, orphans)


# --- pools ------------------------------------------------------------------------------------------------------------


async def names_reported(pools: list[Object], labels: dict[str, str], *, types: tuple[str, ...] = ("fake",)) -> Any:
    reports = await reported(pools, labels, types=types)
    return [report["name"] for report in reports]


async def reported(
    pools: list[Object],
    labels: dict[str, str] | None = None,
    *,
    types: tuple[str, ...] = ("fake",),
    storage: FakeStorage | None = None,
) -> list[dict[str, Any]]:
    informer = Informer(InMemoryClient(), STORAGE_POOLS, lambda _key: None)
    for one in pools:
        tell(informer, one)
    probe = PoolProbe(informer, {"fake": storage or FakeStorage()})
    return await probe.reports(hypervisor(labels=labels), Endpoint(HYPERVISOR, FakeHypervisor(), FACTS, types))


SELECTED: list[tuple[str, dict[str, Any], dict[str, str], bool]] = [
    ("no selector", {}, {}, True),
    ("an empty selector", {"hypervisorSelector": {}}, {}, True),
    ("no label in it", {"hypervisorSelector": {"matchLabels": {}}}, {}, True),
    ("the label", {"hypervisorSelector": {"matchLabels": {"zone": "a"}}}, {"zone": "a", "rack": "1"}, True),
    ("another value", {"hypervisorSelector": {"matchLabels": {"zone": "a"}}}, {"zone": "b"}, False),
    ("no such label", {"hypervisorSelector": {"matchLabels": {"zone": "a"}}}, {}, False),
    ("one of two", {"hypervisorSelector": {"matchLabels": {"zone": "a", "rack": "1"}}}, {"zone": "a"}, False),
    ("both", {"hypervisorSelector": {"matchLabels": {"zone": "a", "rack": "1"}}}, {"zone": "a", "rack": "1"}, True),
]


@pytest.mark.parametrize(
    ("spec", "labels", "selected"), [row[1:] for row in SELECTED], ids=[row[0] for row in SELECTED]
)
async def test_a_pool_concerns_the_hypervisors_that_its_selector_names(
    spec: dict[str, Any],
    labels: dict[str, str],
    selected: bool,  # noqa: FBT001
) -> None:
    assert await names_reported([pool(**spec)], labels) == (["fast"] if selected else [])


async def test_a_pool_of_a_type_that_the_hypervisor_cannot_use_is_not_reported() -> None:
    images = pool("images", directory={"path": "/srv/images"})
    assert await names_reported([images, pool()], {}) == ["fast"]


async def test_pools_are_reported_by_name_with_their_uid_and_size() -> None:
    assert await reported([pool("slow"), pool("fast")]) == [
        {"name": "fast", "uid": "fast-uid", "state": "Ready", "capacity": "1Ti"},
        {"name": "slow", "uid": "slow-uid", "state": "Ready", "capacity": "1Ti"},
    ]


async def test_a_pool_that_cannot_be_reached_says_why_at_most_as_long_as_the_schema_takes() -> None:
    storage = FakeStorage()
    storage.faults.unreachable = "no route; " * 1000
    [report] = await reported([pool()], storage=storage)
    assert (report["state"], "capacity" in report) == ("Failed", False)
    assert report["message"].startswith("no route; ")
    assert len(report["message"]) == 1024


async def test_a_real_directory_is_probed_and_one_that_cannot_be_made_is_failed(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    informer = Informer(InMemoryClient(), STORAGE_POOLS, lambda _key: None)
    tell(informer, pool("good", directory={"path": str(tmp_path / "good")}))
    tell(informer, pool("bad", directory={"path": str(tmp_path / "file" / "below")}))
    async with DirectoryStorage(cache_folder=tmp_path / "cache") as storage:
        endpoint = Endpoint(HYPERVISOR, FakeHypervisor(), FACTS, ("directory",))
        bad, good = await PoolProbe(informer, {"directory": storage}).reports(hypervisor(), endpoint)
    assert (bad["name"], bad["state"]) == ("bad", "Failed")
    assert str(tmp_path / "file") in bad["message"]
    assert (good["name"], good["state"]) == ("good", "Ready")


async def test_a_pool_that_does_not_answer_keeps_no_other_from_being_asked() -> None:
    all_are_asked = asyncio.Barrier(2)

    class Waits(FakeStorage):
        async def probe(self, pool: Pool) -> PoolFacts:
            await all_are_asked.wait()
            return await super().probe(pool)

    async with asyncio.timeout(5):
        reports = await reported([pool("fast"), pool("slow")], storage=Waits())
    assert [(report["name"], report["state"]) for report in reports] == [("fast", "Ready"), ("slow", "Ready")]


# --- the object itself ------------------------------------------------------------------------------------------------


async def test_a_hypervisor_is_made_once_and_what_a_person_changed_in_it_stays(client: InMemoryClient) -> None:
    await register(client, "host-a", ENDPOINT)
    made = await client.get(HYPERVISORS, HYPERVISOR)
    assert made["spec"] == {"driver": "fake", "agentName": "host-a"}
    made["spec"]["unschedulable"] = True
    client.put(HYPERVISORS, made)
    await register(client, "host-a", ENDPOINT)
    assert (await client.get(HYPERVISORS, HYPERVISOR))["spec"]["unschedulable"] is True


async def test_a_hypervisor_of_another_agent_is_not_taken(client: InMemoryClient) -> None:
    await register(client, "host-a", ENDPOINT)
    with pytest.raises(NameTaken, match="belongs to agent host-a; start this agent under another --name"):
        await register(client, "host-b", ENDPOINT)
