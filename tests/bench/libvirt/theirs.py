"""libvirt's side, for the Python that the distribution's binding is of: `theirs.py URI`. One JSON line in, one out.

Standard library and `libvirt` only.
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import libvirt  # type: ignore[import-not-found]

THREADS = 10


class Theirs:
    """Domains of one connection."""

    def __init__(self, uri: str) -> None:
        self._connection = libvirt.open(uri)
        self._domains: dict[str, Any] = {}
        self._pool = ThreadPoolExecutor(THREADS)

    def define(self, machines: list[str], xml: list[str]) -> None:
        for name, text in zip(machines, xml, strict=True):
            self._domains[name] = self._connection.defineXML(text)

    def start(self, machines: list[str]) -> None:
        self._all(machines, lambda domain: domain.create())

    def destroy(self, machines: list[str]) -> None:
        self._all(machines, lambda domain: domain.destroy())

    def forget(self, machines: list[str]) -> None:
        for name in machines:
            self._domains.pop(name).undefine()

    def stats(self, machines: list[str]) -> None:
        seen = self._connection.getAllDomainStats()
        states = [values["state.state"] for _domain, values in seen]
        assert states == [libvirt.VIR_DOMAIN_RUNNING] * len(machines), states

    def states(self, machines: list[str]) -> None:
        seen = self._connection.getAllDomainStats(libvirt.VIR_DOMAIN_STATS_STATE)
        assert len(seen) == len(machines), len(seen)

    def _all(self, machines: list[str], act: Any) -> None:
        if len(machines) == 1:
            act(self._domains[machines[0]])
        else:
            list(self._pool.map(act, [self._domains[name] for name in machines]))


def main(uri: str) -> None:
    """Serve until stdin ends."""
    libvirt.registerErrorHandler(lambda _context, _error: None, None)
    theirs = Theirs(uri)
    for line in sys.stdin:
        request = json.loads(line)
        act = getattr(theirs, request.pop("verb"))
        began = time.perf_counter()
        act(**request)
        print(json.dumps({"took_s": time.perf_counter() - began}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
