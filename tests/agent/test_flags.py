"""What the agent is asked for on its command line: a value that makes no sense names its flag and the next step."""

from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from virtplane_agent.main import argument_parser
from virtplane_agent.metrics.address import ListenAddress

EACH, ONE, LEAVE_OUT, ANEW = "give the flag once for each", "give one", "leave that out", "is not UTF-8: type it anew"
A_PATH, A_NETWORK, A_NAME = "give the path of a file or folder", "as 10.22.0.0/16", "ip link show type bridge"

OF_ANY_KIND = [
    ("{0},{1}", EACH, ONE),
    ("{0}, {1}", EACH, ONE),
    ("{0} {1}", EACH, ONE),
    ("{0},", EACH, ONE),
    ("", LEAVE_OUT, LEAVE_OUT),
    (" ", LEAVE_OUT, LEAVE_OUT),
    (" {0}", LEAVE_OUT, LEAVE_OUT),
    ("{0}\n", LEAVE_OUT, LEAVE_OUT),
    ("{0}\udcff", ANEW, ANEW),
]
"""What somebody types, and what is said where the flag may be given again, and where it may not."""
VALUES = {
    "--allow-bridge": ("br0", "br1:20-30"),
    "--allow-routed": ("10.22.0.0/16", "fd00:22::/48"),
    "--allow-source": ("127.0.0.1:8000", "127.0.0.1:8001"),
    "--transit-cidr": ("169.254.64.0/18", "10.99.0.0/16"),
    "--underlay-address": ("192.0.2.11", "2001:db8::11"),
    "--metrics-address": ("127.0.0.1:9480", "127.0.0.1:9481"),
}
AGAIN = ("--allow-bridge", "--allow-routed", "--allow-source")


def said_of(capsys: pytest.CaptureFixture[str], flag: str, text: str) -> str:
    """Why the value is refused, without the usage."""
    with pytest.raises(SystemExit) as ended:
        argument_parser().parse_args([f"{flag}={text}"])
    assert ended.value.code == 2
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("flag", VALUES)
def test_each_value_by_itself_is_taken(flag: str) -> None:
    for value in VALUES[flag]:
        argument_parser().parse_args([flag, value])


@pytest.mark.parametrize("flag", VALUES)
@pytest.mark.parametrize(("form", "again", "once"), OF_ANY_KIND, ids=[repr(row[0]) for row in OF_ANY_KIND])
def test_a_value_that_is_not_one_is_refused(
    flag: str, form: str, again: str, once: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = said_of(capsys, flag, form.format(*VALUES[flag]))
    assert f"error: argument {flag}: " in said
    assert said.endswith(again if flag in AGAIN else once)
    assert "codec" not in said


OF_ONE_KIND = [
    ("--allow-bridge", "a-bridge-of-a-long-name", A_NAME),
    ("--allow-bridge", "brücken-im-büro", A_NAME),  # 15 characters, 17 bytes
    ("--allow-bridge", "br/0", A_NAME),
    ("--allow-bridge", ".br0", A_NAME),
    ("--allow-bridge", "br\x010", A_NAME),
    ("--allow-bridge", "br/0:20", A_NAME),
    ("--allow-bridge", "br0:", "for example br-lan:100-199"),
    ("--allow-bridge", "br0:1:2", "for example br-lan:100-199"),
    ("--allow-bridge", "br0:" + "9" * 5000, "for example br-lan:100-199"),
    ("--allow-bridge", "br0:0", "VLANs are from 1 to 4094, the lower one first"),
    ("--allow-bridge", "br0:30-20", "VLANs are from 1 to 4094, the lower one first"),
    ("--allow-routed", "lan", A_NETWORK),
    ("--allow-routed", "10.22.0.0/33", A_NETWORK),
    ("--allow-routed", "10.22.4.1/16", "10.22.4.1/16 is an address in a network: give 10.22.0.0/16"),
    ("--allow-routed", "10.22.4.1", "10.22.4.1 is one address: give it its prefix, as 10.22.4.1/32"),
    ("--allow-routed", "fd00:22::1", "fd00:22::1 is one address: give it its prefix, as fd00:22::1/128"),
    ("--transit-cidr", "fd00::/64", "give one of IPv4, as 169.254.64.0/18"),
    ("--transit-cidr", "10.0.0.1/24", "give 10.0.0.0/24"),
    ("--underlay-address", "192.0.2.11/24", "without a prefix"),
    ("--underlay-address", "eth0", "as 192.0.2.11, without a prefix"),
    ("--metrics-address", "9480", "for example 127.0.0.1:9480"),
    ("--metrics-address", "127.0.0.1:" + "9" * 5000, "for example 127.0.0.1:9480"),
    ("--allow-source", "images.test", "for example 127.0.0.1:8000"),
    ("--allow-source", "127.0.0.1:0", "for example 127.0.0.1:8000"),
    ("--allow-source", "127.0.0.1:65536", "for example 127.0.0.1:8000"),
    ("--allow-source", "127.0.0.1:\u0663", "for example 127.0.0.1:8000"),
    *((flag, "", A_PATH) for flag in ("--host-netns", "--state-dir", "--runtime-dir", "--kubeconfig")),
    *((flag, "/srv/\udcff", A_PATH) for flag in ("--host-netns", "--state-dir", "--runtime-dir", "--kubeconfig")),
    ("--system-namespace", "", "lower-case letters, digits and '-', at most 63"),
    ("--system-namespace", "a/b", "lower-case letters, digits and '-', at most 63"),
    ("--name", "host\udcff", "lower-case letters, digits, '-' and '.', at most 63"),
    ("--drivers", "qemu,", "there are qemu, fake"),
]


@pytest.mark.parametrize(
    ("flag", "text", "next_step"), OF_ONE_KIND, ids=[f"{flag} {text!r:.30}" for flag, text, _ in OF_ONE_KIND]
)
def test_a_value_that_makes_no_sense_is_refused(
    flag: str, text: str, next_step: str, capsys: pytest.CaptureFixture[str]
) -> None:
    said = said_of(capsys, flag, text)
    assert f"error: argument {flag}: " in said
    assert next_step in said


def test_flags_that_may_be_given_again_add_up() -> None:
    flags = ["--allow-bridge=br0", "--allow-bridge=br1", "--allow-routed=10.22.0.0/16", "--allow-routed=fd00:22::/48"]
    flags += ["--underlay-address=2001:db8::11", "--metrics-address=[::1]:9480", "--host-netns=/proc/1/ns/net"]
    options = argument_parser().parse_args(flags)
    assert options.allow_bridge == ["br0", "br1"]
    assert options.allow_routed == [ip_network("10.22.0.0/16"), ip_network("fd00:22::/48")]
    assert options.underlay_address == ip_address("2001:db8::11")
    assert options.metrics_address == ListenAddress("::1", 9480)
    assert options.host_netns == Path("/proc/1/ns/net")
