"""What the transport asks of aiokafka's inner parts."""

import asyncio

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from agents.runtime.transport import FETCH_WAIT_MS, UNTAKEN_S, patient
from tests.conftest import Broker

COMPUTES_S = 0.4


@pytest.mark.broker
@pytest.mark.parametrize("waits", [True, False])
async def test_idle_partitions_are_not_fetched_while_a_batch_computes(broker: Broker, prefix: str, waits: bool) -> None:
    """Else the broker holds that fetch, and the busy partition waits for its end; as it comes, aiokafka does so."""
    topic = prefix + "t"
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    producer = AIOKafkaProducer(bootstrap_servers=broker.bootstrap)
    consumer = AIOKafkaConsumer(
        bootstrap_servers=broker.bootstrap, enable_auto_commit=False, auto_offset_reset="earliest",
        fetch_max_wait_ms=FETCH_WAIT_MS,
    )  # fmt: skip
    await admin.start()
    await admin.create_topics([NewTopic(topic, num_partitions=2, replication_factor=1)])
    await admin.close()
    await producer.start()
    await consumer.start()
    try:
        if waits:
            patient(consumer)
        busy = TopicPartition(topic, 0)
        consumer.assign([busy, TopicPartition(topic, 1)])
        await producer.send_and_wait(topic, b"1", partition=0)
        assert (await consumer.getone()).value == b"1"
        await producer.send_and_wait(topic, b"2", partition=0)
        async with asyncio.timeout(10):
            while busy not in consumer._fetcher._records:
                await asyncio.sleep(0.01)
        await asyncio.sleep(COMPUTES_S)  # what was fetched lies there meanwhile
        assert COMPUTES_S < UNTAKEN_S
        assert bool(consumer._fetcher._in_flight) is not waits
    finally:
        await consumer.stop()
        await producer.stop()
