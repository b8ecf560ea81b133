"""Which addresses a machine's guest was seen to use where nothing is claimed for it, as its status says.

What was seen once stays said for as long as that run of the machine lasts, or until another address of its family is
seen: a guest that says nothing for a while, or an agent that starts anew, is no reason to write. It is said apart from
what is claimed, as the guest may claim there what it likes: nobody's claims, ports or rules follow from it.
"""

from collections.abc import Iterator, Mapping, Sequence
from ipaddress import ip_address
from typing import Any

from virtplane_api.interfaces import Row, key_of_row, reported_rows
from virtplane_api.kube.conditions import timestamp
from virtplane_api.kube.resources import Object
from virtplane_api.vocabulary import PowerState
from virtplane_drivers.hypervisor.contract import Observed
from virtplane_drivers.network.contract import IpAddress

Seen = Mapping[tuple[str, str], Sequence[IpAddress]]
"""By interface and network UID: the newest first."""
_VERSIONS = (4, 6)
_MAX_ADDRESSES = 16
_IS_OFF = (None, PowerState.STOPPED)


def with_seen(rows: Sequence[Row], machine: Object, observed: Observed, seen: Seen) -> list[dict[str, Any]]:
    """Rows of status.interfaces, with what was seen. Pure."""
    status = machine["status"]
    said = (
        {_run_of_row(row): row for row in reported_rows(status.get("interfaces"))}
        if _is_same_run(status, observed)
        else {}
    )
    if observed.power in _IS_OFF or observed.power is PowerState.SUSPENDED:
        seen = {}
    found = []
    for row in rows:
        before = said.get(_run_of_row(row), {}).get("seenAddresses") or []
        now = [str(address) for address in seen.get(key_of_row(row), ())]
        used = [*_used(row.get("ipAddresses") or (), now, before)][:_MAX_ADDRESSES]
        without = {field: value for field, value in row.items() if field != "seenAddresses"}
        found.append(without | ({"seenAddresses": used} if used else {}))
    return found


def _run_of_row(row: Row) -> tuple[str, ...]:
    """An adapter that was plugged anew under its name may have another MAC address."""
    return *key_of_row(row), row["macAddress"]


def _used(claimed: Sequence[str], seen: Sequence[str], before: Sequence[str]) -> Iterator[str]:
    """A family of which anything is claimed is the network's own."""
    managed = {ip_address(address).version for address in claimed}
    for version in _VERSIONS:
        if version in managed:
            continue
        now, then = (
            [address for address in addresses if ip_address(address).version == version] for addresses in (seen, before)
        )
        # The order of the same addresses is no news: another agent may have heard of them in another one.
        yield from now if now and set(now) != set(then) else then


def _is_same_run(status: Mapping[str, Any], observed: Observed) -> bool:
    """Whether the guest is the one that the status speaks of: it has not been off in between."""
    if observed.power in _IS_OFF:
        return False
    if observed.power in (PowerState.SUSPENDED, PowerState.UNKNOWN) or status.get("powerState") == PowerState.SUSPENDED:
        return True
    return observed.started_at is not None and status.get("startTime") == timestamp(observed.started_at)
