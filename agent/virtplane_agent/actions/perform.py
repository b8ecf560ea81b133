"""The acts themselves: from an action's spec to a driver's call, and from its answer to a status."""

import base64
from collections.abc import Mapping
from typing import Any

from virtplane_agent.endpoints import Endpoint
from virtplane_api.actions import GUEST_COMMAND_TIMEOUT_S, MAX_OUTPUT_BYTES, MAX_SCREENSHOT_BYTES
from virtplane_api.keys import KeyName
from virtplane_api.kube.resources import Object
from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import ActionType
from virtplane_drivers.errors import Refused
from virtplane_drivers.hypervisor.contract import (
    CAPABILITIES,
    CanInjectNmi,
    CanReset,
    CanRunGuestCommands,
    CanSendKeys,
    CanTakeScreenshots,
    GuestCommand,
    GuestCommandResult,
)

CAPABILITY_OF: Mapping[ActionType, str] = {
    ActionType.RESET: "Reset",
    ActionType.NMI: "InjectNMI",
    ActionType.SEND_KEYS: "SendKeys",
    ActionType.SCREENSHOT: "Screenshot",
    ActionType.GUEST_COMMAND: "GuestCommand",
}

Failure = tuple[str, str]
"""A reason as a word, and for people."""


def lacks(action: Object, endpoint: Endpoint) -> Failure | None:
    """Why this hypervisor never does such an act; None: it does."""
    type_ = ActionType(action["spec"]["type"])
    capability = CAPABILITY_OF[type_]
    if isinstance(endpoint.driver, CAPABILITIES[capability]) and capability in endpoint.facts.capabilities:
        return None
    message = f"spec.type {type_}: {endpoint.name} (driver {endpoint.driver.name}) lacks the capability {capability}"
    why = endpoint.facts.missing.get(capability)
    return Reason.NOT_SUPPORTED, f"{message}: {why}" if why else message


async def perform(action: Object, endpoint: Endpoint, uid: str) -> tuple[dict[str, Any], Failure | None]:
    """Do it once, on the machine of that UID. Status fields of the result, and why it failed.

    Raises:
        DriverError: it was not done, or nobody knows; see the contract.
    """
    spec, driver = action["spec"], endpoint.driver
    match ActionType(spec["type"]):
        case ActionType.RESET if isinstance(driver, CanReset):
            await driver.reset(uid)
        case ActionType.NMI if isinstance(driver, CanInjectNmi):
            await driver.inject_nmi(uid)
        case ActionType.SEND_KEYS if isinstance(driver, CanSendKeys):
            await driver.send_keys(uid, [KeyName(key) for key in spec["sendKeys"]["keys"]])
        case ActionType.SCREENSHOT if isinstance(driver, CanTakeScreenshots):
            png = await driver.screenshot(uid, MAX_SCREENSHOT_BYTES)
            return {"screenshot": {"png": base64.b64encode(png).decode()}}, None
        case ActionType.GUEST_COMMAND if isinstance(driver, CanRunGuestCommands):
            result = await driver.run_guest_command(uid, _guest_command(spec["guestCommand"]))
            return {"guestCommand": _result(result)}, _failure(result)
        case type_:
            raise Refused(f"{endpoint.name} does no {type_}", reason=Reason.NOT_SUPPORTED)
    return {}, None


def _guest_command(spec: Mapping[str, Any]) -> GuestCommand:
    return GuestCommand(
        argv=tuple(spec["command"]),
        timeout_s=float(spec.get("timeoutSeconds", GUEST_COMMAND_TIMEOUT_S)),
        max_output_bytes=MAX_OUTPUT_BYTES,
        stdin=spec.get("stdin", "").encode(),
    )


def _result(result: GuestCommandResult) -> dict[str, Any]:
    status: dict[str, Any] = {
        "stdout": _text(result.stdout),
        "stderr": _text(result.stderr),
        "outputTruncated": result.is_truncated,
    }
    if result.exit_code is not None:
        status["exitCode"] = result.exit_code
    if result.signal is not None:
        status["signal"] = result.signal
    return status


def _failure(result: GuestCommandResult) -> Failure | None:
    if result.exit_code == 0:
        return None
    how = f"signal {result.signal}" if result.exit_code is None else f"exit code {result.exit_code}"
    return Reason.COMMAND_FAILED, f"the command ended with {how}"


def _text(output: bytes) -> str:
    # A NUL is no text of JSON that every reader takes.
    return output.decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
