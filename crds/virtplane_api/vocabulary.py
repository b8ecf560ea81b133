"""Words that the API and the drivers share: their values are what users read in `kubectl get`."""

from enum import StrEnum


class PowerState(StrEnum):
    """What a machine was last seen doing. All but Unknown can be asked for."""

    RUNNING = "Running"
    PAUSED = "Paused"
    SUSPENDED = "Suspended"
    """Its memory is on a disk, and no process runs it."""
    STOPPED = "Stopped"
    UNKNOWN = "Unknown"


class DiskFormat(StrEnum):
    """How a volume's bytes are laid out on its pool."""

    QCOW2 = "qcow2"
    RAW = "raw"


class DiskType(StrEnum):
    """What a guest sees a disk as."""

    DISK = "Disk"
    CDROM = "CDROM"


class DisplayType(StrEnum):
    """The graphics adapter that a guest sees."""

    VGA = "VGA"
    """Every guest knows it from its first boot screen on."""


class NetworkMode(StrEnum):
    """What a network is joined to outside of its hosts' guests."""

    NAT = "NAT"
    """Guests reach out under the host's addresses; from outside only what is forwarded reaches them."""
    ROUTED = "Routed"
    """The host routes the network's own addresses."""
    ISOLATED = "Isolated"
    """Guests of one host reach each other, and nobody else."""
    BRIDGE = "Bridge"
    """Guests are on a network that the host is on."""
    OVERLAY = "Overlay"
    """One network over all its hosts; each lets its guests out as with NAT."""
    USER = "User"
    """A program without rights relays for each guest, which reaches out and is reached as that program is."""


class NetworkCapability(StrEnum):
    """What networks may ask of a host beyond their mode: named in `missingCapabilities` of a Hypervisor without it."""

    FIREWALL = "NetworkFirewall"
    VLAN = "NetworkVLAN"


class Addressing(StrEnum):
    """How a guest gets the addresses that were claimed for it, or its own."""

    DHCP = "DHCP"
    STATIC = "Static"
    """Nobody tells it: it is configured inside."""
    SLAAC = "SLAAC"
    """Of IPv6: none is claimed. The router tells the prefix, and the guest chooses (RFC 4862)."""


class InterfaceModel(StrEnum):
    """The network adapter that a guest sees."""

    VIRTIO = "virtio"
    E1000E = "e1000e"
    """Intel's 82574L, for guests without virtio drivers."""


class LinkState(StrEnum):
    """Whether an adapter's cable is in."""

    UP = "Up"
    DOWN = "Down"
    """The guest sees an adapter without a carrier, and nothing passes."""


class ForwardProtocol(StrEnum):
    """What can be forwarded by port."""

    TCP = "TCP"
    UDP = "UDP"


class FirewallDirection(StrEnum):
    """Who begins a flow, as the machine sees it."""

    INGRESS = "Ingress"
    EGRESS = "Egress"


class FirewallAction(StrEnum):
    """What becomes of a flow."""

    ALLOW = "Allow"
    DENY = "Deny"


class FirewallProtocol(StrEnum):
    """What a rule of a firewall speaks of."""

    TCP = "TCP"
    UDP = "UDP"
    ICMP = "ICMP"
    """Of both families."""
    ANY = "Any"


class ActionType(StrEnum):
    """An act on a machine that is no state."""

    RESET = "Reset"
    NMI = "NMI"
    SEND_KEYS = "SendKeys"
    SCREENSHOT = "Screenshot"
    GUEST_COMMAND = "GuestCommand"


class DeletionPolicy(StrEnum):
    """What becomes of the data when the Volume is deleted."""

    DELETE = "Delete"
    RETAIN = "Retain"


class PoolAccess(StrEnum):
    """From where the volumes of a pool can be used."""

    LOCAL = "Local"
    SHARED = "Shared"


class RestartPolicy(StrEnum):
    """Whether a machine is started again after the guest itself stopped or died."""

    ALWAYS = "Always"
    ON_FAILURE = "OnFailure"
    NEVER = "Never"


class ExitReason(StrEnum):
    """Why a machine is not running any more."""

    STOPPED = "Stopped"
    """The guest was asked to shut down, and did."""
    POWERED_OFF = "PoweredOff"
    """As asked: at once, or after its grace period."""
    GUEST_SHUTDOWN = "GuestShutdown"
    """The guest shut itself down."""
    GUEST_PANICKED = "GuestPanicked"
    """The guest's kernel said so (pvpanic)."""
    WATCHDOG_EXPIRED = "WatchdogExpired"
    """The guest stopped feeding its watchdog."""
    KILLED = "Killed"
    """The hypervisor process was told to end by somebody else."""
    CRASHED = "Crashed"
    """The hypervisor process died."""
    HOST_REBOOTED = "HostRebooted"


ENDED_AS_ASKED = frozenset({ExitReason.STOPPED, ExitReason.POWERED_OFF})
"""Every other end is the machine's own."""
