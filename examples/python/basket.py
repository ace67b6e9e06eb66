"""Put an output of a BEEF into a wallet basket (BRC-46, BRC-100), with beefline's own client.

python examples/python/basket.py examples/payloads/generated-p2pkh.beef OWNER BASKET [TAG ...]
beefline basket list OWNER BASKET

OWNER is an identity key: 33 bytes in hexadecimal.
"""

import asyncio
import os
import sys
from pathlib import Path

from beefline import Client

BOOTSTRAP = os.environ.get("BEEFLINE_KAFKA_BOOTSTRAP", "127.0.0.1:9092")


async def main(beef: bytes, owner: str, basket: str, tags: list[str]) -> None:
    instruction = {
        "owner": owner,
        "description": "an example",
        "outputs": [
            {
                "outputIndex": 0,
                "protocol": "basket insertion",
                "insertionRemittance": {"basket": basket, "tags": tags, "customInstructions": "how to unlock it"},
            }
        ],
    }
    async with Client(BOOTSTRAP) as client:
        # Overlay topics may be named beside it: `topics=["tm_anytx"]`. Without them the owner's context decides alone.
        outcome = await client.submit_and_wait(beef, baskets=[instruction])
    for decision in outcome.decisions:
        print(decision.outcome, decision.context, decision.code or "", decision.message or "")


if __name__ == "__main__":
    asyncio.run(main(bytes.fromhex(Path(sys.argv[1]).read_text()), sys.argv[2], sys.argv[3], sys.argv[4:]))
