"""Where a machine goes: pure functions from what is asked for and what there is to a choice, or to why none fits."""

from virtplane_operator.placement.choose import NoFit, choose, no_place_for_networks
from virtplane_operator.placement.values import Candidate, HostPort, Request, StorageNeed

__all__ = ["Candidate", "HostPort", "NoFit", "Request", "StorageNeed", "choose", "no_place_for_networks"]
