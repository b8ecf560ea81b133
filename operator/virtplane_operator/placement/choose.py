"""The choice: of all Hypervisors that fit, the one that is least loaded once the machine is there."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from virtplane_operator.placement.filters import FILTERS, OF_NETWORKS, Filter
from virtplane_operator.placement.values import Candidate, Request


@dataclass(frozen=True, slots=True)
class NoFit:
    """No Hypervisor fits; `message` says how many fail at what."""

    message: str


def choose(request: Request, candidates: Iterable[Candidate]) -> Candidate | NoFit:
    """The least loaded Hypervisor that fits; of equals the first by name.

    Load is the greater of the placed shares of CPU and memory, the machine included.
    """
    everyone = list(candidates)
    if not everyone:
        return NoFit("there is no hypervisor: start an agent (virtplane-agent) on a host")
    left, reasons = _filtered(FILTERS, request, everyone)
    if not left:
        return NoFit(_no_fit(everyone, reasons))
    return min(left, key=lambda candidate: (_load(request, candidate), candidate.name))


def no_place_for_networks(request: Request, candidates: Iterable[Candidate]) -> NoFit | None:
    """Why no Hypervisor can have the networks of the request, however free it is; None: one can, or there is none."""
    everyone = []
    for candidate in candidates:
        if all(one.fits(request, candidate) for one in OF_NETWORKS):
            return None
        everyone.append(candidate)
    _left, reasons = _filtered(OF_NETWORKS, request, everyone)
    return NoFit(_no_fit(everyone, reasons)) if everyone else None


def _filtered(
    filters: Iterable[Filter], request: Request, everyone: Sequence[Candidate]
) -> tuple[Sequence[Candidate], list[str]]:
    """Those that pass all filters, and what the filters say of the others."""
    left = everyone
    reasons: list[str] = []
    for one in filters:
        refused = [candidate for candidate in left if not one.fits(request, candidate)]
        if refused:
            reasons.append(one.says(request, refused))
            left = [candidate for candidate in left if one.fits(request, candidate)]
    return left, reasons


def _no_fit(everyone: Sequence[Candidate], reasons: Sequence[str]) -> str:
    count = f"{len(everyone)} hypervisor{'' if len(everyone) == 1 else 's'}"
    return f"0 of {count} fit{'s' if len(everyone) == 1 else ''}: {', '.join(reasons)}"


def _load(request: Request, candidate: Candidate) -> float:
    cpu = (candidate.used_cores + request.cores) / max(1, candidate.allocatable_cores)
    memory = (candidate.used_memory_mib + request.memory_mib) / max(1, candidate.allocatable_memory_mib)
    return max(cpu, memory)
