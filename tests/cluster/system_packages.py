"""The programs that Virtplane's tests take from the distribution, and the Debian or Ubuntu package that brings each.

`python -m tests.cluster.system_packages` installs what the quickstart lacks when it runs as root, else it prints the
one command to do so and exits 1; with `--tests` what the tests lack too. It needs only the standard library.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping

PACKAGE_OF: Mapping[str, str] = {
    "qemu-system-x86_64": "qemu-system-x86",
    "qemu-img": "qemu-utils",
}
"""The package that brings a command that the quickstart needs."""
ROOTS_PACKAGE_OF: Mapping[str, str] = {
    "nft": "nftables",
    "dnsmasq": "dnsmasq-base",
    "ip": "iproute2",
}
"""What it needs as root besides: its network is of mode NAT."""
USERS_PACKAGE_OF: Mapping[str, str] = {"passt": "passt"}
"""What it needs as another user: its network is of mode User."""
TESTS_PACKAGE_OF: Mapping[str, str] = {
    **PACKAGE_OF,
    **ROOTS_PACKAGE_OF,
    **USERS_PACKAGE_OF,
    "qemu-ga": "qemu-guest-agent",
    "conntrack": "conntrack",
}
"""The same for the tests, so that `make run` puts nothing of theirs on anybody's machine."""

SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
"""Debian keeps sbin out of other users' PATH."""


def missing_packages(package_of: Mapping[str, str] = PACKAGE_OF, path: str = SEARCH_PATH) -> list[str]:
    """The packages whose command is on no folder of `path`, each once, sorted."""
    return sorted({package for command, package in package_of.items() if shutil.which(command, path=path) is None})


def install_command(packages: list[str]) -> list[str]:
    """The command line that installs them, for root."""
    return ["apt-get", "install", "--yes", "--quiet=2", "--no-install-recommends", *packages]


def of_the_quickstart() -> Mapping[str, str]:
    """For the user that asks."""
    return {**PACKAGE_OF, **(ROOTS_PACKAGE_OF if os.geteuid() == 0 else USERS_PACKAGE_OF)}


def main(package_of: Mapping[str, str] = PACKAGE_OF) -> int:
    """Installs what is missing or says how to; exit code 1 while something is missing."""
    missing = missing_packages(package_of)
    if not missing:
        return 0
    if shutil.which("apt-get") is None:
        commands = [command for command, package in package_of.items() if package in missing]
        print(f"missing: {', '.join(commands)}; install them with your package manager", file=sys.stderr)
        return 1
    if os.geteuid() != 0:
        print(f"missing packages; install them with:\n  sudo apt-get install {' '.join(missing)}", file=sys.stderr)
        return 1
    print(f"installing {', '.join(missing)}", flush=True)
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for argv in (["apt-get", "update", "--quiet=2"], install_command(missing)):
        done = subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            print(f"{' '.join(argv)} failed:\n{done.stdout}{done.stderr}", file=sys.stderr)
            return 1
    if left := missing_packages(package_of):
        print(f"installed, but their commands are still missing: {', '.join(left)}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(TESTS_PACKAGE_OF if sys.argv[1:] == ["--tests"] else of_the_quickstart()))
