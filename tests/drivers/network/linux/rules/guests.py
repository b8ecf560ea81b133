"""Two guests of one router, as lies are tried on: machine 2 sends, machine 3 is beside it."""

import asyncio
from dataclasses import dataclass

from tests.drivers.network.linux.host import Host, Namespace
from tests.drivers.network.linux.rules.routers import Router, new_router
from virtplane_drivers.network.contract import Network
from virtplane_drivers.network.linux.rules import RouterRules


@dataclass
class Guests:
    """Both, and the rules of their router."""

    router: Router
    first: Namespace
    second: Namespace
    rules: RouterRules

    def apply(self, one: Network) -> None:
        asyncio.run(self.rules.apply(self.router.path, one, None, ()))


def guests_of(host: Host, one: Network, *, with_rules: bool) -> Guests:
    """Of the first two ports of the network."""
    router = new_router(host, one, None)
    guests = Guests(router, router.guest(one.ports[0]), router.guest(one.ports[1]), RouterRules())
    if with_rules:
        guests.apply(one)
    return guests
