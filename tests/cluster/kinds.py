"""Kinds that were just added."""

import json
from collections.abc import Callable
from typing import Any

from tests.cluster.waiting import eventually

ESTABLISHED_TIMEOUT_S = 30.0


def wait_for_kinds(kubectl: Callable[..., str], group: str = "virtplane.dev") -> None:
    """Returns once all kinds of the group are established; there is to be one.

    `kubectl wait` fails of a CRD that is so young that it has no conditions at all.
    """
    eventually(lambda: _are_established(kubectl, group), ESTABLISHED_TIMEOUT_S)


def _are_established(kubectl: Callable[..., str], group: str) -> bool:
    crds = json.loads(kubectl("get", "crds", "-o", "json"))["items"]
    established = [_is_established(crd) for crd in crds if crd["spec"]["group"] == group]
    return bool(established) and all(established)


def _is_established(crd: dict[str, Any]) -> bool:
    return any(
        (condition["type"], condition["status"]) == ("Established", "True")
        for condition in crd.get("status", {}).get("conditions") or ()
    )
