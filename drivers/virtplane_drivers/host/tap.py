"""Taps: ports of a bridge whose other end is descriptors, for a hypervisor that holds them.

A tap is never persistent. It is there while a descriptor of it is open, so one whose hypervisor was killed is gone, and
one that was being made when its maker was killed too.
"""

import fcntl
import os
import struct

from virtplane_drivers.attachment import TapAttachment
from virtplane_drivers.host import netns
from virtplane_drivers.host.network_stack import NetworkStack

_DEVICE = "/dev/net/tun"
_TUNSETIFF = 0x400454CA
_TAP, _NO_PACKET_INFO, _MULTI_QUEUE, _VNET_HEADER, _EXCLUSIVE = 0x0002, 0x1000, 0x0100, 0x4000, 0x8000
_REQUEST = struct.Struct("16sH22x")
"""struct ifreq: name and flags."""


def open_tap(attachment: TapAttachment, queues: int, *, vnet_header: bool = True) -> list[int]:
    """Descriptors of a new tap, one for each queue, closed on exec: MTU and alias set, up, a port of its bridge.

    Blocks for some milliseconds. With `vnet_header` each frame has 10 bytes before it (struct virtio_net_hdr, virtio
    5.1.6), as a hypervisor with offloads wants them.

    Raises:
        OSError: EBUSY: a hypervisor holds that tap still. Others as the kernel says. No tap is left.
    """
    return netns.call(attachment.namespace, _open_here, attachment, queues, vnet_header)


def _open_here(attachment: TapAttachment, queues: int, vnet_header: bool) -> list[int]:  # noqa: FBT001
    flags = _TAP | _NO_PACKET_INFO
    flags |= _VNET_HEADER if vnet_header else 0
    flags |= _MULTI_QUEUE if queues > 1 else 0
    descriptors: list[int] = []
    try:
        for queue in range(queues):
            descriptor = os.open(_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            descriptors.append(descriptor)
            # Without it the first one would be another queue of the tap that somebody else holds.
            exclusive = _EXCLUSIVE if queue == 0 else 0
            fcntl.ioctl(descriptor, _TUNSETIFF, _REQUEST.pack(attachment.name.encode(), flags | exclusive))
        _join(attachment)
    except BaseException:
        for descriptor in descriptors:
            os.close(descriptor)
        raise
    return descriptors


def _join(attachment: TapAttachment) -> None:
    with NetworkStack(netns.OF_THREAD) as stack:
        links = {name: stack.link(name) for name in (attachment.name, attachment.bridge)}
        tap, bridge = links[attachment.name], links[attachment.bridge]
        if tap is None or bridge is None:
            raise FileNotFoundError(f"there is no {attachment.bridge} in {attachment.namespace}")
        # MTU first: a bridge takes the least one of its ports (bridge(8)).
        stack.change_link(tap, mtu=attachment.mtu, ifalias=attachment.alias)
        stack.change_link(tap, master=bridge.index, state="up")
