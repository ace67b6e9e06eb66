"""A writer that gets halfway: operations within a transaction that it begins and never ends.

As a process of its own, to be killed: `python -m ops.instruments.halfway PARENT CONTEXT ID SETTING=VALUE…`. It
says `produced` once the broker has what it wrote, and waits.
"""

import asyncio
import sys
from itertools import islice

from aiokafka import AIOKafkaProducer

from agents.runtime.transport import producer_options
from ops.guard import end_with_parent
from ops.instruments.operations import operations
from ops.settings import Settings, load
from schemas.flow import OPERATION
from schemas.types import Context
from topics.registry import OPERATIONS, largest_record

COUNT = 20


async def write(settings: Settings, context: Context, transactional_id: str) -> None:
    """Begin, produce, and leave it at that; with the producer that stages use."""
    producer = AIOKafkaProducer(
        **producer_options(settings.kafka, largest_record(settings.topics.max_payload_bytes)),
        transactional_id=transactional_id,
        transaction_timeout_ms=int(settings.worker.transaction_timeout_s * 1000),
    )
    await producer.start()
    await producer.begin_transaction()
    topic = OPERATIONS.named(settings.topics.prefix)
    for _, operation in islice(operations([context], seed=-1), COUNT):
        value = OPERATION.encode(operation)
        await producer.send_and_wait(topic, value, key=context.encode(), headers=[OPERATION.header])
    sys.stdout.write("produced\n")
    sys.stdout.flush()
    await asyncio.Event().wait()


def main() -> None:
    """Until it is killed."""
    parent, context, transactional_id, *flags = sys.argv[1:]
    end_with_parent(int(parent))
    settings = load(network="dev", flags=flags, environment={}).settings
    asyncio.run(write(settings, context, transactional_id))


if __name__ == "__main__":
    main()
