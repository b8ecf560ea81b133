"""Rules over an update, held by the API server itself (CEL transition rules)."""

from virtplane_api.crdgen import CelRule

TOKEN_GROWS = CelRule(
    rule="self == oldSelf || self.token > oldSelf.token",
    message="a changed placement needs a greater token",
    field_path=".token",
)
"""Of the placement itself: two owners can be told apart by their tokens only if no token is used twice."""

PLACEMENT_KEPT = CelRule(
    rule="!has(oldSelf.placement) || has(self.placement)",
    message="a placement is never removed, only replaced under a greater token",
)
"""Of the status: a placement that is gone would start its token anew."""

STATUS_PLACEMENT_KEPT = CelRule(
    rule="!has(oldSelf.status) || !has(oldSelf.status.placement) || (has(self.status) && has(self.status.placement))",
    message="a placement is never removed, only replaced under a greater token",
)
"""Of the object: a rule of the status does not run when the whole status goes."""


def unchanged(field: str) -> str:
    """The CEL rule that an optional field of an object is neither set, nor changed, nor removed by an update."""
    return f"has(self.{field}) == has(oldSelf.{field}) && (!has(self.{field}) || self.{field} == oldSelf.{field})"
