"""What is done to make the adapters of a run those of its definition, and what waits for a restart."""

from dataclasses import replace
from pathlib import Path

import pytest

from virtplane_api.vocabulary import InterfaceModel
from virtplane_drivers.attachment import FakeNicAttachment, StreamAttachment, TapAttachment
from virtplane_drivers.hypervisor.contract import Nic
from virtplane_drivers.hypervisor.nics import NicChanges, nic_changes

TAP = TapAttachment(Path("/run/netns/lan"), "t1", "br0", 1500, "virtplane/vm-1/lan")
LAN = Nic("lan", "52:54:00:00:00:01", TAP)
DMZ = Nic("dmz", "52:54:00:00:00:02", replace(TAP, namespace=Path("/run/netns/dmz")))
OTHER_MAC = replace(LAN, mac="52:54:00:00:00:03")
OTHER_NETWORK = replace(LAN, attachment=DMZ.attachment)
DOWN = replace(LAN, link_up=False)
STREAM = Nic("user", "52:54:00:00:00:04", StreamAttachment(Path("/run/passt")))
OTHER_STREAM = replace(STREAM, attachment=StreamAttachment(Path("/run/another")))
FAKE = Nic("fake", "52:54:00:00:00:05", FakeNicAttachment("net-1", ("vm-1", "fake")))

NOTHING = NicChanges()


@pytest.mark.parametrize(
    ("running", "wanted", "expected"),
    [
        ([], [], NOTHING),
        ([LAN, DMZ, STREAM, FAKE], [FAKE, STREAM, DMZ, LAN], NOTHING),
        ([], [LAN], NicChanges(plug=(LAN,))),
        ([LAN], [], NicChanges(unplug=("lan",))),
        ([LAN], [DMZ], NicChanges(unplug=("lan",), plug=(DMZ,))),
        ([LAN], [OTHER_MAC], NicChanges(unplug=("lan",), plug=(OTHER_MAC,))),
        ([LAN], [OTHER_NETWORK], NicChanges(unplug=("lan",), plug=(OTHER_NETWORK,))),
        ([STREAM], [OTHER_STREAM], NicChanges(unplug=("user",), plug=(OTHER_STREAM,))),
        ([LAN], [replace(LAN, attachment=STREAM.attachment)],
         NicChanges(unplug=("lan",), plug=(replace(LAN, attachment=STREAM.attachment),))),
        ([replace(LAN, is_cut_off=True), DMZ], [LAN, DMZ], NicChanges(unplug=("lan",), plug=(LAN,))),
        ([LAN], [DOWN], NicChanges(links=(DOWN,))),
        ([DOWN], [LAN], NicChanges(links=(LAN,))),
        ([LAN], [replace(LAN, mtu=9000, attachment=replace(TAP, mtu=9000, alias="other words"))], NOTHING),
        ([LAN], [replace(LAN, model=InterfaceModel.E1000E)], NicChanges(on_restart=("lan",))),
        ([LAN], [replace(LAN, queues=2)], NicChanges(on_restart=("lan",))),
        ([LAN], [replace(LAN, boot_order=1)], NicChanges(on_restart=("lan",))),
        ([LAN], [replace(DOWN, queues=2)], NicChanges(links=(replace(DOWN, queues=2),), on_restart=("lan",))),
    ],
)  # fmt: skip
def test_each_difference_has_its_way(running: list[Nic], wanted: list[Nic], expected: NicChanges) -> None:
    found = nic_changes(running, wanted)
    assert found == expected
    assert found.is_empty == (not (expected.unplug or expected.plug or expected.links))
