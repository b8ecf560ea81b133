"""How long it takes to know all claims again and to make as many new ones, but for the writes to the API server.

python -m tests.operator.networks.measure_claims
"""

import time
from contextlib import ExitStack
from dataclasses import dataclass

from tests.operator.objects import claimed, network, placed, vm
from virtplane_api.kube.resources import NETWORKS, VIRTUAL_MACHINES
from virtplane_operator.machines.disks import Blocked
from virtplane_operator.machines.interfaces import plan_interfaces
from virtplane_operator.networks.addresses import subnet_of, text_of
from virtplane_operator.networks.catalog import Catalog
from virtplane_operator.networks.claims import Claims
from virtplane_operator.world import Store

LAN = {"name": "lan", "networkName": "lan"}


@dataclass(frozen=True)
class Measured:
    """Seconds of one run, and how many addresses are held after it."""

    rebuild_s: float
    claims_s: float
    held: int

    @property
    def total_s(self) -> float:
        return self.rebuild_s + self.claims_s


def measure(machines: int, cidr: str = "10.0.0.0/8") -> Measured:
    """Take in so many placed machines of one network of both families, then claim for as many new ones."""
    spec = {"cidr": cidr}
    first = subnet_of(spec).first + 1
    old = [
        vm(
            f"old-{index}",
            uid=f"old-{index}",
            version=index + 1,
            interfaces=[LAN],
            placement=placed(
                interfaces=[
                    claimed(
                        "lan", "lan", f"02:00:00:00:{index >> 8:02x}:{index & 255:02x}",
                        text_of(4, first + index), f"fd00:20::{index + 2:x}",
                    )
                ]
            ),
        )
        for index in range(machines)
    ]  # fmt: skip
    new = [vm(f"new-{index}", uid=f"new-{index}", version=index + 1, interfaces=[LAN]) for index in range(machines)]
    store, claims = Store(), Claims()
    catalog = Catalog(store, claims)
    store.listen(claims.observe)
    store.listen(catalog.observe)
    store.put(NETWORKS, network(ipv4=spec, ipv6={"cidr": "fd00:20::/64"}))
    begun = time.perf_counter()
    for machine in old:
        store.put(VIRTUAL_MACHINES, machine)
    rebuilt = time.perf_counter()
    with ExitStack() as being_written:
        for machine in new:
            plans = plan_interfaces(catalog, claims, "cluster", machine)
            if isinstance(plans, Blocked):
                raise AssertionError(plans.message)
            placement = placed(interfaces=[plan.placed for plan in plans])
            being_written.enter_context(claims.assumed(machine, placement))
        claimed_at = time.perf_counter()
        held = len(claims.addresses("lan-uid", 4))
    return Measured(rebuilt - begun, claimed_at - rebuilt, held)


def main() -> None:
    """Print the figures."""
    for cidr in ("10.0.0.0/8", "10.0.0.0/17"):
        one = measure(10_000, cidr)
        print(
            f"{cidr}: 10,000 machines known again in {one.rebuild_s:.3f} s, 10,000 new claims in {one.claims_s:.3f} s, "
            f"together {one.total_s:.3f} s"
        )


if __name__ == "__main__":
    main()
