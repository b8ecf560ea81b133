"""Processes that end with the process that asked for them, however that one ends.

A `Supervisor` is a handle on a small process of its own, which starts the children and owns a temporary folder. It ends
when its owner closes the pipe to it or dies (seen on a pidfd, so a kill -9 counts and a forked copy of the pipe does
not hide it): it kills the children, removes the folder and exits. Should the supervising process itself be killed, the
kernel kills the children (PR_SET_PDEATHSIG, which is bound to the *thread* that forks: one more reason for a process
with a single thread). Linux only.

The two talk in JSON lines over the supervising process's stdin and stdout: one request, one reply with the same number.
"""

import contextlib
import ctypes
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

PR_SET_PDEATHSIG = 1  # linux/prctl.h


class SupervisorError(Exception):
    """The supervising process could not do what it was asked, or it is gone, and its children with it."""


class Supervisor:
    """Starts and stops named processes; `directory` is theirs and is removed with them.

    A context manager; `close` is idempotent. One request at a time, from any thread.
    """

    def __init__(self, prefix: str = "virtplane-") -> None:
        # -I -S: nothing of the owner's environment or site-packages decides whether this process starts. A session of
        # its own: Ctrl-C reaches the owner alone, which then stops things in its order.
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", __file__, str(os.getpid()), prefix],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._lock = threading.Lock()
        self._sent = 0
        try:
            self.directory = Path(self._ask("directory")["directory"])
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        """The supervising process's own pid."""
        return self._process.pid

    def start(
        self, name: str, argv: Sequence[str | Path], log: Path, env: Mapping[str, str], cwd: Path | None = None
    ) -> int:
        """Starts a process with exactly `env`, its output appended to `log`; returns its pid.

        Raises:
            SupervisorError: the program cannot be executed, or a process of this name still runs.
        """
        reply = self._ask(
            "start",
            name=name,
            argv=[str(word) for word in argv],
            log=str(log),
            env=dict(env),
            cwd=str(cwd or self.directory),
        )
        return int(reply["pid"])

    def stop(self, name: str, grace_s: float = 10.0) -> int | None:
        """Asks a process to end (SIGTERM), kills it after `grace_s` (0: at once) and returns its exit code.

        None when no process of this name was started.
        """
        code = self._ask("stop", name=name, grace_s=grace_s)["exit_code"]
        return None if code is None else int(code)

    def exit_code(self, name: str) -> int | None:
        """The exit code of a process that ended (-N for signal N); None while it runs."""
        code = self._ask("poll", name=name)["exit_code"]
        return None if code is None else int(code)

    def close(self) -> None:
        """Kills all children, removes the folder, and returns when both are gone."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        if hasattr(self, "directory"):  # of no effect, unless the supervising process itself was killed
            shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _ask(self, request: str, **arguments: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with self._lock:
            self._sent += 1
            line = json.dumps({"number": self._sent, "request": request, **arguments})
            try:
                self._process.stdin.write(line.encode() + b"\n")
                self._process.stdin.flush()
                reply: dict[str, Any] = {}
                # An older number answers a request whose caller was interrupted (Ctrl-C) before it read the reply.
                while reply.get("number") != self._sent:
                    reply = json.loads(self._process.stdout.readline())
            except (OSError, ValueError) as error:
                raise SupervisorError(f"the supervising process {self.pid} is gone") from error
        if "error" in reply:
            raise SupervisorError(reply["error"])
        return reply


class _Children:
    """What runs inside the supervising process."""

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._prctl = ctypes.CDLL(None).prctl
        self._own_pid = os.getpid()

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        match request["request"]:
            case "directory":
                return {"directory": self.directory}
            case "start":
                return self._start(request)
            case "stop":
                return self._stop(request["name"], request["grace_s"])
            case "poll":
                process = self._processes.get(request["name"])
                return {"exit_code": process.poll() if process else None}
            case other:
                raise ValueError(f"no such request: {other}")

    def kill_all(self) -> None:
        for process in self._processes.values():
            process.kill()
        for process in self._processes.values():
            process.wait()

    def _start(self, request: dict[str, Any]) -> dict[str, Any]:
        name = request["name"]
        if name in self._processes and self._processes[name].poll() is None:
            raise ValueError(f"{name} runs already")
        with Path(request["log"]).open("ab") as log:
            self._processes[name] = subprocess.Popen(
                request["argv"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=request["env"],
                cwd=request["cwd"],
                preexec_fn=self._die_with_parent,  # noqa: PLW1509 - this process has one thread
            )
        return {"pid": self._processes[name].pid}

    def _stop(self, name: str, grace_s: float) -> dict[str, Any]:
        process = self._processes.get(name)
        if process is None:
            return {"exit_code": None}
        if grace_s > 0:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=grace_s)
        process.kill()
        return {"exit_code": process.wait()}

    def _die_with_parent(self) -> None:
        self._prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != self._own_pid:  # the parent died between fork and prctl
            os._exit(1)


def _serve(owner_pid: int, prefix: str) -> None:
    """Answers requests until the owner closes the pipe or dies."""
    try:
        owner = os.pidfd_open(owner_pid)
    except ProcessLookupError:
        return
    # Only now is the owner surely the one that started this process, and not another that got its pid.
    if os.getppid() != owner_pid:
        return
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit())  # never SIG_IGN: the children would inherit that
    directory = tempfile.mkdtemp(prefix=prefix)
    os.chmod(directory, 0o711)  # noqa: PTH101, S103  # other users get through to what they may read below
    children = _Children(directory)
    try:
        with selectors.DefaultSelector() as selector:
            selector.register(owner, selectors.EVENT_READ)
            selector.register(0, selectors.EVENT_READ)
            pending = b""
            while all(key.fd == 0 for key, _ in selector.select()):
                received = os.read(0, 65536)
                if not received:
                    return
                *lines, pending = (pending + received).split(b"\n")
                for line in lines:
                    _reply(children, json.loads(line))
    finally:
        children.kill_all()
        _end_guests(children.directory)
        shutil.rmtree(children.directory, ignore_errors=True)


def _end_guests(directory: str) -> None:
    """Guests and networks outlive their agent, as they are meant to: those of the folder end with the folder."""
    sys.path.insert(0, str(Path(__file__).parents[2]))  # -I leaves it out
    # Of the standard library only.
    from tests.cluster.guest_processes import end_guests  # noqa: PLC0415
    from tests.cluster.network_leftovers import end_networks  # noqa: PLC0415

    end_guests(directory)
    end_networks(directory)


def _reply(children: _Children, request: dict[str, Any]) -> None:
    try:
        answer = children.answer(request)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        answer = {"error": str(error)}
    with contextlib.suppress(BrokenPipeError):  # a dead owner shows in the loop
        os.write(1, json.dumps({"number": request["number"], **answer}).encode() + b"\n")


if __name__ == "__main__":
    _serve(int(sys.argv[1]), sys.argv[2])
