"""The networks' dnsmasqs: started, adopted, told of changes, ended.

They outlive the agent as guests do. What runs is looked up once, when it is first needed; from then on each is held by
a pidfd. Whether one is as it is to be is asked of itself each time: it answers for a name that only its newest files
have.

::

    <folder>/<network>/<run>/     dnsmasq.conf, reservations, names, servers, output (see `words`)
"""

import asyncio
import contextlib
import logging
import socket
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from virtplane_api.reasons import Reason
from virtplane_drivers.errors import Unavailable
from virtplane_drivers.host.blocking import in_thread
from virtplane_drivers.host.cgroup import Hierarchies, Limits, find_hierarchies
from virtplane_drivers.host.process import GuestProcess, find, watch_child
from virtplane_drivers.network.contract import IpAddress, Network
from virtplane_drivers.network.linux.dnsmasq import files, process
from virtplane_drivers.network.linux.dnsmasq.configuration import (
    Configuration,
    configuration_of,
    own_addresses,
)
from virtplane_drivers.network.linux.dnsmasq.question import Answer, ask
from virtplane_drivers.network.linux.dnsmasq.upstream import RESOLV_CONFS, findings, servers_of
from virtplane_drivers.network.linux.dnsmasq.words import Words
from virtplane_drivers.network.linux.names import BRIDGE
from virtplane_drivers.network.linux.namespace import in_namespace
from virtplane_drivers.network.linux.values import Finding

_log = logging.getLogger(__name__)

ANSWER_TIMEOUT_S = 5.0
"""One that is silent for so long is started anew."""
START_TIMEOUT_S = 15.0
DEATH_TIMEOUT_S = 5.0
_READING_S = 0.002
_LIMITS = Limits(memory_mib=128, cpu_weight=100, cpu_quota_us=100_000)
"""Of one dnsmasq with its up to 20 children: a guest that asks without end takes one CPU at most."""


@dataclass(frozen=True, slots=True)
class _Server:
    """One that runs, as far as is known."""

    process: GuestProcess
    run: Path
    user: int
    watcher: "asyncio.Task[None]"


class NameServers:
    """DHCP and DNS of all networks of this host.

    `on_death` is told the UID of a network whose dnsmasq ended and was not to: its next `apply` starts another.
    """

    def __init__(
        self,
        folder: Path,
        *,
        forwarders: Sequence[IpAddress] = (),
        resolv_confs: Sequence[Path] = RESOLV_CONFS,
        on_death: Callable[[str], None] = lambda _network_uid: None,
    ) -> None:
        self._folder = folder.absolute()
        self._forwarders = forwarders
        self._resolv_confs = resolv_confs
        self._on_death = on_death
        self._users = process.users()
        self._servers: dict[str, _Server] = {}
        self._looking = asyncio.Lock()
        self._has_looked = False
        self._hierarchies: Hierarchies | None = None

    async def apply(self, path: Path, network: Network) -> list[Finding]:
        """See to it that the network's DHCP and DNS are so; when it returns, they answer.

        Raises:
            Refused: see `configuration_of`.
            Unavailable: not now.
        """
        servers = await in_thread(servers_of, network, self._forwarders, self._resolv_confs)
        configuration = await in_thread(configuration_of, network, servers)  # 20 ms for 1,000 ports
        if configuration is None:
            await self.remove(network.uid)
            return []
        await self._look()
        try:
            link = await in_namespace(path, _bridge, network)
            # A bridge that was made anew has none of the groups that dnsmasq joined on the old one.
            settings = f"{configuration.settings}# {BRIDGE} is link {link}\n"
            await self._apply(path, network.uid, replace(configuration, settings=settings))
        except (OSError, subprocess.SubprocessError) as error:
            raise Unavailable(f"DHCP and DNS: {error}", reason=Reason.NETWORK_ERROR) from error
        return findings(network, servers)

    async def remove(self, network_uid: str) -> None:
        """Leave nothing of the network's. Of one that has nothing: nothing is done.

        Raises:
            Unavailable: a process does not die.
        """
        await self._end(network_uid)
        await in_thread(files.remove, self._folder / network_uid)
        (await self._groups()).remove(_group(network_uid))

    async def inventory(self) -> tuple[str, ...]:
        """UIDs of all networks that something is left of, in no order."""
        await self._look()
        return tuple(await in_thread(files.network_uids, self._folder) | set(self._servers))

    def close(self) -> None:
        """Stop watching; what runs, runs on."""
        for server in self._servers.values():
            _let_go(server)
        self._servers.clear()
        self._has_looked = False

    async def _apply(self, path: Path, network_uid: str, configuration: Configuration) -> None:
        server = self._servers.get(network_uid)
        if server is None or not await _follows(server, path, configuration):
            await self._start(path, network_uid, configuration)

    async def _start(self, path: Path, network_uid: str, configuration: Configuration) -> None:
        """Another one instead of all that run for the network: between the two only an exec."""
        user = self._users.choose(process.user_key(network_uid), {server.user for server in self._servers.values()})
        if user is None:
            raise Unavailable(self._users.missing, reason=Reason.NETWORK_ERROR, retry_after_s=60.0)
        groups = (await self._groups()).prepare(_group(network_uid), _LIMITS)
        run = await in_thread(files.made, self._folder / network_uid, configuration, user)
        await self._end(network_uid)
        await in_thread(files.remove_others, self._folder / network_uid, run)
        words = await in_thread(Words, network_uid, run)
        try:
            watched = watch_child(await in_thread(process.start, path, run, user, groups))
        except BaseException:
            words.close()
            raise
        self._watch(network_uid, watched, run, user, words)
        answer = await in_namespace(path, ask, configuration.mark, START_TIMEOUT_S, lambda: watched.is_alive)
        if answer is not Answer.KNOWN:
            words.tell()
            await self._end(network_uid)
            message = f"dnsmasq does not serve the network: {words.last or 'it does not answer'}"
            raise Unavailable(message, reason=Reason.NETWORK_ERROR)

    async def _end(self, network_uid: str) -> None:
        """End all processes of the network: the one that we hold, and then its children."""
        server = self._servers.pop(network_uid, None)
        if server is not None:
            server.watcher.cancel()
            await _killed(server.process)
        # Since their parent is dead there are no new ones.
        for found in await in_thread(process.running_below, self._folder, self._users):
            if found.network_uid == network_uid and (left := find(found.identity)) is not None:
                await _killed(left)

    async def _look(self) -> None:
        """Hold all that run from before, once."""
        async with self._looking:
            if self._has_looked:
                return
            for found in await in_thread(process.running_below, self._folder, self._users):
                # One on its way to be a dnsmasq is not one yet: the next `apply` ends it and starts another.
                is_one = found.leads and found.network_uid not in self._servers
                if is_one and (adopted := find(found.identity)) is not None:
                    words = await in_thread(Words, found.network_uid, found.folder)
                    self._watch(found.network_uid, adopted, found.folder, found.user, words)
            self._has_looked = True

    def _watch(self, network_uid: str, watched: GuestProcess, run: Path, user: int, words: Words) -> None:
        name = f"DHCP and DNS of network {network_uid}"
        watcher = asyncio.create_task(self._tell(network_uid, watched, words), name=name)
        self._servers[network_uid] = _Server(watched, run, user, watcher)

    async def _tell(self, network_uid: str, watched: GuestProcess, words: Words) -> None:
        following = asyncio.create_task(words.follow(), name=f"what dnsmasq of network {network_uid} says")
        try:
            await watched.dead.wait()
        finally:
            following.cancel()
            await asyncio.wait([following])
            words.tell()
            words.close()
        _log.warning("dnsmasq of network %s ended (%s)", network_uid, watched.exit_status)
        self._on_death(network_uid)

    async def _groups(self) -> Hierarchies:
        if self._hierarchies is None:
            self._hierarchies = await in_thread(find_hierarchies)
        return self._hierarchies


async def _follows(server: _Server, path: Path, configuration: Configuration) -> bool:
    """Whether a dnsmasq has taken up all that it is to know; if not, it has to be started anew."""
    pid = server.process.identity.pid
    if not server.process.is_alive or not await in_thread(process.is_in, path, pid):
        return False
    is_changed = await in_thread(files.brought_up_to_date, server.run, configuration)
    if is_changed is None:
        return False

    async def asked(timeout_s: float) -> Answer:
        return await in_namespace(path, ask, configuration.mark, timeout_s, lambda: server.process.is_alive)

    if not is_changed:
        # Also one whose agent was killed before it told it: that says what it has read.
        answer = await asked(ANSWER_TIMEOUT_S)
        if answer is not Answer.UNKNOWN:
            return answer is Answer.KNOWN
    # It has served before, so it has a handler for it: a dnsmasq that only begins would be killed.
    server.process.hang_up()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            while True:
                answer = await asked(ANSWER_TIMEOUT_S)
                if answer is not Answer.UNKNOWN:
                    return answer is Answer.KNOWN
                await asyncio.sleep(_READING_S)  # of reading its files again it tells nobody
    return False


async def _killed(dying: GuestProcess) -> None:
    try:
        dying.kill()
        if not await dying.wait(DEATH_TIMEOUT_S):
            message = f"dnsmasq (pid {dying.identity.pid}) does not die"
            raise Unavailable(message, reason=Reason.PROCESS_STUCK, retry_after_s=10.0)
    finally:
        dying.let_go()


def _let_go(server: _Server) -> None:
    server.watcher.cancel()
    server.process.let_go()


def _bridge(network: Network) -> int:
    """The bridge's number. Blocking, within the namespace."""
    link = socket.if_nametoindex(BRIDGE)
    for address in own_addresses(network):
        if address.version == 4 and network.ipv4 is not None:
            # The address is none of the network's, so the kernel does not know by itself where that is.
            argv = ("ip", "route", "replace", str(network.ipv4.cidr), "dev", BRIDGE, "src", str(address.ip))
            subprocess.run(argv, check=True, capture_output=True, timeout=ANSWER_TIMEOUT_S)
    return link


def _group(network_uid: str) -> str:
    return f"network-{network_uid}"
