"""Writing: grouped by partition, in order, in batches that are closed, and measured before."""

import pytest
from aiokafka.record.default_records import DefaultRecordBatch
from hypothesis import given
from hypothesis import strategies as st

from agents.runtime.outbox import Outbox, TooLarge, size_of
from agents.runtime.partitioner import partition_for
from agents.runtime.records import Out
from tests.fakes import Producer
from tests.profiles import CHEAP
from topics.registry import BROADCAST, BY_NAME, EVENTS, JOURNAL, PARSED, RESULTS, STATE, TOPICS, Topic

COUNTS = {name: topic.partitions for name, topic in BY_NAME.items()}
TRACE = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
PAYLOAD = 1 << 20


def outbox_of(producer: Producer | None = None) -> tuple[Outbox, Producer]:
    producer = producer or Producer()
    return Outbox(producer, "t.", COUNTS, PAYLOAD), producer


async def test_records_go_where_their_key_says_and_keep_their_order() -> None:
    """As Java clients would choose the partition; the same key keeps its order."""
    outbox, producer = outbox_of()
    outs = [(Out(PARSED, b"key %d" % (n % 20), b"%d" % n), None) for n in range(200)]
    ends = await outbox.send(outs)
    expected: dict[tuple[str, int], list[bytes]] = {}
    for out, _ in outs:
        assert out.value is not None
        expected.setdefault(("t.parsed", partition_for(out.key, 8)), []).append(out.value)
    assert {where: [record["value"] for record in log] for where, log in producer.written.items()} == expected
    assert ends == {("parsed", partition): len(values) for (_, partition), values in expected.items()}


async def test_a_stated_partition_is_taken_whatever_the_key() -> None:
    outbox, producer = outbox_of()
    await outbox.send([(Out(JOURNAL, b"topic:tm_x", b"entry", (), 31), None), (Out(STATE, b"k", None, (), 7), None)])
    assert set(producer.written) == {("t.journal", 31), ("t.state", 7)}
    assert producer.written["t.state", 7][0]["value"] is None  # deletes the key


async def test_a_record_carries_its_schema_its_headers_and_its_trace() -> None:
    outbox, producer = outbox_of()
    await outbox.send([(Out(RESULTS, b"k", b"v", [("a", b"1")]), TRACE), (Out(RESULTS, b"k", b"v"), None)])
    found = [record["headers"] for log in producer.written.values() for record in log]
    assert found == [[("schema", b"result/1"), ("a", b"1"), ("traceparent", TRACE)], [("schema", b"result/1")]]


async def test_a_full_batch_is_followed_by_another() -> None:
    """The offset after the last record counts those of all batches; a record larger than a batch has one of its own."""
    outbox, producer = outbox_of(Producer(batch_bytes=2000))
    sizes = [100, 900, 900, 5000, 10, 1900, 1900]
    ends = await outbox.send([(Out(EVENTS, b"k", bytes(size)), None) for size in sizes])
    assert [len(record["value"]) for record in producer.written["t.events", 0]] == sizes
    assert ends == {("events", 0): len(sizes)}
    assert len(producer.batches) > 3


async def test_much_at_once_is_sent_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A request carries a batch for each partition, and brokers refuse requests over 100 MiB."""
    monkeypatch.setattr("agents.runtime.outbox.FLUSH_BYTES", 3000)
    outbox, producer = outbox_of()
    ends = await outbox.send([(Out(EVENTS, b"k", bytes(1000)), None) for _ in range(7)])
    assert ends == {("events", 0): 7}
    assert len(producer.batches) == 2  # four make more than the bound, three are left


async def test_nothing_to_write_is_no_request() -> None:
    outbox, producer = outbox_of()
    assert await outbox.send([]) == {}
    assert producer.batches == []


# --- sizes

names = st.text(max_size=12)
headers = st.lists(st.tuples(names, st.none() | st.binary(max_size=40)), max_size=4)


@CHEAP
@given(
    st.sampled_from(TOPICS), st.none() | st.binary(max_size=70), st.none() | st.binary(max_size=400), headers,
    st.none() | st.just(TRACE),
)  # fmt: skip
async def test_a_record_is_never_larger_than_it_was_measured(
    topic: Topic, key: bytes | None, value: bytes | None, headers: list[tuple[str, bytes]], trace: bytes | None
) -> None:
    """The broker measures the batch the record stands in, by itself if need be."""
    outbox, producer = outbox_of()
    out = Out(topic, key, value, headers, 0)
    await outbox.send([(out, trace)])
    (batch,) = producer.batches
    assert len(batch) <= size_of(out)
    (record,) = DefaultRecordBatch(batch)
    assert (record.key, record.value) == (key, value)
    assert len(record.headers) == len(headers) + 1 + (trace is not None)


@pytest.mark.invariant("SIZE-1")
@pytest.mark.setting("topics.max_payload_bytes")
@pytest.mark.parametrize("topic", [PARSED, BROADCAST, EVENTS])
async def test_a_record_at_the_limit_passes_and_one_beyond_does_not(topic: Topic) -> None:
    """What passes is not larger than the broker was told to take."""
    outbox, producer = outbox_of(Producer(batch_bytes=64 << 20))
    limit = topic.max_bytes(PAYLOAD)
    room = limit - size_of(Out(topic, b"key", b""))
    outbox.check([Out(topic, b"key", bytes(room))])
    with pytest.raises(TooLarge, match=topic.name):
        outbox.check([Out(topic, b"key", b""), Out(topic, b"key", bytes(room + 1))])
    await outbox.send([(Out(topic, b"key", bytes(room)), TRACE)])
    assert len(producer.batches[0]) <= limit
