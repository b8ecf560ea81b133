"""Firewalls between real Linux guests, as users write them: by labels."""

import itertools
import json
from collections.abc import Callable

from tests.cluster.guests.quickstart import PAGE
from tests.cluster.waiting import eventually
from tests.e2e.conftest import Live, Object, condition, finished, root_disk, vm
from tests.e2e.test_actions import act
from tests.e2e.test_networks import (
    FETCH,
    addresses,
    claimed,
    linux,
    network,
    nothing_of_a_network_is_left,  # noqa: F401  # used by pytest
    on,
)

ONLY_FRONT = {
    "defaults": {"ingress": "Deny"},
    "rules": [
        {
            "name": "web",
            "direction": "Ingress",
            "action": "Allow",
            "protocol": "TCP",
            "ports": [{"port": 80}],
            "peers": {"matchLabels": {"role": "front"}},
        }
    ],
}
_numbers = itertools.count()


def labelled(machine: Object, role: str) -> Object:
    return machine | {"metadata": machine["metadata"] | {"labels": {"role": role}}}


def fetches(live: Live, namespace: str, name: str, address: str) -> str:
    """The last line of what the guest's own client gets; empty when it gets nothing in its time."""
    command = {"command": ["sh", "-c", FETCH.format(address)], "timeoutSeconds": 20}
    while True:
        name_of_act = f"fetch-{next(_numbers)}"
        live.apply(act(name_of_act, namespace, "GuestCommand", vmName=name, guestCommand=command))
        action = finished(live, name_of_act, namespace)
        if condition(action, "Failed").get("reason") != "GuestAgentSilent":  # it begins a moment after the guest
            assert condition(action, "Complete").get("status") == "True", action["status"]
            return str(action["status"]["guestCommand"]["stdout"]).strip()


def test_only_a_labelled_machine_reaches_a_web_server_and_labels_count_as_they_are_now(
    live: Live, namespace: str
) -> None:
    live.apply(
        network("lan", namespace, mode="Isolated"),
        linux(live, "web", namespace, on("lan"), firewall=ONLY_FRONT),
        labelled(linux(live, "one", namespace, on("lan")), "front"),
        labelled(linux(live, "two", namespace, on("lan")), "back"),
    )
    machines = {name: live.wait_ready(name, namespace, 120) for name in ("web", "one", "two")}
    for machine in machines.values():
        eventually(lambda: addresses(live, machine) == [claimed(machine)], 180)  # noqa: B023  # called at once
    server = claimed(machines["web"])

    def gets(name: str, text: str) -> Callable[[], bool]:
        return lambda: fetches(live, namespace, name, server) == text

    eventually(gets("one", PAGE), 120)
    assert gets("two", "")()

    live.kubectl("label", "vpvm", "two", "role=front", "--overwrite", "-n", namespace)
    eventually(gets("two", PAGE), 120)
    live.kubectl("label", "vpvm", "one", "role-", "-n", namespace)
    eventually(gets("one", ""), 120)
    assert gets("two", PAGE)()

    live.kubectl("patch", "vpvm", "web", "-n", namespace, "--type=json", "-p", json.dumps([OPEN]))
    eventually(gets("one", PAGE), 120)
    assert addresses(live, machines["web"]) == [server]  # nothing of it took a restart


OPEN = {"op": "remove", "path": "/spec/firewall"}


def test_a_machine_whose_network_can_have_no_firewall_is_not_started_without_it(live: Live, namespace: str) -> None:
    live.apply(network("lan", namespace, mode="User", firewall={"defaults": {"ingress": "Deny"}}))
    live.apply(vm("web", namespace, root_disk(live.images.source("obedient.img")), interfaces=[on("lan")]))
    waiting = live.wait_condition("vpvm", "web", namespace, "FirewallNotPossible")
    assert "passt, which serves mode User, has none" in condition(waiting, "Stalled")["message"]
    assert live.pids(waiting) == []
    live.kubectl("patch", "vpnet", "lan", "-n", namespace, "--type=json", "-p", json.dumps([OPEN]))
    live.wait_ready("web", namespace)
