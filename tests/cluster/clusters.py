"""The cluster that the quickstart uses: one of its own, or the one that the user's kubeconfig names."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.cluster.binaries import ensure_programs
from tests.cluster.control_plane import CommandError, ControlPlane


class Cluster(Protocol):
    """What can be asked of either."""

    @property
    def outlives_us(self) -> bool:
        """Whether what is made in it has to be removed."""
        ...

    @property
    def kubeconfig(self) -> Path:
        """For the user's own commands."""
        ...

    @property
    def kubectl_program(self) -> Path:
        """The kubectl that is used."""
        ...

    def kubectl(self, *args: str, input: str | None = None, timeout_s: float = 60.0) -> str:  # noqa: A002
        """Run kubectl; its output."""
        ...

    def helm(self, *args: str) -> str:
        """Run helm; its output."""
        ...

    def kinds_were_added(self) -> None:
        """After CRDs were installed."""
        ...


class OwnCluster:
    """A control plane that ends with us."""

    outlives_us = False

    def __init__(self, control_plane: ControlPlane) -> None:
        self._control_plane = control_plane
        self.kubectl = control_plane.kubectl
        self.helm = control_plane.helm
        self.kinds_were_added = control_plane.restart_controller_manager
        """The garbage collector would notice new kinds after 30 s only."""

    @property
    def kubeconfig(self) -> Path:
        """The administrator's."""
        return self._control_plane.admin_kubeconfig

    @property
    def kubectl_program(self) -> Path:
        """Of the same version as the API server."""
        return self._control_plane.binaries.kubectl


@dataclass(frozen=True)
class CurrentCluster:
    """The cluster of the user's current context; what is made in it is removed again."""

    kubeconfig: Path
    kubectl_program: Path
    helm_program: Path
    outlives_us: bool = True

    def kubectl(self, *args: str, input: str | None = None, timeout_s: float = 60.0) -> str:  # noqa: A002
        """Run kubectl as the user."""
        return self._run([str(self.kubectl_program), "--kubeconfig", str(self.kubeconfig), *args], input, timeout_s)

    def helm(self, *args: str) -> str:
        """Run helm as the user."""
        return self._run([str(self.helm_program), *args, "--kubeconfig", str(self.kubeconfig)], None, 120.0)

    def kinds_were_added(self) -> None:
        """Its controllers find new kinds by themselves."""

    def _run(self, argv: list[str], given: str | None, timeout_s: float) -> str:
        done = subprocess.run(argv, input=given, capture_output=True, text=True, timeout=timeout_s, check=False)
        if done.returncode != 0:
            raise CommandError(argv, done)
        return done.stdout


@contextmanager
def own_cluster() -> Iterator[Cluster]:
    """A fresh control plane for the length of the block."""
    with ControlPlane() as control_plane:
        yield OwnCluster(control_plane)


@contextmanager
def current_cluster() -> Iterator[Cluster]:
    """The cluster of $KUBECONFIG, or of ~/.kube/config, as one flat file that parts and users can be given."""
    programs = ensure_programs(["kubectl", "helm"])
    argv = [str(programs["kubectl"]), "config", "view", "--raw", "--minify", "--flatten"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env=os.environ)
    if done.returncode != 0:
        raise CommandError(argv, done)
    with tempfile.TemporaryDirectory(prefix="virtplane-") as folder:
        kubeconfig = Path(folder, "kubeconfig")
        kubeconfig.touch(mode=0o600)
        kubeconfig.write_text(done.stdout)
        yield CurrentCluster(kubeconfig, programs["kubectl"], programs["helm"])
