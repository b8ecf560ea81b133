"""Which of a host's devices forward packets: those that a network needs, and no other where the kernel can do that.

IPv4 asks the device that a packet came in by. IPv6 asked the whole host until Linux 6.17, which has `force_forwarding`
of a device; a host that forwards as a whole takes no router advertisements any more, and drops the default route that
it has by one, but on devices that are told to (`accept_ra` 2), which is why that is done first.

Nothing here is ever undone: nobody can tell whether somebody else needs it by then.
"""

from collections.abc import Iterable

from virtplane_api.reasons import Reason
from virtplane_drivers.network.linux.values import Finding
from virtplane_drivers.network_stack import BY_ROUTER_ADVERTISEMENT, Link, NetworkStack

_ALL = "net/ipv6/conf/all/forwarding"


def forward(host: NetworkStack, link: Link, *, ipv6: bool) -> list[Finding]:
    """Let pass what comes by the veth of a network, and by the devices of the host's default routes."""
    findings = []
    families = (4, 6) if ipv6 else (4,)
    for family in families:
        devices = [link.name, *default_devices(host, family)]
        try:
            if family == 4:
                forward_ipv4(host, devices)
            else:
                forward_ipv6(host, devices)
        except OSError as error:
            findings.append(_not_forwarded(family, devices, error))
    if not ipv6 and host.sysctl(own := f"net/ipv6/conf/{link.name}/force_forwarding") == "1":
        host.set_sysctl(own, "0")  # the network had IPv6 before
    return findings


def default_devices(host: NetworkStack, family: int) -> list[str]:
    """Devices that a default route leads by, in whatever table."""
    names = {link.index: link.name for link in host.links().values()}
    found = {
        names[route.link]
        for route in host.routes()
        if route.destination.version == family and route.destination.prefixlen == 0 and route.link in names
    }
    return sorted(found)


def forward_ipv4(host: NetworkStack, devices: Iterable[str]) -> None:
    """Raises OSError: it could not be set."""
    for device in devices:
        host.set_sysctl(f"net/ipv4/conf/{device}/forwarding", "1")


def forward_ipv6(host: NetworkStack, devices: Iterable[str]) -> None:
    """Raises OSError: it could not be set."""
    if host.sysctl(_ALL) == "1":
        return
    if host.sysctl("net/ipv6/conf/all/force_forwarding") is None:
        forward_ipv6_by_all(host)
        return
    for device in devices:
        host.set_sysctl(f"net/ipv6/conf/{device}/force_forwarding", "1")


def forward_ipv6_by_all(host: NetworkStack) -> None:
    """The whole host forwards; what it has by router advertisements stays and is renewed.

    Raises:
        OSError: it could not be set; then the host does not forward.
    """
    for device in _advertised_devices(host):
        setting = f"net/ipv6/conf/{device}/accept_ra"
        # 0: a program hears them in the kernel's place (systemd-networkd), and the routes are that one's.
        if host.sysctl(setting) == "1":
            host.set_sysctl(setting, "2")
    host.set_sysctl(_ALL, "1")


def _advertised_devices(host: NetworkStack) -> list[str]:
    """Devices with a route or an address by a router advertisement."""
    by_advertisement = {route.link for route in host.routes() if route.protocol == BY_ROUTER_ADVERTISEMENT}
    by_advertisement |= {
        address.link for address in host.addresses() if address.interface.version == 6 and not address.permanent
    }
    return sorted(link.name for link in host.links().values() if link.index in by_advertisement)


def _not_forwarded(family: int, devices: Iterable[str], error: OSError) -> Finding:
    settings = [f"net.ipv{family}.conf.{device}.forwarding=1" for device in devices] if family == 4 else []
    command = "sysctl -w " + " ".join(settings or ["net.ipv6.conf.all.forwarding=1"])
    caution = "" if settings else " (with a default route by router advertisements first accept_ra=2 of its device)"
    message = f"the host forwards no IPv{family} for its guests: {error}; set it on the host: {command}{caution}"
    return Finding(Reason.NETWORK_ERROR, message)
