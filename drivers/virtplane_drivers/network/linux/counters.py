"""What went through the ports of this host's networks: the kernel's statistics of their taps, seen from the guests."""

import errno
from collections.abc import Mapping, Sequence
from pathlib import Path

from virtplane_drivers.host import netns
from virtplane_drivers.host.blocking import in_thread
from virtplane_drivers.host.link_statistics import LinkStatistics, read_statistics
from virtplane_drivers.network.contract import CountersByPort, Network, PortCounters, Traffic
from virtplane_drivers.network.linux.names import namespace_path, tap_name


async def read_counters(runtime_folder: Path, networks: Sequence[Network]) -> Mapping[str, CountersByPort]:
    """By the networks' UIDs; of one whose namespace is gone nothing is said.

    Raises:
        OSError: not permitted.
    """
    return await in_thread(_read, runtime_folder, networks)


def as_the_guest_sees(tap: LinkStatistics) -> PortCounters:
    """What the tap received, the guest has sent."""
    return PortCounters(
        received=Traffic(tap.tx_bytes, tap.tx_packets, tap.tx_dropped, tap.tx_errors),
        transmitted=Traffic(tap.rx_bytes, tap.rx_packets, tap.rx_dropped, tap.rx_errors + tap.rx_frame_errors),
    )


def _read(runtime_folder: Path, networks: Sequence[Network]) -> Mapping[str, CountersByPort]:
    """One thread, which goes through all namespaces."""
    found: dict[str, CountersByPort] = {}
    for network in networks:
        try:
            netns.enter(namespace_path(runtime_folder, network.uid))
        except OSError as error:
            # Removed meanwhile; between umount and unlink its file is a plain one.
            if error.errno in (errno.ENOENT, errno.EINVAL):
                continue
            raise
        links = read_statistics()
        taps = {port.key: tap_name(port) for port in network.ports}
        found[network.uid] = {key: as_the_guest_sees(links[tap]) for key, tap in taps.items() if tap in links}
    return found
