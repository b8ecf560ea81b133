"""Words that the API and the drivers share: their values are what users read in `kubectl get`."""

from enum import StrEnum


class PowerState(StrEnum):
    """What a machine was last seen doing. Only Running and Stopped can be asked for yet."""

    RUNNING = "Running"
    PAUSED = "Paused"
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


class PoolAccess(StrEnum):
    """From where the volumes of a pool can be used."""

    LOCAL = "Local"
    SHARED = "Shared"


class ExitReason(StrEnum):
    """Why a machine is not running any more."""

    STOPPED = "Stopped"
    GUEST_SHUTDOWN = "GuestShutdown"
    POWERED_OFF = "PoweredOff"
    CRASHED = "Crashed"
    HOST_REBOOTED = "HostRebooted"
