"""What stands between clients and brokers passes on what both say, and loses what it is told to."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO

import pytest
from aiokafka.protocol.metadata import MetadataResponse_v1

from ops.instruments.proxy import END_TXN, METADATA, PRODUCE, Proxy

BROKERS = [(1, "127.0.0.1", 1, None), (2, "127.0.0.1", 2, None)]


class Broker:
    """Answers each request with its bytes behind the correlation id; names brokers where it is asked for metadata."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                frame = await read(reader)
                api = int.from_bytes(frame[:2], "big")
                self.asked.append(api)
                body = MetadataResponse_v1(BROKERS, 1, []).encode() if api == METADATA else frame[8:]
                write(writer, frame[4:8] + (body if frame[8:] != b"nonsense" else b"\xff"))
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


async def read(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))


def write(writer: asyncio.StreamWriter, frame: bytes) -> None:
    writer.write(len(frame).to_bytes(4, "big") + frame)


@pytest.fixture
async def broker() -> AsyncIterator[tuple[Broker, str]]:
    made = Broker()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    yield made, f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    server.close()


class Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer
        self.count = 0

    async def ask(self, api: int, what: bytes = b"") -> bytes:
        self.count += 1
        correlation = self.count.to_bytes(4, "big")
        write(self.writer, api.to_bytes(2, "big") + (1).to_bytes(2, "big") + correlation + what)
        answer = await asyncio.wait_for(read(self.reader), 5)
        assert answer[:4] == correlation
        return answer[4:]


@asynccontextmanager
async def connected(proxy: Proxy) -> AsyncIterator[Client]:
    host, _, port = proxy.bootstrap.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    yield Client(reader, writer)
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def test_questions_and_answers_pass_whatever_their_size(broker: tuple[Broker, str]) -> None:
    async with Proxy(broker[1]) as proxy, connected(proxy) as client:
        for what in (b"", b"x", bytes(3 << 20)):
            assert await client.ask(PRODUCE, what) == what
        assert proxy.failed == []


@pytest.mark.parametrize("direction", ["answer", "request"])
async def test_what_is_to_be_lost_is_lost_once_with_its_connection(broker: tuple[Broker, str], direction: str) -> None:
    """An answer is lost behind what the broker did; a request before."""
    served, address = broker
    async with Proxy(address) as proxy:
        lost = proxy.lose(END_TXN, direction)  # type: ignore[arg-type] # one of the two
        async with connected(proxy) as client:
            assert await client.ask(PRODUCE, b"before") == b"before"
            assert not lost.is_set()
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await client.ask(END_TXN, b"gone")
        assert lost.is_set()
        assert served.asked.count(END_TXN) == (direction == "answer")
        async with connected(proxy) as again:
            assert await again.ask(END_TXN, b"again") == b"again"
        assert proxy.failed == []


async def test_brokers_that_are_named_are_reached_through_it(broker: tuple[Broker, str]) -> None:
    async with Proxy(broker[1]) as proxy, connected(proxy) as client:
        answer = MetadataResponse_v1.decode(BytesIO(await client.ask(METADATA)))
        ports = [port for _, _, port, _ in answer.brokers]
        assert len(set(ports)) == 2
        assert not {1, 2} & set(ports)
        assert [(node, host) for node, host, _, _ in answer.brokers] == [(1, "127.0.0.1"), (2, "127.0.0.1")]
        repeated = MetadataResponse_v1.decode(BytesIO(await client.ask(METADATA)))
        assert [port for _, _, port, _ in repeated.brokers] == ports


async def test_what_it_cannot_read_is_kept_and_not_passed_on(broker: tuple[Broker, str]) -> None:
    async with Proxy(broker[1]) as proxy, connected(proxy) as client:
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await client.ask(METADATA, b"nonsense")
        assert len(proxy.failed) == 1
