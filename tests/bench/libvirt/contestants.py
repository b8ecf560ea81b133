"""The two sides as processes that are told what to do, and say how long it took them."""

import contextlib
import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self


class Contestant:
    """A process that answers one JSON line with another. A context manager; it ends when it is left."""

    def __init__(self, argv: Sequence[str], log: Path, env: Mapping[str, str], cwd: Path) -> None:
        with log.open("ab") as errors:
            # A session of its own: Ctrl-C reaches the benchmark alone, which then ends things in its order.
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=env,
                cwd=cwd,
                text=True,
                start_new_session=True,
            )
        self._log = log

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def timed(self, verb: str, machines: Sequence[str], **more: Any) -> float:
        """Seconds that the verb took in the process itself, of all these machines at once.

        Raises:
            RuntimeError: it failed; the message has its output.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"verb": verb, "machines": list(machines), **more}) + "\n")
        self._process.stdin.flush()
        reply = self._process.stdout.readline()
        if not reply:
            raise RuntimeError(f"{verb} failed: {self._log.read_text()[-3000:]}")
        return float(json.loads(reply)["took_s"])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, exc_type: type[BaseException] | None, *rest: object) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if exc_type is not None:
            self._process.kill()  # it may be at something long; what it started ends with the supervisor
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
