"""Have several overlay topics take a transaction together, or none of them, with beefline's own client.

python examples/python/all_or_nothing.py examples/payloads/generated-hello.beef tm_anytx tm_helloworld

A topic that would only admit nothing of it refuses: then nobody takes it, and each says who refused.
"""

import asyncio
import os
import sys
from pathlib import Path

from beefline import Client

BOOTSTRAP = os.environ.get("BEEFLINE_KAFKA_BOOTSTRAP", "127.0.0.1:9092")


async def main(beef: bytes, topics: list[str]) -> None:
    async with Client(BOOTSTRAP) as client:
        # Owners of baskets may be named beside the topics: `baskets=[…]`, as in basket.py.
        outcome = await client.submit_and_wait(beef, topics=topics, atomicity="all")
    for decision in outcome.decisions:
        print(decision.outcome, decision.context, decision.code or "", decision.message or "")


if __name__ == "__main__":
    asyncio.run(main(bytes.fromhex(Path(sys.argv[1]).read_text()), sys.argv[2:]))
