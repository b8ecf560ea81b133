"""The rules of routers and of the host, kept as they are to be."""

from collections.abc import Collection, Sequence
from pathlib import Path

from virtplane_api.reasons import Reason
from virtplane_drivers.errors import Unavailable
from virtplane_drivers.network.contract import IpAddress, IpNetwork, Network
from virtplane_drivers.network.linux import names
from virtplane_drivers.network.linux.namespace import in_namespace
from virtplane_drivers.network.linux.rules.firewall import Way
from virtplane_drivers.network.linux.rules.host import Networks, forwarded_families, host_ruleset
from virtplane_drivers.network.linux.rules.kept import KeptRules
from virtplane_drivers.network.linux.rules.loopback import LoopbackWays, are_open, open_ways
from virtplane_drivers.network.linux.rules.nft import run
from virtplane_drivers.network.linux.rules.router import router_ruleset
from virtplane_drivers.network.linux.rules.ruleset import Ruleset, removal
from virtplane_drivers.network.linux.values import Transit
from virtplane_drivers.network.overlay import Overlay


class RouterRules:
    """The rules of all router namespaces of a host."""

    def __init__(self) -> None:
        self._kept = KeptRules(shared=False)
        self._built: dict[Path, tuple[object, Ruleset]] = {}
        """Of each router the ruleset that was built last, and of what: 1,000 ports take 20 ms."""

    async def apply(
        self,
        path: Path,
        network: Network,
        transit: Transit | None,
        host_addresses: Sequence[IpAddress | IpNetwork],
        way: Way = Way.BRIDGE_NETFILTER,
        *,
        listens: bool = True,
    ) -> None:
        """The router lets pass what the network says, and nothing of it to the host's own addresses.

        It listens for addresses that guests use where the network gives none, unless this host's kernel cannot.

        Idempotent; one transaction. What somebody else changed is repaired.

        Raises:
            Unavailable: the namespace is gone, or nft is missing or refuses (NetworkError).
        """
        asked = network, transit, tuple(host_addresses), way, listens
        built = self._built.get(path)
        if built is None or built[0] != asked:
            built = self._built[path] = asked, router_ruleset(*asked[:-1], listens=listens)
        await self._kept.ensure(path, built[1])

    def forget(self, path: Path) -> None:
        """The namespace is gone."""
        self._kept.forget(path)
        self._built.pop(path, None)


class HostRules:
    """The one table of an agent in the host's namespace. No other table is ever touched."""

    def __init__(self, state_id: str, host_namespace: Path | None) -> None:
        self._state_id = state_id
        self._namespace = host_namespace
        self._kept = KeptRules(shared=True)
        self._ways: LoopbackWays = {}

    async def apply(self, networks: Networks, overlays: Collection[Overlay] = ()) -> None:
        """The host serves these networks and no others, and takes tunnels' packets for these only. Idempotent.

        Their links to the routers are to be there before: what the forwards of loopback addresses need is set on them.

        Raises:
            Unavailable: nft is missing or refuses, or a link does not take a setting (NetworkError).
        """
        await self._kept.ensure(self._namespace, host_ruleset(self._state_id, networks, overlays))
        self._ways = {names.host_link(uid): forwarded_families(network) for uid, (network, _) in networks.items()}
        try:
            await in_namespace(self._namespace, open_ways, self._ways)
        except OSError as error:
            message = f"forwards of the host's loopback addresses: {error}"
            raise Unavailable(message, reason=Reason.NETWORK_ERROR) from error

    async def check(self) -> bool:
        """Whether all is as the last `apply` left it; False before the first.

        Raises:
            Unavailable: the kernel does not say (NetworkError).
        """
        if not await self._kept.holds(self._namespace):
            return False
        return await in_namespace(self._namespace, are_open, self._ways)

    async def remove(self) -> None:
        """Nothing is left of the table.

        Raises:
            Unavailable: nft is missing or refuses (NetworkError).
        """
        self._kept.forget(self._namespace)
        await run(self._namespace, removal("inet", names.host_table(self._state_id)))
