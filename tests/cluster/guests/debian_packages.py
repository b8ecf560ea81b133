"""Packages of the distribution as material: downloaded by apt's own client and unpacked, never installed.

Neither root nor a change of the host is needed, but for one case: apt's lists are missing or older than the archive.
They are root's, so root gets them updated here, and other users are told to.
"""

import os
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


class PackageError(Exception):
    """A package could not be had; the message is for people."""


class UnknownPackage(PackageError):
    """apt's lists do not hold it: it does not exist, or the lists are missing."""


class StaleLists(PackageError):
    """The archive no longer has what apt's lists promise; `update_lists` may help."""


@dataclass(frozen=True)
class Package:
    """One version of one package, as apt would install it now."""

    name: str
    version: str
    depends: tuple[str, ...]
    """Names alone; of alternatives the first."""


def candidates(names: Iterable[str]) -> dict[str, Package]:
    """Those of `names` that apt knows for amd64, in one call: apt may read all its lists each time, for a second.

    Raises:
        PackageError: there is no apt.
    """
    argv = ["apt-cache", "show", "--no-all-versions", *(f"{name}:amd64" for name in names)]
    known = {}
    for shown in _run(argv, check=False).stdout.split("\n\n"):
        field = dict(re.findall(r"^(Package|Version|Depends): (.*)$", shown, re.MULTILINE))
        if "Version" in field:
            depends = re.findall(r"(?:^|, )([a-z0-9][a-z0-9+.-]+)", field.get("Depends", ""))
            known[field["Package"]] = Package(field["Package"], field["Version"], tuple(depends))
    return known


def known_package(name: str, known: Mapping[str, Package]) -> Package:
    """The package of that name.

    Raises:
        UnknownPackage: apt does not know it.
    """
    if name not in known:
        raise UnknownPackage(f"apt knows no package {name} for amd64; the guest needs those of Debian 12 or Ubuntu")
    return known[name]


def unpack(packages: Sequence[Package], downloads: Path, root: Path) -> None:
    """Downloads the packages into `downloads` and unpacks them into `root`.

    Raises:
        StaleLists: apt could not download one.
        PackageError: one could not be unpacked.
    """
    downloads.mkdir()
    # Sandbox: as root, apt downloads as its own user, who may have no right to the folder, and then warns.
    argv = ["apt-get", "download", "--quiet=2", "-o", "APT::Sandbox::User=root"]
    done = _run([*argv, *(f"{package.name}:amd64={package.version}" for package in packages)], downloads, check=False)
    if done.returncode != 0:
        raise StaleLists(f"apt could not download the guest's packages:\n{done.stderr.strip()}")
    for archive in sorted(downloads.glob("*.deb")):
        _run(["dpkg-deb", "--extract", str(archive), str(root)])


def libraries_of(program: Path, root: Path) -> dict[str, bytes]:
    """The shared libraries of a program below `root`, from there too, by the paths that its own loader looks at.

    Raises:
        PackageError: one is missing: its package is not among those that were unpacked.
    """
    loaders = [*root.glob("lib64/ld-linux-x86-64.so.2"), *root.glob("usr/lib64/ld-linux-x86-64.so.2")]
    folders = [*root.glob("lib/x86_64-linux-gnu"), *root.glob("usr/lib/x86_64-linux-gnu")]
    loader = loaders[0].resolve()
    if not loader.is_relative_to(root):  # an absolute link of the package
        loader = next(folder / loader.name for folder in folders if (folder / loader.name).exists())
    listed = _run([str(loader), "--library-path", ":".join(map(str, folders)), "--list", str(program)]).stdout
    if missing := re.findall(r"(\S+) => not found", listed):
        raise PackageError(f"{program.name} needs {', '.join(missing)}, which no package that was unpacked has")
    found = {f"lib/x86_64-linux-gnu/{name}": Path(path) for name, path in re.findall(r"(\S+) => (/\S+) \(", listed)}
    return {"lib64/ld-linux-x86-64.so.2": loader.read_bytes()} | {
        name: path.read_bytes() for name, path in found.items() if "ld-linux" not in name
    }


def update_lists() -> None:
    """`apt-get update`.

    Raises:
        PackageError: it failed, or this is not root.
    """
    if os.geteuid() != 0:
        raise PackageError("apt's package lists are missing or too old; update them with:\n  sudo apt-get update")
    _run(["apt-get", "update", "--quiet=2"])


def _run(argv: list[str], folder: Path | None = None, *, check: bool = True) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(argv, cwd=folder, env=env, capture_output=True, text=True, check=False)
    except FileNotFoundError as absent:
        raise PackageError(f"there is no {argv[0]}; the guest is made of Debian's or Ubuntu's packages") from absent
    if check and done.returncode != 0:
        raise PackageError(f"{' '.join(argv)} failed:\n{done.stdout}{done.stderr}".rstrip())
    return done
