"""Networks in memory, for tests, demos and benchmarks. Labelled so: no packet passes them."""

from virtplane_drivers.network.fake.driver import FakeNetworks
from virtplane_drivers.network.fake.faults import Faults

__all__ = ["FakeNetworks", "Faults"]
