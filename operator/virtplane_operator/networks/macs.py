"""Which MAC address an interface gets: always the same one for the same names, as guests name their links by it."""

import hashlib
from collections.abc import Callable
from itertools import count

PREFIX = "52:54:00"
"""QEMU's and libvirt's, of one interface and locally administered."""


def mac_address(cluster_id: str, namespace: str, machine: str, interface: str, is_taken: Callable[[str], bool]) -> str:
    """52:54:00 and three bytes of a digest; the next digest when that one is taken.

    `cluster_id` (uid of the namespace kube-system) keeps clusters apart that share a network.
    """
    for attempt in count():
        named = f"{cluster_id}/{namespace}/{machine}/{interface}" + (f"/{attempt}" if attempt else "")
        digest = hashlib.sha256(named.encode()).digest()
        chosen = f"{PREFIX}:{digest[0]:02x}:{digest[1]:02x}:{digest[2]:02x}"
        if not is_taken(chosen):
            return chosen
    raise AssertionError("unreachable")
