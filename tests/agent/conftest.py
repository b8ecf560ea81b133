"""An agent's parts around doubles of the API server and of time; the drivers are the product's own fakes."""

import pytest

from tests.agent.doubles import Clock, EventsDouble, InMemoryClient


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def client() -> InMemoryClient:
    return InMemoryClient()


@pytest.fixture
def events() -> EventsDouble:
    return EventsDouble()
