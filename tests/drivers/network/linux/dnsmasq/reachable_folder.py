"""A folder that a dnsmasq, which is of another user, gets to: `tmp_path` lets nobody else through."""

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CLEANER = """
cat
grep -saFl -- "=$0/" /proc/[0-9]*/cmdline | cut -d/ -f3 | xargs -r kill -9 2>/dev/null
for group in /sys/fs/cgroup/virtplane/network-"$1"* /sys/fs/cgroup/*/virtplane/network-"$1"*; do
    for _ in 1 2 3 4 5 6 7 8 9 10; do [ ! -d "$group" ] || rmdir "$group" || sleep 0.1; done
    rmdir "${group%/*}"
done 2>/dev/null
cut -d" " -f5 /proc/self/mountinfo | grep -F "$0/" | xargs -r -n1 umount --lazy 2>/dev/null
rm -rf -- "$0"
"""
"""Waits for the end of its input, which comes also when the test is killed."""


@contextmanager
def folder_until_we_end(token: str) -> Iterator[Path]:
    """A folder that other users get through, unlike `tmp_path`; at its end nothing runs that was started with it.

    Cgroups of networks whose UID begins with the token are gone then too.
    """
    folder = Path(tempfile.mkdtemp(prefix="virtplane-dnsmasq-"))
    folder.chmod(0o711)
    argv = ["sh", "-c", CLEANER, str(folder), token]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, start_new_session=True) as cleaner:
        yield folder
        assert cleaner.stdin is not None
        cleaner.stdin.close()
        cleaner.wait(20)
    assert not folder.exists()
