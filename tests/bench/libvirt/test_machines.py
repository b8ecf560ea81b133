"""What libvirt is asked for is the machine that ours is."""

from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.bench.libvirt.bare import bare_argv
from tests.bench.libvirt.machines import Guest, definition, domain_xml, root_ports

GUEST = Guest("bench-1", Path("/srv/<&'\".img"), Path("/srv/serial.log"))


@pytest.fixture
def domain() -> ElementTree.Element:
    machine = definition("pc-q35-7.2", GUEST)
    argv = bare_argv(machine, GUEST, monitor=3, agent=6, disk=4, log=5)
    return ElementTree.fromstring(domain_xml(machine, GUEST, ports=root_ports(argv), user=1_900_000_007))  # noqa: S314


def test_both_sides_have_the_same_machine_type_memory_and_translation_cache(domain: ElementTree.Element) -> None:
    argv = bare_argv(definition("pc-q35-7.2", GUEST), GUEST, monitor=3, agent=6, disk=4, log=5)
    kind = domain.find("os/type")
    assert kind is not None
    assert argv[argv.index("-machine") + 1].split(",")[0] == kind.get("machine")
    assert argv[argv.index("-m") + 1] == f"size={domain.findtext('memory')}M"
    assert argv[argv.index("-accel") + 1] == f"tcg,tb-size={domain.findtext('features/tcg/tb-cache')}"


def test_both_sides_have_as_many_root_ports(domain: ElementTree.Element) -> None:
    argv = bare_argv(definition("pc-q35-7.2", GUEST), GUEST, monitor=3, agent=6, disk=4, log=5)
    ports = domain.findall("devices/controller[@model='pcie-root-port']")
    assert len(ports) == " ".join(argv).count('"driver": "pcie-root-port"') > 1


def test_a_path_with_markup_in_it_stays_a_path(domain: ElementTree.Element) -> None:
    source = domain.find("devices/disk/source")
    assert source is not None
    assert source.get("file") == str(GUEST.disk)


def test_a_domain_runs_as_the_user_that_it_was_given(domain: ElementTree.Element) -> None:
    assert domain.findtext("seclabel[@model='dac']/label") == "+1900000007:+1900000007"


def test_both_sides_have_a_port_for_the_guest_s_agent(domain: ElementTree.Element) -> None:
    argv = bare_argv(definition("pc-q35-7.2", GUEST), GUEST, monitor=3, agent=6, disk=4, log=5)
    target = domain.find("devices/channel/target")
    assert target is not None
    assert f'"name": "{target.get("name")}"' in " ".join(argv)
