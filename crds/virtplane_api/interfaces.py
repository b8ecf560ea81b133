"""spec.interfaces of a machine beside what is claimed for them: operator and agents tell alike whether they agree.

Free of pydantic, as `subnets`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]


def is_claimed(spec: Mapping[str, Any], placement: Mapping[str, Any]) -> bool:
    """Whether the placement has what spec.interfaces asks for: these interfaces in this order, and nothing else."""
    wanted, placed = spec.get("interfaces") or (), placement.get("interfaces") or ()
    return len(wanted) == len(placed) and all(map(_is_met, wanted, placed))


def _is_met(wanted: Row, placed: Row) -> bool:
    return (
        wanted["name"] == placed["name"]
        and wanted["networkName"] == placed["networkName"]
        and wanted.get("macAddress", placed["macAddress"]) == placed["macAddress"]
        and set(wanted.get("ipAddresses") or ()) <= set(placed.get("ipAddresses") or ())
        and (wanted.get("portForwards") or []) == (placed.get("portForwards") or [])
    )


def key_of_row(row: Row) -> tuple[str, str]:
    """By which a claim, and a port of a host, is told from others of the machine."""
    return row["name"], row["networkUID"]


def reported_rows(rows: Iterable[Row] | None) -> list[Row]:
    """status.interfaces, without the rows of an older agent, which did not tell the network: they hold nothing."""
    return [row for row in rows or () if "networkUID" in row]


def left_behind(placement: Mapping[str, Any], reported: Sequence[Row]) -> list[Row]:
    """Rows of status.interfaces that the placement has no more, or not as they are: the guest may still have those.

    They are their machine's on its host, and claimed for it everywhere, until its agent reports them no more.
    """
    rows = reported_rows(reported)
    if not rows:
        return []
    placed = {key_of_row(row): row for row in placement.get("interfaces") or ()}
    return [row for row in rows if _is_left(row, placed.get(key_of_row(row)))]


def _is_left(row: Row, placed: Row | None) -> bool:
    if placed is None or placed["macAddress"] != row["macAddress"]:
        return True
    return not set(row.get("ipAddresses") or ()) <= set(placed.get("ipAddresses") or ())
