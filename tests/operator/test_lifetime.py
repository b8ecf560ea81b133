"""When the finalizer may go: only once no host holds anything of the object."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.operator.objects import placed, vm
from virtplane_operator.lifetime import is_off_its_host, younger_than

HERE = placed("host-a-qemu", token=7)
UNPLACED = {"token": 7}


def host(state: str, token: int) -> dict[str, Any]:
    return {"hypervisor": "host-a-qemu", "token": token, "state": state}


OFF_ITS_HOST = [
    ("never placed", None, None, True),
    ("unplaced before an agent took it up", UNPLACED, None, True),
    ("placed, and the agent has said nothing", HERE, None, False),
    ("placed, and there", HERE, host("Present", 7), False),
    ("placed, and removed", HERE, host("Removed", 7), True),
    ("removed under an earlier placement", HERE, host("Removed", 6), False),
    ("there under an earlier placement", HERE, host("Present", 6), False),
    ("unplaced, and still there", UNPLACED, host("Present", 6), False),
    ("unplaced, and removed", UNPLACED, host("Removed", 6), True),
    ("unplaced, and removed under this token", UNPLACED, host("Removed", 7), True),
    ("no placement, and something there all the same", None, host("Present", 7), False),
]


@pytest.mark.parametrize(
    ("placement", "said", "off"), [row[1:] for row in OFF_ITS_HOST], ids=[row[0] for row in OFF_ITS_HOST]
)
def test_an_object_is_off_its_host_when_nothing_of_it_can_be_there(
    placement: dict[str, Any] | None,
    said: dict[str, Any] | None,
    off: bool,  # noqa: FBT001
) -> None:
    assert is_off_its_host(vm(placement=placement, status={"host": said} if said else {})) == off


def test_an_object_without_any_status_is_off_its_host() -> None:
    assert is_off_its_host({"metadata": {}})


@pytest.mark.parametrize(
    ("age_s", "young"),
    [
        pytest.param(0.2, True, id="just made"),
        pytest.param(30, False, id="old"),
        pytest.param(-30, True, id="the API server's clock is a little ahead"),
        pytest.param(-3600, False, id="clocks that have nothing in common hold nothing up"),
    ],
)
def test_an_object_is_young_for_a_moment_whatever_the_clocks_say(
    age_s: float,
    young: bool,  # noqa: FBT001
) -> None:
    made_at = datetime.now(UTC) - timedelta(seconds=age_s)
    assert younger_than(vm(metadata={"creationTimestamp": made_at.isoformat()}), 10) == young
