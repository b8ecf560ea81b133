"""A program that is newer than the CRDs: when it says so, and in which words."""

import logging

import pytest

from virtplane_api.kube.errors import ApiUnavailable, OlderSchema, error_of
from virtplane_api.kube.older_schemas import APART_S, LASTS_S, REPEAT_AFTER_S, UPGRADE_COMMAND, OlderSchemas
from virtplane_api.kube.passes import outcome_of
from virtplane_api.reconcile import Failed, Outcome

ONE = (
    "failed to create typed patch object (shop/web; virtplane.dev/v1alpha1, Kind=VirtualMachine): "
    '.status.interfaces[name="lan"].networkUID: field not declared in schema'
)
TWO = (
    "failed to create typed patch object (shop/web; virtplane.dev/v1alpha1, Kind=VirtualMachine): errors:\n"
    "  .status.host.since: field not declared in schema\n  .status.runtime: field not declared in schema"
)


def older(message: str = ONE) -> OlderSchema:
    return OlderSchema(message, status=500)


class Refusals:
    """An API server that refuses, at times by hand; what that leaves in the log."""

    def __init__(self, log: pytest.LogCaptureFixture) -> None:
        self.now = 0.0
        self._log = log
        self._schemas = OlderSchemas(lambda: self.now)

    def at(self, seconds: float, message: str = ONE) -> list[str]:
        self.now = seconds
        self._schemas.refused("VirtualMachine", older(message))
        return [record.getMessage() for record in self._log.records]


@pytest.fixture
def refusals(caplog: pytest.LogCaptureFixture) -> Refusals:
    caplog.set_level(logging.DEBUG, "virtplane_api.kube")
    return Refusals(caplog)


def test_a_refusal_that_lasts_is_said_in_one_line_with_the_command(refusals: Refusals) -> None:
    assert refusals.at(0) == []
    assert refusals.at(LASTS_S - 1) == []
    [line] = refusals.at(LASTS_S)
    assert line == (
        "the CRDs in the cluster are older than this program: VirtualMachine has no "
        'status.interfaces[name="lan"].networkUID. What it reports is not written until the chart is upgraded '
        f"(it goes on trying): {UPGRADE_COMMAND}"
    )
    for second in range(60):
        assert refusals.at(LASTS_S + second) == [line]


def test_a_crd_that_was_just_applied_is_no_news_however_often_that_happens(refusals: Refusals) -> None:
    for number in range(1, 4):
        assert refusals.at(number * 2 * APART_S) == []
        assert refusals.at(number * 2 * APART_S + 0.5) == []


def test_what_lasts_is_said_again_after_an_hour(refusals: Refusals) -> None:
    for second in range(0, int(REPEAT_AFTER_S), 60):
        assert len(refusals.at(second)) <= 1
    assert len(refusals.at(REPEAT_AFTER_S + 60)) == 2


def test_what_comes_again_after_it_had_ended_is_said_again(refusals: Refusals) -> None:
    assert len([refusals.at(second) for second in (0, LASTS_S)][-1]) == 1
    assert len([refusals.at(2 * APART_S + second) for second in (0, LASTS_S)][-1]) == 2


def test_several_fields_are_one_line_too(refusals: Refusals) -> None:
    refusals.at(0, TWO)
    [line] = refusals.at(10, TWO)
    assert "VirtualMachine has no status.host.since and 1 more. " in line
    assert "\n" not in line


def test_only_server_side_apply_s_500_is_an_older_schema() -> None:
    assert type(error_of(500, {"message": ONE}, None)) is OlderSchema
    assert type(error_of(500, {"message": "etcdserver: request timed out"}, None)) is ApiUnavailable


async def test_a_pass_that_is_refused_so_fails_by_that_name_and_says_nothing_itself(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def refused(_key: str) -> Outcome:
        raise older()

    assert await outcome_of("VirtualMachine", refused)("web") == Failed("OlderSchema", ONE)
    assert caplog.records == []
