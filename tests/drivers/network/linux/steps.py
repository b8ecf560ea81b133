"""Every change that the driver makes to the kernel's network, counted, and its maker killed before any one of them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from virtplane_drivers.host.network_stack import NetworkStack


class Killed(BaseException):
    """No code of the driver goes on after it, as after SIGKILL."""


@contextmanager
def counted(*, killed_before: int | None = None) -> Iterator[list[str]]:
    """What is changed, in order. `Killed` in place of the step of that number, of the first as 0."""
    steps: list[str] = []
    change, write = NetworkStack._change, NetworkStack._write_sysctl

    def step(what: str) -> None:
        if len(steps) == killed_before:
            raise Killed(what)
        steps.append(what)

    def _change(self: NetworkStack, what: str, name: str, noun: str, verb: str, /, **arguments: object) -> None:
        step(f"{what} {name}")
        change(self, what, name, noun, verb, **arguments)

    def _write_sysctl(self: NetworkStack, path: Path, value: str) -> None:
        step(f"{path} = {value}")
        write(self, path, value)

    with (
        mock.patch.object(NetworkStack, "_change", _change),
        mock.patch.object(NetworkStack, "_write_sysctl", _write_sysctl),
    ):
        yield steps
