"""What an import may take of the host."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ImportLimits:
    """Bounds that hold for every image from outside."""

    max_image_bytes: int = 1 << 40
    """Of the file as it is served."""
    total_s: float = 6 * 3600.0
    """Of the download and of the conversion, each."""
    stall_s: float = 60.0
    """Without a byte: the connection is given up, and the download goes on over another."""
    attempts: int = 5
    first_wait_s: float = 1.0
    """Between the first attempt and the second; each further wait is twice the one before."""
    max_cache_bytes: int = 20 << 30
    """Of downloads, finished or not, that are kept for the next clone."""
