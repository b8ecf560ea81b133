"""Adapters of a QEMU that runs, as commands of its monitor. Whatever of an act was done before is no error.

A port's descriptors go by SCM_RIGHTS (getfd), each under a name that the network then takes it by; so QEMU needs no
rights, as at its start. What a killed driver left of that (a name not taken, a network without an adapter) holds the
tap open, until `clear`.
"""

import asyncio
import contextlib
import os
import re
from collections.abc import Collection, Mapping, Sequence

from virtplane_drivers.host.blocking import in_thread
from virtplane_drivers.hypervisor.qemu.argv import NETWORK_ID, NIC_ID, network_of, nic_device
from virtplane_drivers.hypervisor.qemu.definition import NicDefinition
from virtplane_drivers.hypervisor.qemu.grants import joined
from virtplane_drivers.hypervisor.qemu.monitor import CommandFailed, EventsLost, Monitor, MonitorError

_TIMEOUT_S = 10.0
_LOOK_TIMEOUT_S = 4.0
"""Of what is asked beside each look at a machine."""
JOIN_TIMEOUT_S = 2.0
"""What a socket is to be joined to may have ended before QEMU came to it."""
UNPLUG_TIMEOUT_S = 5.0
"""How long a guest has to let an adapter go before its machine is let alone: one that boots, is held or knows no
hot-plug never answers. What it does later is heard all the same."""

_SOCKETS = re.compile(rf"^[ \\]*{NETWORK_ID}(\S+): index=\d+,type=(?:stream|socket),(.*?)\r?$", re.MULTILINE)
_NO_PEER = ("", "error")


async def present(monitor: Monitor) -> frozenset[str]:
    """Names of the adapters that QEMU has, whatever its guest makes of them (`/machine/peripheral`).

    Raises:
        MonitorError: no answer, or none of sense.
    """
    answer = await monitor.execute("qom-list", {"path": "/machine/peripheral"}, timeout_s=_TIMEOUT_S)
    if not isinstance(answer, list):
        raise MonitorError(f"qom-list: no list in {str(answer)[:100]}")
    ids = [str(one.get("name")) for one in answer if isinstance(one, dict)]
    return frozenset(word.removeprefix(NIC_ID) for word in ids if word.startswith(NIC_ID))


async def sockets(monitor: Monitor) -> Mapping[str, bool]:
    """Of each adapter of a socket whether the other end is there. Once it has closed it QEMU 7.2 connects none anew.

    Only HMP's `info network` tells so at any time, by an empty name of the peer; NETDEV_STREAM_DISCONNECTED is heard by
    who is connected then, and a `socket` sends none.

    Raises:
        MonitorError: no answer.
    """
    try:
        command = {"command-line": "info network"}
        answer = await monitor.execute("human-monitor-command", command, timeout_s=_LOOK_TIMEOUT_S)
    except CommandFailed:
        return {}  # a QEMU without it: nobody knows
    return sockets_in(str(answer))


async def until_joined(monitor: Monitor, names: Collection[str]) -> None:
    """Returns once QEMU has joined the sockets of these adapters, or after `JOIN_TIMEOUT_S`.

    It does so beside the rest of its start: until then they look like ones that are cut off.

    Raises:
        MonitorError: no answer.
    """
    said = "NETDEV_STREAM_CONNECTED", "NETDEV_STREAM_DISCONNECTED"
    with monitor.events(*said) as news, contextlib.suppress(TimeoutError):
        async with asyncio.timeout(JOIN_TIMEOUT_S):
            while not all(one for name, one in (await sockets(monitor)).items() if name in names):
                with contextlib.suppress(EventsLost):
                    await news.get()


def sockets_in(said: str) -> Mapping[str, bool]:
    """What `info network` says of them."""
    return {name: peer not in _NO_PEER for name, peer in _SOCKETS.findall(said)}


async def plug(monitor: Monitor, nic: NicDefinition) -> None:
    """The guest gets an adapter of which there is nothing. A cable that is to be out is so from before.

    Raises:
        Unavailable: the port cannot be joined now; nothing is left.
        MonitorError: QEMU refused, or no answer.
    """
    names = _descriptor_names(nic)
    descriptors = await in_thread(joined, nic)
    try:
        try:
            for name, descriptor in zip(names, descriptors, strict=True):
                await monitor.execute("getfd", {"fdname": name}, descriptor=descriptor, timeout_s=_TIMEOUT_S)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        await monitor.execute("netdev_add", network_of(nic, names), timeout_s=_TIMEOUT_S)
        if not nic.link_up:
            await set_link(monitor, nic)  # nothing passes by that; the adapter begins with its cable in all the same
        await monitor.execute("device_add", nic_device(nic, {}), timeout_s=_TIMEOUT_S)
    except CommandFailed:
        await clear(monitor, nic)
        raise
    if not nic.link_up:
        await set_link(monitor, nic)


async def clear(monitor: Monitor, nic: NicDefinition) -> None:
    """Of an adapter that QEMU does not have nothing else is left either: its tap goes.

    Raises:
        MonitorError: no answer.
    """
    with contextlib.suppress(CommandFailed):
        await monitor.execute("netdev_del", {"id": f"{NETWORK_ID}{nic.name}"}, timeout_s=_TIMEOUT_S)
    for name in _descriptor_names(nic):
        with contextlib.suppress(CommandFailed):
            await monitor.execute("closefd", {"fdname": name}, timeout_s=_TIMEOUT_S)


async def ask_back(monitor: Monitor, names: Sequence[str]) -> None:
    """Ask the guest to let adapters go; returns when QEMU has none of them any more, or after `UNPLUG_TIMEOUT_S`.

    Raises:
        MonitorError: no answer.
    """
    with monitor.events("DEVICE_DELETED", "DEVICE_UNPLUG_GUEST_ERROR") as news:
        for name in names:
            # Refused when it is gone, and when the guest was asked a moment ago.
            with contextlib.suppress(CommandFailed):
                await monitor.execute("device_del", {"id": f"{NIC_ID}{name}"}, timeout_s=_TIMEOUT_S)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(UNPLUG_TIMEOUT_S):
                # An event is a hint: some are of parts of a device, some were sent while nobody was connected.
                while await present(monitor) & set(names):
                    with contextlib.suppress(EventsLost):
                        if (await news.get())["event"] == "DEVICE_UNPLUG_GUEST_ERROR":
                            return


async def set_link(monitor: Monitor, nic: NicDefinition) -> None:
    """Put the cable in, or pull it out, as the definition says: at the network's end, which takes the adapter's along.

    Raises:
        MonitorError: no answer, or there is no such adapter.
    """
    await monitor.execute("set_link", {"name": f"{NETWORK_ID}{nic.name}", "up": nic.link_up}, timeout_s=_TIMEOUT_S)


def _descriptor_names(nic: NicDefinition) -> list[str]:
    """What begins with a digit is taken for a number."""
    return [f"{NETWORK_ID}{nic.name}-{queue}" for queue in range(nic.queues)]
