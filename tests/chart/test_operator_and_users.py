"""What the operator and a namespace's users may do."""

import copy
from typing import Any

import pytest

from tests.chart.conftest import SYSTEM_NAMESPACE, Cluster
from tests.chart.test_agents import may
from virtplane_api.kube.errors import Forbidden
from virtplane_api.kube.resources import ACTIONS, NETWORKS, VIRTUAL_MACHINES, Object
from virtplane_api.names import HOST_STATE_FINALIZER, NETWORK_IN_USE_FINALIZER, OPERATOR_FIELD_MANAGER

OPERATOR = f"system:serviceaccount:{SYSTEM_NAMESPACE}:virtplane-operator"
FINALIZERS = [HOST_STATE_FINALIZER]


@pytest.mark.parametrize(
    ("kind", "patch"),
    [("vpvm", '{"spec":{"powerState":"Stopped"}}'), ("vpnet", '{"spec":{"mode":"Isolated"}}')],
    ids=["a machine", "a network"],
)
async def test_the_operator_never_changes_a_spec_of_the_user(cluster: Cluster, kind: str, patch: str) -> None:
    made = {"vpvm": await cluster.machine(), "vpnet": await cluster.network()}
    resource = {"vpvm": VIRTUAL_MACHINES, "vpnet": NETWORKS}[kind]
    operator = await cluster.operator()
    kubeconfig = cluster.control_plane.service_account_kubeconfig(SYSTEM_NAMESPACE, "virtplane-operator")
    with pytest.raises(
        Exception,
        match="spec: the operator never changes what the user of a VirtualMachine or a VirtualNetwork asked for",
    ):
        cluster.control_plane.kubectl(
            "--kubeconfig", str(kubeconfig), "patch", kind, made[kind]["metadata"]["name"], "-n", cluster.namespace,
            "--type=merge", "-p", patch,
        )  # fmt: skip
    await operator.set_finalizers(resource, made[kind], [], field_manager=OPERATOR_FIELD_MANAGER)
    used = {"used": 1, "free": 252}
    if resource is NETWORKS:
        read = await operator.get(NETWORKS, "lan", cluster.namespace)
        written = await operator.apply_status(NETWORKS, read, used, field_manager=OPERATOR_FIELD_MANAGER)
        assert written["status"].items() >= used.items()


@pytest.mark.parametrize(
    ("verb", "resource", "allowed"),
    [
        ("create", "volumes.virtplane.dev", True),
        ("delete", "volumes.virtplane.dev", True),
        ("delete", "virtualmachineactions.virtplane.dev", True),
        ("create", "virtualmachineactions.virtplane.dev", False),
        ("create", "virtualmachines.virtplane.dev", False),
        ("delete", "virtualmachines.virtplane.dev", False),
        ("create", "hypervisors.virtplane.dev", False),
        ("delete", "storagepools.virtplane.dev", False),
        ("watch", "virtualnetworks.virtplane.dev", True),
        ("create", "virtualnetworks.virtplane.dev", False),
        ("delete", "virtualnetworks.virtplane.dev", False),
        ("get", "secrets", False),
        ("create", "pods", False),
        ("create", "roles.rbac.authorization.k8s.io", False),
    ],
)
async def test_the_operator_has_the_rights_that_it_needs(
    cluster: Cluster,
    verb: str,
    resource: str,
    allowed: bool,  # noqa: FBT001
) -> None:
    assert may(OPERATOR, "system:serviceaccounts", cluster, verb, resource) is allowed


async def test_the_operator_writes_its_own_lease_and_no_agent_s(cluster: Cluster) -> None:
    for name, allowed in {"virtplane-operator": "yes", "virtplane-agent-host-a": "no"}.items():
        arguments = ("auth", "can-i", "update", f"leases.coordination.k8s.io/{name}", "-n", SYSTEM_NAMESPACE)
        try:
            said = cluster.control_plane.kubectl(*arguments, "--as", OPERATOR).strip()
        except Exception as error:  # noqa: BLE001  # kubectl exits 1 after it has printed `no`
            said = "no" if "no" in str(error) else str(error)
        assert said == allowed


@pytest.mark.parametrize(("role", "creates"), [("edit", True), ("view", False)])
async def test_a_namespace_s_users_get_their_rights_by_the_usual_roles(
    cluster: Cluster,
    role: str,
    creates: bool,  # noqa: FBT001
) -> None:
    await cluster.machine()
    user = await cluster.user(f"{role}-user")
    cluster.control_plane.kubectl(
        "create", "rolebinding", f"{role}-user", "-n", cluster.namespace, f"--clusterrole={role}", f"--user={role}-user"
    )
    for verb in ("create", "update", "patch", "delete", "deletecollection"):
        assert may(f"{role}-user", "system:authenticated", cluster, verb, "virtualnetworks.virtplane.dev") is creates
    assert may(f"{role}-user", "system:authenticated", cluster, "watch", "virtualnetworks.virtplane.dev")
    read = await user.get(VIRTUAL_MACHINES, "web", cluster.namespace)
    changed = copy.deepcopy(read)
    changed["spec"]["powerState"] = "Stopped"
    if creates:
        await user.update(VIRTUAL_MACHINES, changed, field_manager="user")
    else:
        with pytest.raises(Forbidden):
            await user.update(VIRTUAL_MACHINES, changed, field_manager="user")
    with pytest.raises(Forbidden):
        await user.apply_status(VIRTUAL_MACHINES, read, {"powerState": "Running"}, field_manager="user")


async def test_new_objects_get_their_finalizer_beside_others_and_keep_it(cluster: Cluster) -> None:
    machine, volume = await cluster.machine(), await cluster.volume()
    assert machine["metadata"]["finalizers"] == volume["metadata"]["finalizers"] == FINALIZERS
    assert (await cluster.network())["metadata"]["finalizers"] == [NETWORK_IN_USE_FINALIZER]
    manifest = f"""
apiVersion: virtplane.dev/v1alpha1
kind: VirtualMachine
metadata: {{name: web, namespace: {cluster.namespace}, finalizers: [example.dev/own]}}
spec: {{powerState: Stopped, cpu: {{cores: 1}}, memory: {{size: 64Mi}}}}
"""
    cluster.control_plane.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=manifest)
    after = await (await cluster.admin()).get(VIRTUAL_MACHINES, "web", cluster.namespace)
    assert sorted(after["metadata"]["finalizers"]) == ["example.dev/own", HOST_STATE_FINALIZER]


def act(name: str, namespace: str, **spec: Any) -> Object:
    return {
        "apiVersion": ACTIONS.api_version,
        "kind": ACTIONS.kind,
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"vmName": "web"} | spec,
    }


@pytest.mark.parametrize(
    ("role", "resets", "commands"), [("admin", True, True), ("edit", True, False), ("view", False, False)]
)
async def test_who_may_reset_a_machine_and_who_may_run_commands_in_it(
    cluster: Cluster,
    role: str,
    resets: bool,  # noqa: FBT001
    commands: bool,  # noqa: FBT001
) -> None:
    user = await cluster.user(f"{role}-acts")
    cluster.control_plane.kubectl(
        "create", "rolebinding", f"{role}-acts", "-n", cluster.namespace, f"--clusterrole={role}", f"--user={role}-acts"
    )
    for allowed, action in [
        (resets, act("reset", cluster.namespace, type="Reset")),
        (commands, act("command", cluster.namespace, type="GuestCommand", guestCommand={"command": ["id"]})),
    ]:
        if allowed:
            made = await user.create(ACTIONS, action, field_manager="user")
            await user.delete(ACTIONS, made)
        else:
            with pytest.raises(Forbidden) as refused:
                await user.create(ACTIONS, action, field_manager="user")
            if resets:
                assert "the verb exec on virtualmachines.virtplane.dev (ClusterRole virtplane-admin)" in str(
                    refused.value
                )
    # What a command printed, or a screen showed, may be secret.
    assert may(f"{role}-acts", "system:authenticated", cluster, "get", "virtualmachineactions.virtplane.dev") is resets
