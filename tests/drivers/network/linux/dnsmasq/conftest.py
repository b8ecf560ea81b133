"""A host whose networks have real dnsmasqs."""

import os
import shutil
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from tests.drivers.network.linux.dnsmasq.reachable_folder import folder_until_we_end
from tests.drivers.network.linux.dnsmasq.served import Served
from tests.drivers.network.linux.host import Host


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
