"""A hypervisor that exists in memory: for demonstrations, tests and measurements of everything around a hypervisor.

Its `World` is the host that outlives the driver, as QEMU processes outlive their agent; faults and delays are put in
by hand.
"""

from virtplane_drivers.hypervisor.fake.driver import FakeHypervisor
from virtplane_drivers.hypervisor.fake.faults import Faults
from virtplane_drivers.hypervisor.fake.world import World

__all__ = ["FakeHypervisor", "Faults", "World"]
