"""nft(8) in a network namespace, and the one number by which the kernel says that no rule there has changed."""

import socket
from pathlib import Path

from virtplane_api.reasons import Reason
from virtplane_drivers.errors import Unavailable
from virtplane_drivers.host.command import execute
from virtplane_drivers.network.linux.namespace import in_namespace
from virtplane_drivers.network.linux.rules.nfnetlink import REQUEST, asked, attributes, opened

_TIMEOUT_S = 30.0
"""1,000 ports load in 0.1 s; a machine that swaps is still slower than that by far."""
_SUBSYSTEM_NFTABLES = 10 << 8
_GET_GENERATION, _NEW_GENERATION = _SUBSYSTEM_NFTABLES | 16, _SUBSYSTEM_NFTABLES | 15
_GENERATION_ID = 1


async def run(namespace: Path | None, script: str) -> str:
    """What nft prints for a script: changes are one transaction. A caller that is cancelled waits for nft's end.

    Raises:
        Unavailable: nft is missing, or refuses the script, or the namespace is not there (NetworkError).
    """
    return await command(namespace, "nft", "-f", "-", stdin=script)


async def command(namespace: Path | None, *argv: str, stdin: str = "", harmless: str = "") -> str:
    """What a command prints in the namespace; None: the process's own.

    It may fail with `harmless` among what it says.

    Raises:
        Unavailable: it cannot be run, or fails (NetworkError).
    """
    entered = argv if namespace is None else ("nsenter", f"--net={namespace}", "--", *argv)
    try:
        # A caller that is cancelled leaves nothing running: it might put older rules in after newer ones.
        done = await execute(*entered, stdin=stdin, timeout_s=_TIMEOUT_S)
    except (OSError, TimeoutError) as error:
        raise _failure(f"{argv[0]} does not run: {error!r}") from error
    if done.exit_status != 0 and not (harmless and harmless in done.stderr):
        raise _failure(f"{' '.join(argv)}: {done.stderr.strip()[:500]}")
    return done.stdout


async def generation(namespace: Path | None) -> int:
    """A number that each transaction of nftables in the namespace, anybody's, adds one to. Under a millisecond.

    Raises:
        Unavailable: the namespace is not there, or the kernel does not say (NetworkError).
    """
    try:
        return await in_namespace(namespace, _generation)
    except OSError as error:
        raise _failure(f"the generation of the rules of {namespace}: {error}") from error


def _generation() -> int:
    """Source: linux/netfilter/nf_tables.h, NFT_MSG_GETGEN. Blocking."""
    with opened() as kernel:
        ((kind, answer),) = asked(kernel, _GET_GENERATION, REQUEST, socket.AF_UNSPEC)
    if kind != _NEW_GENERATION:
        raise OSError(f"netlink answers {kind}: {answer.hex()}")
    for attribute, value in attributes(answer):
        if attribute == _GENERATION_ID:
            return int.from_bytes(value)
    raise OSError("netlink names no generation")


def _failure(message: str) -> Unavailable:
    return Unavailable(message, reason=Reason.NETWORK_ERROR)
