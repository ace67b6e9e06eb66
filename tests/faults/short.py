"""Short forms of `make chaos`."""

import asyncio

from ops import chaos
from ops.scenario import Outcome
from tests.hurrying import hurried

DECIDING = "waiting until everything is decided"
"""What scenarios say when their load is over, and their faults."""


async def short(
    name: str, payloads: int, *, rate: float, seed: int, faults: int | None = None, over: str = DECIDING
) -> Outcome:
    """A scenario on a whole installation. Its end is not waited for longer than it takes.

    From when it says that its faults are `over`, what waits in a tier returns at once; a refusal has its second look
    after 2 s, not 30.
    """
    said = asyncio.Event()

    def say(what: str) -> None:
        if over in what:
            said.set()

    async with hurried(said):
        flags = ("status.settle_s=2",)
        outcome = await chaos.run(name, payloads=payloads, faults=faults, rate=rate, seed=seed, flags=flags, say=say)
    assert said.is_set()
    return outcome
