"""The elements of a set of nftables as the kernel has them, read by netlink.

nft(8) would be a process for each set, and takes the whole rule set into its memory to print one. Source:
linux/netfilter/nf_tables.h.
"""

import socket
from collections.abc import Iterator
from dataclasses import dataclass

from virtplane_drivers.network.linux.rules.nfnetlink import attribute, attributes, dumped, opened

_GET_ELEMENTS = 10 << 8 | 13
_TABLE, _SET, _ELEMENTS = 1, 2, 3
_KEY, _EXPIRATION = 1, 5
_VALUE = 1
_FAMILIES = {"inet": 1, "bridge": socket.AF_BRIDGE}


@dataclass(frozen=True, slots=True)
class Element:
    """An element of a set."""

    key: bytes
    """Its parts, each padded to four bytes: of a packet in the order of the network, else in the machine's."""
    expires_s: float
    """How long it stays; 0 of one that stays for ever."""


def elements_of(family: str, table: str, name: str) -> list[Element]:
    """What is in the set of that name, in the thread's namespace; nothing where there is no such set. Blocking.

    Raises:
        OSError: the kernel does not say.
    """
    which = _text(_TABLE, table) + _text(_SET, name)
    with opened() as kernel:
        try:
            found = dumped(kernel, _GET_ELEMENTS, _FAMILIES[family], which)
            return [element for _, message in found for element in _elements(message)]
        except FileNotFoundError:
            return []


def _text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def _elements(message: bytes) -> Iterator[Element]:
    for kind, listed in attributes(message):
        if kind == _ELEMENTS:
            for _, element in attributes(listed):
                parts = dict(attributes(element))
                key = dict(attributes(parts[_KEY]))[_VALUE]
                yield Element(key, int.from_bytes(parts.get(_EXPIRATION, b"")) / 1000)
