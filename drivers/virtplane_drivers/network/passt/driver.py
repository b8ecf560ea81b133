"""Networks of mode User: for each port a passt, which outlives the agent and the hypervisors that join it.

::

    <runtime>/passt/<network>/<port>/     port.json (which one), socket, log, output

Guests of one network do not meet: each speaks to the outside alone, as a program of the host would. That is all that
can be had without root. With root they are kept from the host itself too: see `host_rules`.

passt tells nobody which addresses a guest uses: of a family that the network does not manage none is seen.
"""

import asyncio
import contextlib
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import TracebackType
from typing import Self

from virtplane_api.reasons import Reason
from virtplane_api.reconcile.backoff import Recurrences
from virtplane_api.vocabulary import NetworkMode
from virtplane_drivers.attachment import StreamAttachment
from virtplane_drivers.errors import Refused, Unavailable
from virtplane_drivers.hints import Hints
from virtplane_drivers.host import netns
from virtplane_drivers.host.blocking import in_thread
from virtplane_drivers.host.cgroup import Hierarchies, Limits, find_hierarchies
from virtplane_drivers.host.process import GuestProcess, find, watch_child
from virtplane_drivers.network.contract import (
    NO_NETWORK,
    Network,
    NetworkDriver,
    NetworkFacts,
    NetworkState,
    ObservedNetwork,
    Port,
)
from virtplane_drivers.network.passt import process
from virtplane_drivers.network.passt.host_rules import CHECK_EVERY_S, HostRules, what_is_missing
from virtplane_drivers.network.passt.process import OUTPUT, PROGRAM, SOCKET, SocketState

_log = logging.getLogger(__name__)

START_TIMEOUT_S = 10.0
DEATH_TIMEOUT_S = 5.0
_LOOK_S = 0.005
_LIMITS = Limits(memory_mib=256, cpu_weight=100, cpu_quota_us=100_000)
"""Of one passt, which has one thread: what a guest makes it do takes one CPU at most."""
_FAREWELL_S = 1.0
_PORT = "port.json"
_MAX_SOCKET_PATH_BYTES = 107
"""unix(7)."""


class PasstNetworks(NetworkDriver):
    """Networks of the host that this process runs on, or of the one whose namespace is given."""

    name = "passt"

    def __init__(
        self, runtime_folder: Path, *, host_namespace: Path | None = None, check_every_s: float = CHECK_EVERY_S
    ) -> None:
        self._folder = runtime_folder.absolute() / "passt"
        self._namespace = host_namespace
        self._users = process.users()
        self._host_rules = HostRules(self._folder, self._users, host_namespace, check_every_s=check_every_s)
        self._told: dict[Path, tuple[str, ...]] = {}
        """Of each port, running or to be: what the host's rules are for."""
        self._running: dict[Path, tuple[GuestProcess, tuple[str, ...]]] = {}
        self._watchers: dict[Path, asyncio.Task[None]] = {}
        self._hints = Hints()
        self._deaths: Recurrences[Path] = Recurrences()
        self._refusals: dict[Path, tuple[tuple[str, str], str]] = {}
        """By port: which one it is, and the last words of a passt that could not be started for it."""
        self._timers: dict[Path, asyncio.TimerHandle] = {}
        self._hierarchies: Hierarchies | None = None

    async def __aenter__(self) -> Self:
        for found in await in_thread(process.running_below, self._folder, self._users):
            if (adopted := find(found.identity)) is not None:
                self._watch(found.folder, adopted, found.argv)
                self._told[found.folder] = found.argv
        if not self._users.are_own:
            _log.warning("%s; their guests reach what this user reaches, the host's services too", self._users.missing)
        if self._told:
            try:
                await self._host_rules.apply(self._told)
            except Unavailable as error:  # each network says so when it is applied
                _log.warning("guests of mode User reach the host's own services: %s", error)
        self._host_rules.start()
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for folder in list(self._running):
            self._let_go(folder)
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        await self._host_rules.stop()

    async def probe(self) -> NetworkFacts:
        """Mode User, where there is passt and, if it can be had, what keeps guests from the host."""
        missing = await in_thread(what_is_missing, self._users)
        if await in_thread(shutil.which, PROGRAM) is None:
            missing = f"not installed: {PROGRAM}"
        if missing:
            return NetworkFacts(frozenset(), {f"Network{NetworkMode.USER}": missing})
        return NetworkFacts(frozenset({NetworkMode.USER}))

    async def inventory(self) -> tuple[str, ...]:
        """Networks that have a folder, or a process whose folder was lost."""
        named = {folder.parent.name for folder in self._running}
        return tuple(sorted(named | set(await in_thread(_names, self._folder))))

    async def observe(self, uid: str) -> ObservedNetwork:
        """Which of its ports are served."""
        ports = await in_thread(_ports, self._folder / uid)
        if ports is None:
            return NO_NETWORK
        served = frozenset(key for folder, key in ports.items() if self._is_alive(folder))
        refusals = dict(refused for folder, refused in self._refusals.items() if folder.parent.name == uid)
        lost = sorted({*ports.values(), *refusals} - served)
        if not lost:
            return ObservedNetwork(NetworkState.READY, ports=served)
        said = next((f" ({refusals[key]})" for key in lost if refusals.get(key)), "")
        message = f"passt of {', '.join(map('/'.join, lost))} ended; it is started again{said}"
        return ObservedNetwork(NetworkState.FAILED, Reason.NETWORK_ERROR, message, served)

    async def apply(self, network: Network) -> None:
        """A passt that is as it is to be is left alone; any other is ended, and its guest's connections with it."""
        if network.mode is not NetworkMode.USER:
            raise Refused(f"passt has no networks of mode {network.mode}", reason=Reason.NETWORK_INVALID)
        if network.has_firewall:
            message = "a firewall takes a network of the host's: passt, which serves mode User, has none"
            raise Refused(message, reason=Reason.FIREWALL_NOT_POSSIBLE)
        wanted = {self._port_folder(network.uid, port): port for port in network.ports}
        told = {folder: tuple(process.arguments(network, port, folder)) for folder, port in wanted.items()}
        try:
            await in_thread(_make_folder, self._folder / network.uid)
            for folder in await in_thread(_port_folders, self._folder / network.uid):
                # A machine that nobody describes any more runs on, and is served.
                if folder not in wanted and not await self._is_joined(folder):
                    await self._end(folder)
                    self._forget(folder)
            for folder in [one for one in self._refusals if one.parent.name == network.uid and one not in wanted]:
                self._forget(folder)
            await self._keep_from_host(network.uid, told)
            for folder, port in wanted.items():
                is_so = self._is_alive(folder) and self._running[folder][1] == told[folder]
                # One that waits is no reason for the others' machines to wait too: see `attachment`.
                if not is_so and not self._is_to_wait(folder):
                    await self._start(folder, port, told[folder])
        except OSError as error:
            raise Unavailable(f"network {network.namespace}/{network.name}: {error}") from error

    async def attachment(self, network: Network, port: Port) -> StreamAttachment:
        """The socket that passt listens at: for one hypervisor, and after it for the next."""
        wait_s = self._deaths.wait_s(folder := self._port_folder(network.uid, port), time.monotonic())
        if wait_s and not self._is_alive(folder):
            said = f" ({words})" if (words := self._refusals.get(folder, ("", ""))[1]) else ""
            message = f"passt of {'/'.join(port.key)} ended again and again: it is started less and less often{said}"
            raise Unavailable(message, reason=Reason.NETWORK_ERROR, retry_after_s=wait_s)
        return StreamAttachment(self._port_folder(network.uid, port) / SOCKET)

    async def remove(self, uid: str) -> None:
        """While one is joined: not."""
        folders = {folder for folder in self._running if folder.parent.name == uid}
        for folder in folders:
            if await self._is_joined(folder):
                message = f"network {uid} is held by a running machine at {folder / SOCKET}"
                raise Unavailable(message, reason=Reason.NETWORK_IN_USE, retry_after_s=30.0)
        for folder in folders | set(await in_thread(_port_folders, self._folder / uid)):
            await self._end(folder)
            self._forget(folder)
        for folder in [one for one in self._refusals if one.parent.name == uid]:
            self._forget(folder)
        with contextlib.suppress(FileNotFoundError):
            await in_thread(shutil.rmtree, self._folder / uid)
        await self._keep_from_host(uid, {})

    async def counters(self) -> None:
        """None: passt counts nothing, and there is no device of the kernel's that would."""

    def events(self) -> AsyncIterator[str]:
        """UIDs of networks of which a passt ended."""
        return aiter(self._hints)

    async def _keep_from_host(self, uid: str, told: dict[Path, tuple[str, ...]]) -> None:
        """The guests of these ports of the network, and those that run on although nobody describes them any more."""
        running = {folder: one for folder, (_, one) in self._running.items() if folder.parent.name == uid}
        others = {folder: one for folder, one in self._told.items() if folder.parent.name != uid}
        self._told = others | running | told
        await self._host_rules.apply(self._told)

    def _port_folder(self, uid: str, port: Port) -> Path:
        return self._folder / uid / hashlib.sha256("/".join(port.key).encode()).hexdigest()[:12]

    def _is_to_wait(self, folder: Path) -> bool:
        """As it has ended again and again; then the network is worth applying again after a time."""
        wait_s = self._deaths.wait_s(folder, time.monotonic())
        if wait_s and folder not in self._timers:
            loop = asyncio.get_running_loop()
            self._timers[folder] = loop.call_later(wait_s, self._wait_is_over, folder)
        return wait_s > 0

    def _wait_is_over(self, folder: Path) -> None:
        del self._timers[folder]
        self._hints.add(folder.parent.name)

    def _is_alive(self, folder: Path) -> bool:
        return folder in self._running and self._running[folder][0].is_alive

    async def _start(self, folder: Path, port: Port, told: tuple[str, ...]) -> None:
        if len(os.fsencode(folder / SOCKET)) > _MAX_SOCKET_PATH_BYTES:
            message = f"{folder / SOCKET} is longer than a socket's path may be: give the agent a shorter --runtime-dir"
            raise Unavailable(message, reason=Reason.NETWORK_ERROR, retry_after_s=60.0)
        await self._end(folder)
        user = self._users.choose(process.user_key(folder), ())
        await in_thread(_make_port_folder, folder, port, user)
        groups = (await self._groups()).prepare(_group(folder), _LIMITS)
        child = await in_thread(process.start, told, folder, user, self._namespace, groups)
        self._watch(folder, watch_child(child), told)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_TIMEOUT_S):
                while self._is_alive(folder):
                    if (await self._state(folder)).listens:
                        self._refusals.pop(folder, None)
                        return
                    await asyncio.sleep(_LOOK_S)
        said = await in_thread(_last_words, folder)
        await self._end(folder)
        self._refusals[folder] = (port.key, said)
        message = f"passt does not serve {'/'.join(port.key)}: {said or 'it does not listen'}"
        raise Unavailable(message, reason=Reason.NETWORK_ERROR)

    def _forget(self, folder: Path) -> None:
        self._deaths.forget(folder)
        self._refusals.pop(folder, None)

    async def _is_joined(self, folder: Path) -> bool:
        """Not by a hypervisor that has just ended: its passt may not have seen it yet."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL_S):
                while self._is_alive(folder) and (await self._state(folder)).joined:  # noqa: ASYNC110  # no event tells of it
                    await asyncio.sleep(_LOOK_S)
                return False
        return True

    async def _state(self, folder: Path) -> SocketState:
        return await in_thread(_socket_state, self._namespace, folder / SOCKET)

    async def _end(self, folder: Path) -> None:
        if folder in self._running:
            dying = self._running[folder][0]
            self._watchers[folder].cancel()
            dying.kill()
            if not await dying.wait(DEATH_TIMEOUT_S):
                raise Unavailable(f"passt (pid {dying.identity.pid}) does not die", reason=Reason.PROCESS_STUCK)
            self._let_go(folder)
        with contextlib.suppress(FileNotFoundError):
            await in_thread(shutil.rmtree, folder)
        (await self._groups()).remove(_group(folder))

    async def _groups(self) -> Hierarchies:
        if self._hierarchies is None:
            self._hierarchies = await in_thread(find_hierarchies)
        return self._hierarchies

    def _watch(self, folder: Path, watched: GuestProcess, told: tuple[str, ...]) -> None:
        async def tell() -> None:
            await watched.dead.wait()
            self._deaths.add(folder, time.monotonic())
            self._hints.add(folder.parent.name)

        self._running[folder] = (watched, told)
        self._watchers[folder] = asyncio.create_task(tell(), name=f"passt of {folder.parent.name}/{folder.name}")

    def _let_go(self, folder: Path) -> None:
        self._watchers.pop(folder).cancel()
        self._running.pop(folder)[0].let_go()


def _group(folder: Path) -> str:
    return f"port-{folder.parent.name}-{folder.name}"


def _socket_state(namespace: Path | None, path: Path) -> SocketState:
    # A connection is of the namespace of who made it, which is ours: the agent connects for its hypervisors.
    seen = process.socket_state(path)
    if namespace is None:  # entering even one's own takes root
        return seen
    netns.enter(namespace)
    there = process.socket_state(path)
    return SocketState(listens=there.listens, joined=seen.joined or there.joined)


def _names(folder: Path) -> list[str]:
    try:
        return [entry.name for entry in folder.iterdir()]
    except FileNotFoundError:
        return []


def _port_folders(network_folder: Path) -> list[Path]:
    return [network_folder / name for name in _names(network_folder)]


def _ports(network_folder: Path) -> dict[Path, tuple[str, str]] | None:
    """Folder -> key; None: there is no such network."""
    if not network_folder.is_dir():
        return None
    found = {}
    for folder in _port_folders(network_folder):
        with contextlib.suppress(OSError, ValueError):  # of an agent that was killed in between
            machine_uid, interface = json.loads((folder / _PORT).read_text())
            found[folder] = (str(machine_uid), str(interface))
    return found


def _make_folder(network_folder: Path) -> None:
    for folder in (network_folder.parent, network_folder):
        folder.mkdir(mode=0o711, parents=True, exist_ok=True)
        folder.chmod(0o711)


def _make_port_folder(folder: Path, port: Port, user: int | None) -> None:
    folder.mkdir(mode=0o700)
    (folder / _PORT).write_text(json.dumps(port.key))
    if user is not None:
        os.chown(folder, user, user)


def _last_words(folder: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        lines = (folder / OUTPUT).read_text(errors="replace").splitlines()
        return "; ".join(line for line in lines if line and "syslog" not in line)[-500:]
    return ""
