"""An agent in memory, with fake networks."""

from collections.abc import AsyncIterator

import pytest

from tests.agent.doubles import Clock, InMemoryClient
from tests.agent.machines.agent_in_memory import AgentInMemory, in_memory


@pytest.fixture
async def agent(client: InMemoryClient, clock: Clock) -> AsyncIterator[AgentInMemory]:
    async with in_memory(client, clock) as agent:
        yield agent
