"""Which addresses an image may be fetched from.

A user's URL must not reach what only this host can reach: itself, its link, the cloud's metadata service. Names prove
nothing (DNS may answer differently each time), so the check stands where it cannot be passed by: in the making of the
socket, with the address about to be connected to. Each hop of a redirect has a connector of its own.
Private networks stay open, as images often lie there.
"""

import ipaddress
import socket
from collections.abc import Collection
from typing import Any

import aiohttp

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "169.254.169.254",  # nearly all clouds; link-local anyway
        "fd00:ec2::254",  # AWS
        "fd20:ce::254",  # Google Cloud
        "100.100.100.200",  # Alibaba Cloud
        "168.63.129.16",  # Azure's wire server
        "192.0.0.192",  # Oracle Cloud
    )
)
_ENDS_IN_IPV4 = tuple(
    ipaddress.ip_network(text)
    for text in (
        "64:ff9b::/96",  # NAT64
        "64:ff9b:1::/48",  # NAT64 of a site's own (RFC 8215), in the form of a /96
        "::ffff:0:0:0/96",  # IPv4-translated (RFC 2765)
        "::/96",  # IPv4-compatible, out of use
    )
)
_NO_IPV4 = frozenset({ipaddress.IPv6Address("::"), ipaddress.IPv6Address("::1")})
_THIS_NETWORK = ipaddress.ip_network("0.0.0.0/8")


class AddressPolicy:
    """Refuses dangerous addresses, but for the `host:port` pairs in `allowed_sources`."""

    def __init__(self, allowed_sources: Collection[str] = ()) -> None:
        self._allowed = frozenset(source.lower() for source in allowed_sources)

    def why_refused(self, address: str, *, host: str, port: int) -> str | None:
        """What kind of address this is, when a connection to it, asked for as host:port, is refused."""
        if f"{host}:{port}".lower() in self._allowed or f"[{host}]:{port}".lower() in self._allowed:
            return None
        return danger(address)


class GuardedConnector(aiohttp.TCPConnector):
    """A connector for one hop to one host and port: every socket it makes passes the policy first."""

    def __init__(self, policy: AddressPolicy, *, host: str, port: int) -> None:
        self.refusals: list[str] = []
        """What was refused, in words; aiohttp's own error hides it when a name has several addresses."""
        self.passed = 0
        """How many addresses were not refused: then what goes wrong is another matter."""

        def make_socket(address_info: tuple[Any, ...]) -> socket.socket:
            family, kind, protocol, _, peer = address_info
            why = policy.why_refused(peer[0], host=host, port=port)
            if why is not None:
                refusal = f"{host} is {peer[0]}, a {why} address"
                self.refusals.append(refusal)
                raise PermissionError(refusal)
            self.passed += 1
            return socket.socket(family=family, type=kind, proto=protocol)

        super().__init__(socket_factory=make_socket, force_close=True, use_dns_cache=False)


def danger(address: str) -> str | None:
    """What kind of address this is, when nobody's URL should reach it; None when it is harmless."""
    parsed = _embedded(ipaddress.ip_address(address.partition("%")[0]))
    kinds = {
        "metadata": parsed in METADATA,
        "unspecified": parsed.is_unspecified or (parsed.version == 4 and parsed in _THIS_NETWORK),
        "loopback": parsed.is_loopback,
        "link-local": parsed.is_link_local or (parsed.version == 6 and parsed.is_site_local),
        "multicast": parsed.is_multicast,
        "reserved": parsed.is_reserved and not (parsed.version == 6 and parsed.is_global),
    }
    return next((kind for kind, applies in kinds.items() if applies), None)


def _embedded(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for (mapped, 6to4, NAT64 ...), else the address itself."""
    if isinstance(address, ipaddress.IPv4Address) or address in _NO_IPV4:
        return address
    if any(address in network for network in _ENDS_IN_IPV4):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address
