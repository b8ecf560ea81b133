"""How the adapters of a machine that runs become those of its definition: what can be done while it runs, and in which
order."""

from collections.abc import Sequence
from dataclasses import dataclass

from virtplane_drivers.attachment import NicAttachment, StreamAttachment, TapAttachment
from virtplane_drivers.hypervisor.contract import Nic


@dataclass(frozen=True, slots=True)
class NicChanges:
    """All that differs, in the order in which it is done: an adapter leaves its place before another one takes it."""

    unplug: tuple[str, ...] = ()
    """Names, of what runs; also those that are plugged anew, as they are on another network, have another MAC, or are
    cut off."""
    plug: tuple[Nic, ...] = ()
    links: tuple[Nic, ...] = ()
    """Whose cable is put in or pulled out."""
    on_restart: tuple[str, ...] = ()
    """Names of those that differ in what only a start changes."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing can be done while it runs."""
        return not (self.unplug or self.plug or self.links)


def nic_changes(running: Sequence[Nic], wanted: Sequence[Nic]) -> NicChanges:
    """From the adapters of the run to those of the definition."""
    has = {nic.name: nic for nic in running}
    wants = {nic.name: nic for nic in wanted}
    kept = {name for name, nic in wants.items() if name in has and _is_the_same(has[name], nic)}
    return NicChanges(
        unplug=tuple(name for name in has if name not in kept),
        plug=tuple(nic for name, nic in wants.items() if name not in kept),
        links=tuple(nic for name, nic in wants.items() if name in kept and has[name].link_up != nic.link_up),
        on_restart=tuple(name for name, nic in wants.items() if name in kept and _shape(has[name]) != _shape(nic)),
    )


def _is_the_same(one: Nic, other: Nic) -> bool:
    return not one.is_cut_off and one.mac == other.mac and _place(one.attachment) == _place(other.attachment)


def _place(attachment: NicAttachment) -> object:
    """Which port it is, whatever its MTU."""
    match attachment:
        case TapAttachment():
            return attachment.namespace, attachment.name
        case StreamAttachment():
            return attachment.socket
        case _:
            return attachment


def _shape(nic: Nic) -> tuple[object, ...]:
    return nic.model, nic.queues, nic.boot_order
