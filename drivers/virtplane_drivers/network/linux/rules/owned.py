"""A table that nobody but this process changes, and that goes with it.

The kernel keeps a table that has an owner from all others (`flags owner` of nft(8), Linux 5.12): `nft flush ruleset`
leaves it as it is. It is there for as long as the netlink socket that made it, which nft's own library holds here: a
nft that is run ends too soon.
"""

import ctypes
import threading
from dataclasses import replace
from pathlib import Path

from virtplane_api.reasons import Reason
from virtplane_drivers.errors import Unavailable
from virtplane_drivers.host.blocking import in_thread
from virtplane_drivers.network.linux.namespace import in_namespace
from virtplane_drivers.network.linux.rules.ruleset import Table, made

_LIBRARY = "libnftables.so.1"


class OwnedTable:
    """One table in a namespace; None: the process's own."""

    def __init__(self, namespace: Path | None) -> None:
        self._namespace = namespace
        self._lock = threading.Lock()
        """A call whose caller was cancelled goes on in its thread."""
        self._library: _Library | None = None
        self._held: Table | None = None

    async def ensure(self, table: Table) -> None:
        """The table is so.

        Raises:
            Unavailable: this kernel, or this host's nft, cannot (NetworkError); there is no table then.
        """
        try:
            await in_namespace(self._namespace, self._ensure, replace(table, flags="owner"))
        except OSError as error:
            message = f"a table of nftables with an owner: {error}"
            raise Unavailable(message, reason=Reason.NETWORK_ERROR) from error

    async def close(self) -> None:
        """Nothing of it is left."""
        await in_thread(self._close)

    def _ensure(self, table: Table) -> None:
        with self._lock:
            if self._held == table:
                return
            if self._library is None:
                self._library = _Library()
            gone = "" if self._held is None else f"delete table {self._held.address}\n"
            if refused := self._library.run(gone + made(table)):
                self._drop()
                raise OSError(refused)
            self._held = table

    def _close(self) -> None:
        with self._lock:
            self._drop()

    def _drop(self) -> None:
        if self._library is not None:
            self._library.close()
        self._library = self._held = None


class _Library:
    """A context of libnftables(3), with a socket in the namespace of the thread that makes it. Blocking."""

    def __init__(self) -> None:
        """Raises OSError: it is not installed."""
        library = self._calls = ctypes.CDLL(_LIBRARY)
        library.nft_ctx_new.restype, library.nft_ctx_new.argtypes = ctypes.c_void_p, [ctypes.c_uint32]
        library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        library.nft_ctx_get_error_buffer.restype = ctypes.c_char_p
        for call in (library.nft_ctx_buffer_error, library.nft_ctx_get_error_buffer, library.nft_ctx_free):
            call.argtypes = [ctypes.c_void_p]
        self._context = library.nft_ctx_new(0)
        library.nft_ctx_buffer_error(self._context)

    def run(self, script: str) -> str:
        """What nft complains of; empty: it is done, in one transaction."""
        if self._calls.nft_run_cmd_from_buffer(self._context, script.encode()) == 0:
            return ""
        said: bytes = self._calls.nft_ctx_get_error_buffer(self._context) or b""
        return said.decode(errors="replace").strip()[:500] or "nft refuses"

    def close(self) -> None:
        """The kernel drops what is owned."""
        self._calls.nft_ctx_free(self._context)
