"""Requests over HTTP: written to `requests` as anybody would, and answered with what `answers` says.

Any worker takes them. One that is not answered in time may be sent again under its id: it takes effect once.
"""

import asyncio
import contextlib
import json
import logging
import uuid
from typing import Any

import msgspec
from aiohttp import web
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaError

from agents.runtime.connection import client_options
from agents.runtime.journaled import Refused
from agents.runtime.reads import owner_of
from agents.runtime.settings import KafkaSettings, TopicSettings
from agents.runtime.transport import producer_options
from pipeline import requests
from pipeline.baskets import OWNED
from schemas.reservations import OWNER_ANSWER, OWNER_REQUEST, OwnerAnswer
from schemas.wire import Undecodable
from topics.registry import ANSWERS, REQUESTS

log = logging.getLogger(__name__)

ANSWER_WITHIN_S = 10.0
"""A batch of each of two stages takes a fraction of a second; behind more than this a client may as well ask again."""

MOST_WAITING = 1_000
"""Requests of a worker that wait for their answers: some megabytes, and more than one connection's worth of load."""

_answer = msgspec.json.Encoder().encode


class Asking:
    """The routes. Connects when it is first asked."""

    def __init__(self, kafka: KafkaSettings, topics: TopicSettings) -> None:
        self._kafka = kafka
        self._requests, self._answers = REQUESTS.named(topics.prefix), ANSWERS.named(topics.prefix)
        self._largest = REQUESTS.max_bytes(topics.max_payload_bytes)
        self._producer: Any = None
        self._reader: Any = None
        self._following: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()
        self._waiting: dict[str, asyncio.Future[OwnerAnswer]] = {}  # by request id

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Answer under these paths."""
        base = "/owners/{owner}/reservations"
        router.add_post(base, self._route("reserve"))
        router.add_post(base + "/{id}/extend", self._route("extend"))
        router.add_post(base + "/{id}/release", self._route("release"))

    async def stop(self) -> None:
        """Disconnect."""
        following, self._following = self._following, None
        if following is not None:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        for each in (self._producer, self._reader):
            if each is not None:
                await each.stop()
        self._producer = self._reader = None

    def _route(self, operation: str) -> Any:
        async def handle(request: web.Request) -> web.Response:
            try:
                return await self._handle(request, operation)
            except Refused as refused:
                return refused.reply()
            except KafkaError as error:
                return Refused(503, "no-broker", f"the broker does not answer: {error!r}").reply()

        return handle

    async def _handle(self, request: web.Request, operation: str) -> web.Response:
        context = owner_of(request)
        named = {"reservation": request.match_info["id"]} if operation != "reserve" else {}
        value = _written(await request.read(), context.removeprefix(OWNED), operation, named)
        read = requests.read(value)
        if isinstance(read, requests.Unread):
            raise Refused(400, read.verdict.code, read.verdict.message)
        answer = await self._ask(read.request_id, context, value)
        return web.Response(
            status=409 if answer.outcome == "refused" else 200, body=_answer(answer), content_type="application/json"
        )

    async def _ask(self, name: str, context: str, value: bytes) -> OwnerAnswer:
        await self._connect()
        if len(self._waiting) >= MOST_WAITING:
            raise Refused(503, "busy", f"{MOST_WAITING:,} requests wait for their answers here")
        answer = self._waiting.get(name)
        if answer is None:
            answer = self._waiting[name] = asyncio.get_running_loop().create_future()
        try:
            key = context.removeprefix(OWNED).encode()
            await self._producer.send_and_wait(self._requests, value, key=key, headers=[OWNER_REQUEST.header])
            async with asyncio.timeout(ANSWER_WITHIN_S):
                return await asyncio.shield(answer)
        except TimeoutError as error:
            said = f"request {name!r} is not answered yet: ask again, under the same id"
            raise Refused(504, "no-answer", said) from error
        finally:
            if self._waiting.get(name) is answer:
                del self._waiting[name]

    async def _connect(self) -> None:
        """Answers are read from here on: before what they answer is written."""
        async with self._connecting:
            if self._following is not None and not self._following.done():
                return
            await self.stop()
            options = client_options(self._kafka)
            self._producer = AIOKafkaProducer(**producer_options(self._kafka, self._largest))
            self._reader = AIOKafkaConsumer(**options, isolation_level="read_committed", enable_auto_commit=False)
            await self._producer.start()
            await self._reader.start()
            numbers = await self._producer.partitions_for(self._answers)
            partitions = [TopicPartition(self._answers, number) for number in sorted(numbers)]
            self._reader.assign(partitions)
            for partition, end in (await self._reader.end_offsets(partitions)).items():
                self._reader.seek(partition, end)
            self._following = asyncio.create_task(self._follow(self._reader), name="beefline-answers")

    async def _follow(self, reader: Any) -> None:
        with contextlib.suppress(KafkaError):  # who asks next connects anew
            while True:
                for records in (await reader.getmany(timeout_ms=1000)).values():
                    for record in records:
                        self._hear(record)

    def _hear(self, record: Any) -> None:
        waits = self._waiting.get((record.key or b"").decode("utf-8", "replace"))
        if waits is None or waits.done():
            return
        try:
            answer = OWNER_ANSWER.decode(record.value, record.headers)
        except Undecodable as error:
            log.error("%s/%d/%d cannot be read: %s", record.topic, record.partition, record.offset, error.message)
            return
        if answer.origin is not None:  # else word for a holder, which answers no request
            waits.set_result(answer)


def _written(body: bytes, owner: str, operation: str, named: dict[str, str]) -> bytes:
    """A request as `requests` takes it: what the path says, and what the body says besides."""
    try:
        given = json.loads(body or b"{}")
    except (ValueError, RecursionError) as error:
        raise Refused(400, "malformed.request", f"a JSON object: {error}") from error
    said = {"owner": owner, "operation": operation, **named}
    if not isinstance(given, dict) or (twice := sorted(said.keys() & given.keys())):
        what = f"{twice[0]} stands in the path" if isinstance(given, dict) else "a JSON object"
        raise Refused(400, "malformed.request", what)
    return json.dumps({"id": uuid.uuid4().hex, **given, **said}).encode()
