"""VLANs of a host's bridge: tags are put on and taken off in the router's namespace, and nowhere else.

::

    host: v…, a port of the named bridge  ── veth ──  router: trunk ── uplink, its VLAN device, a port of br0

Frames with a tag pass a bridge that does not look at it, and one that filters by VLAN, where our port is in this VLAN
alone. So nothing of the bridge is changed but our own port, and whoever turns its filter on or off leaves every network
where it is: an untagged port of a VLAN would be on everybody's LAN from that moment on.

8021q is not loaded for it: when it comes it adds VLAN 0 to the filters of the host's own adapters.
"""

from pathlib import Path

from virtplane_api.reasons import Reason
from virtplane_drivers.errors import Refused
from virtplane_drivers.host import netns
from virtplane_drivers.host.blocking import in_thread
from virtplane_drivers.host.network_stack import Link, NetworkStack
from virtplane_drivers.network.contract import Network
from virtplane_drivers.network.linux.allowances import Allowances
from virtplane_drivers.network.linux.names import UPLINK

_OF_8021Q = Path("/proc/thread-self/net/vlan")
"""In each namespace, for as long as the kernel has VLAN devices."""
_NO_WAY = (
    "this kernel has no VLAN devices, or not yet (which is left to you, as it touches the host's adapters: modprobe "
    "8021q; then start the agent again)"
)
_NONE_GIVEN = "no VLAN of a bridge is given to networks: start the agent with --allow-bridge NAME:VLAN"


class Vlans:
    """Whether networks of a host can have one."""

    def __init__(self, allowances: Allowances) -> None:
        self._allowances = allowances
        self.missing = _NO_WAY
        """Why none can, and what would bring them; empty when one can."""

    async def find_way(self) -> None:
        """Looked for in a namespace of its own. Changes nothing, and loads nothing."""
        self.missing = what_is_missing(self._allowances, has_devices=await in_thread(has_vlan_devices))

    def check(self, network: Network) -> None:
        """Raises Refused: the network has a VLAN, and this host has none (VLANNotPossible)."""
        if self.missing and network.vlan is not None:
            message = f"network {network.namespace}/{network.name} has VLAN {network.vlan}: {self.missing}"
            raise Refused(message, reason=Reason.VLAN_NOT_POSSIBLE)


def what_is_missing(allowances: Allowances, *, has_devices: bool) -> str:
    """Why a host's networks have no VLANs, and what would bring them; empty when they have."""
    if not has_devices:
        return _NO_WAY
    return "" if allowances.vlans else _NONE_GIVEN


def has_vlan_devices() -> bool:
    """Of the kernel; asked in a new namespace, in a thread that ends soon."""
    netns.enter_new()
    return _OF_8021Q.is_dir()


def vlan_device(router: NetworkStack, trunk: Link, vlan: int) -> Link:
    """The router's uplink as a VLAN device on its end of the veth, made if need be. One of another VLAN goes."""
    found = router.link(UPLINK)
    if found is not None and (found.vlan, found.peer) != (vlan, trunk.index):
        router.delete_link(found)
        found = None
    return found or router.make_vlan(UPLINK, trunk, vlan)


def join_vlan(host: NetworkStack, port: Link, vlan: int) -> None:
    """A port of the host's bridge is in that VLAN alone, by tag: neither in that which the bridge gives each port."""
    there = host.port_vlans(port)
    if there.get(vlan) != 0:
        host.add_port_vlan(port, vlan)
    for other in sorted(there.keys() - {vlan}):
        host.delete_port_vlan(port, other)
