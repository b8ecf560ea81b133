"""What networks of mode Overlay add to the statuses of VirtualNetwork and Hypervisor."""

from typing import Annotated

from pydantic import Field

from virtplane_api.crdgen import Cel, StructuralModel
from virtplane_api.models.common import ObjectName
from virtplane_api.overlay import MAX_VNI, MIN_MTU, MIN_VNI

Vni = Annotated[int, Field(ge=MIN_VNI, le=MAX_VNI)]
Mtu = Annotated[int, Field(ge=MIN_MTU, le=65535)]
UnderlayAddress = Annotated[
    str,
    Field(min_length=2, max_length=45),
    Cel("isIP(self)", "must be an IP address, for example 192.0.2.11"),
]


class Underlay(StructuralModel):
    """A host's end of the tunnels of all its networks."""

    address: UnderlayAddress = Field(description="By which other hosts reach it.", examples=["192.0.2.11"])
    mtu: Mtu = Field(description="Largest packet in bytes of the link that has the address.", examples=[1500])


class NetworkPeer(StructuralModel):
    """A host that has the network."""

    agent_name: ObjectName = Field(description="The agent of the host.", examples=["host-a"])
    address: UnderlayAddress = Field(description="The host's end of the tunnels.", examples=["192.0.2.11"])
