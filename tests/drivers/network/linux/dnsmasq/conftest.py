"""A host whose networks have real dnsmasqs."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from tests.drivers.network.linux.dnsmasq.served import Served
from tests.drivers.network.linux.host import Host

CLEANER = """
cat
grep -saFl -- "=$0/" /proc/[0-9]*/cmdline | cut -d/ -f3 | xargs -r kill -9 2>/dev/null
for group in /sys/fs/cgroup/virtplane/network-"$1"* /sys/fs/cgroup/*/virtplane/network-"$1"*; do
    until [ ! -d "$group" ] || rmdir "$group"; do :; done
    rmdir "${group%/*}"
done 2>/dev/null
rm -rf -- "$0"
"""
"""Waits for the end of its input, which comes also when the test is killed."""


@contextmanager
def folder_until_we_end(token: str) -> Iterator[Path]:
    """A folder that other users get through, unlike `tmp_path`; at its end nothing runs that was started with it."""
    folder = Path(tempfile.mkdtemp(prefix="virtplane-dnsmasq-"))
    folder.chmod(0o711)
    argv = ["sh", "-c", CLEANER, str(folder), token]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, start_new_session=True) as cleaner:
        yield folder
        assert cleaner.stdin is not None
        cleaner.stdin.close()
        cleaner.wait(20)
    assert not folder.exists()


@pytest.fixture
async def served(host: Host) -> AsyncIterator[Served]:
    """The host, with name servers that are gone at its end."""
    if shutil.which("dnsmasq", path=os.pathsep.join([os.environ["PATH"], "/usr/sbin"])) is None:
        pytest.skip("needs dnsmasq (apt-get install dnsmasq-base)")
    token = uuid4().hex[:12]
    with folder_until_we_end(token) as folder:
        one = Served(host, folder, token)
        try:
            yield one
        finally:
            await one.end()
