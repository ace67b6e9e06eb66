"""Read what becomes of requests with a plain Kafka client (aiokafka), in a consumer group of your own.

python examples/python/consumer.py               until Ctrl-C, going on where this group left off
python examples/python/consumer.py REQUEST_ID    until that request is decided
"""

import asyncio
import json
import os
import sys

from aiokafka import AIOKafkaConsumer

BOOTSTRAP = os.environ.get("BEEFLINE_KAFKA_BOOTSTRAP", "127.0.0.1:9092")
PREFIX = os.environ.get("BEEFLINE_TOPICS_PREFIX", "beef.")


async def main(awaited: str | None) -> None:
    consumer = AIOKafkaConsumer(
        PREFIX + "results",
        bootstrap_servers=BOOTSTRAP,
        group_id=PREFIX + "example-consumer",  # your application's name
        isolation_level="read_committed",  # not the default: without it you see what was aborted and never happened
        auto_offset_reset="earliest",  # a new group begins at the start
        enable_auto_commit=False,  # committed below, once the results are dealt with
    )
    await consumer.start()
    revisions: dict[str, int] = {}  # keep this with your own data, by result id
    done = False
    try:
        while not done:
            batch = await consumer.getmany(timeout_ms=1000)
            for record in (record for records in batch.values() for record in records):
                result = json.loads(record.value)
                if result["revision"] <= revisions.get(result["id"], -1):
                    continue  # said before: of results with one id the highest revision stands
                revisions[result["id"]] = result["revision"]
                print(result["outcome"], result["txid"], result["context"], result["code"] or "", result["request_ids"])
                done |= awaited in result["request_ids"] and result["outcome"] in ("applied", "rejected", "parked")
            if batch:
                await consumer.commit()  # after your own work: what was not committed comes again
    finally:
        await consumer.stop()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1] if len(sys.argv) > 1 else None))
