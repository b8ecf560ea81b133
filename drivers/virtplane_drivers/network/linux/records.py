"""What was last applied of each network, as a file in the runtime folder: it goes with a reboot, as the networks do.

The rules of the host are one table for all networks: without the records an agent that starts anew would leave those
out that it has not applied yet, and cut their guests off.
"""

import ipaddress
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from virtplane_api.vocabulary import Addressing, ForwardProtocol, NetworkMode
from virtplane_drivers.network.contract import Bandwidth, Network, Port, PortForward, Route, Subnet
from virtplane_drivers.network.linux.values import Transit

_log = logging.getLogger(__name__)

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Applied:
    """A network as it was last applied."""

    network: Network
    transit: Transit | None


class Records:
    """`<folder>/<network UID>.json`, each written whole. Blocking; small enough for that."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read_all(self) -> dict[str, Applied]:
        """By UID; what cannot be read is left out, and applied anew."""
        found = {}
        for path in sorted(self._folder.glob("*.json")):
            try:
                applied = _from_json(json.loads(path.read_bytes()))
            except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
                _log.warning("%s cannot be read: %r", path, error)
                continue
            if applied.network.uid == path.stem:
                found[path.stem] = applied
        return found

    def write(self, applied: Applied) -> None:
        """Not synced: after a reboot nothing of it is true."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / f"{applied.network.uid}.json"
        text = json.dumps({"format": FORMAT, **asdict(applied)}, default=str)
        if path.exists() and path.read_text() == text:
            return
        fresh = path.with_suffix(".new")
        fresh.write_text(text)
        fresh.replace(path)

    def remove(self, network_uid: str) -> None:
        """Of a network that is gone."""
        (self._folder / f"{network_uid}.json").unlink(missing_ok=True)


def _from_json(values: Mapping[str, Any]) -> Applied:
    if values["format"] != FORMAT:
        raise ValueError(f"format {values['format']}, this version reads {FORMAT}")
    network, transit = values["network"], values["transit"]
    return Applied(
        Network(
            **{
                **network,
                "mode": NetworkMode(network["mode"]),
                "ipv4": _subnet(network["ipv4"]),
                "ipv6": _subnet(network["ipv6"]),
                "forwarders": tuple(map(ipaddress.ip_address, network["forwarders"])),
                "routes": tuple(
                    Route(ipaddress.ip_network(route["destination"]), ipaddress.ip_address(route["via"]))
                    for route in network["routes"]
                ),
                "ports": tuple(map(_port, network["ports"])),
            }
        ),
        Transit(
            ipaddress.IPv4Address(transit["host_ipv4"]),
            ipaddress.IPv4Address(transit["router_ipv4"]),
            ipaddress.IPv6Address(transit["host_ipv6"]),
            ipaddress.IPv6Address(transit["router_ipv6"]),
        )
        if transit
        else None,
    )


def _subnet(values: Mapping[str, Any] | None) -> Subnet | None:
    if values is None:
        return None
    gateway = ipaddress.ip_address(values["gateway"]) if values["gateway"] else None
    return Subnet(ipaddress.ip_network(values["cidr"]), gateway, Addressing(values["addressing"]))


def _port(values: Mapping[str, Any]) -> Port:
    return Port(
        **{
            **values,
            "addresses": tuple(map(ipaddress.ip_address, values["addresses"])),
            "forwards": tuple(
                PortForward(ForwardProtocol(one["protocol"]), one["host_port"], one["port"])
                for one in values["forwards"]
            ),
            # Absent in records of before there were limits.
            "bandwidth": Bandwidth(**values.get("bandwidth", {})),
        }
    )
