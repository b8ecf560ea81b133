"""Web servers at a private address, on loopback and at the metadata address, and what a download reaches of them.

Prints, for each way to ask, the reason of the failure or an empty string; under `touched` the servers that were asked
and should not have been.
"""

import asyncio
import json
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from tests.drivers.storage.directory_host import QUICK
from tests.http_images.server import serve_folder
from virtplane_drivers.storage.directory.address_policy import AddressPolicy
from virtplane_drivers.storage.directory.download import Download, Partial
from virtplane_drivers.storage.directory.failures import VolumeFailed

NEAR, META, LOOP = "10.9.9.9", "169.254.169.254", "127.0.0.1"
HOSTS = f"""
{NEAR} near.test
{META} meta.test
{LOOP} loop.test
{LOOP} both.test
{NEAR} both.test
"""


def main(folder: Path) -> None:
    """The whole program."""
    images = folder / "www"
    images.mkdir()
    (images / "image").write_bytes(b"content")
    hosts = folder / "hosts"
    hosts.write_text(HOSTS)
    subprocess.run(["mount", "--bind", str(hosts), "/etc/hosts"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for address in (NEAR, META):
        subprocess.run(["ip", "address", "add", f"{address}/32", "dev", "lo"], check=True)
    with ExitStack() as stack:
        near, meta, loop = (stack.enter_context(serve_folder(images, host=host)) for host in (NEAR, META, LOOP))
        names = {"to-meta": meta.url("image"), "to-loop": loop.url("image")}
        names |= {"to-meta-by-name": f"http://meta.test:{meta.port}/image"}
        near.faults.redirects = {f"/{name}": url for name, url in names.items()} | {"/twice": near.url("to-meta")}
        urls = {
            "private address": near.url("image"),
            "name of a private address": f"http://near.test:{near.port}/image",
            "name of a private address and of loopback": f"http://both.test:{near.port}/image",
            "nobody listens at the harmless one of two addresses": f"http://both.test:{loop.port}/image",
            "name of loopback": f"http://loop.test:{loop.port}/image",
            "metadata": meta.url("image"),
            "name of metadata": names["to-meta-by-name"],
            "redirect to metadata": near.url("to-meta"),
            "redirect to the name of metadata": near.url("to-meta-by-name"),
            "redirect to loopback": near.url("to-loop"),
            "redirect to a redirect to metadata": near.url("twice"),
        }
        found: dict[str, object] = {name: asyncio.run(_reason(url, [], folder)) for name, url in urls.items()}
        found["touched"] = [server.host for server in (meta, loop) if server.requests]
        found["redirect to what is allowed"] = asyncio.run(_reason(near.url("to-loop"), [loop.address], folder))
        found["addresses of both.test"] = sorted({one[4][0] for one in socket.getaddrinfo("both.test", 80)})
    print(json.dumps(found))


async def _reason(url: str, allowed: list[str], folder: Path) -> str:
    partial = Partial(folder / "partial", folder / "etag")
    try:
        await Download(url, partial, AddressPolicy(allowed), QUICK).run(lambda *_: None)
    except VolumeFailed as failed:
        return failed.failure.reason
    assert partial.data.read_bytes() == b"content"
    return ""


if __name__ == "__main__":
    main(Path(json.loads(sys.argv[1])["folder"]))
