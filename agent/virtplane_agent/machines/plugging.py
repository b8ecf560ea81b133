"""The adapters of a machine that runs become those of its placement, as far as its hypervisor and its guest let them.

Order: a network is in force with a port before the port is joined; a port that is given up stays in force until the
guest has let go of it, which this agent then reports (`status.interfaces`): only then is its address anybody else's.
"""

from collections.abc import Callable
from datetime import datetime, timedelta

from virtplane_agent.endpoints import Endpoint
from virtplane_agent.machines.desired import owner_of
from virtplane_agent.machines.hindrance import Hindrance, Progress
from virtplane_agent.machines.interfaces import is_defined
from virtplane_api.kube.resources import Object
from virtplane_api.vocabulary import PowerState
from virtplane_drivers.errors import DriverError
from virtplane_drivers.hypervisor.contract import CanPlugNics, Observed
from virtplane_drivers.hypervisor.nics import nic_changes

ASK_AGAIN = timedelta(seconds=30)
"""A guest that was still booting has not heard that it is to let an adapter go."""
_KNOWS_NICS = (PowerState.RUNNING, PowerState.PAUSED, PowerState.SUSPENDED)
_TAKES_NICS = (PowerState.RUNNING, PowerState.PAUSED)


def is_outdated(machine: Object, cluster_id: str, observed: Observed) -> bool:
    """Whether the hypervisor's definition is of another placement, or has other adapters than the spec asks for."""
    if not observed.exists:
        return False
    if observed.owner != owner_of(machine, cluster_id):
        return True
    return observed.power in _KNOWS_NICS and not is_defined(machine, observed.defined_nics)


def is_unlike_its_definition(observed: Observed) -> bool:
    """Whether the guest has other adapters than are defined, which may be changed while it runs."""
    return observed.power in _TAKES_NICS and not nic_changes(observed.nics, observed.defined_nics).is_empty


class Plugging:
    """Changes adapters. What is kept in memory is when a guest was last asked."""

    def __init__(self, joined: Callable[[str], None], clock: Callable[[], datetime]) -> None:
        """`joined(uid)` is called after ports of a machine were joined."""
        self._joined = joined
        self._clock = clock
        self._asked: dict[str, tuple[Observed, datetime]] = {}

    def forget(self, uid: str) -> None:
        """Of a machine that is gone from here."""
        self._asked.pop(uid, None)

    async def change(self, uid: str, endpoint: Endpoint, observed: Observed) -> Hindrance | None:
        """What is to be done now is done; what then hinders."""
        driver = endpoint.driver
        if not isinstance(driver, CanPlugNics) or not is_unlike_its_definition(observed):
            self.forget(uid)
            return None
        state, now = observed.nics, self._clock()
        known = self._asked.get(uid)
        if known is not None and _is_asked_for(known[0], observed) and timedelta(0) <= now - known[1] < ASK_AGAIN:
            return None
        try:
            await driver.change_nics(uid)
        except DriverError as error:
            return Hindrance(error.reason, str(error), Progress.SETTLING)
        after = await driver.observe(uid)
        if after.nics != state:
            self._joined(uid)
        self._asked[uid] = (after, now)
        return None


def _is_asked_for(before: Observed, now: Observed) -> bool:
    return (before.nics, before.defined_nics) == (now.nics, now.defined_nics)
