"""A host for each test, whose networks a whole driver makes."""

from collections.abc import Iterator

import pytest

from tests.drivers.network.linux.recovery.driven import Driven, new_driven


@pytest.fixture
def driven(root: None) -> Iterator[Driven]:
    """See `Driven`."""
    with new_driven() as one:
        yield one
