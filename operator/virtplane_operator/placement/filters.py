"""The reasons for which a Hypervisor does not fit, in the order in which they are looked at.

A Hypervisor is counted under the first that applies, so that the sums in a message add up to all Hypervisors.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from virtplane_api.host_networks import MAX_NETWORKS, gives, routes, why_missing
from virtplane_api.quantity import format_bytes, format_coarse
from virtplane_operator.placement.values import Candidate, Request

_MIB = 1 << 20
_SHOWN = 3
"""How many machines that hold a port, or Hypervisors that do not give something, are named."""


@dataclass(frozen=True, slots=True)
class Filter:
    """One reason: whom it turns away, and how that is said of those it turned away."""

    name: str
    fits: Callable[[Request, Candidate], bool]
    says: Callable[[Request, Sequence[Candidate]], str]


def _has_storage(request: Request, candidate: Candidate) -> bool:
    return all(
        need.pool_type in candidate.pool_types
        and need.pool_uid in candidate.ready_pool_uids
        and need.agent_name in ("", candidate.agent_name)
        for need in request.storage
    )


def _says_storage(request: Request, refused: Sequence[Candidate]) -> str:
    pools = sorted({need.pool_name for need in request.storage})
    bound = sorted({need.disk_name for need in request.storage if need.agent_name})
    text = f"{len(refused)} cannot use {'pool' if len(pools) == 1 else 'pools'} {', '.join(pools)}"
    if bound:
        text += f" (the {'volume' if len(bound) == 1 else 'volumes'} of {', '.join(bound)} must be beside the machine)"
    return text


def _says_network(request: Request, refused: Sequence[Candidate]) -> str:
    missing = sorted({mode for candidate in refused for mode in request.network_modes - candidate.network_modes})
    whys = {candidate.missing_capabilities.get(f"Network{mode}", "") for candidate in refused for mode in missing}
    why = "; ".join(sorted(whys - {""})[:_SHOWN])
    modes = f"network {'mode' if len(missing) == 1 else 'modes'} {', '.join(missing)}"
    return f"{len(refused)} {_lack(refused)} {modes}" + (f" ({why})" if why else "")


def _says_capabilities(request: Request, refused: Sequence[Candidate]) -> str:
    lacked = {
        name: candidate.missing_capabilities[name]
        for candidate in refused
        for name in request.network_capabilities & candidate.missing_capabilities.keys()
    }
    said = "; ".join(f"{name}: {why}" for name, why in sorted(lacked.items()))
    return f"{len(refused)} {_lack(refused)} {said}"


def _gives_host_networks(request: Request, candidate: Candidate) -> bool:
    return all(gives(candidate.host_networks, asked) for asked in request.host_networks)


def _says_host_networks(request: Request, refused: Sequence[Candidate]) -> str:
    asked = request.host_networks
    missing = sorted(
        (one for one in asked if not all(gives(candidate.host_networks, one) for candidate in refused)), key=str
    )
    no, give = " and no ".join(map(str, missing)), "gives" if len(refused) == 1 else "give"
    flags = " ".join(one.flag for one in missing)
    return f"{len(refused)} {give} no {no} to networks: {_named(refused)} ({_start(refused)} with {flags})"


def _has_host_networks(request: Request, candidate: Candidate) -> bool:
    return not any(why_missing(candidate.host_networks, asked) for asked in request.host_networks)


def _says_missing(request: Request, refused: Sequence[Candidate]) -> str:
    whys = {
        (str(asked), why)
        for candidate in refused
        for asked in request.host_networks
        if (why := why_missing(candidate.host_networks, asked))
    }
    missing = " or ".join(sorted({asked for asked, _why in whys}))
    shown = "; ".join(sorted({why for _asked, why in whys})[:_SHOWN])
    return f"{len(refused)} cannot join {missing} now: {_named(refused)} ({shown})"


def _routes(request: Request, candidate: Candidate) -> bool:
    return all(routes(candidate.routed, cidr) for cidr in request.routed)


def _says_routed(request: Request, refused: Sequence[Candidate]) -> str:
    missing = sorted(str(cidr) for cidr in request.routed if not all(routes(one.routed, cidr) for one in refused))
    no, route = " and no ".join(missing), "routes" if len(refused) == 1 else "route"
    flags = " ".join(f"--allow-routed {cidr}" for cidr in missing)
    return f"{len(refused)} {route} no {no} for networks: {_named(refused)} ({_start(refused)} with {flags})"


def _has_room(request: Request, candidate: Candidate) -> bool:
    return len(request.networks | candidate.networks) <= MAX_NETWORKS


def _says_room(_request: Request, refused: Sequence[Candidate]) -> str:
    has, one = ("has", "it") if len(refused) == 1 else ("have", "each")
    return f"{len(refused)} {has} as many networks as {one} can have ({MAX_NETWORKS}): {_named(refused)}"


def _named(refused: Sequence[Candidate]) -> str:
    names = sorted(candidate.name for candidate in refused)
    return ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")


def _start(refused: Sequence[Candidate]) -> str:
    return "start its agent" if len(refused) == 1 else "start the agent of one"


def _says_host_ports(request: Request, refused: Sequence[Candidate]) -> str:
    held = [(port, candidate) for candidate in refused for port in request.host_ports & candidate.host_ports.keys()]
    ports = ", ".join(str(port) for port in sorted({port for port, _candidate in held}))
    holders = sorted({str(holder) for port, candidate in held for holder in candidate.host_ports[port]})
    shown = ", ".join(holders[:_SHOWN]) + (", ..." if len(holders) > _SHOWN else "")
    has = "has" if len(refused) == 1 else "have"
    return f"{len(refused)} {has} host {'ports' if ',' in ports else 'port'} {ports} in use by {shown}"


def _says_labels(request: Request, refused: Sequence[Candidate]) -> str:
    labels = ", ".join(f"{name}={value}" for name, value in sorted(request.match_labels.items()))
    return (
        f"{len(refused)} without label {labels}"
        if len(request.match_labels) == 1
        else (f"{len(refused)} without labels {labels}")
    )


def _says_cpu(request: Request, refused: Sequence[Candidate]) -> str:
    most = max(candidate.free_cores for candidate in refused)
    return f"{len(refused)} {_lack(refused)} CPU (need {request.cores}, most free {most})"


def _says_memory(request: Request, refused: Sequence[Candidate]) -> str:
    most = format_coarse(max(candidate.free_memory_mib for candidate in refused) * _MIB)
    return f"{len(refused)} {_lack(refused)} memory (need {format_bytes(request.memory_mib * _MIB)}, most free {most})"


def _lack(refused: Sequence[Candidate]) -> str:
    return "lacks" if len(refused) == 1 else "lack"


OF_NETWORKS: tuple[Filter, ...] = (
    Filter("network", lambda request, candidate: request.network_modes <= candidate.network_modes, _says_network),
    Filter(
        "tunnels",
        lambda request, candidate: request.tunnel_mtu <= candidate.tunnel_mtu,
        lambda request, refused: f"{len(refused)} {_lack(refused)} tunnels of MTU {request.tunnel_mtu}",
    ),
    Filter(
        "network capabilities",
        lambda request, candidate: request.network_capabilities.isdisjoint(candidate.missing_capabilities),
        _says_capabilities,
    ),
    Filter("host networks", _gives_host_networks, _says_host_networks),
    Filter("host networks that are there", _has_host_networks, _says_missing),
    Filter("routed", _routes, _says_routed),
)
"""Of these follows where a network can be at all."""

FILTERS: tuple[Filter, ...] = (
    Filter(
        "driver",
        lambda request, candidate: request.driver in ("", candidate.driver),
        lambda request, refused: f"{len(refused)} not of driver {request.driver}",
    ),
    Filter(
        "name",
        lambda request, candidate: request.hypervisor_name in ("", candidate.name),
        lambda request, refused: f"{len(refused)} not named {request.hypervisor_name}",
    ),
    Filter(
        "labels",
        lambda request, candidate: request.match_labels.items() <= candidate.labels.items(),
        _says_labels,
    ),
    Filter("storage", _has_storage, _says_storage),
    *OF_NETWORKS,
    Filter("room for networks", _has_room, _says_room),
    Filter(
        "host ports",
        lambda request, candidate: not request.host_ports or request.host_ports.isdisjoint(candidate.host_ports),
        _says_host_ports,
    ),
    Filter("cpu", lambda request, candidate: request.cores <= candidate.free_cores, _says_cpu),
    Filter("memory", lambda request, candidate: request.memory_mib <= candidate.free_memory_mib, _says_memory),
    Filter(
        "unschedulable",
        lambda _request, candidate: not candidate.unschedulable,
        lambda _request, refused: f"{len(refused)} unschedulable",
    ),
    Filter(
        "health",
        lambda _request, candidate: candidate.healthy,
        lambda _request, refused: f"{len(refused)} not ready",
    ),
)
