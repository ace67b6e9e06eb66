"""Header names that are no text: read all the same, and nothing else is read differently."""

from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.consumer import fetcher
from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy
from aiokafka.record.memory_records import MemoryRecords
from aiokafka.structs import TopicPartition
from hypothesis import given
from hypothesis import strategies as st

from agents.runtime.lenient import Records
from tests.conftest import Broker
from tests.profiles import CHEAP

PLAIN, GZIP = 0, 1

Headers = Sequence[tuple[str, bytes | None]]


class Name(str):
    """A header name whose bytes are what they are."""

    def __new__(cls, raw: bytes) -> "Name":
        return super().__new__(cls, raw.decode("latin-1"))

    def encode(self, *_: Any) -> bytes:
        return super().encode("latin-1")


def batch(base: int, records: Sequence[tuple[bytes | None, Headers]], compression: int = PLAIN) -> bytes:
    """A batch as a broker keeps it, from this offset on."""
    builder = _DefaultRecordBatchBuilderPy(2, compression, 0, -1, -1, -1, 1 << 20)
    for place, (value, headers) in enumerate(records):
        assert builder.append(place, timestamp=1000 + place, key=b"k", value=value, headers=list(headers))
    raw = bytearray(builder.build())
    raw[:8] = base.to_bytes(8, "big")  # brokers do; the checksum begins behind it
    return bytes(raw)


def read(data: bytes, position: int = 0) -> list[tuple[int, bytes | None, Headers]]:
    """As a consumer does, checksums and transactions looked at."""
    records = PartitionRecords(TopicPartition("t", 0), Records(data), [], position, None, None, True, READ_COMMITTED)
    return [(record.offset, record.value, list(record.headers)) for record in records]


@pytest.mark.parametrize("compression", [PLAIN, GZIP])
def test_a_name_that_is_no_text_is_read_with_replacement_characters(compression: int) -> None:
    headers = [("plain", b"1"), (Name(b"\xff\xfe bad"), b"2"), ("null", None), (Name(b"\xc3"), None)]
    first = batch(0, [(b"a", [("x", b"y")])])
    data = (
        first
        + batch(1, [(b"b", []), (b"c", headers), (None, [("z", b"\xff")])], compression)
        + batch(4, [(b"d", [("größe", b"1")])])
    )
    assert read(data) == [
        (0, b"a", [("x", b"y")]),
        (1, b"b", []),
        (2, b"c", [("plain", b"1"), ("\ufffd\ufffd bad", b"2"), ("null", None), ("\ufffd", None)]),
        (3, None, [("z", b"\xff")]),
        (4, b"d", [("größe", b"1")]),
    ]
    assert [offset for offset, *_ in read(data[len(first) :], position=2)] == [2, 3, 4]


def test_without_this_no_process_gets_past_it() -> None:
    """What the module is for; when aiokafka reads such a name, it can go."""
    (found,) = iter([MemoryRecords(batch(0, [(b"a", [(Name(b"\xff"), b"")])]))])
    with pytest.raises(UnicodeDecodeError):
        list(found.next_batch())


@CHEAP
@given(
    st.lists(
        st.lists(
            st.tuples(
                st.none() | st.binary(max_size=40),
                st.lists(st.tuples(st.text(max_size=9), st.none() | st.binary(max_size=9)), max_size=3),
            ),
            min_size=1, max_size=4,
        ),
        max_size=4,
    ),
    st.sampled_from([PLAIN, GZIP]),
)  # fmt: skip
def test_what_aiokafka_reads_is_read_the_same(
    batches: list[list[tuple[bytes | None, Headers]]], compression: int
) -> None:
    data, base = b"", 0
    for records in batches:
        data += batch(base, records, compression)
        base += len(records)
    assert read(data) == list(theirs(data))
    assert Records(data).size_in_bytes() == MemoryRecords(data).size_in_bytes()


def theirs(data: bytes) -> Iterator[tuple[int, bytes | None, Headers]]:
    records = MemoryRecords(data)
    while records.has_next():
        for record in records.next_batch():
            yield record.offset, record.value, record.headers


def test_a_batch_that_was_cut_short_waits_for_the_next_fetch() -> None:
    whole, cut = batch(0, [(b"a", [])]), batch(1, [(b"b", [])])[:-3]
    assert read(whole + cut) == [(0, b"a", [])]


def test_every_consumer_of_a_worker_reads_so() -> None:
    import agents.runtime.transport  # noqa: F401 - what a worker imports

    assert fetcher.MemoryRecords is Records


@pytest.mark.broker
async def test_a_consumer_gets_past_it_on_a_real_broker(broker: Broker, prefix: str) -> None:
    """Brokers take the record; with transactions, compression and markers beside it the consumer reads on."""
    topic = f"{prefix}names"
    admin = AIOKafkaProducer(bootstrap_servers=broker.bootstrap, transactional_id=f"{prefix}p")
    from aiokafka.admin import AIOKafkaAdminClient, NewTopic

    client = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await client.start()
    await client.create_topics([NewTopic(topic, 1, 1)])
    await client.close()
    evil = AIOKafkaProducer(bootstrap_servers=broker.bootstrap, acks="all")
    await evil.start()
    await admin.start()
    for number, outcome in enumerate(["commit", "abort"]):
        await admin.begin_transaction()
        await admin.send_and_wait(topic, b"%d" % number, headers=[("a", b"1")])
        await (admin.commit_transaction() if outcome == "commit" else admin.abort_transaction())
    made = evil.create_batch()
    made._builder = _DefaultRecordBatchBuilderPy(2, PLAIN, 0, -1, -1, -1, 1 << 20)
    assert made.append(timestamp=None, key=b"k", value=b"strange", headers=[(Name(b"\xff\xfe"), b"2")])
    made.close()
    await (await evil.send_batch(made, topic, partition=0))
    await evil.send_and_wait(topic, b"last", headers=[("b", None)])
    await evil.stop()
    await admin.stop()
    consumer = AIOKafkaConsumer(
        topic, bootstrap_servers=broker.bootstrap, auto_offset_reset="earliest", isolation_level="read_committed"
    )
    await consumer.start()
    found: list[Any] = []
    while not found or found[-1].value != b"last":
        for records in (await consumer.getmany(timeout_ms=500)).values():
            found += records
    await consumer.stop()
    assert [(record.value, list(record.headers)) for record in found] == [
        (b"0", [("a", b"1")]), (b"strange", [("\ufffd\ufffd", b"2")]), (b"last", [("b", None)]),
    ]  # fmt: skip
