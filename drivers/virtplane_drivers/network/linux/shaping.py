"""Limits of what passes a port: to its guest a token bucket on the tap; from it another one on an ifb of the tap's own,
which all that comes in by the tap takes a way through before the bridge sees it.

A tap is there only while a hypervisor holds it, and its queues end with it; its ifb is taken away by the next look. So
limits are in force from the first `apply` after the port was joined.
"""

import errno
from collections.abc import Iterable, Mapping

from virtplane_drivers.host.network_stack import Bucket, Link, NetworkStack
from virtplane_drivers.network.contract import Port
from virtplane_drivers.network.linux.names import ifb_name, tap_name

IFB = "ifb"
"""What the kernel calls the kind of an intermediate functional block."""
_BURST_S = 0.02
_WAIT_S = 0.05
_LEAST_FRAMES = 4
_WAITING_FRAMES = 20


def bucket_for(bits_per_s: int, mtu: int) -> Bucket:
    """What lets so much pass: bursts of 20 ms, and another 50 ms may wait; of slow ones at least some frames."""
    bytes_per_s, frame = max(1, bits_per_s // 8), mtu + 18
    burst = max(int(bytes_per_s * _BURST_S), _LEAST_FRAMES * frame)
    return Bucket(bytes_per_s, burst, burst + max(int(bytes_per_s * _WAIT_S), _WAITING_FRAMES * frame))


def apply_limits(stack: NetworkStack, ports: Iterable[Port], mtu: int, links: Mapping[str, Link]) -> None:
    """The taps that are there have the limits of their ports. What is so already is not touched.

    Raises:
        OSError: the kernel refused one (it may lack tbf, ifb or mirred).
    """
    for link in links.values():
        if link.kind == IFB and f"t{link.name[1:]}" not in links:
            stack.delete_link(link)
    for port in ports:
        tap = links.get(tap_name(port))
        if tap is None:
            continue
        try:
            _limit(stack, port, mtu, tap, links.get(ifb_name(port)))
        except OSError as error:
            if error.errno != errno.ENODEV:  # its hypervisor ended meanwhile
                raise


def _limit(stack: NetworkStack, port: Port, mtu: int, tap: Link, ifb: Link | None) -> None:
    ingress, egress = port.bandwidth.ingress_bps, port.bandwidth.egress_bps
    _fill(stack, tap, None if ingress is None else bucket_for(ingress, mtu))
    if egress is None:
        if ifb is not None:
            stack.stop_redirecting(tap)
            stack.delete_link(ifb)
        return
    if ifb is None:
        stack.stop_redirecting(tap)  # to one that somebody took away
        ifb = stack.make_ifb(ifb_name(port))
    _fill(stack, ifb, bucket_for(egress, mtu))
    if not ifb.up:
        stack.change_link(ifb, state="up")
    stack.redirect(tap, ifb)


def _fill(stack: NetworkStack, link: Link, wanted: Bucket | None) -> None:
    """`wanted` is how what the link sends is limited; None: not at all."""
    if wanted is None and not link.is_limited:
        return
    if stack.bucket(link) != wanted:
        stack.set_bucket(link, wanted)
