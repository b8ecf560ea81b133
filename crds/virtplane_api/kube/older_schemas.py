"""Whether the CRDs in the cluster are older than this program, said once.

A program that is upgraded before the chart writes fields that the API server does not know. It goes on trying; what
people have to know is one line for all objects and all kinds, as one command cures them.
"""

import logging
import re
import time
from collections.abc import Callable

from virtplane_api.kube.errors import OlderSchema
from virtplane_api.names import SYSTEM_NAMESPACE

_log = logging.getLogger(__name__)

UPGRADE_COMMAND = f"helm upgrade virtplane helm/virtplane -n {SYSTEM_NAMESPACE}"
"""As in docs/installing.md."""
LASTS_S = 3.0
"""A CRD that was just applied is not in effect for some ms: refusals that end by themselves are no news."""
APART_S = 180.0
"""Refusals further apart than the longest backoff of a pass are not of one cause."""
REPEAT_AFTER_S = 3600.0

_FIELD = re.compile(r"(?:^|\s)(\.\S.*?): field not declared in schema")


class OlderSchemas:
    """Told of each refusal, by whichever object it was."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._since = self._last = self._said = float("-inf")

    def refused(self, kind: str, error: OlderSchema) -> None:
        """An apply to an object of the kind ended so."""
        now = self._clock()
        if now - self._last > APART_S:
            self._since, self._said = now, float("-inf")
        self._last = now
        if now - self._since < LASTS_S or now - self._said < REPEAT_AFTER_S:
            return
        self._said = now
        _log.error(
            "the CRDs in the cluster are older than this program: %s has no %s. What it reports is not written until "
            "the chart is upgraded (it goes on trying): %s",
            kind,
            _fields_in(str(error)),
            UPGRADE_COMMAND,
        )


def _fields_in(message: str) -> str:
    """The first field that the API server names, without the dot, and how many more there are; one line."""
    fields = _FIELD.findall(message)
    if not fields:
        return "field that it writes"
    more = f" and {len(fields) - 1} more" if len(fields) > 1 else ""
    return f"{fields[0].removeprefix('.')}{more}"
