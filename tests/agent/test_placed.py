"""What is placed on this agent, known by UID; told by a watch, and by the answers to its own writes."""

import pytest

from tests.agent.doubles import InMemoryClient
from tests.agent.objects import AGENT, tell, vm
from virtplane_agent.placed import Placed
from virtplane_api.kube.resources import VIRTUAL_MACHINES, Object


class Watched:
    """A `Placed`, and the UIDs that it named."""

    def __init__(self) -> None:
        self.named: list[str] = []
        self.placed = Placed(InMemoryClient(), VIRTUAL_MACHINES, AGENT, self.named.append)

    def named_since(self) -> list[str]:
        named, self.named[:] = list(self.named), []
        return named

    def hears(self, obj: Object, event: str = "MODIFIED") -> list[str]:
        """The watch tells; the UIDs that are named for that."""
        tell(self.placed.informer, obj, event)
        return self.named_since()


@pytest.fixture
def watched() -> Watched:
    return Watched()


def at(version: int, uid: str = "vm-1", power_state: str = "Running") -> Object:
    machine = vm(uid=uid, power_state=power_state)
    machine["metadata"]["resourceVersion"] = str(version)
    return machine


def test_only_what_is_placed_here_is_watched(watched: Watched) -> None:
    assert watched.placed.informer._field_selector == "status.placement.agentName=host-a"


def test_what_is_there_is_found_by_its_uid_and_named(watched: Watched) -> None:
    assert watched.hears(at(1)) == ["vm-1"]
    assert watched.placed.get("vm-1") == at(1)
    assert watched.placed.get("web") is None
    assert list(watched.placed.all()) == [at(1)]


def test_what_is_placed_here_no_longer_is_named_once_more(watched: Watched) -> None:
    watched.hears(at(1))
    assert watched.hears(at(2), "DELETED") == ["vm-1"]
    assert watched.placed.get("vm-1") is None
    assert watched.hears(at(2), "DELETED") == []


def test_a_name_that_was_made_again_names_the_one_before_and_the_new_one(watched: Watched) -> None:
    watched.hears(at(1))
    assert watched.hears(at(5, uid="vm-2")) == ["vm-1", "vm-2"]
    assert watched.placed.get("vm-1") is None
    assert watched.placed.get("vm-2") == at(5, uid="vm-2")


def test_the_answer_to_a_write_is_known_before_its_echo_which_is_no_news(watched: Watched) -> None:
    watched.hears(at(1))
    watched.placed.put_written(at(7, power_state="Stopped"))
    assert watched.placed.get("vm-1") == at(7, power_state="Stopped")
    assert watched.hears(at(7, power_state="Stopped")) == []


def test_an_echo_from_before_the_write_does_not_take_it_back(watched: Watched) -> None:
    watched.hears(at(1))
    watched.placed.put_written(at(7, power_state="Stopped"))
    assert watched.hears(at(6)) == []
    assert watched.placed.get("vm-1") == at(7, power_state="Stopped")
    assert watched.hears(at(8)) == ["vm-1"]


@pytest.mark.parametrize("gone", [True, False], ids=["gone", "never there"])
def test_the_answer_to_a_write_brings_nothing_back(watched: Watched, gone: bool) -> None:  # noqa: FBT001
    if gone:
        watched.hears(at(1))
        watched.hears(at(2), "DELETED")
    watched.placed.put_written(at(7))
    assert watched.placed.get("vm-1") is None


def test_a_late_answer_does_not_replace_what_the_watch_told_since(watched: Watched) -> None:
    watched.hears(at(9))
    watched.placed.put_written(at(7, power_state="Stopped"))
    assert watched.placed.get("vm-1") == at(9)
