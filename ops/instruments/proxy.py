"""Between Kafka's clients and its brokers, on loopback: it passes on what both say, and loses what it is told to.

It knows enough of the protocol to tell which answer is to which question, and to put itself in the place of every
broker that an answer names. For aiokafka's clients: it rewrites the versions those ask for.
"""

import asyncio
import contextlib
from io import BytesIO
from typing import Any, Literal

from aiokafka.protocol.coordination import FindCoordinatorRequest
from aiokafka.protocol.metadata import MetadataRequest
from msgspec import Struct

LOOPBACK = "127.0.0.1"

PRODUCE = 0
METADATA = 3
FIND_COORDINATOR = 10
END_TXN = 26
"""API keys: https://kafka.apache.org/protocol#protocol_api_keys."""

Direction = Literal["request", "answer"]

_NAMES_BROKERS = {METADATA: MetadataRequest, FIND_COORDINATOR: FindCoordinatorRequest}
_ANSWERS: dict[tuple[int, int], Any] = {
    (key, each.API_VERSION): each.RESPONSE_TYPE for key, kind in _NAMES_BROKERS.items() for each in kind._CLASSES
}


class Loss(Struct):
    """What is to be lost, the next time it passes: the connection breaks in its place."""

    api: int
    direction: Direction
    done: asyncio.Event


class Proxy:
    """Used as an async context manager."""

    def __init__(self, bootstrap: str) -> None:
        """bootstrap: of the brokers, as for a client."""
        self._brokers = [_split(each) for each in bootstrap.split(",")]
        self._doors: dict[tuple[str, int], int] = {}  # broker -> our port for it
        self._servers: list[asyncio.Server] = []
        self._opening = asyncio.Lock()
        self._passing: set[asyncio.Task[Any]] = set()
        self._losses: list[Loss] = []
        self.failed: list[BaseException] = []  # what went wrong here: what passed then proves nothing

    async def __aenter__(self) -> "Proxy":
        for host, port in self._brokers:
            await self._door(host, port)
        return self

    async def __aexit__(self, *_: object) -> None:
        for server in self._servers:
            server.close()
        for task in self._passing:
            task.cancel()
        await asyncio.gather(*self._passing, return_exceptions=True)

    @property
    def bootstrap(self) -> str:
        """What clients are told."""
        return ",".join(f"{LOOPBACK}:{self._doors[broker]}" for broker in self._brokers)

    def lose(self, api: int, direction: Direction) -> asyncio.Event:
        """Lose the next one of these; the event is set when it happened."""
        loss = Loss(api, direction, asyncio.Event())
        self._losses.append(loss)
        return loss.done

    async def _door(self, host: str, port: int) -> int:
        async with self._opening:
            if (host, port) not in self._doors:
                server = await asyncio.start_server(lambda r, w: self._serve(r, w, host, port), LOOPBACK, 0)
                self._servers.append(server)
                self._doors[host, port] = int(server.sockets[0].getsockname()[1])
            return self._doors[host, port]

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._passing.add(task)
        writers = [writer]
        try:
            upstream, to_broker = await asyncio.open_connection(host, port)
            writers.append(to_broker)
            asked: dict[int, tuple[int, int]] = {}  # by correlation id: API and version
            ways = [
                asyncio.ensure_future(self._requests(reader, to_broker, asked)),
                asyncio.ensure_future(self._answers(upstream, writer, asked)),
            ]
            try:
                done, _ = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
                await asyncio.gather(*ways, return_exceptions=True)
            for way in done:
                way.result()
        except (OSError, asyncio.IncompleteReadError):
            pass  # one side has gone, or is not there: the other is told so by its end
        except Exception as error:  # noqa: BLE001 - kept for who runs this; asyncio would only log it
            self.failed.append(error)
        finally:
            self._passing.discard(task)
            for each in writers:
                each.close()
                with contextlib.suppress(OSError):
                    await each.wait_closed()

    async def _requests(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: dict[int, tuple[int, int]]
    ) -> None:
        while True:
            frame = await _frame(reader)
            api, version = int.from_bytes(frame[:2], "big"), int.from_bytes(frame[2:4], "big")
            asked[int.from_bytes(frame[4:8], "big")] = api, version
            if self._lost(api, "request"):
                return
            await _pass(writer, frame)

    async def _answers(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, asked: dict[int, tuple[int, int]]
    ) -> None:
        while True:
            frame = await _frame(reader)
            api, version = asked.pop(int.from_bytes(frame[:4], "big"))
            if self._lost(api, "answer"):
                return
            if api in _NAMES_BROKERS:
                frame = frame[:4] + await self._named(frame[4:], api, version)
            await _pass(writer, frame)

    def _lost(self, api: int, direction: Direction) -> bool:
        for loss in self._losses:
            if (loss.api, loss.direction) == (api, direction):
                self._losses.remove(loss)
                loss.done.set()
                return True
        return False

    async def _named(self, body: bytes, api: int, version: int) -> bytes:
        """The answer with our ports in place of brokers' own."""
        answer = _ANSWERS[api, version].decode(BytesIO(body))
        if api == METADATA:
            answer.brokers = [
                (node, LOOPBACK, await self._door(host, port), *rest) for node, host, port, *rest in answer.brokers
            ]
        elif answer.port > 0:  # 0 or less: there is no coordinator yet
            answer.port, answer.host = await self._door(answer.host, answer.port), LOOPBACK
        encoded: bytes = answer.encode()
        return encoded


async def _frame(reader: asyncio.StreamReader) -> bytes:
    return await reader.readexactly(int.from_bytes(await reader.readexactly(4), "big"))


async def _pass(writer: asyncio.StreamWriter, frame: bytes) -> None:
    writer.write(len(frame).to_bytes(4, "big") + frame)
    await writer.drain()


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.strip().rpartition(":")
    return host, int(port)
