"""A program in a guest, by its agent's `guest-exec` and `guest-exec-status`. All that the agent says, a guest wrote."""

import asyncio
import base64
import binascii
from pathlib import Path
from typing import Any

from virtplane_api.reasons import Reason
from virtplane_drivers.errors import GuestCommandLost, Refused, Unavailable
from virtplane_drivers.hypervisor.contract import GuestCommand, GuestCommandResult
from virtplane_drivers.hypervisor.qemu.guest_agent import (
    AgentRefused,
    AgentSilent,
    GuestAgent,
    GuestAgentError,
    connect,
)

_ANSWER_TIMEOUT_S = 10.0
_LOOK_AGAIN_S = 0.05
_LOOK_AGAIN_AT_MOST_S = 1.0
"""The protocol has no news of an end: one asks, and less and less often."""


async def run_guest_command(socket_path: Path, command: GuestCommand) -> GuestCommandResult:
    """From connecting to the program's end, on a connection of its own.

    Raises:
        Unavailable: no agent answers (GuestAgentSilent); nothing was run.
        Refused: the agent does not run it (GuestAgentRefused).
        GuestCommandLost: it was given to the agent, and its end was not seen.
    """
    try:
        agent = await connect(socket_path)
    except (GuestAgentError, OSError) as error:
        raise _silent(error) from error
    try:
        # Before anything that could happen twice: is somebody there?
        try:
            await agent.execute("guest-ping", timeout_s=_ANSWER_TIMEOUT_S)
        except GuestAgentError as error:
            raise _silent(error) from error
        pid = await _begin(agent, command)
        try:
            async with asyncio.timeout(command.timeout_s):
                return await _end(agent, pid, command)
        except TimeoutError as error:
            message = f"it did not end within {command.timeout_s:g} s, and runs on in the guest (pid {pid})"
            raise GuestCommandLost(message) from error
    finally:
        agent.close()


async def _begin(agent: GuestAgent, command: GuestCommand) -> int:
    arguments: dict[str, Any] = {"path": command.argv[0], "arg": list(command.argv[1:]), "capture-output": True}
    if command.stdin:
        arguments["input-data"] = base64.b64encode(command.stdin).decode()
    try:
        answer = await agent.execute("guest-exec", arguments, timeout_s=_ANSWER_TIMEOUT_S)
    except AgentRefused as error:
        raise Refused(f"the guest's agent does not run it: {error}", reason=Reason.GUEST_AGENT_REFUSED) from error
    except GuestAgentError as error:
        raise GuestCommandLost(f"it was given to the guest's agent, which did not say that it runs: {error}") from error
    pid = answer.get("pid") if isinstance(answer, dict) else None
    if not isinstance(pid, int) or not _is_int(pid):
        raise GuestCommandLost(f"the guest's agent names no pid: {str(answer)[:100]}")
    return pid


async def _end(agent: GuestAgent, pid: int, command: GuestCommand) -> GuestCommandResult:
    # One byte more than is wanted: so a cut is noticed. Base64 of three bytes is four.
    text_bytes = 4 * (command.max_output_bytes // 3 + 1)
    wait_s = _LOOK_AGAIN_S
    while True:
        try:
            # Not given up once it is sent: the agent tells of an end once, and then knows no such pid.
            answer = await agent.execute(
                "guest-exec-status", {"pid": pid}, timeout_s=command.timeout_s, max_text_bytes=text_bytes
            )
        except AgentSilent:
            pass  # not sent: a guest that is busy, or held for a while; the caller's time ends it
        except GuestAgentError as error:
            raise GuestCommandLost(f"it ran in the guest (pid {pid}), and its end is not known: {error}") from error
        else:
            if not isinstance(answer, dict) or not isinstance(answer.get("exited"), bool):
                raise GuestCommandLost(f"the guest's agent does not say whether pid {pid} ended: {str(answer)[:100]}")
            if answer["exited"]:
                return _result(answer, command.max_output_bytes)
        # Also when it was silent: of a guest that takes no bytes that is known at once.
        await asyncio.sleep(wait_s)
        wait_s = min(wait_s * 1.5, _LOOK_AGAIN_AT_MOST_S)


def _result(answer: dict[str, Any], max_output_bytes: int) -> GuestCommandResult:
    exit_code = answer.get("exitcode") if _is_int(answer.get("exitcode")) else None
    signal = answer.get("signal") if _is_int(answer.get("signal")) and answer["signal"] >= 0 else None
    if exit_code is None and signal is None:
        raise GuestCommandLost(f"the guest's agent does not say how it ended: {str(answer)[:100]}")
    stdout, stderr = _bytes(answer, "out-data"), _bytes(answer, "err-data")
    cut = any(answer.get(field) is True for field in ("out-truncated", "err-truncated"))
    return GuestCommandResult(
        exit_code=exit_code,
        signal=signal if exit_code is None else None,
        stdout=stdout[:max_output_bytes],
        stderr=stderr[:max_output_bytes],
        is_truncated=cut or max(len(stdout), len(stderr)) > max_output_bytes,
    )


def _bytes(answer: dict[str, Any], field: str) -> bytes:
    text = answer.get(field, "")
    try:
        return base64.b64decode(text, validate=True)
    except (TypeError, ValueError, binascii.Error) as error:
        raise GuestCommandLost(f"it ended, and the guest's agent garbled its output ({field}): {error}") from error


def _is_int(value: object) -> bool:
    """Of 32 bits: a guest may write any number."""
    return isinstance(value, int) and not isinstance(value, bool) and -(1 << 31) <= value < 1 << 31


def _silent(error: Exception) -> Unavailable:
    message = f"no agent answers in the guest ({error}); nothing was run. Install and start qemu-guest-agent there"
    return Unavailable(message, reason=Reason.GUEST_AGENT_SILENT)
