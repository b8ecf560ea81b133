"""What an API request may end in.

::

    ApiError                 the API server said no: status, reason, message
    ├── NotFound             404
    ├── AlreadyExists        409 on create
    ├── Conflict             409: computed from an old resourceVersion, or a uid that is gone; read again
    ├── Expired              410: list again
    ├── Forbidden            401 and 403: RBAC or an admission policy
    ├── Invalid              400, 413 and 422: the object itself; also one that etcd finds too large
    ├── OlderSchema          500 on apply: the CRD in the cluster lacks a field that we write; nothing was written
    └── ApiUnavailable       no answer, 429 or 5xx: try later, after retry_after_s
"""

from typing import Any


class ApiError(Exception):
    """The API server refused a request, or did not answer."""

    def __init__(self, message: str, *, status: int, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


class NotFound(ApiError):
    """No such object."""


class AlreadyExists(ApiError):
    """An object of that name exists."""


class Conflict(ApiError):
    """The object is not the one, or not as, that was read."""


class Expired(ApiError):
    """The resourceVersion is too old to watch or page from."""


class Forbidden(ApiError):
    """RBAC or an admission policy says no."""


class Invalid(ApiError):
    """The object breaks its schema or a rule."""


class OlderSchema(ApiError):
    """The API server serves a CRD that does not have a field of ours: it was just applied, or is older than we are."""


class ApiUnavailable(ApiError):
    """No answer now."""

    def __init__(self, message: str, *, status: int = 0, reason: str = "", retry_after_s: float = 1.0) -> None:
        super().__init__(message, status=status, reason=reason)
        self.retry_after_s = retry_after_s


_TOO_LARGE = "request is too large"
_UNDECLARED = "field not declared in schema"

_BY_STATUS: dict[int, type[ApiError]] = {
    400: Invalid,
    401: Forbidden,
    403: Forbidden,
    404: NotFound,
    409: Conflict,
    410: Expired,
    413: Invalid,
    422: Invalid,
}


def error_of(http_status: int, body: dict[str, Any], retry_after: str | None) -> ApiError:
    """The error for an answer: `body` is a meta/v1 Status, or empty where a proxy answered."""
    reason = str(body.get("reason", ""))
    message = str(body.get("message", "")) or f"HTTP {http_status}"
    if reason == "AlreadyExists":
        return AlreadyExists(message, status=http_status, reason=reason)
    if _TOO_LARGE in message:  # etcd's own limit comes as a 500
        return Invalid(message, status=http_status, reason=reason)
    if http_status == 500 and _UNDECLARED in message:  # server-side apply's way to say it
        return OlderSchema(message, status=http_status, reason=reason)
    if http_status == 429 or http_status >= 500:
        wait_s = float(retry_after) if retry_after and retry_after.isdigit() else 1.0
        return ApiUnavailable(message, status=http_status, reason=reason, retry_after_s=wait_s)
    kind = _BY_STATUS.get(http_status, ApiError)
    return kind(message, status=http_status, reason=reason)
