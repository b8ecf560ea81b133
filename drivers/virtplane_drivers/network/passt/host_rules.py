"""The table in the host's namespace that keeps guests of mode User from the host's own services.

What a passt sends, it sends as a program of the host: it reaches the host's addresses, and loopback, whatever passt
was told (`--no-map-gw` is about the gateway's address alone). Where passts have users of their own they are known by
them, and nothing that they begin may end at the host: neither as it is sent nor after somebody has translated where it
goes (`asked`, `sent`). So they reach no forwarded port of their own host either.

Two things pass: what answers somebody of the host at a forwarded port, and questions to those servers for names that
their guests are told, at an address of the host too. Those are of each passt alone.

It is there twice. Who flushes all rules of the host leaves the one that the agent owns; the other one is there while
no agent is. That one is put back within 10 s when it was flushed.
"""

import asyncio
import hashlib
import logging
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from virtplane_api.reasons import Reason
from virtplane_drivers.errors import Unavailable
from virtplane_drivers.host.blocking import in_thread
from virtplane_drivers.host.capabilities import CAP_NET_ADMIN, has_capabilities
from virtplane_drivers.host.users import Users
from virtplane_drivers.network.contract import IpAddress
from virtplane_drivers.network.linux.dnsmasq.upstream import host_servers
from virtplane_drivers.network.linux.rules.kept import KeptRules
from virtplane_drivers.network.linux.rules.nft import run
from virtplane_drivers.network.linux.rules.owned import OwnedTable
from virtplane_drivers.network.linux.rules.ruleset import Chain, NamedSet, Ruleset, Table, removal
from virtplane_drivers.network.passt.process import servers_told, user_key

_log = logging.getLogger(__name__)

CHECK_EVERY_S = 10.0
"""Nothing tells of a flushed rule set of the host."""
RESOLV_CONF = Path("/etc/resolv.conf")
"""Whose servers a passt tells of that was told of none."""
_FAMILIES = {4: "ip", 6: "ip6"}

Ports = Mapping[Path, Sequence[str]]
"""Folder of each port -> what its passt is told."""


def what_is_missing(users: Users) -> str:
    """Why this host cannot keep guests from its services although it could know them; empty when it can. Blocking."""
    if not users.are_own:
        return ""
    if not shutil.which("nft"):
        return "not installed: nft (package nftables), which keeps guests from the host's own services"
    if not has_capabilities(CAP_NET_ADMIN):
        return "rules keep guests from the host's own services, which takes CAP_NET_ADMIN: start the agent with it"
    return ""


def ruleset(table: str, users: Users, ports: Ports, of_the_host: Iterable[IpAddress]) -> Ruleset:
    """The table for these ports, with the host's own servers for names. Pure."""
    host = list(of_the_host)
    asked = {
        (users.choose(user_key(folder), ()), one)
        for folder, told in ports.items()
        for one in servers_told(told) or host
    }
    sets = tuple(
        NamedSet(
            f"name_server_ipv{version}",
            f"typeof meta skuid . {family} daddr",
            frozenset(f"{user} . {address}" for user, address in asked if _is_asked(address, version)),
        )
        for version, family in _FAMILIES.items()
    )
    rules = (
        "ct direction reply accept",
        *(
            f"meta l4proto {{ tcp, udp }} th dport 53 meta skuid . {family} daddr @name_server_ipv{version} accept"
            for version, family in _FAMILIES.items()
        ),
        # Of what is sent to many the host itself gets a copy.
        "fib daddr type { local, broadcast, anycast, multicast } drop",
    )
    guests = f"meta skuid {users.first}-{users.last} jump guests"
    hooked = (
        Chain(name, (guests,), f"type filter hook output priority {priority}; policy accept;")
        for name, priority in (("asked", "mangle"), ("sent", "filter"))  # before and after dstnat
    )
    return (Table("inet", table, sets, (Chain("guests", rules), *hooked)),)


def _is_asked(address: IpAddress, version: int) -> bool:
    # Loopback is the guest's own there: it would ask itself.
    return address.version == version and not address.is_loopback


class HostRules:
    """The table of one agent, there for as long as it has ports."""

    def __init__(
        self, folder: Path, users: Users, namespace: Path | None, *, check_every_s: float = CHECK_EVERY_S
    ) -> None:
        self.table = f"virtplane-user-{hashlib.sha256(str(folder).encode()).hexdigest()[:12]}"
        """Of the folder, by which one agent of a host is told from another."""
        self._users = users
        self._namespace = namespace
        self._check_every_s = check_every_s
        self._kept = KeptRules(shared=True)
        self._owned = OwnedTable(namespace)
        self._said = ""
        """Why there is none that is owned."""
        self._ports: Ports = {}
        self._lock = asyncio.Lock()
        self._caretaker: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Repair it from now on."""
        self._caretaker = asyncio.create_task(self._take_care(), name="host's rules of mode User")

    async def stop(self) -> None:
        """The table stays, but for what is owned."""
        if self._caretaker is not None:
            self._caretaker.cancel()
            await asyncio.gather(self._caretaker, return_exceptions=True)
        await self._owned.close()

    async def apply(self, ports: Ports) -> None:
        """The passts of these ports, running or to be started, begin nothing that ends at the host.

        Raises:
            Unavailable: it cannot be seen to, and what is missing for it (NetworkError).
        """
        self._ports = dict(ports)  # before anything is waited for: who comes later knows more
        if not self._users.are_own:
            return
        if missing := await in_thread(what_is_missing, self._users):
            if ports:
                raise Unavailable(missing, reason=Reason.NETWORK_ERROR)
            return
        async with self._lock:
            await self._put_in()

    async def _put_in(self) -> None:
        if not self._ports:
            self._kept.forget(self._namespace)
            await self._owned.close()
            await run(self._namespace, removal("inet", self.table))
            return
        of_the_host = await in_thread(host_servers, [RESOLV_CONF])
        wanted = ruleset(self.table, self._users, self._ports, of_the_host)
        await self._kept.ensure(self._namespace, wanted)
        try:
            await self._owned.ensure(replace(wanted[0], name=f"{self.table}-owned"))
            self._said = ""
        except Unavailable as error:
            if self._said != str(error):
                _log.warning("after a flush of this host's rules its services are open to guests for 10 s: %s", error)
            self._said = str(error)

    async def _take_care(self) -> None:
        while True:
            await asyncio.sleep(self._check_every_s)
            try:
                async with self._lock:
                    if self._ports and self._users.are_own and not await self._kept.holds(self._namespace):
                        await self._put_in()
            except (OSError, Unavailable) as error:
                _log.warning("rules of the host for networks of mode User: %s", error)
            except Exception:  # noqa: BLE001  # the next look may be better, and there is nobody else who looks
                _log.exception("rules of the host for networks of mode User: taking care of them failed")
