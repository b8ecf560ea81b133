"""Why something is as it is, as one word for programs: the reasons of conditions and Events.

Free of pydantic and of Kubernetes: drivers say them as well. Users are told of each in docs, by object.
"""

from enum import StrEnum


class Reason(StrEnum):
    """CamelCase words that never change their meaning (Kubernetes API conventions, Condition.reason)."""

    # --- on the way ---
    PLACED = "Placed"
    STARTING = "Starting"
    RESTARTING = "Restarting"
    PAUSING = "Pausing"
    RESUMING = "Resuming"
    SUSPENDING = "Suspending"
    SHUTTING_DOWN = "ShuttingDown"
    DELETING = "Deleting"
    CREATING = "Creating"
    IMPORTING = "Importing"

    # --- there, or gone ---
    RUNNING = "Running"
    MADE = "Made"
    REACHABLE = "Reachable"
    REMOVED = "Removed"
    DELETED = "Deleted"
    RETAINED = "Retained"

    # --- no place yet ---
    NO_HYPERVISOR_FITS = "NoHypervisorFits"
    NO_DEFAULT_POOL = "NoDefaultPool"
    POOL_NOT_FOUND = "PoolNotFound"
    POOL_DELETING = "PoolDeleting"
    VOLUME_NOT_FOUND = "VolumeNotFound"
    VOLUME_DELETING = "VolumeDeleting"
    VOLUME_IN_USE = "VolumeInUse"
    VOLUME_NAME_TAKEN = "VolumeNameTaken"
    IN_USE = "InUse"
    """Of something whose deletion waits for its users."""

    # --- a machine's disks ---
    VOLUME_NOT_READY = "VolumeNotReady"
    VOLUME_FAILED = "VolumeFailed"
    VOLUME_LOST = "VolumeLost"
    VOLUME_NOT_CLAIMED = "VolumeNotClaimed"
    VOLUME_REPLACED = "VolumeReplaced"
    DISK_IN_USE = "DiskInUse"
    DISK_NOT_ATTACHABLE = "DiskNotAttachable"
    CLAIM_NOT_CONFIRMED = "ClaimNotConfirmed"
    RECORD_TOO_NEW = "RecordTooNew"
    TOO_MANY_DISKS = "TooManyDisks"
    IO_ERROR = "IOError"

    # --- a machine and its host ---
    CRASH_LOOP_BACK_OFF = "CrashLoopBackOff"
    LAUNCH_FAILED = "LaunchFailed"
    CPU_MODEL_REFUSED = "CpuModelRefused"
    MACHINE_TYPE_REFUSED = "MachineTypeRefused"
    MEMORY_LEFT = "MemoryLeft"
    MEMORY_STALE = "MemoryStale"
    NOT_DEFINED = "NotDefined"
    NOT_RUNNING = "NotRunning"
    NOT_SUPPORTED = "NotSupported"
    PROCESS_STUCK = "ProcessStuck"
    QEMU_NOT_STARTED = "QemuNotStarted"
    STALE_TOKEN = "StaleToken"  # noqa: S105  # no password
    SUSPEND_FAILED = "SuspendFailed"
    UNRESPONSIVE = "Unresponsive"

    # --- an act on a machine ---
    ACT_REFUSED = "ActRefused"
    COMPLETED = "Completed"
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    COMMAND_FAILED = "CommandFailed"
    GUEST_AGENT_REFUSED = "GuestAgentRefused"
    GUEST_AGENT_SILENT = "GuestAgentSilent"
    GUEST_COMMAND_LOST = "GuestCommandLost"
    MACHINE_MOVED = "MachineMoved"
    MACHINE_NOT_FOUND = "MachineNotFound"
    NO_DISPLAY = "NoDisplay"
    TOO_LARGE = "TooLarge"

    # --- those who look after it ---
    AGENT_SILENT = "AgentSilent"
    NO_SUCH_DRIVER = "NoSuchDriver"
    NO_SUCH_HYPERVISOR = "NoSuchHypervisor"
    NO_HARDWARE_ACCELERATION = "NoHardwareAcceleration"
    NO_QEMU = "NoQemu"
    UNAVAILABLE = "Unavailable"
    FAULT = "Fault"
    """An error in this program."""

    # --- a pool ---
    NO_HYPERVISOR = "NoHypervisor"
    UNREACHABLE = "Unreachable"
    POOL_UNAVAILABLE = "PoolUnavailable"
    POOL_SILENT = "PoolSilent"
    POOL_UNREACHABLE = "PoolUnreachable"
    READ_ONLY = "ReadOnly"
    REPLY_LOST = "ReplyLost"
    STORAGE_ERROR = "StorageError"
    NO_SPACE = "NoSpace"
    INVALID_UID = "InvalidUID"

    # --- an image, and how it comes ---
    SOURCE_NOT_FOUND = "SourceNotFound"
    SOURCE_FORBIDDEN = "SourceForbidden"
    SOURCE_REFUSED = "SourceRefused"
    SOURCE_ADDRESS_REFUSED = "SourceAddressRefused"
    SOURCE_TOO_LARGE = "SourceTooLarge"
    TOO_MANY_REDIRECTS = "TooManyRedirects"
    DOWNLOAD_FAILED = "DownloadFailed"
    CHECKSUM_MISMATCH = "ChecksumMismatch"
    IMAGE_TOO_LARGE = "ImageTooLarge"
    FORMAT_REFUSED = "FormatRefused"
    BACKING_FILE_REFUSED = "BackingFileRefused"
    DATA_FILE_REFUSED = "DataFileRefused"
    UNSAFE_IMAGE = "UnsafeImage"
    INSPECTION_FAILED = "InspectionFailed"
    CONVERSION_FAILED = "ConversionFailed"
    NO_QEMU_IMG = "NoQemuImg"
    TIMEOUT = "Timeout"
    INTERRUPTED = "Interrupted"
    DAMAGED = "Damaged"
