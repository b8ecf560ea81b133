"""`virtplane-operator`: decides where machines run. One is active at a time, by a Lease."""

import argparse
import asyncio
import logging
import os
import socket
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

from kubernetes.aio.client.configuration import Configuration
from kubernetes.aio.config import ConfigException

from virtplane_api.kube.client import KubeClient, load_configuration, wait_until_served
from virtplane_api.kube.errors import ApiError
from virtplane_api.kube.lease import Lease, LeaseLost
from virtplane_api.kube.resources import NAMESPACES, uid_of
from virtplane_api.names import (
    LEASE_DURATION_S,
    LEASE_RENEW_EVERY_S,
    OPERATOR_FIELD_MANAGER,
    OPERATOR_LEASE,
    SYSTEM_NAMESPACE,
)
from virtplane_operator import chassis
from virtplane_operator.runtime import KINDS, Operator

_log = logging.getLogger(__name__)
_RETRY_S = 2.0


def main(argv: Sequence[str] | None = None) -> int:
    """The console script; its exit status."""
    options = _parser().parse_args(argv)
    logging.basicConfig(level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("kopf").setLevel(logging.WARNING)
    try:
        return asyncio.run(_run(options))
    except (ConfigException, FileNotFoundError) as error:
        print(f"virtplane-operator: no usable kubeconfig: {error}; give one with --kubeconfig", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


async def _run(options: argparse.Namespace) -> int:
    identity = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    configuration = await load_configuration(options.kubeconfig)
    async with KubeClient.connect(options.kubeconfig) as client:
        lease = Lease(
            client,
            name=OPERATOR_LEASE,
            namespace=options.system_namespace,
            identity=identity,
            duration_s=LEASE_DURATION_S,
            renew_every_s=LEASE_RENEW_EVERY_S,
            field_manager=OPERATOR_FIELD_MANAGER,
        )
        # Before anything is watched or decided: a second operator waits here.
        await lease.acquire(wait=True)
        _log.info("active as %s", identity)
        try:
            for resource in KINDS:
                await wait_until_served(client, resource)
            operator = Operator(
                client,
                system_namespace=options.system_namespace,
                identity=identity,
                cluster_id=await _cluster_id(client),
            )
            return await _work(operator, lease, configuration, options.liveness_endpoint)
        finally:
            await lease.release()


async def _cluster_id(client: KubeClient) -> str:
    """The uid of kube-system, whenever the API server tells it: MAC addresses are made of it."""
    while True:
        try:
            return uid_of(await client.get(NAMESPACES, "kube-system"))
        except ApiError as error:
            _log.warning("the cluster's identity (uid of namespace kube-system) cannot be read: %s", error)
            await asyncio.sleep(_RETRY_S)


async def _work(operator: Operator, lease: Lease, configuration: Configuration, liveness_endpoint: str | None) -> int:
    """Decide until a signal; an exit status other than 0 when the Lease is lost or a part of us ended by a fault."""
    stop = asyncio.Event()
    parts = [
        asyncio.create_task(operator.run(), name="operator"),
        asyncio.create_task(lease.keep(), name="lease"),
    ]
    for part in parts:
        part.add_done_callback(lambda _: stop.set())
    faults: list[BaseException] = []

    async def end_parts() -> None:
        for part in parts:
            part.cancel()
        results = await asyncio.gather(*parts, return_exceptions=True)
        faults.extend(result for result in results if isinstance(result, Exception))

    await chassis.run(operator, configuration, stop, on_stop=end_parts, liveness_endpoint=liveness_endpoint)
    for fault in faults:
        _log.error("stopped: %s", fault, exc_info=None if isinstance(fault, LeaseLost) else fault)
    return 1 if faults else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="virtplane-operator", description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, help="without it: the pod's, $KUBECONFIG or ~/.kube/config")
    parser.add_argument(
        "--system-namespace", default=SYSTEM_NAMESPACE, help="where the Leases live (default: %(default)s)"
    )
    parser.add_argument(
        "--liveness-endpoint", metavar="URL", help="for example http://0.0.0.0:8080/healthz; without it: none"
    )
    parser.add_argument(
        "--log-level", default="info", choices=["debug", "info", "warning", "error"], help="(default: %(default)s)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
