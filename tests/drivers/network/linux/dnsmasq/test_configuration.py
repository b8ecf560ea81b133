"""The texts that a dnsmasq is given: state in, state out; and dnsmasq itself reads each of them."""

import os
import re
import shutil
import subprocess
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv6Interface, ip_network
from pathlib import Path
from typing import Any, cast

import pytest

from tests.drivers.network.linux.dnsmasq.networks import DB, IPV4, IPV6, MAC, WEB, addresses, network, port
from tests.drivers.network.numbered import subnet
from virtplane_api.vocabulary import Addressing, NetworkMode
from virtplane_drivers.errors import Refused
from virtplane_drivers.network.contract import Network, Route, Subnet
from virtplane_drivers.network.linux.dnsmasq.configuration import Configuration, configuration_of, own_addresses

STATIC: dict[str, Any] = {
    "ipv4": replace(IPV4, addressing=Addressing.STATIC),
    "ipv6": replace(IPV6, addressing=Addressing.STATIC),
}
SLAAC: dict[str, Any] = {"ipv6": replace(IPV6, addressing=Addressing.SLAAC)}
NO_ROUTER: dict[str, Any] = {"ipv4": replace(IPV4, gateway=None), "ipv6": replace(IPV6, gateway=None)}
ROUTES: dict[str, Any] = {"routes": (Route(ip_network("10.99.0.0/16"), addresses("10.20.0.5")[0]),)}

EXPECTED = """\
keep-in-foreground
pid-file
interface=br0
no-hosts
no-resolv
no-poll
no-ping
log-facility=-
cache-size=1000
domain-needed
domain=shop.test
local=/shop.test/
rev-server=10.20.0.0/24
rev-server=fd00:20::/64
dhcp-authoritative
leasefile-ro
dhcp-lease-max=4096
dhcp-ignore=tag:!known
dhcp-ignore-names
quiet-dhcp
quiet-dhcp6
quiet-ra
dhcp-range=10.20.0.0,static,255.255.255.0,1h
dhcp-option=option:mtu,1400
dhcp-option=option:dns-server,10.20.0.1
dhcp-option=option:domain-search,shop.test
dhcp-option=option:router,10.20.0.1
dhcp-range=fd00:20::,static,64,1h
dhcp-duid=53535,8c:83:8a:d4:0f:8c:7b:8a
enable-ra
ra-param=br0,mtu:1400,60,1800
dhcp-option=option6:dns-server,[fd00:20::1]
dhcp-option=option6:domain-search,shop.test
"""


def configured(one: Network, *servers: str) -> Configuration:
    made = configuration_of(one, addresses(*servers))
    assert made is not None
    return made


def options(one: Network, name: str) -> list[str]:
    """The values of an option of DHCP."""
    return re.findall(rf"^dhcp-option={re.escape(name)}(?:,(.*))?$", configured(one).settings, re.MULTILINE)


# --- what is said -----------------------------------------------------------------------------------------------------


def test_a_network_with_both_families_and_nat_is_told_so() -> None:
    settings = re.sub(r"dhcp-duid=.*", "", configured(network()).settings)
    assert settings == re.sub(r"dhcp-duid=.*", "", EXPECTED)


def test_the_server_has_one_identity_of_its_own_for_ever() -> None:
    def duid(uid: str) -> str:
        return next(line for line in configured(network(uid)).settings.splitlines() if line.startswith("dhcp-duid="))

    assert duid("uid-1") == duid("uid-1") != duid("uid-2")
    assert re.fullmatch(r"dhcp-duid=53535(,|:)?[0-9a-f]{2}(:[0-9a-f]{2}){7}", duid("uid-1"))


def test_a_machine_has_one_reservation_with_its_addresses_and_is_found_by_its_name_with_and_without_the_domain() -> (
    None
):
    made = configured(network("uid-1", WEB, DB))
    assert made.reservations == (
        "52:54:00:00:00:01,10.20.0.9,[fd00:20::9],web.shop.test",
        "52:54:00:00:00:02,10.20.0.10,[fd00:20::a],db.shop.test",
    )
    assert made.names.splitlines()[:-1] == [
        "10.20.0.9 web.shop.test web",
        "fd00:20::9 web.shop.test web",
        "10.20.0.10 db.shop.test db",
        "fd00:20::a db.shop.test db",
    ]


def test_the_servers_that_are_asked_for_other_names_are_those_given() -> None:
    assert configured(network(), "192.0.2.53", "2001:db8::53").servers == "server=192.0.2.53\nserver=2001:db8::53\n"
    assert configured(network()).servers == ""


def test_of_a_static_family_a_machine_has_a_name_and_no_reservation() -> None:
    made = configured(network("uid-1", WEB, ipv4=STATIC["ipv4"]))
    assert made.reservations == ("52:54:00:00:00:01,[fd00:20::9],web.shop.test",)
    assert "10.20.0.9 web.shop.test web" in made.names
    assert "static,255.255.255.0" not in made.settings


def test_a_network_without_dhcp_has_dns_alone() -> None:
    made = configured(network("uid-1", WEB, **STATIC))
    assert "dhcp" not in made.settings
    assert "enable-ra" not in made.settings
    assert made.reservations == ()
    assert "web.shop.test" in made.names


def test_a_machine_without_addresses_is_not_mentioned() -> None:
    made = configured(network("uid-1", port(MAC, "web")))
    assert (made.reservations, made.names.count("\n")) == ((), 1)


@pytest.mark.parametrize(
    ("changes", "is_served"),
    [
        pytest.param({}, True, id="DHCP"),
        pytest.param(STATIC, True, id="Static with a gateway: names"),
        pytest.param(NO_ROUTER, True, id="DHCP without a gateway"),
        pytest.param(
            {"ipv4": None, "ipv6": replace(SLAAC["ipv6"], gateway=None)}, True, id="SLAAC alone without a gateway"
        ),
        pytest.param(SLAAC | {"mode": NetworkMode.BRIDGE}, False, id="SLAAC of the bridge's own router"),
        pytest.param({"mode": NetworkMode.ISOLATED}, True, id="Isolated"),
        pytest.param({"mode": NetworkMode.ROUTED}, True, id="Routed"),
        pytest.param({"mode": NetworkMode.BRIDGE}, False, id="Bridge"),
        pytest.param({key: replace(one, gateway=None) for key, one in STATIC.items()}, False, id="Static, no gateway"),
        pytest.param({"ipv4": None, "ipv6": None}, False, id="no addresses"),
    ],
)
def test_who_is_served(changes: dict[str, Any], is_served: bool) -> None:  # noqa: FBT001
    assert (configuration_of(network(**changes), ()) is not None) is is_served


def test_by_slaac_the_prefix_is_advertised_and_nobody_gets_an_ipv6_address() -> None:
    made = configured(network("uid-1", port(MAC, "web", "10.20.0.9"), **SLAAC))
    assert "dhcp-range=fd00:20::,ra-only,64,1h\nenable-ra\nra-param=br0,mtu:1400,60,1800\n" in made.settings
    assert "dhcp-option=option6:dns-server,[fd00:20::1]\n" in made.settings
    assert "dhcp-duid" not in made.settings
    assert made.reservations == ("52:54:00:00:00:01,10.20.0.9,web.shop.test",)


# --- ways out ---------------------------------------------------------------------------------------------------------


def test_static_routes_come_with_the_default_route_as_who_takes_them_ignores_the_router() -> None:
    assert options(network(**ROUTES), "option:classless-static-route") == ["0.0.0.0/0,10.20.0.1,10.99.0.0/16,10.20.0.5"]
    assert options(network(**ROUTES), "option:router") == ["10.20.0.1"]
    assert options(network(), "option:classless-static-route") == []


def test_a_network_without_a_router_tells_of_none_and_of_its_server_as_a_neighbour() -> None:
    one = network(**NO_ROUTER, **ROUTES)
    settings = configured(one).settings
    assert options(one, "option:router") == [""]
    assert options(one, "option:dns-server") == ["169.254.0.53"]
    assert options(one, "option:classless-static-route") == ["169.254.0.53/32,0.0.0.0,10.99.0.0/16,10.20.0.5"]
    assert "shared-network=br0,10.20.0.0\n" in settings
    assert "ra-param=br0,mtu:1400,60,0\n" in settings


def test_an_isolated_network_offers_no_default_route_that_would_lead_nowhere() -> None:
    one = network(mode=NetworkMode.ISOLATED)
    assert options(one, "option:router") == [""]
    assert options(one, "option:dns-server") == ["10.20.0.1"]
    assert "ra-param=br0,mtu:1400,60,0\n" in configured(one).settings


def test_dnsmasq_needs_an_address_where_dhcp_has_no_gateway_and_nowhere_else() -> None:
    assert own_addresses(network(**NO_ROUTER)) == (
        IPv4Interface("169.254.0.53/32"),
        IPv6Interface("fd00:20::56:50ff:fe74:8a05/64"),
    )
    assert own_addresses(network()) == own_addresses(network(**SLAAC)) == ()
    assert own_addresses(network(ipv4=None, ipv6=replace(SLAAC["ipv6"], gateway=None))) == (
        IPv6Interface("fd00:20::56:50ff:fe74:8a05/64"),
    )
    assert own_addresses(network(**{key: replace(one, gateway=None) for key, one in STATIC.items()})) == ()
    assert own_addresses(network(mode=NetworkMode.BRIDGE, **NO_ROUTER)) == ()


# --- hostile values ---------------------------------------------------------------------------------------------------

ODD_TEXTS = ["", "a b", "a,b", "a\nserver=192.0.2.1", "a\0", "A", "a#b", 'a"', "a/b", "-a", "a-", "a_b", "ä", "a..b"]


@pytest.mark.parametrize("odd", [*ODD_TEXTS, "a." * 130 + "a", "x" * 64])
def test_a_name_or_a_domain_that_is_none_is_refused(odd: str) -> None:
    with pytest.raises(Refused, match="name of a machine"):
        configuration_of(network("uid-1", port(MAC, odd, "10.20.0.9")), ())
    with pytest.raises(Refused, match="domain"):
        configuration_of(network(domain=odd), ())


@pytest.mark.parametrize("odd", [*ODD_TEXTS, "52:54:00:00:00:0", "52:54:00:00:00:01:02", "52:54:00:00:00:*", "*:*"])
def test_a_mac_address_that_is_none_is_refused(odd: str) -> None:
    with pytest.raises(Refused, match="MAC"):
        configuration_of(network("uid-1", port(odd, "web", "10.20.0.9")), ())


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"mtu": "1400\nserver=192.0.2.1"}, id="mtu"),
        pytest.param({"forwarders": ("192.0.2.1\nlog-queries",)}, id="forwarder"),
        pytest.param({"forwarders": addresses("fe80::1%eth0,x")}, id="zone"),
        pytest.param({"ports": (replace(WEB, addresses=cast("Any", ("10.20.0.9,set:x",))),)}, id="address"),
        pytest.param({"ipv4": Subnet(IPV4.cidr, cast("IPv4Address", "10.20.0.1,x"))}, id="gateway"),
    ],
)
def test_a_value_that_got_past_its_type_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(Refused):
        configuration_of(network(**changes), ())


@pytest.mark.parametrize("name", ["ignore", "infinite", "1h", "3600", "52", "deadbeef"])
def test_a_machine_whose_name_is_an_order_of_dnsmasq_is_only_named(name: str) -> None:
    """`ignore` would keep it from all addresses, `1h` and `3600` be the time of its lease."""
    made = configured(network("uid-1", port(MAC, name, "10.20.0.9")))
    assert made.reservations == (f"{MAC},10.20.0.9,{name}.shop.test",)


def test_a_machine_whose_name_and_domain_make_an_address_is_given_no_other_one() -> None:
    made = configured(network("uid-1", port(MAC, "10", "10.20.0.9"), domain="20.0.77"))
    assert made.reservations == (f"{MAC},10.20.0.9",)


def test_a_machine_named_as_a_place_of_the_outside_is_found_only_below_the_domain() -> None:
    made = configured(network("uid-1", port(MAC, "www.example.org", "10.20.0.9")))
    assert made.names.splitlines()[0] == "10.20.0.9 www.example.org.shop.test"
    assert made.reservations == (f"{MAC},10.20.0.9",)


# --- what it has read -------------------------------------------------------------------------------------------------


def test_a_change_of_what_is_read_again_has_another_mark_and_nothing_else_has() -> None:
    base = configured(network("uid-1", WEB))
    assert configured(network("uid-1", WEB)) == base
    assert configured(network("uid-1", WEB, mtu=1500)).mark == base.mark
    others = [
        configured(network("uid-1", WEB, DB)),
        configured(network("uid-1", WEB), "192.0.2.53"),
        configured(network("uid-1", replace(WEB, machine_name="web-2"))),
        configured(network("uid-1", replace(WEB, addresses=WEB.addresses[:1]))),
    ]
    marks = {base.mark, *(other.mark for other in others)}
    assert len(marks) == 5
    assert all(f" {other.mark}\n" in other.names for other in others)


# --- dnsmasq reads it -------------------------------------------------------------------------------------------------

DNSMASQ = shutil.which("dnsmasq", path=os.pathsep.join([os.environ["PATH"], "/usr/sbin"]))


@pytest.mark.skipif(DNSMASQ is None, reason="needs dnsmasq")
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({}, id="all"),
        pytest.param(STATIC, id="Static"),
        pytest.param({**NO_ROUTER, **ROUTES}, id="no gateway"),
        pytest.param({"mode": NetworkMode.ISOLATED}, id="Isolated"),
        pytest.param(SLAAC, id="SLAAC"),
        pytest.param({"ipv4": None, "ipv6": replace(SLAAC["ipv6"], gateway=None)}, id="SLAAC alone, no gateway"),
        pytest.param({"ipv6": None}, id="IPv4 alone"),
        pytest.param({"ipv4": None}, id="IPv6 alone"),
        pytest.param({"ipv4": subnet("10.0.0.0/8", "10.0.0.1")}, id="a /8"),
        pytest.param({"ipv4": subnet("10.128.0.0/9", "10.128.0.1")}, id="a /9"),
        pytest.param({"ipv4": subnet("10.20.4.0/22", "10.20.4.1")}, id="a /22"),
        pytest.param({"ipv4": subnet("10.20.0.8/30", "10.20.0.9")}, id="a /30"),
        pytest.param({"domain": ".".join(["d" * 63] * 3)}, id="a long domain"),
        pytest.param({"routes": ROUTES["routes"] * 16}, id="as many routes as there may be"),
    ],
)
def test_dnsmasq_takes_the_settings(changes: dict[str, Any], tmp_path: Path) -> None:
    made = configured(network("uid-1", WEB, **changes), "192.0.2.53", "2001:db8::53")
    settings, servers = tmp_path / "settings", tmp_path / "servers"
    # The bridge's name is looked up at once, and this is no router.
    settings.write_text(made.settings.replace("shared-network=br0,", "shared-network=lo,"))
    servers.write_text(made.servers)
    argv = [str(DNSMASQ), "--test", f"--conf-file={settings}", f"--servers-file={servers}"]
    done = subprocess.run(argv, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "dnsmasq: syntax check OK.\n")
