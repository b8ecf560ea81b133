"""What firewalls take of a host besides their rules: a way to know flows, settings of a namespace, the end of flows.

Nothing is ever loaded into the kernel for them: br_netfilter changes what happens to the frames of every bridge of the
host. A host without any way has no firewalls, and says so.
"""

from pathlib import Path

from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import FirewallAction, NetworkCapability
from virtplane_drivers.errors import Refused, Unavailable
from virtplane_drivers.host import netns
from virtplane_drivers.host.blocking import in_thread
from virtplane_drivers.network.contract import IpAddress, Network
from virtplane_drivers.network.linux.links import bridge_interfaces
from virtplane_drivers.network.linux.namespace import in_namespace
from virtplane_drivers.network.linux.rules.affected import EVERYBODY, affected
from virtplane_drivers.network.linux.rules.conntrack import end_flows_unless
from virtplane_drivers.network.linux.rules.firewall import Way
from virtplane_drivers.network.linux.rules.judgement import Judge
from virtplane_drivers.network.linux.rules.nft import command

CAPABILITY = NetworkCapability.FIREWALL
_CALLS = ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables")
_SYSCTLS, _LOOSE = Path("/proc/sys/net/bridge"), Path("/proc/sys/net/netfilter/nf_conntrack_tcp_loose")
_WITH_CT = "table bridge probe {\n chain c {\n type filter hook prerouting priority 0;\n ct state new accept\n }\n}\n"
_NO_WAY = (
    "this kernel has no connection tracking for bridged frames, and br_netfilter is not loaded (which would change what"
    " happens to the frames of all bridges of the host, so it is left to you: modprobe br_netfilter, or a kernel with"
    " nf_conntrack_bridge; then start the agent again)"
)


class Firewalls:
    """Those of all networks of a host."""

    def __init__(self) -> None:
        self.missing = _NO_WAY
        """Why this host has none, and what would bring them; empty when it has."""
        self.way = Way.BRIDGE_NETFILTER
        self._judged: dict[str, Network] = {}

    async def find_way(self) -> None:
        """Which one this host has, tried in a namespace of its own. Changes nothing."""
        if await in_thread(_has_bridge_netfilter):
            self.way, self.missing = Way.BRIDGE_NETFILTER, ""
        elif await _has_bridge_conntrack():
            self.way, self.missing = Way.BRIDGE_CONNTRACK, ""

    def check(self, network: Network) -> None:
        """Raises Refused (FirewallNotPossible): this host has none, or one would let through what it says not to."""
        if self.missing and network.has_firewall:
            raise Refused(
                f"network {network.namespace}/{network.name} has a firewall: {self.missing}",
                reason=Reason.FIREWALL_NOT_POSSIBLE,
            )
        if network.has_firewall and network.chosen_prefix is not None and denies_peers(network):
            raise Refused(
                f"network {network.namespace}/{network.name}: peers are not known by their IPv6 addresses of SLAAC, so "
                f"that no rule of its firewalls can deny them: deny all and allow the others, or take DHCP",
                reason=Reason.FIREWALL_NOT_POSSIBLE,
            )

    async def take_effect(self, path: Path, network: Network) -> None:
        """Frames meet the rules that are in the namespace, and flows that those do not let through have ended.

        Raises:
            Unavailable: the way is gone that was there when the agent started (FirewallNotPossible).
        """
        before = self._judged.pop(network.uid, None)
        if not network.has_firewall:
            if before is None or before.has_firewall:
                await in_namespace(path, _set_loose, value="1")
        else:
            try:
                await in_namespace(path, _turn_on, self.way)
            except OSError as error:
                message = f"network {network.namespace}/{network.name} has a firewall: {error}"
                raise Unavailable(message, reason=Reason.FIREWALL_NOT_POSSIBLE) from error
            changed = EVERYBODY if before is None else affected(before, network)
            if changed is not None:
                judge = Judge(network, router_addresses(network))
                await in_namespace(path, end_flows_unless, judge.lets_through, changed)
        self._judged[network.uid] = network

    def forget(self, network_uid: str) -> None:
        """The network is gone."""
        self._judged.pop(network_uid, None)


def router_addresses(network: Network) -> tuple[IpAddress, ...]:
    """Under which guests ask the router."""
    return tuple(interface.ip for interface in bridge_interfaces(network))


def denies_peers(network: Network) -> bool:
    """Whether a rule denies machines by what they are."""
    return any(rule.groups and rule.action is FirewallAction.DENY for one in network.firewalls for rule in one.rules)


def _has_bridge_netfilter() -> bool:
    """Of each namespace its own, else it is the host's and not to be touched."""
    netns.enter_new()
    return all((_SYSCTLS / name).exists() for name in _CALLS)


async def _has_bridge_conntrack() -> bool:
    try:
        await command(None, "unshare", "--net", "--", "nft", "--check", "-f", "-", stdin=_WITH_CT)
    except Unavailable:
        return False
    return True


def _turn_on(way: Way) -> None:
    # First: a flow of before whose beginning nobody saw would be taken for one that the answering side began.
    _set_loose(value="0")
    for name in _CALLS:
        setting = _SYSCTLS / name
        if way is Way.BRIDGE_NETFILTER or setting.exists():
            _set(setting, "1" if way is Way.BRIDGE_NETFILTER else "0")


def _set_loose(*, value: str) -> None:
    if _LOOSE.exists():  # not of a kernel that tracks no flows yet
        _set(_LOOSE, value)


def _set(setting: Path, value: str) -> None:
    if setting.read_text().strip() != value:
        setting.write_text(value)
