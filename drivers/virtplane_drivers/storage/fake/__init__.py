"""Storage in memory, for tests, demos and benchmarks. Labelled so: nothing of it can hold a guest's data."""

from virtplane_drivers.storage.fake.driver import FakeStorage
from virtplane_drivers.storage.fake.faults import Faults

__all__ = ["FakeStorage", "Faults"]
