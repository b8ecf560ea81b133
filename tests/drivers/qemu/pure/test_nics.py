"""Network adapters: what is refused, where the guest finds them, and what QEMU is told of them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.drivers.qemu.pure.machines import argv, cdrom, definition, disk, nic, run
from tests.drivers.qemu.pure.test_argv import devices, options
from virtplane_api.vocabulary import InterfaceModel
from virtplane_drivers.attachment import FakeNicAttachment, StreamAttachment, TapAttachment
from virtplane_drivers.errors import Refused
from virtplane_drivers.hypervisor.contract import Disk, Nic
from virtplane_drivers.hypervisor.qemu.argv import argv_of, network_of, port_address
from virtplane_drivers.hypervisor.qemu.definition import Definition
from virtplane_drivers.hypervisor.qemu.plugging import sockets_in

VIRTIO = {"driver": "virtio-net-pci", "host_mtu": 1450}
E1000E = {"driver": "e1000e"}
BOOTED = {"bootindex": 1, "romsize": 1 << 20}
FIRST_PORT = 40


def of_nics(machine: Definition) -> list[tuple[str, Any]]:
    """What the command line says of the adapters, in its order."""
    listed = options(argv(machine))
    return [one for one in listed if one[0] == "-netdev" or (one[0] == "-device" and "netdev" in one[1])]


def test_the_command_line_of_adapters_of_every_kind() -> None:
    machine = definition(
        disk("root"),
        nics=(
            nic("lan", number=1),
            nic("fast", number=2, queues=2, boot_order=1),
            nic("old", number=3, model=InterfaceModel.E1000E),
            nic("user", number=4, socket="/run/passt.sock"),
        ),
    )
    stream = {"type": "stream", "server": False, "addr": {"type": "fd", "str": "64"}}
    assert of_nics(machine) == [
        ("-netdev", {"id": "net-lan", "type": "tap", "fd": "60", "vhost": False}),
        ("-device", VIRTIO | at("lan", 0) | {"mac": "52:54:00:00:00:01", "romfile": ""}),
        ("-netdev", {"id": "net-fast", "type": "tap", "fds": "61:62", "vhost": False}),
        (
            "-device",
            VIRTIO | at("fast", 1) | {"mac": "52:54:00:00:00:02", "mq": True, "vectors": 6} | BOOTED,
        ),
        ("-netdev", {"id": "net-old", "type": "tap", "fd": "63", "vhost": False}),
        ("-device", E1000E | at("old", 2) | {"mac": "52:54:00:00:00:03", "romfile": ""}),
        ("-netdev", stream | {"id": "net-user"}),
        ("-device", VIRTIO | at("user", 3) | {"mac": "52:54:00:00:00:04", "romfile": ""}),
    ]


def at(name: str, port: int) -> dict[str, Any]:
    return {"id": f"nic-{name}", "netdev": f"net-{name}", "bus": f"rp{FIRST_PORT + port}", "acpi-index": port + 1}


def test_a_machine_that_wakes_has_the_same_adapters() -> None:
    machine = definition(disk("root"), nics=(nic("lan"),))
    assert argv_of(machine, replace(run(machine), is_waking=True)) == [*argv(machine), "-incoming", "defer"]


def test_what_qemu_inherits_are_the_descriptors_that_it_is_told_of() -> None:
    machine = definition(disk("root"), nics=(nic("lan"), nic("fast", queues=3)))
    assert run(machine).grants.descriptors[-4:] == [60, 61, 62, 63]


# --- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("disks", [0, 1, 7, 24])
def test_adapters_move_no_device_of_a_machine_and_have_a_slot_of_their_own(disks: int) -> None:
    """A machine of before has its disks where they were, once it gets its first adapter."""
    listed = [disk(f"disk-{number}") for number in range(disks)]
    before = devices(replace(definition(*listed), nic_ports=False))
    after = devices(definition(*listed, nics=(nic("lan"),)))
    assert {name: after[name] for name in before} == before
    added = {name: device for name, device in after.items() if name not in before}
    assert added.pop("nic-lan")["bus"] == "rp40"
    assert [port["addr"] for port in added.values()] == [f"0x7.0x{function}" for function in range(8)]
    assert not {port["addr"] for port in added.values()} & {port.get("addr") for port in before.values()}
    chassis = [port["chassis"] for port in after.values() if port["driver"] == "pcie-root-port"]
    assert len(set(chassis)) == len(chassis)


def places(machine: Definition) -> dict[str, tuple[str, int]]:
    """Where the guest finds each adapter: the address of its root port, and its index."""
    found = devices(machine)
    return {
        name.removeprefix("nic-"): (found[device["bus"]]["addr"], device["acpi-index"])
        for name, device in found.items()
        if name.startswith("nic-")
    }


ALL = [nic("a"), nic("b"), nic("c")]


@pytest.mark.parametrize(
    "after",
    [
        pytest.param(ALL[1:], id="the first removed"),
        pytest.param([ALL[0], ALL[2]], id="one in the middle removed"),
        pytest.param(ALL[::-1], id="listed in another order"),
        pytest.param([nic("new"), *ALL, nic("newer")], id="added on both ends"),
        pytest.param([replace(ALL[0], mac="52:54:00:00:00:99"), *ALL[1:]], id="another MAC"),
        pytest.param([nic("a", model=InterfaceModel.E1000E), *ALL[1:]], id="another model"),
    ],
)
def test_an_adapter_that_stays_is_found_where_it_was(after: list[Nic]) -> None:
    first = definition(disk("root"), nics=tuple(ALL))
    then = definition(disk("root"), disk("data"), nics=tuple(after), previous=first)
    was, now = places(first), places(then)
    assert {name: now[name] for name in was if name in now} == {name: was[name] for name in was if name in now}
    assert len(set(now.values())) == len(after)


def test_the_places_of_removed_adapters_can_be_used_again() -> None:
    full = definition(nics=tuple(nic(f"x-{number}") for number in range(8)))
    renewed = definition(nics=tuple(nic(f"y-{number}") for number in range(8)), previous=full)
    assert sorted(one.port for one in renewed.nics) == list(range(8))


def test_the_addresses_of_adapters_are_those_of_their_root_ports() -> None:
    assert [port_address(FIRST_PORT + number) for number in (0, 7)] == ["0x7.0x0", "0x7.0x7"]


# --- what is booted ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("disks", "nics", "order"),
    [
        ([disk("a")], [nic("n")], ["disk-a"]),
        ([], [nic("n")], []),
        ([], [nic("n", boot_order=1)], ["nic-n"]),
        ([disk("a"), disk("b")], [nic("n", boot_order=1)], ["nic-n", "disk-a"]),
        ([disk("a", boot_order=1)], [nic("n", boot_order=2)], ["disk-a", "nic-n"]),
        ([disk("a", boot_order=3)], [nic("n", boot_order=2), nic("m")], ["nic-n", "disk-a"]),
        ([disk("a", boot_order=1)], [nic("n", boot_order=1)], ["disk-a", "nic-n"]),
        (
            [cdrom("a", boot_order=4), disk("b", boot_order=2)],
            [nic("n", boot_order=3), nic("m", boot_order=1)],
            ["nic-m", "disk-b", "nic-n", "disk-a"],
        ),
    ],
    ids=[
        "no number",
        "no disk",
        "a NIC alone",
        "a NIC's, no disk's",
        "the disk first",
        "the NIC first",
        "equal",
        "all",
    ],
)
def test_disks_and_adapters_are_booted_in_one_order(disks: list[Disk], nics: list[Nic], order: Sequence[str]) -> None:
    """A disk's rule stays: without a number of any disk the first one, behind the adapters that have one."""
    found = devices(definition(*disks, nics=tuple(nics)))
    booted = {device["bootindex"]: name for name, device in found.items() if "bootindex" in device}
    assert booted == dict(enumerate(order, start=1))


def test_only_an_adapter_that_is_booted_from_has_a_program_for_it() -> None:
    found = devices(definition(disk("a"), nics=(nic("n", boot_order=1), nic("m"))))
    assert "romfile" not in found["nic-n"]
    assert found["nic-m"]["romfile"] == ""


def test_the_room_for_that_program_does_not_depend_on_its_version() -> None:
    """A machine that was suspended before an upgrade of iPXE would not wake after it."""
    for model in InterfaceModel:
        found = devices(definition(nics=(nic("n", boot_order=1, model=model),)))
        assert found["nic-n"]["romsize"] == 1 << 20


# --- what is refused --------------------------------------------------------------------------------------------------

FAKE = FakeNicAttachment("net-1", ("vm-1", "lan"))
BOTH = frozenset({TapAttachment, StreamAttachment})
REFUSED = [
    ([replace(nic("lan"), attachment=FAKE)], BOTH, "NicNotAttachable", "interface lan: .* exists in memory only"),
    (
        [nic("lan")],
        frozenset({StreamAttachment}),
        "NicNotAttachable",
        "interface lan: .* tap: .* 7.2, .* CAP_NET_ADMIN",
    ),
    ([nic("lan", socket="/run/s")], frozenset(), "NicNotAttachable", "interface lan: .* socket .* 7.2"),
    ([nic("lan", queues=2, model=InterfaceModel.E1000E)], BOTH, "NotSupported", "interface lan: model e1000e has one"),
    ([nic("lan", queues=2, socket="/run/s")], BOTH, "NotSupported", "interface lan: .* one pair of queues"),
    ([nic(f"n-{number}") for number in range(9)], BOTH, "TooManyNics", "interface n-8: at most 8"),
]


@pytest.mark.parametrize(
    ("nics", "joinable", "reason", "words"),
    REFUSED,
    ids=["in memory only", "no taps here", "an old QEMU", "queues of e1000e", "queues of a socket", "a ninth"],
)
def test_what_cannot_be_is_refused_by_its_name(
    nics: list[Nic], joinable: frozenset[type[Any]], reason: str, words: str
) -> None:
    with pytest.raises(Refused, match=words) as refused:
        definition(nics=tuple(nics), joinable=joinable)
    assert refused.value.reason == reason


# --- a machine that wakes ---------------------------------------------------------------------------------------------


def test_a_suspended_machine_keeps_its_devices_and_takes_the_ports_of_now() -> None:
    """The guest has its driver bound to what was; the host may have been booted, and all its namespaces are new."""
    then = definition(nics=(nic("lan", queues=2), nic("gone"), nic("user", socket="/run/old")))
    moved = TapAttachment(Path("/run/virtplane/netns/net-2"), "t-other", "br1", 1400, "virtplane/other")
    now = definition(
        nics=(
            replace(nic("lan", number=9, mtu=1400), attachment=moved),
            nic("user", socket="/run/new"),
            nic("added"),
        ),
        previous=then,
    )
    woken = then.joined_as(now)
    assert devices(woken) == devices(then)
    assert [one.attachment for one in woken.nics] == [
        moved,
        then.nics[1].attachment,
        StreamAttachment(Path("/run/new")),
    ]


def test_a_suspended_machine_of_which_nothing_newer_is_known_takes_the_ports_of_then() -> None:
    then = definition(nics=(nic("lan"),))
    assert then.joined_as(None) == then


def test_a_port_is_as_it_was_given() -> None:
    given = (nic("lan"), nic("user", socket="/run/s"))
    assert [one.attachment for one in definition(nics=given).nics] == [one.attachment for one in given]


def test_a_socket_that_is_plugged_goes_by_its_descriptor_s_name() -> None:
    (user,) = definition(nics=(nic("user", socket="/run/passt.sock"),)).nics
    assert network_of(user, ["net-user-0"]) == {"id": "net-user", "type": "socket", "fd": "net-user-0"}


INFO_NETWORK = """\
nic-lan: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:00:00:01\r
 \\ net-lan: index=0,type=tap,fd=31\r
nic-user: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:00:00:02\r
 \\ net-user: index=0,type=stream,unix:/run/passt/socket\r
nic-lost: index=0,type=nic,model=virtio-net-pci,macaddr=52:54:00:00:00:03\r
 \\ net-lost: index=0,type=stream,\r
 \\ net-lost-too: index=0,type=socket,\r
net-never: index=0,type=stream,error\r
"""


def test_what_qemu_says_of_sockets_is_whether_somebody_is_at_their_other_end() -> None:
    assert sockets_in(INFO_NETWORK) == {"user": True, "lost": False, "lost-too": False, "never": False}
    assert sockets_in("") == sockets_in("{}") == {}
