"""QEMU's command line: one machine's as a whole, and what must hold of every one."""

import itertools
import json
from dataclasses import replace
from typing import Any

import pytest

from tests.drivers.qemu.pure.machines import SMBIOS_UUID, argv, cdrom, definition, disk, run
from virtplane_api.vocabulary import DisplayType
from virtplane_drivers.hypervisor.contract import Cpu, Disk
from virtplane_drivers.hypervisor.qemu.argv import QEMU, argv_of, port_address
from virtplane_drivers.hypervisor.qemu.definition import Definition

Option = tuple[str, Any]
HOLDS = {"werror": "stop", "rerror": "stop"}
"""A full disk holds the guest, instead of breaking its file system."""
VIRTIO = HOLDS | {"driver": "virtio-blk-pci"}
AGENT_PORT = {"driver": "virtserialport", "id": "guest-agent0", "bus": "virtio-serial0.0", "nr": 1}
AGENT_PORT |= {"chardev": "guest-agent", "name": "org.qemu.guest_agent.0"}
CDROM = HOLDS | {"driver": "ide-cd"}


def options(words: list[str]) -> list[Option]:
    """Each option with its value; JSON is read."""
    assert words[0] == QEMU
    read: list[Option] = []
    for word in words[1:]:
        if word.startswith("-"):
            read.append((word, None))
        else:
            option, nothing = read.pop()
            assert nothing is None
            read.append((option, json.loads(word) if word.startswith("{") else word))
    return read


def devices(machine: Definition) -> dict[str, dict[str, Any]]:
    """What the guest sees, by id."""
    listed = [value for option, value in options(argv(machine)) if option == "-device"]
    assert len({device["id"] for device in listed}) == len(listed)
    return {device["id"]: device for device in listed}


def root_port(number: int, address: str) -> Option:
    port: dict[str, Any] = {"driver": "pcie-root-port", "id": f"rp{number}", "bus": "pcie.0", "addr": address}
    port |= {"chassis": number + 1, "port": number}
    return "-device", port | ({"multifunction": True} if number % 8 == 0 else {})


def file_node(number: int, *, read_only: bool) -> Option:
    granted = f"/dev/fdset/{number + 1}"
    node = {"driver": "file", "node-name": f"file{number}", "filename": granted, "read-only": read_only}
    return "-blockdev", node | {"auto-read-only": False, "discard": "unmap"}


def format_node(number: int, driver: str, *, read_only: bool) -> Option:
    node = {"driver": driver, "node-name": f"disk{number}", "file": f"file{number}", "read-only": read_only}
    return "-blockdev", node | {"discard": "unmap"}


def test_the_whole_command_line_of_a_machine_with_two_disks_and_a_cdrom() -> None:
    machine = definition(disk("root"), disk("data", boot_order=2), cdrom("tools", boot_order=1))
    assert options(argv(machine)) == [
        ("-name", "guest=virtplane/0123456789ab/5d6d1c36/7/shop/web/vm-1/1a2b3c4d,debug-threads=on"),
        ("-nodefaults", None),
        ("-no-user-config", None),
        ("-display", "none"),
        ("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"),
        ("-machine", "pc-q35-7.2,usb=off,vmport=off,dump-guest-core=off"),
        ("-accel", "tcg,tb-size=128"),
        ("-cpu", "max"),
        ("-smp", "cpus=2,sockets=1,cores=2,threads=1"),
        ("-m", "size=1024M"),
        ("-uuid", SMBIOS_UUID),
        ("-rtc", "base=utc"),
        ("-boot", "menu=off,strict=on"),
        ("-action", "shutdown=pause,reboot=reset,panic=pause,watchdog=pause"),
        ("-global", "ICH9-LPC.noreboot=off"),
        ("-chardev", "socket,id=monitor,fd=9,server=on,wait=off"),
        ("-mon", "chardev=monitor,mode=control"),
        ("-chardev", "socket,id=guest-agent,fd=8,server=on,wait=off"),
        ("-add-fd", "fd=10,set=0,opaque=/var/lib/virtplane/qemu/vm-1/serial.log"),
        ("-add-fd", "fd=20,set=1,opaque=/srv/root.qcow2"),
        ("-add-fd", "fd=21,set=2,opaque=/srv/data.qcow2"),
        ("-add-fd", "fd=22,set=3,opaque=/srv/tools.iso"),
        ("-chardev", "null,id=serial0,logfile=/dev/fdset/0,logappend=on"),
        root_port(0, "0x2.0x0"),
        root_port(1, "0x2.0x1"),
        root_port(2, "0x2.0x2"),
        root_port(3, "0x2.0x3"),
        root_port(4, "0x2.0x4"),
        root_port(5, "0x2.0x5"),
        root_port(6, "0x2.0x6"),
        root_port(7, "0x2.0x7"),
        root_port(8, "0x3.0x0"),
        root_port(9, "0x3.0x1"),
        root_port(10, "0x3.0x2"),
        *(root_port(40 + number, f"0x7.{number:#x}") for number in range(8)),
        ("-device", {"driver": "virtio-serial-pci", "id": "virtio-serial0", "bus": "rp0"}),
        ("-device", {"driver": "isa-serial", "id": "serial0-device", "chardev": "serial0"}),
        ("-device", AGENT_PORT),
        ("-device", {"driver": "pvpanic", "id": "pvpanic0"}),
        file_node(0, read_only=False),
        format_node(0, "qcow2", read_only=False),
        file_node(1, read_only=False),
        format_node(1, "qcow2", read_only=False),
        file_node(2, read_only=True),
        format_node(2, "raw", read_only=True),
        ("-device", VIRTIO | {"id": "disk-root", "drive": "disk0", "bus": "rp1", "serial": "root"}),
        (
            "-device",
            VIRTIO | {"id": "disk-data", "drive": "disk1", "bus": "rp2", "serial": "data", "bootindex": 2},
        ),
        ("-device", CDROM | {"id": "disk-tools", "drive": "disk2", "bus": "ide.0", "bootindex": 1}),
    ]


def test_a_machine_that_wakes_waits_for_its_memory_and_is_otherwise_the_same() -> None:
    machine = definition(disk("root"))
    assert argv_of(machine, replace(run(machine), is_waking=True)) == [*argv(machine), "-incoming", "defer"]


def test_a_machine_that_is_held_boots_when_it_is_told_to() -> None:
    machine = definition(disk("root"))
    assert argv_of(machine, replace(run(machine), is_held=True)) == [*argv(machine), "-S"]


# --- values that could be read as something else ----------------------------------------------------------------------


PATHS = ["/srv/a,b.img", "/srv/a,server=on/b", '/srv/"a".img', "/srv/a b\\c.img", "/srv/ä.img"]


@pytest.mark.parametrize("path", PATHS)
def test_the_paths_of_files_are_told_for_people_and_start_no_other_option(path: str) -> None:
    told = [
        value
        for option, value in options(argv(definition(disk("root", path=path)), serial_log=path))
        if option == "-add-fd"
    ]
    doubled = path.replace(",", ",,")
    assert told == [f"fd=10,set=0,opaque={doubled}", f"fd=20,set=1,opaque={doubled}"]


@pytest.mark.parametrize("path", PATHS)
def test_qemu_opens_no_path_of_ours_by_itself(path: str) -> None:
    """What it uses it is handed over open: its process needs rights on no path."""
    words = argv(definition(disk("root", path=path), cdrom("tools")), serial_log=path)
    opened = [value["filename"] for option, value in options(words) if option == "-blockdev" and "filename" in value]
    assert opened == ["/dev/fdset/1", "/dev/fdset/2"]
    assert "null,id=serial0,logfile=/dev/fdset/0,logappend=on" in words
    naming = [option for option, word in itertools.pairwise(words) if path.replace(",", ",,") in word]
    assert naming == ["-add-fd", "-add-fd"]


# --- serials, by which guests know their disks ------------------------------------------------------------------------


def serials(*names: str) -> list[str]:
    """Of disks of these names, in their order."""
    found = devices(definition(*(disk(name) for name in names)))
    return [found[f"disk-{name}"]["serial"] for name in names]


@pytest.mark.parametrize("name", ["a", "data", "x" * 20])
def test_a_disks_serial_is_its_name(name: str) -> None:
    assert serials(name) == [name]


@pytest.mark.parametrize("length", [18, 19, 20, 61])
def test_long_names_that_begin_alike_have_serials_of_their_own_that_fit(length: int) -> None:
    """Two disks of one serial are one for /dev/disk/by-id: the guest would take either."""
    found = serials(*(f"{'x' * length}-{number}" for number in range(24)))
    assert len(set(found)) == 24
    assert max(map(len, found)) <= 20


def test_the_serial_of_a_long_name_never_changes_with_our_version() -> None:
    """A guest's fstab may name it."""
    assert serials("application-data-volume-1") == ["application-de526ce1"]


# --- addresses --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("disks", [0, 1, 7, 8, 24])
def test_every_device_has_a_root_port_of_its_own_and_eight_are_spare(disks: int) -> None:
    found = devices(definition(*(disk(f"disk-{number}") for number in range(disks))))
    ports = [device for name, device in found.items() if device["driver"] == "pcie-root-port" and int(name[2:]) < 40]
    used = [device["bus"] for device in found.values() if str(device.get("bus")).startswith("rp")]
    assert len(used) == len(set(used)) == disks + 1  # and the controller of the serial ports
    assert len(ports) == len(used) + 8
    for own in ("id", "addr", "chassis"):
        assert len({port[own] for port in ports}) == len(ports)
    assert {port["addr"] for port in ports} == {port_address(number) for number in range(len(ports))}


@pytest.mark.parametrize("disks", [1, 24])
def test_a_slot_with_many_functions_says_so_in_its_first(disks: int) -> None:
    for device in devices(definition(*(disk(f"disk-{number}") for number in range(disks)))).values():
        if device["driver"] == "pcie-root-port":
            assert device.get("multifunction", False) == device["addr"].endswith(".0x0")


def places(machine: Definition) -> dict[str, tuple[str, str]]:
    """Where the guest finds each disk: its bus, and the address of that."""
    found = devices(machine)
    return {
        name.removeprefix("disk-"): (device["bus"], found.get(device["bus"], {}).get("addr", ""))
        for name, device in found.items()
        if name.startswith("disk-")
    }


ALL = [disk("a"), cdrom("x"), disk("b"), disk("c"), cdrom("y")]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(ALL, [ALL[0], *ALL[2:]], id="the first CD-ROM removed"),
        pytest.param(ALL, [*ALL[:2], *ALL[3:]], id="a disk in the middle removed"),
        pytest.param(ALL, ALL[1:], id="the first disk removed"),
        pytest.param(ALL, [disk("new"), *ALL, cdrom("z")], id="disks added on both ends"),
        pytest.param(ALL, ALL[::-1], id="listed in another order"),
        pytest.param(ALL, [disk("new"), *ALL[3:]], id="some removed, one added"),
    ],
)
def test_a_disk_that_stays_is_found_where_it_was(before: list[Disk], after: list[Disk]) -> None:
    first = definition(*before)
    then = definition(*after, previous=first)
    was, now = places(first), places(then)
    assert {name: now[name] for name in was if name in now} == {name: was[name] for name in was if name in now}
    assert len(set(now.values())) == len(after)


def test_a_disk_that_comes_back_takes_the_lowest_free_place() -> None:
    first = definition(disk("a"), disk("b"), disk("c"))
    then = definition(disk("a"), disk("c"), previous=first)
    again = definition(disk("a"), disk("c"), disk("new"), previous=then)
    assert places(again)["new"] == places(first)["b"]


# --- what is booted ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("disks", "order"),
    [
        ([disk("a"), disk("b")], {"a": 1}),
        ([cdrom("a"), disk("b")], {"a": 1}),
        ([disk("a"), disk("b", boot_order=5)], {"b": 1}),
        ([disk("a", boot_order=9), disk("b", boot_order=2), cdrom("c", boot_order=5)], {"b": 1, "c": 2, "a": 3}),
        ([], {}),
    ],
    ids=["the first", "the first, a CD-ROM", "only one with a number", "by number", "no disk"],
)
def test_disks_are_booted_by_their_number_or_else_the_first(disks: list[Disk], order: dict[str, int]) -> None:
    found = devices(definition(*disks))
    assert {
        name.removeprefix("disk-"): device["bootindex"] for name, device in found.items() if "bootindex" in device
    } == order


# --- processors -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accelerator", "memory_mib", "expected"),
    [
        ("tcg", 96, "tcg,tb-size=32"),
        ("tcg", 1024, "tcg,tb-size=128"),
        ("tcg", 65536, "tcg,tb-size=256"),
        ("kvm", 96, "kvm"),
    ],
)
def test_emulation_takes_a_translation_cache_that_fits_the_guest(
    accelerator: str, memory_mib: int, expected: str
) -> None:
    words = argv(definition(accelerator=accelerator, memory_mib=memory_mib))
    assert dict(options(words))["-accel"] == expected


def test_all_processors_are_cores_of_one_socket() -> None:
    assert dict(options(argv(definition(cpu=Cpu(6)))))["-smp"] == "cpus=6,sockets=1,cores=6,threads=1"


def test_a_machine_of_before_guest_agents_wakes_on_just_the_devices_that_it_had() -> None:
    before = replace(definition(disk("root")), guest_agent=False)
    now = devices(definition(disk("root")))
    assert devices(before) == {name: device for name, device in now.items() if name != "guest-agent0"}
    assert "guest-agent" not in " ".join(argv(before))


def test_a_display_has_the_slot_that_is_left_for_it_and_moves_no_other_device() -> None:
    without, with_display = (
        devices(definition(disk("root"))),
        devices(definition(disk("root"), display=DisplayType.VGA)),
    )
    assert with_display.pop("display0") == {"driver": "VGA", "id": "display0", "bus": "pcie.0", "addr": "0x1"}
    assert with_display == without
