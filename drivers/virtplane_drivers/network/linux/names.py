"""What the parts of a network are called on a host: of its UID alone, so that they are found again without a list.

The kernel takes 15 bytes for a link's name (IFNAMSIZ less its end), too few for a UID: a digest stands for it, and the
whole UID is in the link's alias. Inside a router namespace the names are the same for every network.
"""

import hashlib
from pathlib import Path

from virtplane_drivers.network.contract import Port

BRIDGE = "br0"
"""In the router namespace: what all ports of the network are joined to."""
UPLINK = "uplink"
"""In the router namespace: its end of the veth to the host. Of a network with a VLAN: the VLAN device on that end."""
TRUNK = "trunk"
"""In the router namespace of a network with a VLAN: its end of the veth to the host. Its frames carry tags."""
TUNNEL = "tunnel"
"""In the router namespace, of mode Overlay: the VXLAN device, a port of the bridge."""
ROUTER_TABLE = "virtplane"
"""Of nftables, in the router namespace, in each family that it needs."""
_ROUTER_MACS = (0x02, 0x56, 0x50)
"""Locally administered, and not those that machines get (52:54:00): the operator does not see what routers have."""
_DIGEST_CHARS = 13
_ALIAS = "virtplane"


def namespace_path(runtime_folder: Path, network_uid: str) -> Path:
    """Where the router namespace is bind-mounted. Not in /run/netns: two agents may share a host."""
    return runtime_folder / "netns" / network_uid


def host_link(network_uid: str) -> str:
    """In the host's namespace: its end of the veth to the router."""
    return f"v{_digest(network_uid)}"


def tap_name(port: Port) -> str:
    """In the router namespace."""
    return f"t{_digest('/'.join(port.key))}"


def ifb_name(port: Port) -> str:
    """In the router namespace: what limits all that comes from the port's tap."""
    return f"i{_digest('/'.join(port.key))}"


def tap_alias(port: Port) -> str:
    """Of a port's tap, for people and for `inventory`."""
    return f"{_ALIAS}/{port.machine_uid}/{port.interface}"


def host_link_alias(state_id: str, network_uid: str) -> str:
    """Of the host's end of a veth: which agent's (`state_id` tells one of a host from another), and which network's."""
    return f"{_ALIAS}/{state_id}/{network_uid}"


def is_host_link_alias(alias: str) -> bool:
    """Whether a link of the host's namespace is of some agent."""
    return alias.startswith(f"{_ALIAS}/")


def network_uid_of(state_id: str, alias: str) -> str | None:
    """What a link of the host's namespace is of; None: not of that agent's."""
    prefix = host_link_alias(state_id, "")
    return alias.removeprefix(prefix) if alias.startswith(prefix) else None


def host_table(state_id: str) -> str:
    """Of nftables, in the host's namespace: the one table of this agent, in each family that it needs."""
    return f"virtplane-{state_id}"


def router_mac(network_uid: str) -> str:
    """Of the bridge, which is the gateway: the same on every host that has the network."""
    digest = hashlib.sha256(f"router/{network_uid}".encode()).digest()
    return ":".join(f"{byte:02x}" for byte in (*_ROUTER_MACS, *digest[:3]))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST_CHARS]
