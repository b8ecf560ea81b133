"""A host for the directory driver, with a web server."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.drivers.storage.directory_host import DirectoryHost, served_images
from virtplane_drivers.storage.directory import DirectoryStorage


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[DirectoryHost]:
    """Folders and a web server, without a driver."""
    with served_images(tmp_path) as server:
        yield DirectoryHost(tmp_path, server)


@pytest.fixture
async def storage(directory: DirectoryHost) -> AsyncIterator[DirectoryStorage]:
    """The driver of `directory`."""
    async with directory.open() as opened:
        yield opened
