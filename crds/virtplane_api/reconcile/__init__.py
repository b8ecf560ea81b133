"""The reconcile loop that operator and agent share: a keyed queue, outcomes as types, backoff with jitter."""

from virtplane_api.reconcile.loop import ReconcileLoop
from virtplane_api.reconcile.outcome import Done, Failed, Outcome, Wait
from virtplane_api.reconcile.tally import Tally

__all__ = ["Done", "Failed", "Outcome", "ReconcileLoop", "Tally", "Wait"]
