"""Nothing of the control plane outlives it, and its API server can be away for a while."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.control_plane import ControlPlane, ControlPlaneError
from tests.cluster.kinds import wait_for_kinds
from tests.cluster.namespaces import fresh_namespace
from tests.cluster.supervisor import Supervisor, SupervisorError
from tests.cluster.waiting import eventually

ENV = {"PATH": os.environ["PATH"]}
ROOT = Path(__file__).parents[2]

THINGS = {
    "metadata": {"name": "things.virtplane.dev"},
    "spec": {
        "group": "virtplane.dev",
        "scope": "Namespaced",
        "names": {"plural": "things", "singular": "thing", "kind": "Thing"},
        "versions": [
            {"name": "v1alpha1", "served": True, "storage": True, "schema": {"openAPIV3Schema": {"type": "object"}}}
        ],
    },
}


def runs(pid: int) -> bool:
    """A zombie does not run; who reaps it is not the control plane's concern."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


@pytest.fixture
def supervisor() -> Iterator[Supervisor]:
    with Supervisor() as running:
        yield running


@pytest.mark.control_plane
class TestControlPlane:
    def test_stopping_it_leaves_no_process_and_no_file(self) -> None:
        with ControlPlane() as control_plane:
            pids, directory = list(control_plane.pids.values()), control_plane.directory
            assert all(runs(pid) for pid in pids)
            assert directory.is_dir()
        assert len(pids) == 3
        assert not any(runs(pid) for pid in pids)
        assert not directory.exists()

    def test_its_api_server_goes_away_and_comes_back_with_its_data(self) -> None:
        with ControlPlane() as control_plane:
            port = int(control_plane.server.rpartition(":")[2])
            control_plane.kubectl("create", "configmap", "kept", "--from-literal=answer=42")
            control_plane.stop_apiserver()
            with pytest.raises(ConnectionRefusedError):
                control_plane.request("GET", "/readyz")
            with socket.socket() as thief, pytest.raises(OSError, match="in use"):
                thief.bind(("127.0.0.1", port))
            control_plane.start_apiserver()
            kept = control_plane.kubectl("get", "configmap", "kept", "-o", "jsonpath={.data.answer}")
            assert kept == "42"
            # The controllers came through it.
            control_plane.kubectl("create", "namespace", "after")
            control_plane.kubectl("wait", "--for=create", "sa/default", "-n", "after", "--timeout=20s")

    def test_a_kill_9_of_its_owner_leaves_no_process_and_no_file(self) -> None:
        program = (
            "import time; from tests.cluster.control_plane import ControlPlane\n"
            "with ControlPlane() as c:\n"
            "  print(c.directory, c._supervisor.pid, *c.pids.values(), flush=True)\n"
            "  time.sleep(600)\n"
        )
        with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as owner:
            assert owner.stdout is not None
            directory, *words = owner.stdout.readline().split()
            pids = [int(word) for word in words]
            assert len(pids) == 4
            assert all(runs(pid) for pid in pids)
            owner.kill()
        eventually(lambda: not any(runs(pid) for pid in pids))
        eventually(lambda: not Path(directory).exists())

    def test_an_object_that_nobody_finalizes_does_not_keep_its_namespace(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tests.cluster.namespaces.ORDERLY_END_S", 0.3)
        orphan = {
            "apiVersion": "virtplane.dev/v1alpha1",
            "kind": "Thing",
            "metadata": {"name": "orphan", "finalizers": ["virtplane.dev/host-state"]},
        }
        with ControlPlane() as control_plane:
            control_plane.request("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", THINGS)
            wait_for_kinds(control_plane.kubectl)
            with pytest.warns(UserWarning, match="host-state"), fresh_namespace(control_plane) as namespace:
                control_plane.kubectl("create", "-n", namespace, "-f", "-", input=json.dumps(orphan))
            assert control_plane.kubectl("get", "things", "-n", namespace, "-o", "name") == ""

    def test_a_start_that_fails_shows_the_log_and_leaves_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("tests.cluster.components.SERVICE_ACCOUNT_ISSUER", "no url://")
        control_plane = ControlPlane()
        with pytest.raises(ControlPlaneError, match="service-account-issuer"):
            control_plane.start()
        assert not control_plane.directory.exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["killed", "asked to end"])
def test_children_end_with_their_supervising_process(number: signal.Signals) -> None:
    with Supervisor() as supervisor:
        pid = supervisor.start("sleeper", ["sleep", "600"], supervisor.directory / "log", ENV)
        os.kill(supervisor.pid, number)
        eventually(lambda: not runs(pid))
    assert not supervisor.directory.exists()


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=["Ctrl-C", "asked to end", "killed"]
)
def test_children_and_files_end_with_their_owner(number: signal.Signals) -> None:
    program = (
        "import os, time; from tests.cluster.supervisor import Supervisor\n"
        "with Supervisor() as s:\n"
        "  child = s.start('sleeper', ['sleep', '600'], s.directory / 'log', dict(os.environ))\n"
        "  print(s.directory, s.pid, child, flush=True)\n"
        "  time.sleep(600)\n"
    )
    argv = [sys.executable, "-c", program]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as owner:
        assert owner.stdout is not None
        directory, *words = owner.stdout.readline().split()
        owner.send_signal(number)
        assert owner.wait(timeout=20) == -number
    eventually(lambda: not any(runs(int(word)) for word in words))
    assert len(words) == 2
    assert not Path(directory).exists()


def test_a_forked_copy_of_the_owner_does_not_keep_the_children_alive() -> None:
    """The copy holds the pipe open; the owner's death is seen all the same."""
    program = (
        "import os, sys, time; from tests.cluster.supervisor import Supervisor\n"
        "s = Supervisor(); child = s.start('sleeper', ['sleep', '600'], s.directory / 'log', dict(os.environ))\n"
        "copy = os.fork()\n"
        "if copy: print(child, copy, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        child, copy = map(int, owner.stdout.readline().split())
        try:
            owner.kill()
            eventually(lambda: not runs(child))
            assert runs(copy)
        finally:
            os.kill(copy, signal.SIGKILL)


def test_a_process_that_ignores_the_request_to_end_is_killed(supervisor: Supervisor) -> None:
    ready = supervisor.directory / "ready"
    script = f"trap '' TERM; touch {ready}; while :; do sleep 0.05; done"
    pid = supervisor.start("stubborn", ["sh", "-c", script], supervisor.directory / "log", ENV)
    eventually(ready.exists)
    assert supervisor.stop("stubborn", grace_s=0.2) == -signal.SIGKILL
    assert not runs(pid)


def test_children_take_the_signals_that_the_supervising_process_handles(supervisor: Supervisor) -> None:
    pid = supervisor.start("sleeper", ["sleep", "600"], supervisor.directory / "log", ENV)
    os.kill(pid, signal.SIGINT)
    eventually(lambda: supervisor.exit_code("sleeper") == -signal.SIGINT)


def test_a_child_gets_the_given_environment_alone_and_its_output_is_logged(supervisor: Supervisor) -> None:
    log = supervisor.directory / "log"
    supervisor.start("env", ["env"], log, {"PATH": ENV["PATH"], "NAME": "value"})
    eventually(lambda: supervisor.exit_code("env") == 0)
    assert set(log.read_text().split()) == {f"PATH={ENV['PATH']}", "NAME=value"}


def test_a_program_that_does_not_exist_is_said_and_the_supervisor_lives_on(supervisor: Supervisor) -> None:
    with pytest.raises(SupervisorError, match="/no/such/program"):
        supervisor.start("missing", ["/no/such/program"], supervisor.directory / "log", ENV)
    assert supervisor.stop("missing") is None
    assert supervisor.start("sleeper", ["sleep", "600"], supervisor.directory / "log", ENV) > 0


def test_two_processes_of_one_name_are_refused(supervisor: Supervisor) -> None:
    supervisor.start("sleeper", ["sleep", "600"], supervisor.directory / "log", ENV)
    with pytest.raises(SupervisorError, match="runs already"):
        supervisor.start("sleeper", ["sleep", "600"], supervisor.directory / "log", ENV)
