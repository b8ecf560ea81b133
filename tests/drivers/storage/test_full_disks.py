"""No space, and a read-only file system: real ones, mounted for the test alone."""

from pathlib import Path

import pytest

from tests.drivers.storage.programs.running import can_unshare, result_in_namespaces


@pytest.mark.skipif(not can_unshare(), reason="needs namespaces of its own")
async def test_a_full_disk_fails_the_volume_for_a_while_and_keeps_nothing_of_it(tmp_path: Path) -> None:
    assert await result_in_namespaces("small_disks", folder=tmp_path) == {
        "raw in a small pool": ["NoSpace", []],
        "qcow2 in a small pool": ["NoSpace", []],
        "blank qcow2 in a full pool": ["NoSpace", ["ballast"]],
        "after the pool was made larger": ["Ready", "Ready", "Ready"],
        "its content": True,
        "a read-only pool": ["ReadOnly", "StorageError"],
        "a small cache": ["NoSpace", []],
        "a small image after that": "Ready",
        "a cache large enough for one": "Ready",
        "another, and once more": ["NoSpace", "Ready"],
    }
