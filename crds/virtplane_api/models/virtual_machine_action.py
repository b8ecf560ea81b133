"""VirtualMachineAction: an act on a machine that is no state, so it is not in its spec. It happens at most once."""

from datetime import datetime
from typing import Annotated

from pydantic import Field

from virtplane_api.actions import MAX_OUTPUT_BYTES, MAX_SCREENSHOT_BYTES
from virtplane_api.crdgen import AllowBoolean, CelRule, CustomResource, ListAtomic, PrinterColumn, StructuralModel
from virtplane_api.keys import KeyName
from virtplane_api.models.common import Conditions, Generation, ObjectName, Uid
from virtplane_api.names import CATEGORY, GROUP, VERSION
from virtplane_api.vocabulary import ActionType

_MAX_ARGUMENT = 4 << 10

Argument = Annotated[str, Field(max_length=_MAX_ARGUMENT)]


class SendKeys(StructuralModel):
    """Keys that are held together."""

    keys: Annotated[list[KeyName], Field(min_length=1, max_length=16), ListAtomic()] = Field(
        description=(
            "Pressed in this order, held together, and let go. Named as in Linux (input-event-codes.h), after the "
            "place on the keyboard and not what is printed there."
        ),
        examples=[["KEY_LEFTCTRL", "KEY_LEFTALT", "KEY_DELETE"]],
    )


class GuestCommand(StructuralModel):
    """A program that an agent inside the guest runs."""

    command: Annotated[list[Argument], Field(min_length=1, max_length=64), ListAtomic()] = Field(
        description=(
            "The program and its arguments. No shell is between: for one, name it, as in the example; give it "
            "a long script by stdin. The guest needs "
            "an agent that runs (qemu-guest-agent)."
        ),
        examples=[["/bin/sh", "-c", "df -h /"]],
    )
    stdin: Annotated[str, Field(max_length=64 << 10)] | None = Field(
        default=None, description="What the program reads. Without it: nothing.", examples=["yes\n"]
    )
    timeout_seconds: Annotated[int, Field(ge=1, le=3600)] | None = Field(
        default=None,
        description=(
            "How long the program is waited for. Without it: 60. One that takes longer runs on in the guest, and the "
            "action fails."
        ),
        examples=[60],
    )


class VirtualMachineActionSpec(StructuralModel):
    """One act on one machine."""

    cel_rules = (
        CelRule(
            rule="self == oldSelf",
            message="spec is immutable, as an act happens once: create another VirtualMachineAction",
        ),
        CelRule(
            rule="has(self.sendKeys) == (self.type == 'SendKeys')",
            message="sendKeys must be set with type SendKeys, and with no other",
            field_path=".sendKeys",
        ),
        CelRule(
            rule="has(self.guestCommand) == (self.type == 'GuestCommand')",
            message="guestCommand must be set with type GuestCommand, and with no other",
            field_path=".guestCommand",
        ),
    )

    vm_name: ObjectName = Field(description="The VirtualMachine, of the same namespace.", examples=["web"])
    type: ActionType = Field(
        description=(
            "Reset: the guest starts anew at once, as by the reset button; what it has not written is lost. NMI: a "
            "non-maskable interrupt, by which a kernel that hangs writes a dump. SendKeys: keys are pressed. "
            "Screenshot: the screen as PNG, of a machine with spec.display. GuestCommand: a program is run inside "
            "the guest."
        ),
        examples=["Reset"],
    )
    send_keys: SendKeys | None = Field(
        default=None,
        description="Of type SendKeys: which.",
        examples=[{"keys": ["KEY_LEFTCTRL", "KEY_LEFTALT", "KEY_DELETE"]}],
    )
    guest_command: GuestCommand | None = Field(
        default=None,
        description="Of type GuestCommand: which. Takes the verb exec on virtualmachines, as it is root in the guest.",
        examples=[{"command": ["/usr/bin/systemctl", "is-system-running"]}],
    )
    starting_deadline_seconds: Annotated[int, Field(ge=1, le=86400)] | None = Field(
        default=None,
        description=(
            "How long after its creation the act may begin. Without it: 60. One that did not begin by then fails and "
            "never happens: what was meant for now is not done at some other time."
        ),
        examples=[60],
    )
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=30 * 86400)] | None = Field(
        default=None,
        description="How long the finished action is kept. Without it: 3600.",
        examples=[3600],
    )


class ActionPlacement(StructuralModel):
    """Who acts, on which machine; written by the operator alone, once."""

    cel_rules = (CelRule(rule="self == oldSelf", message="an action is never moved: it could happen on two hosts"),)

    hypervisor: ObjectName = Field(description="The Hypervisor that runs the machine.", examples=["host-a-qemu"])
    agent_name: ObjectName = Field(description="The agent that acts.", examples=["host-a"])
    vm_uid: Uid = Field(
        alias="vmUID",
        description="metadata.uid of the VirtualMachine.",
        examples=["6b0cf3b5-6d5e-4b0f-9b5e-0a3c1d2e4f55"],
    )


class Screenshot(StructuralModel):
    """What the guest showed."""

    png: Annotated[str, Field(max_length=MAX_SCREENSHOT_BYTES // 3 * 4 + 4)] = Field(
        description="The PNG file, in base64.", examples=["iVBORw0KGgo="]
    )


class GuestCommandResult(StructuralModel):
    """How the program ended, as the guest tells it."""

    exit_code: Annotated[int, Field(ge=-(1 << 31), le=(1 << 31) - 1)] | None = Field(
        default=None, description="What it returned.", examples=[0]
    )
    signal: Annotated[int, Field(ge=0, le=(1 << 31) - 1)] | None = Field(
        default=None, description="The signal that ended it, instead of an exit code.", examples=[9]
    )
    stdout: Annotated[str, Field(max_length=MAX_OUTPUT_BYTES)] | None = Field(
        default=None,
        description="The first 64 KiB of its output. Bytes that are no UTF-8 are shown as U+FFFD.",
        examples=["running\n"],
    )
    stderr: Annotated[str, Field(max_length=MAX_OUTPUT_BYTES)] | None = Field(
        default=None, description="The first 64 KiB of its error output, likewise.", examples=["no such unit\n"]
    )
    output_truncated: Annotated[bool, AllowBoolean()] | None = Field(
        default=None, description="Whether some of its output is not shown.", examples=[False]
    )


class VirtualMachineActionStatus(StructuralModel):
    """What became of the act."""

    cel_rules = (
        CelRule(
            rule="!has(oldSelf.placement) || has(self.placement)",
            message="an action's placement is never removed: it could happen on two hosts",
        ),
        CelRule(
            rule="!has(oldSelf.startTime) || (has(self.startTime) && self.startTime == oldSelf.startTime)",
            message="startTime is set once: an act happens at most once",
        ),
    )

    observed_generation: Generation | None = Field(
        default=None, description="The metadata.generation that this status speaks of.", examples=[1]
    )
    placement: ActionPlacement | None = Field(
        default=None,
        description="Who acts. The operator's.",
        examples=[
            {"hypervisor": "host-a-qemu", "agentName": "host-a", "vmUID": "6b0cf3b5-6d5e-4b0f-9b5e-0a3c1d2e4f55"}
        ],
    )
    start_time: datetime | None = Field(
        default=None,
        description="Written before the act: from then on it may have happened. The agent's.",
        examples=["2026-11-24T10:00:00Z"],
    )
    completion_time: datetime | None = Field(
        default=None, description="When it was over, well or not.", examples=["2026-11-24T10:00:01Z"]
    )
    screenshot: Screenshot | None = Field(
        default=None, description="Of type Screenshot.", examples=[{"png": "iVBORw0KGgo="}]
    )
    guest_command: GuestCommandResult | None = Field(
        default=None, description="Of type GuestCommand.", examples=[{"exitCode": 0, "stdout": "running\n"}]
    )
    conditions: Conditions | None = Field(
        default=None,
        description=(
            "Complete: it was done. Failed: it was not, or nobody knows (reason Interrupted). One of the two at the "
            "end, as of a Job: the operator's when the act never began, else the agent's."
        ),
        examples=[[]],
    )


_FINISHED = ".status.conditions[?(@.status=='True')]"

VIRTUAL_MACHINE_ACTION = CustomResource(
    group=GROUP,
    version=VERSION,
    kind="VirtualMachineAction",
    plural="virtualmachineactions",
    singular="virtualmachineaction",
    short_names=("vpact",),
    categories=(CATEGORY,),
    scope="Namespaced",
    description="An act on a VirtualMachine that is no state: reset, NMI, keys, a screenshot, a command in the guest.",
    spec=VirtualMachineActionSpec,
    status=VirtualMachineActionStatus,
    status_default={"observedGeneration": -1},
    selectable_fields=(".status.placement.agentName",),
    printer_columns=(
        PrinterColumn("Machine", "string", ".spec.vmName", "The VirtualMachine."),
        PrinterColumn("Type", "string", ".spec.type", "What is done."),
        PrinterColumn("Result", "string", f"{_FINISHED}.type", "Complete or Failed, once it is over."),
        PrinterColumn("Reason", "string", f"{_FINISHED}.reason", "Why."),
        PrinterColumn("Exit", "integer", ".status.guestCommand.exitCode", "What a command returned."),
        PrinterColumn("Age", "date", ".metadata.creationTimestamp", "Time since it was created."),
        PrinterColumn("Message", "string", f"{_FINISHED}.message", "Why, for people.", priority=1),
    ),
)
