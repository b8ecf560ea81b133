"""The run record: what is written is read again, and what cannot be read is moved aside, never guessed at."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.drivers.qemu.pure.machines import OWNER, SMBIOS_UUID, cdrom, definition, disk, nic
from virtplane_api.vocabulary import DisplayType, ExitReason, InterfaceModel
from virtplane_drivers.errors import Refused
from virtplane_drivers.host.process import ProcessIdentity
from virtplane_drivers.hypervisor.contract import Exit, Owner
from virtplane_drivers.hypervisor.qemu.definition import Definition, DiskDefinition, NicDefinition
from virtplane_drivers.hypervisor.qemu.record import FORMAT, Intent, Record, Records, TornRecord

DEFINITION_1 = {
    "namespace": "shop",
    "name": "web",
    "smbios_uuid": SMBIOS_UUID,
    "cores": 2,
    "cpu_model": "max",
    "memory_mib": 1024,
    "machine_type": "pc-q35-7.2",
    "accelerator": "tcg",
}
ROOT_1 = {"name": "root", "path": "/srv/root.qcow2", "format": "qcow2", "type": "Disk", "boot_order": None, "port": 0}
TOOLS_1 = {"name": "tools", "path": "/srv/tools.iso", "format": "raw", "type": "CDROM", "boot_order": 1, "port": 0}
FULL = Record(
    uid="vm-1",
    namespace="shop",
    name="web",
    owner=OWNER,
    intent=Intent.RUNNING,
    definition=definition(
        disk("root"),
        cdrom("tools", boot_order=1),
        display=DisplayType.VGA,
        nics=(
            nic("lan", queues=2, boot_order=3),
            nic("user", socket="/run/passt", number=2, model=InterfaceModel.E1000E),
        ),
    ),
    running=definition(disk("root")),
    incarnation="1a2b3c4d",
    process=ProcessIdentity("11111111-2222-3333-4444-555555555555", 4711, 123456),
    started_at=datetime(2026, 11, 24, 10, 0, 0, 123456, tzinfo=UTC),
    shut_down_asked_at=datetime(2026, 11, 24, 11, tzinfo=UTC),
    last_exit=Exit(ExitReason.GUEST_SHUTDOWN, datetime(2026, 11, 23, 10, tzinfo=UTC), "shut down"),
)
assert FULL.definition is not None
assert FULL.running is not None
WITHOUT_PORTS = replace(
    FULL,
    definition=replace(FULL.definition, nic_ports=False),
    running=replace(FULL.running, nic_ports=False),
)
WITHOUT_NICS = replace(WITHOUT_PORTS, definition=replace(FULL.definition, nic_ports=False, nics=()))
OLD = replace(
    FULL,
    definition=replace(definition(disk("root"), cdrom("tools", boot_order=1)), guest_agent=False, nic_ports=False),
    running=replace(definition(disk("root")), guest_agent=False, nic_ports=False),
)
"""A machine of before: it wakes on exactly the devices that it had."""

FORMAT_1: dict[str, Any] = {
    "format": 1,
    "uid": "vm-1",
    "namespace": "shop",
    "name": "web",
    "owner": {"cluster_id": OWNER.cluster_id, "token": OWNER.token},
    "intent": "Running",
    "definition": DEFINITION_1 | {"disks": [ROOT_1, TOOLS_1]},
    "running": DEFINITION_1 | {"disks": [ROOT_1]},
    "incarnation": "1a2b3c4d",
    "process": {"boot_id": "11111111-2222-3333-4444-555555555555", "pid": 4711, "start_ticks": 123456},
    "started_at": "2026-11-24T10:00:00.123456+00:00",
    "shut_down_asked_at": "2026-11-24T11:00:00+00:00",
    "last_exit": {
        "reason": "GuestShutdown",
        "time": "2026-11-23T10:00:00+00:00",
        "message": "shut down",
    },
}
"""Of `OLD`, as it was written before machines could be suspended."""
FORMAT_2: dict[str, Any] = FORMAT_1 | {
    "format": 2,
    "definition": DEFINITION_1 | {"disks": [ROOT_1, TOOLS_1], "restarted_at": ""},
    "running": DEFINITION_1 | {"disks": [ROOT_1], "restarted_at": ""},
    "ended_by_itself": False,
    "restarts": 0,
    "user": None,
    "memory": "",
}
"""The same, before machines had displays and guest agents."""
FORMAT_3: dict[str, Any] = FORMAT_2 | {
    "format": 3,
    "definition": FORMAT_2["definition"] | {"display": "VGA", "guest_agent": True},
    "running": FORMAT_2["running"] | {"display": None, "guest_agent": True},
}
"""Of `WITHOUT_NICS`, as it was written before machines had NICs."""
LAN_4 = {"name": "lan", "mac": "52:54:00:00:00:01", "model": "virtio", "queues": 2, "boot_order": 3, "mtu": 1450}
LAN_4 |= {"port": 0, "namespace": "/run/virtplane/netns/net-1", "tap": "t-lan", "bridge": "br0"}
LAN_4 |= {"alias": "virtplane/vm-1/lan", "tap_mtu": 1450, "socket": ""}
USER_4 = {"name": "user", "mac": "52:54:00:00:00:02", "model": "e1000e", "queues": 1, "boot_order": None, "mtu": 1450}
USER_4 |= {"port": 1, "namespace": "", "tap": "", "bridge": "", "alias": "", "tap_mtu": 0, "socket": "/run/passt"}
FORMAT_4: dict[str, Any] = FORMAT_3 | {
    "format": 4,
    "definition": FORMAT_3["definition"] | {"nics": [LAN_4, USER_4]},
    "running": FORMAT_3["running"] | {"nics": []},
}
"""Of `WITHOUT_PORTS`, as it was written before NICs came and went while their machine runs."""
NIC_5 = {"link_up": True, "stage": "Plugged"}
FORMAT_5: dict[str, Any] = FORMAT_4 | {
    "format": 5,
    "definition": FORMAT_4["definition"] | {"nics": [LAN_4 | NIC_5, USER_4 | NIC_5], "nic_ports": True},
    "running": FORMAT_4["running"] | {"nic_ports": True},
}
"""Of `FULL`, as it is written now."""

TIMES = st.datetimes(timezones=st.just(UTC))
RECORDS = st.builds(
    Record,
    uid=st.just("vm-1"),
    namespace=st.text(),
    name=st.text(),
    owner=st.builds(Owner),
    definition=st.none()
    | st.builds(
        Definition,
        disks=st.lists(st.builds(DiskDefinition), max_size=3).map(tuple),
        nics=st.lists(st.builds(NicDefinition), max_size=3).map(tuple),
    ),
    running=st.none() | st.builds(Definition, disks=st.just(())),
    process=st.none() | st.builds(ProcessIdentity, pid=st.integers(1, (1 << 22) - 1)),
    started_at=st.none() | TIMES,
    shut_down_asked_at=st.none() | TIMES,
    last_exit=st.none() | st.builds(Exit, time=TIMES),
    ended_by_itself=st.booleans(),
    restarts=st.integers(0, 1 << 31),
    user=st.none() | st.integers(0, (1 << 32) - 1),
    memory=st.text(),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
in_one_folder = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


@pytest.fixture
def records(tmp_path: Path) -> Records:
    return Records(tmp_path)


def file_of(records: Records) -> Path:
    return records.machine_folder("vm-1") / "record.json"


def as_json(record: Record, records: Records) -> dict[str, Any]:
    records.write(record)
    values: dict[str, Any] = json.loads(file_of(records).read_text())
    return values


@in_one_folder
@given(record=RECORDS)
def test_what_is_written_is_read_again(records: Records, record: Record) -> None:
    records.write(record)
    assert records.read("vm-1") == record


def test_of_a_machine_without_a_record_nothing_is_known(records: Records) -> None:
    assert records.read("vm-1") is None
    assert records.uids() == []
    records.machine_folder("vm-1").mkdir()
    assert records.read("vm-1") is None


def test_a_state_folder_that_is_not_there_holds_no_machine(tmp_path: Path) -> None:
    assert Records(tmp_path / "missing").uids() == []


def test_machines_are_listed_and_gone_when_removed(records: Records) -> None:
    records.write(FULL)
    (records.machine_folder("vm-1") / "serial.log").write_text("console")
    (records.folder / "stray-file").write_text("")
    assert records.uids() == ["vm-1"]
    for _ in range(2):
        records.remove("vm-1")
        assert records.uids() == []


def test_a_record_is_for_its_owner_alone(records: Records) -> None:
    records.write(FULL)
    assert records.machine_folder("vm-1").stat().st_mode & 0o077 == 0


def test_a_crash_while_writing_leaves_the_record_of_before(records: Records) -> None:
    records.write(FULL)
    file_of(records).with_name("record.json.new").write_text('{"format": 1, "uid": "vm')
    assert records.read("vm-1") == FULL


# --- records that cannot be read --------------------------------------------------------------------------------------


def assert_is_moved_aside(records: Records, content: bytes) -> None:
    with pytest.raises(TornRecord, match=re.escape(str(file_of(records)))):
        records.read("vm-1")
    assert records.read("vm-1") is None
    assert file_of(records).with_name("record.torn").read_bytes() == content


def test_a_record_that_was_cut_off_anywhere_is_moved_aside(records: Records) -> None:
    records.write(FULL)
    whole = file_of(records).read_bytes()
    for length in range(0, len(whole), 7):
        file_of(records).write_bytes(whole[:length])
        assert_is_moved_aside(records, whole[:length])


NO_RECORDS = [b"\0" * 512, b"\xff\xfe", b"null", b"[]", b"7", b'"x"', b"{}"]


@pytest.mark.parametrize(
    "content",
    [*NO_RECORDS, pytest.param(b"[" * 200_000, id="too deep"), pytest.param(b"9" * 5000, id="too long a number")],
    ids=repr,
)
def test_what_is_no_record_is_moved_aside(records: Records, content: bytes) -> None:
    records.machine_folder("vm-1").mkdir()
    file_of(records).write_bytes(content)
    assert_is_moved_aside(records, content)


def test_the_record_of_another_machine_is_moved_aside(records: Records) -> None:
    """A folder that was copied: two machines of one UID would each be started with the other's disks."""
    content = json.dumps(as_json(FULL, records) | {"uid": "vm-7"}).encode()
    file_of(records).write_bytes(content)
    assert_is_moved_aside(records, content)


def test_a_folder_in_the_place_of_a_record_is_moved_aside(records: Records) -> None:
    file_of(records).mkdir(parents=True)
    (file_of(records) / "file").write_text("somebody's")
    with pytest.raises(TornRecord):
        records.read("vm-1")
    assert records.read("vm-1") is None
    assert (file_of(records).with_name("record.torn") / "file").read_text() == "somebody's"


@pytest.mark.parametrize(
    ("written", "expected"),
    [(FORMAT_1, OLD), (FORMAT_2, OLD), (FORMAT_3, WITHOUT_NICS), (FORMAT_4, WITHOUT_PORTS), (FORMAT_5, FULL)],
    ids=["1", "2", "3", "4", "5"],
)
def test_a_record_of_an_earlier_format_is_read(records: Records, written: dict[str, Any], expected: Record) -> None:
    """An agent that is upgraded finds what the one before it wrote; the guests must not notice."""
    records.machine_folder("vm-1").mkdir()
    file_of(records).write_text(json.dumps(written))
    assert records.read("vm-1") == expected


def test_the_present_format_is_as_it_was_last_kept(records: Records) -> None:
    """A change of what is written needs another number, or the version before would misread it."""
    assert as_json(FULL, records) == FORMAT_5


@pytest.mark.parametrize("version", [0, str(FORMAT), None])
def test_a_record_of_another_format_is_not_guessed_at(records: Records, version: object) -> None:
    content = json.dumps(as_json(FULL, records) | {"format": version}).encode()
    file_of(records).write_bytes(content)
    assert_is_moved_aside(records, content)


def test_a_record_of_a_newer_version_is_left_where_it_is(records: Records) -> None:
    """After a downgrade: the version that wrote it must find it again."""
    content = json.dumps(as_json(FULL, records) | {"format": FORMAT + 1}).encode()
    file_of(records).write_bytes(content)
    with pytest.raises(Refused, match="newer version"):
        records.read("vm-1")
    assert file_of(records).read_bytes() == content


@pytest.mark.parametrize("field", ["format", "uid", "owner", "intent", "definition", "process"])
def test_a_record_that_lacks_a_field_is_moved_aside(records: Records, field: str) -> None:
    values = as_json(FULL, records)
    del values[field]
    file_of(records).write_text(json.dumps(values))
    assert_is_moved_aside(records, json.dumps(values).encode())


@in_one_folder
@given(data=st.data())
def test_whatever_stands_in_a_field_the_record_is_read_or_moved_aside(records: Records, data: st.DataObject) -> None:
    """One damaged file must not keep the driver, and with it every other machine, from starting."""
    values = as_json(FULL, records)
    field = data.draw(st.sampled_from(sorted(values)))
    file_of(records).write_text(json.dumps(values | {field: data.draw(JSON)}))
    try:
        read = records.read("vm-1")
    except TornRecord:
        assert not file_of(records).exists()
    except Refused:
        assert field == "format"
    else:
        assert isinstance(read, Record)
