"""A place on the session's broker, one for each test."""

import pytest_asyncio

from tests.clients.pretend import Place
from tests.conftest import Broker


@pytest_asyncio.fixture
async def place(broker: Broker, prefix: str) -> Place:
    """With its topics made."""
    made = Place(broker.bootstrap, prefix)
    await made.make()
    return made
