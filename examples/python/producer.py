"""Submit one BEEF with a plain Kafka client (aiokafka): the bytes in the value, the request in the headers.

python examples/python/producer.py examples/payloads/generated-hello.beef tm_helloworld
"""

import asyncio
import json
import os
import sys
import uuid
from pathlib import Path

from aiokafka import AIOKafkaProducer

BOOTSTRAP = os.environ.get("BEEFLINE_KAFKA_BOOTSTRAP", "127.0.0.1:9092")
PREFIX = os.environ.get("BEEFLINE_TOPICS_PREFIX", "beef.")


async def main(beef: bytes, topics: list[str]) -> None:
    request_id = str(uuid.uuid4())  # yours to choose; every result about this request names it
    producer = AIOKafkaProducer(
        bootstrap_servers=BOOTSTRAP,
        enable_idempotence=True,  # implies acks=all: confirmed means kept, and a retry does not write twice
        max_request_size=9 << 20,  # a client's own limit is 1 MiB; the installation takes payloads of 8 MiB
    )
    await producer.start()
    try:
        headers = [("request-id", request_id.encode())]
        if topics:  # without: what the installation takes by default
            headers.append(("topics", json.dumps(topics).encode()))
        record = await producer.send_and_wait(PREFIX + "ingest", beef, key=request_id.encode(), headers=headers)
    finally:
        await producer.stop()
    print(f"request {request_id} is {record.topic}/{record.partition}/{record.offset}")


if __name__ == "__main__":
    # The record's value is bytes: no hexadecimal, no base64, no JSON.
    asyncio.run(main(bytes.fromhex(Path(sys.argv[1]).read_text()), sys.argv[2:]))
