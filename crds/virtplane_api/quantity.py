"""Kubernetes quantities as whole numbers, and whole numbers as quantities.

The grammar is Kubernetes' own (`k8s.io/apimachinery/pkg/api/resource`), parsed by the official client.
"""

from functools import lru_cache

from kubernetes.utils.quantity import parse_quantity

_BINARY_SUFFIXES = ((1 << 40, "Ti"), (1 << 30, "Gi"), (1 << 20, "Mi"), (1 << 10, "Ki"))


@lru_cache(maxsize=1024)  # machines come in few sizes, and are read again with each change
def quantity_bytes(quantity: str | int) -> int:
    """Bytes that a quantity such as `2Gi` stands for, a fraction of a byte rounded up.

    Raises:
        ValueError: the text is no quantity.
    """
    exact = parse_quantity(quantity)
    whole = int(exact)
    return whole if whole == exact else whole + 1


def quantity_mib(quantity: str | int) -> int:
    """Whole MiB that hold the quantity (rounded up: a guest never gets less than it asked for).

    Raises:
        ValueError: the text is no quantity.
    """
    return -(-quantity_bytes(quantity) // (1 << 20))


def format_bytes(size_bytes: int) -> str:
    """The shortest exact binary quantity: 2147483648 is `2Gi`, 1500 is `1500`."""
    for unit, suffix in _BINARY_SUFFIXES:
        if size_bytes and size_bytes % unit == 0:
            return f"{size_bytes // unit}{suffix}"
    return str(size_bytes)


def format_coarse(size_bytes: int) -> str:
    """A quantity for people, rounded down to three digits or fewer: 64 GiB less a bit is `63Gi`."""
    for unit, suffix in _BINARY_SUFFIXES:
        if size_bytes >= unit:
            return f"{size_bytes // unit}{suffix}"
    return str(size_bytes)
