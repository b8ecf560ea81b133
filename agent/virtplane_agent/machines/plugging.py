"""The adapters of a machine that runs become those of its placement, as far as its hypervisor and its guest let them.

Order: a network is in force with a port before the port is joined; a port that is given up stays in force until the
guest has let go of it, which this agent then reports (`status.interfaces`): only then is its address anybody else's.
An adapter that is cut off, as the program behind its network has ended, is plugged anew once the network is in force.
"""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

from virtplane_agent.endpoints import Endpoint
from virtplane_agent.machines.desired import owner_of
from virtplane_agent.machines.hindrance import Hindrance, Progress
from virtplane_agent.machines.interfaces import Interfaces, is_defined
from virtplane_agent.machines.reconnects import Reconnects, Tell, cut_off
from virtplane_api.kube.resources import Object, uid_of
from virtplane_api.vocabulary import PowerState
from virtplane_drivers.errors import DriverError
from virtplane_drivers.hypervisor.contract import CanPlugNics, Observed
from virtplane_drivers.hypervisor.nics import nic_changes

ASK_AGAIN = timedelta(seconds=30)
"""A guest that was still booting has not heard that it is to let an adapter go."""
_KNOWS_NICS = (PowerState.RUNNING, PowerState.PAUSED, PowerState.SUSPENDED)
TAKES_NICS = (PowerState.RUNNING, PowerState.PAUSED)


def is_outdated(machine: Object, cluster_id: str, observed: Observed) -> bool:
    """Whether the hypervisor's definition is of another placement, or has other adapters than the spec asks for."""
    if not observed.exists:
        return False
    if observed.owner != owner_of(machine, cluster_id):
        return True
    return observed.power in _KNOWS_NICS and not is_defined(machine, observed.defined_nics)


def is_unlike_its_definition(observed: Observed) -> bool:
    """Whether the guest has other adapters than are defined, which may be changed while it runs."""
    return observed.power in TAKES_NICS and not nic_changes(observed.nics, observed.defined_nics).is_empty


class Plugging:
    """Changes adapters. What is kept in memory is when a guest was last asked."""

    def __init__(self, interfaces: Interfaces, tell: Tell, clock: Callable[[], datetime]) -> None:
        self._interfaces = interfaces
        self._reconnects = Reconnects(tell, clock)
        self._clock = clock
        self._asked: dict[str, tuple[Observed, datetime]] = {}

    def forget(self, uid: str) -> None:
        """Of a machine that is gone from here."""
        self._asked.pop(uid, None)
        self._reconnects.forget(uid)

    async def change(
        self, machine: Object, endpoint: Endpoint, observed: Observed, *, is_served: bool
    ) -> Hindrance | None:
        """What is to be done now is done; what then hinders. `is_served`: its networks were seen to in this pass."""
        uid, driver = uid_of(machine), endpoint.driver
        self._reconnects.saw(machine, observed)
        if not isinstance(driver, CanPlugNics) or not is_unlike_its_definition(observed):
            self._asked.pop(uid, None)
            return None
        if self._is_to_wait(uid, observed):
            return None
        now = self._clock()
        if not is_served and nic_changes(observed.nics, observed.defined_nics).plug:
            found = await self._interfaces.nics(machine, endpoint, observed.defined_nics, observed.nics)
            if isinstance(found, Hindrance):
                return replace(found, progress=Progress.SETTLING)
        try:
            await driver.change_nics(uid)
        except DriverError as error:
            return Hindrance(error.reason, str(error), Progress.SETTLING)
        after = await driver.observe(uid)
        if after.nics != observed.nics:
            self._interfaces.joined(uid)
        self._reconnects.saw(machine, after)
        self._asked[uid] = (after, now)
        return None

    def _is_to_wait(self, uid: str, observed: Observed) -> bool:
        """Its guest was asked a moment ago, or what it was joined to ends over and over."""
        known = self._asked.get(uid)
        if known is not None and _is_asked_for(known[0], observed):
            return timedelta(0) <= self._clock() - known[1] < ASK_AGAIN
        return bool(cut_off(observed)) and self._reconnects.wait_s(uid) > 0


def _is_asked_for(before: Observed, now: Observed) -> bool:
    return (before.nics, before.defined_nics) == (now.nics, now.defined_nics)
