"""Reads over HTTP from a store at hand, without a broker."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from agents.runtime.partitioner import partition_for
from agents.runtime.reads import FORWARDED, Reads
from agents.runtime.settings import KafkaSettings, TopicSettings
from agents.runtime.shelf import Readable
from pipeline import state
from pipeline.prepare import whole
from pipeline.state import Corrupt, Memory
from schemas.flow import Part
from schemas.types import display
from tests.fakes import Owner, apply_of, coin_of_others, made_tx, verified
from topics.registry import OPERATIONS

ALL = "topic:tm_all"
NUMBER = partition_for(ALL.encode(), OPERATIONS.partitions)


@asynccontextmanager
async def asked(store: Memory, spoiled: list[int], differing: bool = False) -> AsyncIterator[Any]:
    """What a worker that holds the store answers: status and JSON. differing: it is being made again."""

    def spoil(number: int, error: Corrupt) -> None:
        spoiled.append(number)

    held: Any = {NUMBER: Readable(cast(Any, store), 1, owner=True)}
    made_again: Any = {NUMBER: store}
    stores, others = ({}, made_again) if differing else (held, {})
    reads = Reads(KafkaSettings(), TopicSettings(), {}, None, stores, spoil, others)
    app = web.Application()
    reads.add_to(app.router)
    async with TestServer(app, host="127.0.0.1") as server, ClientSession() as session:

        async def get(path: str, consistency: str = "any") -> tuple[int, Any]:
            url, params = server.make_url(path), {"consistency": consistency}
            async with session.get(url, params=params, headers={FORWARDED: "1"} if differing else {}) as response:
                return response.status, await response.json()

        yield get


async def test_a_value_that_is_none_of_its_kind_is_told_as_broken() -> None:
    """As it was written, and nothing this version reads: to make the store again would bring it again."""
    owner, tx = Owner(), made_tx([coin_of_others(1)], 1, 1)
    spoiled: list[int] = []
    owner.do(ALL, apply_of(verified(tx)))
    key = state.key(ALL, state.TX, tx.txid)
    async with asked(owner.store, spoiled) as get:
        assert (await get("/topics/tm_all/outputs"))[0] == 200
        owner.store.entries[key] = state.seal(b"junk")
        for path in ("/topics/tm_all/outputs", f"/transactions/{display(tx.txid)}"):
            status, body = await get(path)
            assert (status, body["error"]) == (503, "broken")
            assert f"partition {NUMBER} of the state cannot be read" in body["message"]
        assert spoiled == []
        owner.store.entries[key] = bytes(32) + b"junk"
        assert (await get("/topics/tm_all/outputs"))[1]["error"] == "differs"
        assert spoiled == [NUMBER]


async def test_a_store_that_differs_answers_any_reads_alone_and_says_so() -> None:
    """Where nobody else answers: a forwarded question is not forwarded again."""
    owner, tx = Owner(), made_tx([coin_of_others(1)], 1, 1)
    owner.do(ALL, apply_of(verified(tx)))
    async with asked(owner.store, [], differing=True) as get:
        status, body = await get("/topics/tm_all/state")
        assert (status, body["differs"], body["sequence"]) == (200, True, 1)
        status, body = await get("/topics/tm_all/outputs")
        assert (status, body["state"]["differs"], len(body["outputs"])) == (200, True, 1)
        assert (await get("/topics/tm_all/state", "strong"))[0] == 503
        owner.store.entries[state.key(ALL, state.TX, tx.txid)] = bytes(32) + b"junk"
        assert (await get("/topics/tm_all/outputs"))[1]["error"] == "differs"
    async with asked(owner.store, []) as get:
        assert (await get("/topics/tm_all/state"))[1]["differs"] is False


async def test_undecided_operations_are_named_where_the_state_is_asked_for() -> None:
    """Of a topic and of an owner alike; other answers say how many."""
    owner, tx = Owner(), made_tx([coin_of_others(1)], 1, 1)
    operation = whole(0, verified(tx, contexts=(ALL, "topic:tm_keep")), [Part(ALL), Part("topic:tm_keep")])
    async with asked(owner.store, []) as get:
        _, body = await get("/topics/tm_all/state")
        assert (body["undecided"], body["undecided_operations"]) == (0, [])
        owner.do(ALL, operation)
        _, body = await get("/topics/tm_all/state")
        named = {"operation": operation.operation, "txid": display(tx.txid), "attempt": 0}
        assert (body["undecided"], body["undecided_operations"]) == (1, [named])
        _, body = await get("/topics/tm_all/outputs")
        assert (body["state"]["undecided"], body["state"]["undecided_operations"]) == (1, [])
