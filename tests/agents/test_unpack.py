"""Compressed batches: read like any, within a bound."""

import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.codec import gzip_encode, lz4_encode, snappy_encode, zstd_encode

from agents.runtime import lenient
from agents.runtime.unpack import GZIP, LZ4, SNAPPY, ZSTD, Unreadable, unpack
from schemas.headers import UNREADABLE
from tests.agents.harness import Bench
from tests.agents.test_lenient import batch, read
from tests.conftest import Broker
from topics.registry import INGEST, PARSED, RESULTS

CODECS: list[tuple[int, Callable[[bytes], bytes]]] = [
    (GZIP, gzip_encode),
    (SNAPPY, snappy_encode),
    (SNAPPY, lambda data: bytes(snappy_encode(data, xerial_compatible=False))),
    (LZ4, lz4_encode),
    (ZSTD, zstd_encode),
]

NAMES = ["gzip", "snappy", "snappy-raw", "lz4", "zstd"]


@pytest.mark.parametrize(("codec", "encode"), CODECS, ids=NAMES)
@pytest.mark.parametrize("size", [1, 1000, 70_000, 300_000])
def test_what_was_packed_comes_out(codec: int, encode: Callable[[bytes], bytes], size: int) -> None:
    data = random.Random(size).randbytes(size // 2) + bytes(size - size // 2)
    assert unpack(codec, memoryview(encode(data)), 300_000) == data


@pytest.mark.parametrize(("codec", "encode"), CODECS, ids=NAMES)
def test_what_swells_beyond_the_bound_is_not_unpacked(codec: int, encode: Callable[[bytes], bytes]) -> None:
    bomb = encode(bytes(50_000_000))
    tracemalloc.start()
    with pytest.raises(Unreadable, match="more than 1000000 bytes"):
        unpack(codec, memoryview(bomb), 1_000_000)
    assert tracemalloc.get_traced_memory()[1] < 10_000_000
    tracemalloc.stop()


@pytest.mark.parametrize("codec", [GZIP, SNAPPY, LZ4, ZSTD, 5, 7])
def test_bytes_that_are_nothing_of_it(codec: int) -> None:
    with pytest.raises(Unreadable):
        unpack(codec, memoryview(b"\xff" * 40), 1000)


def test_one_record_stands_for_a_batch_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    data = batch(7, [(bytes(1000), [])] * 50, GZIP) + batch(57, [(b"next", [])])
    assert [offset for offset, _, _ in read(data, 7)] == [*range(7, 58)]
    monkeypatch.setattr(lenient, "UNPACKED_BYTES", 20_000)
    (stands, following) = read(data, 7)
    assert (stands[0], stands[1]) == (7, None)
    ((name, why),) = stands[2]
    assert name == UNREADABLE
    assert why is not None
    assert why.endswith(b"offset 7 to 56")
    assert following[:2] == (57, b"next")


@pytest.mark.broker
async def test_every_codec_and_a_bomb_through_a_stage(broker: Broker, prefix: str, tmp_path: Path) -> None:
    """The partition goes on behind the bomb, and its sender hears of it."""
    async with Bench(broker.bootstrap, prefix, tmp_path) as bench:
        for codec in ("gzip", "snappy", "lz4", "zstd"):
            producer = AIOKafkaProducer(
                bootstrap_servers=broker.bootstrap, compression_type=codec, max_batch_size=200 << 20, linger_ms=50
            )
            await producer.start()
            topic = INGEST.named(prefix)
            for n in range(20):
                await producer.send(topic, f"{codec} {n}".encode(), partition=0)
            await producer.flush()
            if codec == "zstd":
                builder = producer.create_batch()
                for _ in range(10):
                    assert builder.append(key=b"bomb", value=bytes(8 << 20), timestamp=None) is not None
                builder.close()
                await (await producer.send_batch(builder, topic, partition=0))
                await producer.send_and_wait(topic, b"behind it", partition=0)
            await producer.stop()
        bench.worker("odd")
        found = await bench.wait_for(PARSED, 82)
        values = {record.value for record in found}
        assert values >= {f"{codec} {n}".encode() for codec in ("gzip", "snappy", "lz4", "zstd") for n in range(20)}
        assert b"behind it" in values
        assert await bench.read(RESULTS) == []  # this stage passes on what parse would refuse
        (stands,) = [record for record in found if not record.value]
        assert stands.offset > 0
        await bench.until_idle("odd", INGEST)


def test_parse_tells_the_sender() -> None:
    from agents.parse import Parse, ParseSettings
    from agents.runtime.records import Refuse
    from pipeline.policy import Policy
    from tests.fakes import Record

    stage = Parse(ParseSettings(), Policy(), "cluster")
    said = stage.decide(Record(value=None, headers=[(UNREADABLE, b"holds more")]), None, 0)
    assert isinstance(said, Refuse)
    assert (said.verdict.code, said.verdict.message) == ("malformed.compression", "holds more")
