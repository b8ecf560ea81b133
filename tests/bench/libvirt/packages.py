"""libvirt as the distribution packs it: daemons, clients and the Python binding, installed when they are missing."""

import os
import subprocess
import sys

from tests.cluster.system_packages import install_command, missing_packages

PACKAGE_OF = {"libvirtd": "libvirt-daemon", "virtlogd": "libvirt-daemon", "unshare": "util-linux"}
BINDING = "python3-libvirt"
SYSTEM_PYTHON = "/usr/bin/python3"
"""The one that distribution packages of Python modules are for."""


def missing() -> list[str]:
    """Packages to install. None of them has a service: nothing starts when they are installed."""
    packages = missing_packages(PACKAGE_OF)
    probe = subprocess.run([SYSTEM_PYTHON, "-c", "import libvirt"], stderr=subprocess.DEVNULL, check=False)
    return [*packages, BINDING] if probe.returncode != 0 else packages


def install() -> bool:
    """Whether all is there now; says what is wrong otherwise. Needs root only to install."""
    packages = missing()
    if not packages:
        return True
    if os.geteuid() != 0:
        print(f"missing packages; install them with:\n  sudo {' '.join(install_command(packages))}", file=sys.stderr)
        return False
    print(f"installing {', '.join(packages)}", flush=True)
    env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for argv in (["apt-get", "update", "--quiet=2"], install_command(packages)):
        done = subprocess.run(argv, env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            print(f"{' '.join(argv)} failed:\n{done.stdout}{done.stderr}", file=sys.stderr)
            return False
    return True
