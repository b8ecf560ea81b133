"""What the API server's errors mean for a pass over an object: one place for operator and agent."""

import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import TypeVar

from virtplane_api.kube.errors import ApiError, ApiUnavailable, Conflict, NotFound, OlderSchema
from virtplane_api.reconcile import Failed, Outcome, Wait

_log = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)

_CONFLICT_S = 0.5
"""The watch brings what the other writer wrote, and the next pass with it; this is for a watch that is slow."""


def outcome_of(name: str, reconcile: Callable[[K], Awaitable[Outcome]]) -> Callable[[K], Awaitable[Outcome]]:
    """The same pass, whose API errors are outcomes. `name` is the kind, for the log."""

    async def guarded(key: K) -> Outcome:
        try:
            return await reconcile(key)
        except Conflict as conflict:
            return Wait(_CONFLICT_S, str(conflict))
        except NotFound as gone:
            return Wait(_CONFLICT_S, str(gone))
        except ApiUnavailable as error:
            return Failed("ApiUnavailable", str(error), error.retry_after_s)
        except OlderSchema as error:  # the client says it once, for all objects
            return Failed("OlderSchema", str(error))
        except ApiError as error:
            _log.warning("%s %s: %s", name, key, error)
            return Failed(error.reason or type(error).__name__, str(error))

    return guarded
