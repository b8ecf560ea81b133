"""What a dnsmasq says reaches the agent's log, and neither fills anything nor waits for anybody."""

import asyncio
import logging
import os
import signal
from pathlib import Path

import pytest

from tests.drivers.network.linux.dnsmasq import dhcp_client as dhcp
from tests.drivers.network.linux.dnsmasq.networks import MAC, WEB
from tests.drivers.network.linux.dnsmasq.served import Served, lease, told
from virtplane_drivers.network.linux.dnsmasq.process import OUTPUT
from virtplane_drivers.network.linux.dnsmasq.words import Words

NOT_ITS_OWN = "10.20.0.77"
REFUSAL = f"DHCPNAK(br0) {NOT_ITS_OWN} {MAC} address not available"


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.endswith(".words")]


async def heard(caplog: pytest.LogCaptureFixture, words: str) -> None:
    """Waits until the agent's log has it."""
    async with asyncio.timeout(10.0):
        while not any(words in line for line in said(caplog)):
            await asyncio.sleep(0.01)


@pytest.fixture
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("virtplane_drivers.network.linux.dnsmasq.words.AGAIN_AFTER_S", 0.01)


# --- a real one -------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_pause")
async def test_what_a_running_one_complains_of_is_in_the_log_and_what_each_says_is_not(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    router, names = served.router(), served.names(resolv_conf="nameserver 192.0.2.1\n")
    guest = served.guest(router)
    await names.apply(router.path, served.network(WEB))
    assert str(lease(guest).address) == "10.20.0.9"
    assert guest.inside(lambda: dhcp.reclaimed(MAC, NOT_ITS_OWN)) is not None
    refusal = f"DHCPNAK(br0) {NOT_ITS_OWN} {MAC} wrong address"
    await heard(caplog, refusal)
    assert said(caplog) == [f"dnsmasq of network {served.token}-a: {refusal}"]


async def test_what_it_said_last_is_in_the_log_when_it_ends(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    router, names = served.router(), served.names()
    guest = served.guest(router)
    await names.apply(router.path, served.network(WEB))
    # It has been listened to: what comes now waits for the next time.
    assert guest.inside(lambda: dhcp.reclaimed(MAC, NOT_ITS_OWN)) is not None
    os.kill(served.pid(), signal.SIGKILL)
    await told(served, served.network().uid)
    assert said(caplog) == [f"dnsmasq of network {served.token}-a: {REFUSAL}"]


@pytest.mark.usefixtures("no_pause")
async def test_while_no_agent_listens_it_serves_on_keeps_no_more_than_it_may_and_tells_the_next_one(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    router, before = served.router(), served.names()
    guest = served.guest(router)
    await before.apply(router.path, served.network(WEB))
    pid = served.pid()
    before.close()
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        await asyncio.wait([task])
    answers = guest.inside(lambda: [dhcp.reclaimed(MAC, NOT_ITS_OWN) for _ in range(1500)])
    assert [answer.type for answer in answers if answer is not None] == [dhcp.NAK] * 1500
    assert str(lease(guest).address) == "10.20.0.9"
    (run,) = (served.folder / "dnsmasq" / f"{served.token}-a").iterdir()
    assert sum(file.stat().st_size for file in run.iterdir()) < 10_000

    after = served.names()
    await after.apply(router.path, served.network(WEB))
    assert served.pid() == pid
    await heard(caplog, "log entries lost")
    assert sum(REFUSAL in line for line in said(caplog)) <= 21
    assert any(line.endswith("lines before these") for line in said(caplog))


# --- as it is read ----------------------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / OUTPUT)
    return tmp_path


def test_usual_words_are_told_to_nobody_and_complaints_are_the_last_words(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = Words("lan", run)
    with (run / OUTPUT).open("wb") as output:
        output.write(b"dnsmasq[7]: started, version 2.90 cachesize 1000\n\ndnsmasq: bad option at line 3\n")
        output.write(b"dnsmasq-dhcp[7]: DHCP, static leases only\nsetpriv: no such \x1b[31muser\n")
        output.flush()
        assert words.tell()
    assert words.last == "bad option at line 3; setpriv: no such ?[31muser"
    assert said(caplog) == [
        "dnsmasq of network lan: bad option at line 3",
        "dnsmasq of network lan: setpriv: no such ?[31muser",
    ]
    assert not words.tell()
    words.close()
    assert not words.tell()
    assert words.last.startswith("bad option")


def test_of_many_complaints_the_last_are_told_and_the_others_counted(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    words = Words("lan", run)
    with (run / OUTPUT).open("wb") as output:
        output.write(b"".join(b"dnsmasq[7]: complaint %d\n" % number for number in range(50)))
        output.flush()
        assert words.tell()
    assert said(caplog)[0] == "dnsmasq of network lan: complaint 30"
    assert said(caplog)[-1] == "dnsmasq of network lan: 30 lines before these"
    assert len(words.last) <= 1000
    words.close()


async def test_one_of_an_older_agent_whose_output_is_a_file_says_nothing(tmp_path: Path) -> None:
    (tmp_path / OUTPUT).write_text("dnsmasq: a complaint\n")
    words = Words("lan", tmp_path)
    await words.follow()
    assert not words.tell()
    assert words.last == ""
