"""What the kinds have in common: names, references, conditions, placement."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from virtplane_api.crdgen import Cel, ListMap, Quantity, StructuralModel

DNS_LABEL = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DNS_SUBDOMAIN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$"

DnsLabel = Annotated[str, Field(min_length=1, max_length=63, pattern=DNS_LABEL)]
"""A name of one part: what names a disk, an agent or a driver."""

ObjectName = Annotated[str, Field(min_length=1, max_length=253, pattern=DNS_SUBDOMAIN)]
"""The name of a Kubernetes object (RFC 1123 subdomain)."""

Uid = Annotated[str, Field(min_length=1, max_length=64)]
"""metadata.uid of an object."""

IpCidr = Annotated[
    str,
    Field(min_length=4, max_length=49),
    Cel("isCIDR(self)", "must be a network in CIDR notation, for example 10.20.0.0/24"),
    Cel(
        "!isCIDR(self) || cidr(self) == cidr(self).masked()",
        "must be the network's own address: no bits may be set behind the prefix",
    ),
]

Time = Annotated[
    str,
    Field(
        max_length=40,
        pattern=(
            r"^[1-9][0-9]{3}-[01][0-9]-[0-3][0-9]T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?"
            r"(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"
        ),
        json_schema_extra={"format": "date-time"},
    ),
]
"""An RFC 3339 time that a user writes. The format alone lets texts through that are none, such as `10:00:x5Z`."""

Message = Annotated[str, Field(max_length=4096)]
_MAX_COUNTER = (1 << 53) - 1
"""What every JSON parser keeps exact; the API server takes bounds as floating-point numbers and refuses 2^63 - 1."""

Generation = Annotated[int, Field(ge=-1, le=_MAX_COUNTER)]
Token = Annotated[int, Field(ge=1, le=_MAX_COUNTER)]

DiskSize = Annotated[
    Quantity,
    Cel(
        "quantity(string(self)).compareTo(quantity('1Mi')) >= 0",
        "a disk's size must be at least 1Mi, for example 20Gi",
    ),
    Cel("quantity(string(self)).compareTo(quantity('64Ti')) <= 0", "a disk's size must be at most 64Ti"),
]


class ConditionStatus(StrEnum):
    """Whether a condition holds. Unknown: it was not observed lately."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(StructuralModel):
    """One observation about the object, after the Kubernetes API conventions (meta/v1 Condition)."""

    type: Annotated[str, Field(max_length=64, pattern=r"^[A-Z][A-Za-z]*$")] = Field(
        description="What is observed, in CamelCase. `Ready` sums the others up.", examples=["Ready"]
    )
    status: ConditionStatus = Field(description="Whether it holds.", examples=["True"])
    reason: Annotated[str, Field(max_length=64, pattern=r"^[A-Z][A-Za-z0-9]*$")] = Field(
        description="Why, as one word for programs.", examples=["Running"]
    )
    message: Message = Field(
        description="Why, for people, with the next step where one helps.",
        examples=["0 of 3 hypervisors fit: 3 lack memory"],
    )
    last_transition_time: datetime = Field(
        description="When `status` last changed from one value to another.", examples=["2026-11-24T10:00:00Z"]
    )
    observed_generation: Generation | None = Field(
        default=None, description="The metadata.generation that was observed.", examples=[4]
    )


Conditions = Annotated[list[Condition], ListMap("type"), Field(max_length=16)]


class HostState(StrEnum):
    """Whether the object exists on its host. Removed: nothing of it is left there."""

    PRESENT = "Present"
    REMOVED = "Removed"


class HostStatus(StructuralModel):
    """What the agent has done with a placement; written by the agent alone."""

    hypervisor: ObjectName = Field(description="The Hypervisor that this speaks of.", examples=["host-a-qemu"])
    token: Token = Field(description="The token of the placement that was acted on.", examples=[7])
    state: HostState = Field(
        description="Present: it exists on the host. Removed: nothing of it is left there, its finalizer may go.",
        examples=["Present"],
    )
    seen_token: Token | None = Field(
        default=None,
        description=(
            "A token greater than the placement's, seen on the host or on a disk: the cluster's database was put back. "
            "The operator places the object anew, above it."
        ),
        examples=[8],
    )
