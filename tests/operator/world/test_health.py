"""Which agents are silent, by the operator's own clock and by what it could read."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from tests.operator.objects import lease
from virtplane_api.kube.client import KubeClient
from virtplane_api.kube.errors import ApiError, ApiUnavailable
from virtplane_api.kube.resources import Object, Resource
from virtplane_operator.world import AgentHealth


class LeasesDouble(KubeClient):
    """A double of the API server: each list of Leases waits for the answer that a test gives."""

    def __init__(self) -> None:
        self._answers: asyncio.Queue[list[Object] | ApiError] = asyncio.Queue()
        self._taken = 0
        self._given = 0

    async def list_all(
        self, resource: Resource, namespace: str = "", *, field_selector: str = "", label_selector: str = ""
    ) -> tuple[list[Object], str]:
        self._taken = self._given
        answer = await self._answers.get()
        if isinstance(answer, ApiError):
            raise answer
        return answer, "1"

    async def answer(self, answer: list[Object] | ApiError) -> None:
        """Returns when the next list is asked for: all that this one meant has been done."""
        self._given += 1
        self._answers.put_nowait(answer)
        async with asyncio.timeout(5):
            while self._taken < self._given:
                await asyncio.sleep(0)


class Watched:
    """Health, a clock that a test moves, and who flipped."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.flips: list[str] = []
        self.client = LeasesDouble()
        self.health = AgentHealth(
            self.client,
            "virtplane-system",
            self.flips.append,
            poll_every_s=0,
            silent_after_s=40,
            clock=lambda: self.now_s,
        )

    def hears(self, *leases: Object, after_s: float = 0) -> list[str]:
        """The agents that flipped when these Leases were read."""
        self.now_s += after_s
        self.health.take(list(leases))
        flips, self.flips[:] = list(self.flips), []
        return flips

    def state(self, agent: str = "host-a") -> tuple[bool, bool]:
        """Whether it is silent, and whether it takes work."""
        return self.health.is_silent(agent), self.health.takes_work(agent)


HEARD, SILENT, RELEASED = (False, True), (True, False), (False, False)


@pytest.fixture
def watched() -> Watched:
    return Watched()


def test_an_agent_that_renews_is_heard(watched: Watched) -> None:
    assert watched.hears(lease(version=1)) == []
    for version in range(2, 9):
        assert watched.hears(lease(version=version), after_s=39) == []
    assert watched.state() == HEARD


def test_an_agent_whose_lease_did_not_change_for_its_duration_is_silent(watched: Watched) -> None:
    watched.hears(lease(version=1))
    assert watched.hears(lease(version=1), after_s=40) == []
    assert watched.state() == HEARD
    assert watched.hears(lease(version=1), after_s=0.1) == ["host-a"]
    assert watched.state() == SILENT
    assert watched.hears(lease(version=1), after_s=40) == []  # no news


def test_a_silent_agent_that_renews_is_heard_again(watched: Watched) -> None:
    watched.hears(lease(version=1))
    watched.hears(lease(version=1), after_s=41)
    assert watched.hears(lease(version=2), after_s=1) == ["host-a"]
    assert watched.state() == HEARD


def test_a_lease_that_is_gone_is_silence_like_any_other(watched: Watched) -> None:
    watched.hears(lease(version=1))
    assert watched.hears(after_s=41) == ["host-a"]


def test_agents_are_judged_each_by_its_own_lease(watched: Watched) -> None:
    watched.hears(lease(version=1), lease("host-b", version=2))
    assert watched.hears(lease(version=1), lease("host-b", version=3), after_s=41) == ["host-a"]
    assert (watched.state("host-a"), watched.state("host-b")) == (SILENT, HEARD)


def test_leases_of_others_are_nobodys_sign_of_life(watched: Watched) -> None:
    other = lease()
    other["metadata"]["name"] = "virtplane-operator"
    watched.hears(other)
    assert watched.hears(other, after_s=100) == []
    assert watched.state("virtplane-operator") == HEARD


def test_an_agent_that_has_a_hypervisor_and_never_a_lease_falls_silent(watched: Watched) -> None:
    watched.health.expect("host-a")
    assert watched.hears(after_s=40) == []
    watched.health.expect("host-a")  # asked for again: its time goes on
    assert watched.hears(after_s=1) == ["host-a"]


def test_expecting_an_agent_that_is_heard_changes_nothing(watched: Watched) -> None:
    watched.hears(lease(version=1, holder=""))
    watched.health.expect("host-a")
    assert watched.state() == RELEASED
    watched.hears(lease(version=1, holder=""), after_s=41)
    assert watched.state() == SILENT


# --- agents that stop in an orderly way -------------------------------------------------------------------------------


def test_an_agent_that_gave_its_lease_back_takes_no_work_and_is_not_silent_yet(watched: Watched) -> None:
    watched.hears(lease(version=1))
    assert watched.hears(lease(version=2, holder=""), after_s=1) == ["host-a"]
    assert watched.state() == RELEASED
    assert watched.hears(lease(version=2, holder=""), after_s=41) == ["host-a"]
    assert watched.state() == SILENT


def test_an_agent_that_takes_its_lease_again_takes_work_again(watched: Watched) -> None:
    watched.hears(lease(version=1))
    watched.hears(lease(version=2, holder=""), after_s=1)
    assert watched.hears(lease(version=3, holder="identity-1"), after_s=1) == ["host-a"]
    assert watched.state() == HEARD


# --- while the API server is away -------------------------------------------------------------------------------------


@pytest.fixture
async def reading(watched: Watched) -> AsyncIterator[Watched]:
    """The same, with its loop at work."""
    task = asyncio.create_task(watched.health.run())
    yield watched
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_while_the_api_server_is_away_nobody_falls_silent(reading: Watched) -> None:
    await reading.client.answer([lease(version=1)])
    for _ in range(5):
        reading.now_s += 60
        await reading.client.answer(ApiUnavailable("no answer"))
        assert reading.state() == HEARD
    assert reading.flips == []


async def test_after_the_api_server_was_away_agents_get_a_full_duration_to_renew(reading: Watched) -> None:
    await reading.client.answer([lease(version=1)])
    reading.now_s += 300
    await reading.client.answer(ApiUnavailable("no answer"))
    await reading.client.answer([lease(version=1)])
    assert reading.state() == HEARD
    reading.now_s += 40
    await reading.client.answer([lease(version=1)])
    assert (reading.state(), reading.flips) == (HEARD, [])
    reading.now_s += 1
    await reading.client.answer([lease(version=1)])
    assert (reading.state(), reading.flips) == (SILENT, ["host-a"])


async def test_an_agent_that_was_silent_before_is_not_heard_by_our_having_been_away(reading: Watched) -> None:
    """Its machines would be called Running, on no sign of life."""
    await reading.client.answer([lease(version=1), lease("host-b", version=1)])
    reading.now_s += 41
    await reading.client.answer([lease(version=1), lease("host-b", version=2)])
    assert (reading.state(), reading.flips) == (SILENT, ["host-a"])
    reading.now_s += 300
    await reading.client.answer(ApiUnavailable("no answer"))
    await reading.client.answer([lease(version=1), lease("host-b", version=2)])
    assert (reading.state(), reading.state("host-b"), reading.flips) == (SILENT, HEARD, ["host-a"])
    await reading.client.answer([lease(version=3), lease("host-b", version=2)])
    assert (reading.state(), reading.flips) == (HEARD, ["host-a", "host-a"])


async def test_a_refusal_to_read_leases_is_silence_of_ours_too(reading: Watched) -> None:
    """Roles that are not there yet, for example."""
    await reading.client.answer([lease(version=1)])
    reading.now_s += 300
    await reading.client.answer(ApiError("forbidden", status=403))
    assert reading.state() == HEARD
