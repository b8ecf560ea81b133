"""`virtplane-agent`: acts for the hypervisors of one host. Ending it ends no guest."""

import argparse
import asyncio
import logging
import os
import re
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_interface, ip_network
from pathlib import Path
from typing import TypeVar

from kubernetes.aio.config import ConfigException

from virtplane_agent.endpoints import DEFAULT_TRANSIT_CIDR, HYPERVISOR_DRIVERS, Endpoints, Settings, open_endpoints
from virtplane_agent.hypervisors.reconcile import NameTaken, register
from virtplane_agent.metrics.address import MAX_PORT, AddressUnusable, ListenAddress
from virtplane_agent.metrics.subject import Subject
from virtplane_agent.runtime import Agent
from virtplane_agent.state_folder import StateFolderInUse, state_folder
from virtplane_api.host_networks import MAX_GIVEN
from virtplane_api.kube.client import KubeClient
from virtplane_api.kube.errors import ApiError
from virtplane_api.kube.lease import Lease, LeaseHeld, LeaseNotRenewed, LeaseTaken
from virtplane_api.kube.resources import NAMESPACES
from virtplane_api.names import (
    AGENT_FIELD_MANAGER,
    LEASE_DURATION_S,
    LEASE_RENEW_EVERY_S,
    SYSTEM_NAMESPACE,
    agent_lease_name,
)
from virtplane_drivers.errors import DriverError
from virtplane_drivers.network.linux.allowances import BridgeVlans, check_bridge_name

_log = logging.getLogger(__name__)
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?")
_NO_UTF8 = re.compile("[\ud800-\udfff]")
"""How Python shows bytes of the command line that are no text (PEP 383)."""
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
MAX_TRANSIT_PREFIX = 24
_NO_ADDRESSES_OF_LINKS = ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3")
"""This host, loopback, multicast and reserved: nothing that is routed by way of them arrives."""
T = TypeVar("T")


def main(argv: Sequence[str] | None = None) -> int:
    """The console script; its exit status: 0 after a signal, 1 a fault, 2 a wrong call, 3 another agent is there."""
    parser = argument_parser()
    options = parser.parse_args(argv)
    for flag, given in (("--allow-bridge", options.allow_bridge), ("--allow-routed", options.allow_routed)):
        if len(set(given)) > MAX_GIVEN:
            parser.error(f"{flag} is given {len(set(given))} times, at most {MAX_GIVEN} are known: give ranges")
    logging.basicConfig(level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        return asyncio.run(_until_signal(_run(options)))
    except (ConfigException, FileNotFoundError) as error:
        return _say(2, f"no usable kubeconfig: {error}; give one with --kubeconfig")
    except (LeaseHeld, LeaseTaken, StateFolderInUse, NameTaken) as error:
        return _say(3, str(error))
    except AddressUnusable as error:
        return _say(1, f"--metrics-address: {error}")
    except DriverError as error:
        return _say(1, f"{error.reason}: {error}")


async def _run(options: argparse.Namespace) -> None:
    async with AsyncExitStack() as stack:
        identity = stack.enter_context(state_folder(options.state_dir))
        subject = Subject()
        if options.metrics_address is not None:
            from virtplane_agent.metrics.server import serving  # noqa: PLC0415  # see metrics/__init__.py

            await stack.enter_async_context(serving(options.metrics_address, subject))
        client = subject.client = await stack.enter_async_context(KubeClient.connect(options.kubeconfig))
        lease = subject.lease = Lease(
            client,
            name=agent_lease_name(options.name),
            namespace=options.system_namespace,
            identity=identity,
            duration_s=LEASE_DURATION_S,
            renew_every_s=LEASE_RENEW_EVERY_S,
            field_manager=AGENT_FIELD_MANAGER,
        )
        # Of two agents of one name the later one must not touch what the first one runs.
        await lease.acquire(wait=False)
        stack.push_async_callback(lease.release)
        settings = Settings(
            state_folder=options.state_dir,
            runtime_folder=options.runtime_dir,
            allowed_sources=tuple(options.allow_source),
            qemu_accelerator=options.qemu_accelerator,
            transit_cidr=options.transit_cidr,
            host_network_namespace=options.host_netns,
            allowed_bridges=tuple(one for one in options.allow_bridge if isinstance(one, str)),
            allowed_vlans=tuple(one for one in options.allow_bridge if not isinstance(one, str)),
            allowed_routed=tuple(options.allow_routed),
            underlay_address=options.underlay_address,
        )
        endpoints = await open_endpoints(stack, options.name, options.drivers, settings)
        await _work(client, options.name, endpoints, lease, subject)


async def _work(client: KubeClient, name: str, endpoints: Endpoints, lease: Lease, subject: Subject) -> None:
    keeping = asyncio.create_task(_keep(lease), name="lease")
    kube_system = await _patiently(partial(client.get, NAMESPACES, "kube-system"))
    for endpoint in endpoints.hypervisors.values():
        await _patiently(partial(register, client, name, endpoint))
    agent = Agent(client, name=name, cluster_id=kube_system["metadata"]["uid"], endpoints=endpoints)
    subject.work = agent.work()
    working = asyncio.create_task(agent.run(), name="agent")
    try:
        done, _pending = await asyncio.wait({keeping, working}, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in (keeping, working):
            task.cancel()
        await asyncio.gather(keeping, working, return_exceptions=True)


async def _keep(lease: Lease) -> None:
    """Renew for ever: an API server that is away is no reason to leave the guests alone, another holder is."""
    while True:
        try:
            await lease.keep()
        except LeaseNotRenewed as error:
            _log.warning("%s; going on", error)


async def _patiently(request: Callable[[], Awaitable[T]]) -> T:
    """The answer, whenever it comes: an agent that starts before its roles and policies are there waits for them."""
    while True:
        try:
            return await request()
        except ApiError as error:
            _log.warning("%s; again in 2 s", error)
            await asyncio.sleep(2.0)


async def _until_signal(work: Awaitable[None]) -> int:
    """Run until the work ends, or SIGTERM or SIGINT ends it."""
    task = asyncio.ensure_future(work)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        _log.info("stopped; guests run on")
    return 0


def _say(status: int, message: str) -> int:
    print(f"virtplane-agent: {message}", file=sys.stderr)
    return status


def _agent_name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no DNS name: lower-case letters, digits, '-' and '.', at most 63"
        )
    return text


def _drivers(text: str) -> list[str]:
    names = list(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in HYPERVISOR_DRIVERS:
            raise argparse.ArgumentTypeError(f"no driver {name!r}: there are {', '.join(HYPERVISOR_DRIVERS)}")
    return names


def _one(parse: Callable[[str], T], *, again: bool = False) -> Callable[[str], T]:
    """A flag's value that is one of its kind; `again`: the flag may be given again for another one."""

    def parsed(text: str) -> T:
        if _NO_UTF8.search(text):
            raise argparse.ArgumentTypeError(f"{text!r} is not UTF-8: type it anew")
        if "," in text or len(text.split()) > 1:
            step = "give the flag once for each" if again else "give one"
            raise argparse.ArgumentTypeError(f"{text!r} holds a comma or white space: {step}")
        if text.split() != [text]:
            raise argparse.ArgumentTypeError(f"{text!r} is empty or begins or ends with white space: leave that out")
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from error

    return parsed


def _path(text: str) -> Path:
    if _NO_UTF8.search(text) or not text.strip():
        raise argparse.ArgumentTypeError(f"{text!r} is empty or not UTF-8: give the path of a file or folder")
    return Path(text)


def _namespace(text: str) -> str:
    if not _LABEL.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no namespace: lower-case letters, digits and '-', at most 63")
    return text


def _source(text: str) -> str:
    host, _, port = text.rpartition(":")
    if not host or not re.fullmatch(r"[0-9]{1,5}", port) or not 0 < int(port) <= MAX_PORT:
        raise ValueError(f"{text!r} is not of the form HOST:PORT, for example 127.0.0.1:8000")
    return text


def _transit_cidr(text: str) -> IPv4Network:
    network = _network(text)
    if not isinstance(network, IPv4Network):
        raise ValueError(f"{text} is of IPv6: give one of IPv4, as {DEFAULT_TRANSIT_CIDR}")
    if any(network.overlaps(IPv4Network(one)) for one in _NO_ADDRESSES_OF_LINKS):
        raise ValueError(f"{text} holds addresses that no link can have; give private or link-local ones")
    if network.prefixlen > MAX_TRANSIT_PREFIX:
        raise ValueError(f"{text} is too small: each network takes two addresses, give at least a /24")
    return network


def _bridge(text: str) -> str | BridgeVlans:
    if ":" in text:
        return BridgeVlans.parse(text)
    check_bridge_name(text)
    return text


def _network(text: str) -> IPv4Network | IPv6Network:
    try:
        network = ip_network(text, strict=False)
    except ValueError as error:
        raise ValueError(f"{text!r} is no network: give addresses and their prefix, as 10.22.0.0/16") from error
    if network.version == 6 and network.network_address.ipv4_mapped:
        raise ValueError(f"{text} is of IPv4: write it as such")
    if network.version == 6 and network.network_address.scope_id:
        raise ValueError(f"{text} names a link ({network.network_address.scope_id}): leave it out")
    if "/" not in text:
        raise ValueError(f"{text} is one address: give it its prefix, as {network}")
    if ip_interface(text).ip != network.network_address:
        raise ValueError(f"{text} is an address in a network: give {network}")
    return network


def _address(text: str) -> IPv4Address | IPv6Address:
    try:
        return ip_address(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is no address: give one of this host, as 192.0.2.11, without a prefix") from error


def _default_folders() -> tuple[Path, Path]:
    if os.geteuid() == 0:
        return Path("/var/lib/virtplane"), Path("/run/virtplane")
    home = Path.home()
    state = Path(os.environ.get("XDG_STATE_HOME") or home / ".local/state")
    return state / "virtplane", Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}") / "virtplane"


def argument_parser() -> argparse.ArgumentParser:
    """Of the command line."""
    state, runtime = _default_folders()
    parser = argparse.ArgumentParser(prog="virtplane-agent", description=__doc__)
    parser.add_argument(
        "--name", type=_agent_name, default=socket.gethostname().lower(), help="of this agent (default: %(default)s)"
    )
    parser.add_argument(
        "--drivers",
        type=_drivers,
        default=["qemu"],
        metavar="NAME,...",
        help=f"hypervisors to drive, of {', '.join(HYPERVISOR_DRIVERS)} (default: qemu)",
    )
    parser.add_argument("--state-dir", type=_path, default=state, help="durable records (default: %(default)s)")
    parser.add_argument("--runtime-dir", type=_path, default=runtime, help="sockets (default: %(default)s)")
    parser.add_argument("--kubeconfig", type=_path, help="without it: the pod's, $KUBECONFIG or ~/.kube/config")
    parser.add_argument(
        "--system-namespace",
        type=_namespace,
        default=SYSTEM_NAMESPACE,
        help="where the Leases live (default: %(default)s)",
    )
    parser.add_argument(
        "--allow-source",
        type=_one(_source, again=True),
        action="append",
        default=[],
        metavar="HOST:PORT",
        help="images may come from here although the address is loopback or link-local; may be repeated",
    )
    parser.add_argument(
        "--qemu-accelerator",
        choices=["auto", "kvm", "tcg"],
        default="auto",
        help="auto: KVM where a guest really runs under it, else emulation (default: %(default)s)",
    )
    _add_network_options(parser)
    parser.add_argument(
        "--metrics-address",
        type=_one(ListenAddress.parse),
        metavar="HOST:PORT",
        help="serve /metrics, /healthz and /readyz here by HTTP, to whoever gets there; of port 0 the log says which "
        "one it is (default: no server)",
    )
    parser.add_argument(
        "--log-level", default="info", choices=["debug", "info", "warning", "error"], help="(default: %(default)s)"
    )
    return parser


def _add_network_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--transit-cidr",
        type=_one(_transit_cidr),
        default=DEFAULT_TRANSIT_CIDR,
        metavar="CIDR",
        help="IPv4 addresses between this host and the routers of its networks, used for nothing else "
        "(default: %(default)s)",
    )
    parser.add_argument(
        "--allow-bridge",
        type=_one(_bridge, again=True),
        action="append",
        default=[],
        metavar="NAME[:VLAN[-VLAN]]",
        help="networks of mode Bridge may join this bridge of the host: NAME untagged, NAME:20 or NAME:100-199 in "
        "those VLANs alone; may be repeated (default: none)",
    )
    parser.add_argument(
        "--allow-routed",
        type=_one(_network, again=True),
        action="append",
        default=[],
        metavar="CIDR",
        help="the host may route these addresses to networks of mode Routed; may be repeated (default: none)",
    )
    parser.add_argument(
        "--host-netns",
        type=_path,
        metavar="PATH",
        help="network namespace that networks lead out through, for example /proc/1/ns/net of an agent in a pod of its "
        "own network (default: the agent's own)",
    )
    parser.add_argument(
        "--underlay-address",
        type=_one(_address),
        metavar="ADDRESS",
        help="this host's end of the tunnels of networks of mode Overlay: an address of its own that the other hosts "
        "reach (default: the one under which it reaches the world by its default route)",
    )


if __name__ == "__main__":
    sys.exit(main())
