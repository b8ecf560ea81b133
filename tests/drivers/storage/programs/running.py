"""Starts the programs of this folder, in namespaces of their own where they mount and have addresses.

Such namespaces, with their mounts and addresses, go away with their last process, and the kernel kills that one when
the test's process ends, however it ends.
"""

import asyncio
import json
import os
import subprocess
import sys
from functools import cache
from typing import Any

_DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL")
_UNSHARE = ("unshare", "--map-root-user", "--mount", "--net", "--kill-child=KILL", "--")


@cache
def can_unshare() -> bool:
    """Whether this user may have such namespaces here."""
    argv = [*_UNSHARE, "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(argv, check=False, capture_output=True).returncode == 0


async def start(program: str, **request: object) -> asyncio.subprocess.Process:
    """Starts a program with a request on its command line; its output comes through a pipe."""
    return await _start([], program, request)


async def result_in_namespaces(program: str, **request: object) -> Any:
    """What a program prints as JSON."""
    process = await _start(_UNSHARE, program, request)
    try:
        async with asyncio.timeout(60):
            stdout, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, f"{program} ended with status {process.returncode}"
    return json.loads(stdout)


async def _start(
    wrapper: "tuple[str, ...] | list[str]", program: str, request: dict[str, object]
) -> asyncio.subprocess.Process:
    module = f"{__package__}.{program}"
    argv = [*_DIES_WITH_US, *wrapper, sys.executable, "-m", module, json.dumps(request, default=str)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    return await asyncio.create_subprocess_exec(*argv, stdout=subprocess.PIPE, env=environment)
