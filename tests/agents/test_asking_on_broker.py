"""Requests over HTTP while nobody answers, or somebody does: what a worker's port says, without stages."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from agents.runtime import asking
from agents.runtime.asking import Asking
from agents.runtime.settings import KafkaSettings, TopicSettings
from schemas.external import ResultOrigin
from schemas.reservations import OWNER_ANSWER, OWNER_REQUEST, OwnerAnswer, OwnerRequest
from tests.agents.harness import Bench
from tests.conftest import Broker
from tests.pipeline.test_baskets import OWNER_KEY
from topics.registry import ANSWERS, REQUESTS

OWNER = OWNER_KEY.hex()
PATH = f"/owners/{OWNER}/reservations"


@asynccontextmanager
async def port(kafka: KafkaSettings, topics: TopicSettings) -> AsyncIterator[str]:
    """The address of a port with these routes alone."""
    routes = Asking(kafka, topics)
    app = web.Application()
    routes.add_to(app.router)
    server = TestServer(app, host="127.0.0.1")
    await server.start_server()
    try:
        yield str(server.make_url("")).rstrip("/")
    finally:
        await server.close()
        await routes.stop()


async def post(url: str, **body: Any) -> tuple[int, dict[str, Any]]:
    asked = {"id": "one", "basket": "coins", "count": 1, "lease_s": 5} | body
    async with aiohttp.ClientSession() as session, session.post(url + PATH, json=asked) as response:
        return response.status, await response.json()


def said(outcome: Any, *, unasked: bool = False) -> bytes:
    origin = None if unasked else ResultOrigin("beef.requests", 0, 0)
    return OWNER_ANSWER.encode(
        OwnerAnswer(id="a", request_id="one", owner=OWNER, outcome=outcome, origin=origin, time="")
    )


@pytest.mark.broker
async def test_a_request_is_written_and_answered_once_somebody_answers(
    broker: Broker, prefix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Bench(broker.bootstrap, prefix, tmp_path) as bench, port(bench.kafka, bench.topics) as url:
        monkeypatch.setattr(asking, "ANSWER_WITHIN_S", 0.3)
        status, nothing = await post(url)
        assert (status, nothing["error"]) == (504, "no-answer")
        (record,) = await bench.wait_for(REQUESTS, 1)
        assert record.key == OWNER.encode()
        request = OWNER_REQUEST.decode(record.value, record.headers)
        assert request == OwnerRequest(id="one", owner=OWNER, operation="reserve", basket="coins", count=1, lease_s=5)

        monkeypatch.setattr(asking, "ANSWER_WITHIN_S", 20.0)
        both = [asyncio.ensure_future(post(url)) for _ in range(2)]
        await bench.wait_for(REQUESTS, 3)
        # Word for a holder is no answer to a request of the same name; what cannot be read is nobody's.
        for value in (b"{", said("expired", unasked=True), said("reserved")):
            await bench.send(ANSWERS, [value], [b"one"])
        for status, answer in await asyncio.gather(*both):
            assert (status, answer["outcome"]) == (200, "reserved")

        monkeypatch.setattr(asking, "MOST_WAITING", 0)
        status, busy = await post(url)
        assert (status, busy["error"]) == (503, "busy")


async def test_without_a_broker_it_says_so() -> None:
    async with port(KafkaSettings(bootstrap="127.0.0.1:1"), TopicSettings()) as url:
        status, answer = await post(url)
        assert (status, answer["error"]) == (503, "no-broker")
        status, wrong = await post(url, lease_s=0)
        assert (status, wrong["error"]) == (400, "malformed.request")


@pytest.mark.parametrize(
    ("body", "says"), [(b"[]", "a JSON object"), (b"{", "a JSON object"), (b'{"operation": "x"}', "path")]
)
async def test_what_is_no_request_is_said(body: bytes, says: str) -> None:
    async with port(KafkaSettings(bootstrap="127.0.0.1:1"), TopicSettings()) as url, aiohttp.ClientSession() as session:
        async with session.post(url + PATH, data=body) as response:
            assert response.status == 400
            assert says in json.loads(await response.read())["message"]
        async with session.post(f"{url}/owners/02ab/reservations", data=b"{}") as response:
            assert response.status == 400
