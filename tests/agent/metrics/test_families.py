"""The metrics by name: as the documents say, in what Prometheus reads, each value under its own name."""

import re

import yaml

from tests.agent.metrics.documented import PAGE, documented, exported
from virtplane_agent.metrics.families import CONTENT_TYPE, text_of
from virtplane_agent.metrics.snapshot import InterfaceRow, LoopRow, Snapshot
from virtplane_drivers.network.contract import PortCounters, Traffic

FULL = Snapshot(
    version="1.2.3",
    lease_is_held=True,
    requests={("GET", "200"): 7, ("PATCH", "none"): 1},
    machines={("host-a-qemu", "Running"): 3, ("host-a-qemu", "Stopped"): 0},
    networks={("linux", "Ready"): 2},
    loops=(LoopRow("Volume", {"done": 5, "wait": 6, "failed": 7}, {"PoolSilent": 7}, 1.5, 4),),
    interfaces=(
        InterfaceRow("shop", "web", "eth0", "lan", PortCounters(Traffic(1, 2, 3, 4), Traffic(5, 6, 7, 8))),
        InterfaceRow("shop", "db", "eth0", "lan", PortCounters(Traffic(10, 20, 30, 40), Traffic(50, 60, 70, 80))),
    ),
    counters_read={"linux": True},
)
"""A value of every metric."""
_EMPTY = Snapshot()


def values(snapshot: Snapshot) -> dict[str, float]:
    """Ours, as `name{labels}` less the prefix."""
    return {
        line.rpartition(" ")[0].removeprefix("virtplane_agent_"): float(line.rpartition(" ")[2])
        for line in text_of(snapshot).decode().splitlines()
        if line.startswith("virtplane_agent_")
    }


def test_every_value_is_under_its_own_name() -> None:
    web = '{interface="eth0",name="web",namespace="shop",network="lan"}'
    db = '{interface="eth0",name="db",namespace="shop",network="lan"}'
    counted = ("bytes", "packets", "dropped", "errors")
    ways = [f"interface_{way}_{what}_total" for way in ("receive", "transmit") for what in counted]
    assert values(FULL) == {
        'build_info{version="1.2.3"}': 1,
        "lease_held": 1,
        'api_requests_total{code="200",method="GET"}': 7,
        'api_requests_total{code="none",method="PATCH"}': 1,
        'machines{hypervisor="host-a-qemu",power_state="Running"}': 3,
        'machines{hypervisor="host-a-qemu",power_state="Stopped"}': 0,
        'networks{driver="linux",state="Ready"}': 2,
        'reconcile_passes_total{kind="Volume",result="done"}': 5,
        'reconcile_passes_total{kind="Volume",result="wait"}': 6,
        'reconcile_passes_total{kind="Volume",result="failed"}': 7,
        'reconcile_failures_total{kind="Volume",reason="PoolSilent"}': 7,
        'reconcile_seconds_total{kind="Volume"}': 1.5,
        'reconcile_queue_length{kind="Volume"}': 4,
        'interface_counters_read{driver="linux"}': 1,
        **{f"{name}{web}": number for number, name in enumerate(ways, 1)},
        **{f"{name}{db}": 10 * number for number, name in enumerate(ways, 1)},
    }


def test_nothing_is_told_of_what_there_is_none() -> None:
    assert set(values(_EMPTY)) == {'build_info{version="0.1.0"}', "lease_held"}
    assert values(_EMPTY)["lease_held"] == 0


def test_the_documents_list_what_is_exported_and_nothing_else() -> None:
    assert documented() == exported(text_of(FULL).decode())


def test_the_text_is_what_its_content_type_says() -> None:
    assert CONTENT_TYPE.startswith("text/plain; version=")
    assert not text_of(_EMPTY).decode().endswith("# EOF\n")


def test_the_example_configuration_is_one() -> None:
    (example,) = re.findall(r"^```yaml\n(.*?)^```", PAGE.read_text(), re.M | re.S)
    (job,) = yaml.safe_load(example)["scrape_configs"]
    assert job["static_configs"][0]["targets"]
