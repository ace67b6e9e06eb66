"""Reads of the state over HTTP: any worker answers, and names the sequence and the roots it answers from (READ-1).

Who holds a partition answers from its own store; others forward the question, once. `any` is what stands there now.
`strong` is no older than what was committed when the question came: the holder asks the broker where the changelog
ends, and answers when its store has come as far. One that was paused and replaced meanwhile never does, and says so.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import aiohttp
import msgspec
from aiohttp import web
from aiokafka.errors import KafkaError

from agents.runtime.journaled import Refused, behind, journal_page, payload_of, readable
from agents.runtime.members import Directory
from agents.runtime.partitioner import partition_for
from agents.runtime.places import Places
from agents.runtime.settings import KafkaSettings, TopicSettings
from agents.runtime.shelf import Readable
from agents.runtime.store import Store
from pipeline import listed, read, reserved
from pipeline.bag import Bag
from pipeline.baskets import CHANGE, FIELD_BYTES, FIELD_NUMBERS, OWNED, BadInstruction, basket_name, name_of
from pipeline.codec.reader import Malformed
from pipeline.state import Corrupt, head_of
from schemas.baskets import BasketOutputs, Baskets, FieldValues
from schemas.external import ContextState, JournalPage, Outputs, Standing, TransactionStanding
from schemas.members import Held
from schemas.reservations import OneReservation, Reservations
from schemas.types import Context, Txid, display, from_display, is_context, is_topic_name
from topics.registry import JOURNAL, MEMBERS, OPERATIONS, STATE

log = logging.getLogger(__name__)

PATIENCE_S = 5.0
"""How long a read waits for the store to come as far as it must."""

LOOK_S = 0.01
"""Between looks at a store that is waited for."""

FORWARD_S = 10.0
"""For another worker's answer: its patience and the way."""

MOST = 1_000
"""Outputs, entries or values in an answer; of each a few hundred bytes."""

MOST_LISTED = 10_000
"""As BRC-100 has it."""

MOST_ASKED = 100
"""Tags and fields in a question: of each the outputs are gone through."""

Stated = ContextState | Outputs | BasketOutputs | Baskets | FieldValues | Reservations | OneReservation
"""What is told of one context."""

WHOLE_S = 4.0
"""For payloads out of the journal: after `PATIENCE_S` there is as much left of `FORWARD_S`."""

SCRIPTS, WHOLE = "locking scripts", "entire transactions"

FORWARDED = "X-Beefline-Forwarded"

Stores = Mapping[int, Readable]
"""By partition."""

_encode = msgspec.json.Encoder().encode


async def _as_found(found: Any) -> Stated:
    told: Stated = found
    return told


class Reads:
    """The routes."""

    def __init__(
        self,
        kafka: KafkaSettings,
        topics: TopicSettings,
        partitions: Mapping[str, int],
        token: str | None,
        stores: Stores,
        spoil: Callable[[int, Corrupt], None],
        differing: Mapping[int, Store],
    ) -> None:
        """What to answer from.

        partitions: of topics, by their logical name; token: what other workers want to see; stores: those this worker
        holds, as they come and go; spoil: told of a partition whose store is not what was written; differing: stores
        found to be so, for `any` reads that nobody else answers.
        """
        prefix = topics.prefix
        # What a topic that is missing has does not matter: who needs it refuses to start, and says which.
        self._count = partitions.get(OPERATIONS.name, OPERATIONS.partitions)
        self._token = token
        self._stores = stores
        self._spoil = spoil
        self._differing = differing
        self._directory = Directory(kafka, MEMBERS.named(prefix))
        self._changelog = _Lazy(Places(kafka, STATE.named(prefix), self._count))
        self._journal = _Lazy(Places(kafka, JOURNAL.named(prefix), self._count))
        self._session: aiohttp.ClientSession | None = None

    def add_to(self, router: web.UrlDispatcher) -> None:
        """Answer under these paths."""
        for path, handler in (
            ("/topics/{topic}/state", self._state),
            ("/topics/{topic}/outputs", self._outputs),
            ("/owners/{owner}/state", self._owner_state),
            ("/owners/{owner}/baskets", self._baskets),
            ("/owners/{owner}/outputs", self._listed),
            ("/owners/{owner}/values", self._values),
            ("/owners/{owner}/change", self._change),
            ("/owners/{owner}/reservations", self._reservations),
            ("/owners/{owner}/reservations/{id}", self._reservation),
            ("/transactions/{txid}", self._transaction),
            ("/journal/{context}", self._entries),
        ):
            router.add_get(path, self._answer(handler))
        router.add_post("/repair/{partition}", self._answer(self._repair))

    async def stop(self) -> None:
        """Close what was opened."""
        await self._directory.stop()
        await self._changelog.stop()
        await self._journal.stop()
        if self._session is not None:
            await self._session.close()

    def held(self) -> Sequence[Held]:
        """What to say on `members`."""
        return [
            Held(number, each.generation, each.store.position, each.owner)
            for number, each in sorted(self._stores.items())
        ]

    # --- routes

    def _answer(
        self, handler: Callable[[web.Request], Awaitable[web.Response]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def answer(request: web.Request) -> web.Response:
            try:
                return await handler(request)
            except Refused as refused:
                return refused.reply()
            except KafkaError as error:
                return Refused(503, "no-broker", f"the broker does not answer: {error!r}").reply()

        return answer

    async def _state(self, request: web.Request) -> web.Response:
        context = _topic(request)
        return await self._of_context(request, context, lambda store: read.context_in_full(store, context))

    async def _outputs(self, request: web.Request) -> web.Response:
        context, limit = _topic(request), _number(request, "limit", 100, most=MOST)
        given = request.query.get("after")
        try:
            after = read.read_outpoint(given) if given is not None else None
        except ValueError as error:
            raise Refused(400, "bad-request", f"after: {error}") from error
        return await self._of_context(request, context, lambda store: read.outputs(store, context, after, limit))

    async def _owner_state(self, request: web.Request) -> web.Response:
        context = owner_of(request)
        return await self._of_context(request, context, lambda store: read.context_in_full(store, context))

    async def _baskets(self, request: web.Request) -> web.Response:
        context = owner_of(request)
        return await self._of_context(request, context, lambda store: listed.summary(store, context))

    async def _listed(self, request: web.Request) -> web.Response:
        """`listOutputs` of BRC-100: what an application may ask."""
        return await self._outputs_of(request, basket_name)

    async def _change(self, request: web.Request) -> web.Response:
        """What pays the owner: for the wallet itself."""
        return await self._outputs_of(request, lambda _: CHANGE)

    async def _values(self, request: web.Request) -> web.Response:
        """What a field of a basket's outputs holds."""
        context, asked = owner_of(request), request.query
        try:
            basket = basket_name(asked.get("basket", ""))
        except BadInstruction as error:
            raise Refused(400, "bad-request", str(error)) from error
        if "field" not in asked:
            raise Refused(400, "bad-request", "field is the number of one")
        number = _number(request, "field", 0, most=FIELD_NUMBERS[-1], least=0)
        only, after = (_value(name, asked[name]) if name in asked else None for name in ("value", "after"))
        limit = _number(request, "limit", 100, most=MOST)

        def told(store: Store) -> FieldValues:
            return listed.values(store, context, basket, number, only=only, after=after, limit=limit)

        return await self._of_context(request, context, told)

    async def _reservations(self, request: web.Request) -> web.Response:
        context, limit = owner_of(request), _number(request, "limit", 100, most=MOST)
        after = request.query.get("after", "")
        return await self._of_context(request, context, lambda store: reserved.page(store, context, after, limit))

    async def _reservation(self, request: web.Request) -> web.Response:
        context, name = owner_of(request), request.match_info["id"]
        return await self._of_context(request, context, lambda store: reserved.one(store, context, name))

    async def _outputs_of(self, request: web.Request, name: Callable[[str], str]) -> web.Response:
        context, asked = owner_of(request), request.query
        try:
            tags = tuple(name_of("tag", tag) for tag in asked.getall("tag", ()))
            basket = name(asked.get("basket", ""))
        except BadInstruction as error:
            raise Refused(400, "bad-request", str(error)) from error
        mode = asked.get("tagQueryMode", "any")
        if mode not in ("any", "all"):
            raise Refused(400, "bad-request", "tagQueryMode is `any` or `all`")
        fields = tuple(_field(given) for given in asked.getall("field", ()))
        if len(tags) + len(fields) > MOST_ASKED:
            raise Refused(400, "bad-request", f"{MOST_ASKED} tags and fields at most")
        wanted = listed.Wanted(
            basket=basket,
            tags=tags,
            every_tag=mode == "all",
            fields=fields,
            limit=_number(request, "limit", 10, most=MOST_LISTED),
            offset=_number(request, "offset", 0, least=0),
            locking_scripts=_include(request) == SCRIPTS,
            custom_instructions=_flag(request, "includeCustomInstructions"),
            with_tags=_flag(request, "includeTags"),
            labels=_flag(request, "includeLabels"),
            with_fields=_flag(request, "includeFields"),
        )
        if _include(request) != WHOLE:
            return await self._of_context(request, context, lambda store: listed.outputs(store, context, wanted))

        def told(store: Store) -> tuple[BasketOutputs, tuple[listed.Brought, ...]]:
            page = listed.outputs(store, context, wanted)
            return page, listed.brought(store, context, page)

        async def whole(found: tuple[BasketOutputs, tuple[listed.Brought, ...]]) -> BasketOutputs:
            page, brought = found
            bag = Bag()
            taken: set[Txid] = set()
            try:
                async with asyncio.timeout(WHOLE_S):
                    await self._gather(context, brought, bag, taken)
            except TimeoutError as error:
                if not taken:
                    raise behind(f"the journal was not read within {WHOLE_S:.0f} s") from error
            return listed.cut(page, taken, bag.beef()) if taken else page

        return await self._of_context(request, context, told, whole)

    async def _gather(self, context: Context, brought: Sequence[listed.Brought], bag: Bag, taken: set[Txid]) -> None:
        """Put whole transactions into a bag, as far as they go into one BEEF together; which of them were taken."""
        places, number = await self._journal.get(), partition_for(context.encode(), self._count)
        end = await places.end(number)
        for each in brought:
            beef = None
            if each.sequence:
                beef = await payload_of(places, number, context, each.sequence, each.since_ms, end)
            if beef is None:
                raise Refused(
                    404, "not-kept", f"the journal does not hold the payload that {display(each.txid)} came with"
                )
            try:
                if not bag.add(each.txid, beef):
                    break
            except Malformed as error:
                log.error("entry %s of %s holds no payload: %s", each.sequence, context, error)
                raise Refused(503, "broken", f"entry {each.sequence} of {context} holds no payload: {error}") from error
            taken.add(each.txid)

    async def _of_context(
        self,
        request: web.Request,
        context: Context,
        answer: Callable[[Store], Any],
        complete: Callable[[Any], Awaitable[Stated]] = _as_found,
    ) -> web.Response:
        """What the state says of a context. complete: adds to it what stands elsewhere, and does not change."""
        strong, least = _consistency(request), _number(request, "min_sequence", 0)
        number = partition_for(context.encode(), self._count)
        if number not in self._stores:
            if strong or number not in self._differing:
                return await self._forward(request, number)
            try:
                reply = await self._forward(request, number)
            except Refused:
                return await self._marked(number, answer, complete)
            return await self._marked(number, answer, complete) if reply.status == 503 else reply
        deadline = time.monotonic() + PATIENCE_S
        if strong:
            await self._as_committed(number, deadline)
        while self._look(number, lambda store: head_of(store, context).sequence) < least:
            if time.monotonic() > deadline:
                raise behind(f"{context} stands before sequence {least}")
            await asyncio.sleep(LOOK_S)
        return _json(await complete(self._look(number, answer)))

    async def _transaction(self, request: web.Request) -> web.Response:
        try:
            txid = from_display(request.match_info["txid"])
        except ValueError as error:
            raise Refused(400, "bad-request", f"txid: {error}") from error
        strong, forwarded = _consistency(request), FORWARDED in request.headers
        numbers = sorted(self._stores)
        deadline = time.monotonic() + PATIENCE_S
        found: list[Standing] = []
        seen: list[int] = []
        for number in numbers:
            if strong:
                await self._as_committed(number, deadline)
            found += self._look(number, lambda store: _standings(store, txid))
            seen.append(number)
        if not forwarded:
            others = await self._ask_others(request, set(range(self._count)) - set(seen))
            for other in others:
                found += other.contexts
                seen += other.partitions
        missing = tuple(sorted(set(range(self._count)) - set(seen))) if not forwarded else ()
        if missing and strong:
            raise Refused(503, "incomplete", f"no worker answers for partitions {_listed(missing)} of the state")
        return _json(
            TransactionStanding(
                txid=display(txid), contexts=read.newest(found), partitions=tuple(sorted(set(seen))), missing=missing
            )
        )

    async def _entries(self, request: web.Request) -> web.Response:
        context = request.match_info["context"]
        if not is_context(context):
            raise Refused(400, "bad-request", f"{context!r} is no context: topic:tm_x or owner:<identity key>")
        first, limit = _number(request, "from", 1), _number(request, "limit", 100, most=MOST)
        number = partition_for(context.encode(), self._count)
        try:
            async with asyncio.timeout(PATIENCE_S):
                entries = await journal_page(await self._journal.get(), number, context, first, limit)
        except TimeoutError as error:
            raise behind(f"the journal was not read within {PATIENCE_S:.0f} s") from error
        return _json(JournalPage(entries=entries))

    async def _repair(self, request: web.Request) -> web.Response:
        """An operator has this worker's store made again, whatever it thinks of it."""
        given = request.match_info["partition"]
        number = int(given) if given.isascii() and given.isdecimal() else -1
        if number not in self._stores:
            raise Refused(404, "moved", f"partition {given} of the state is not here")
        self._spoil(number, Corrupt("an operator has it made again"))
        return web.Response(status=202, body=_encode({"partition": number}), content_type="application/json")

    # --- this worker's own

    def _store(self, number: int) -> Store:
        held = self._stores.get(number)
        if held is None:
            raise Refused(503, "moved", f"partition {number} of the state has just left this worker")
        return held.store

    def _look(self, number: int, answer: Callable[[Store], Any]) -> Any:
        """Without a pause in between: what is read is of one moment."""
        try:
            with readable(f"partition {number} of the state"):
                return answer(self._store(number))
        except Corrupt as error:
            self._spoil(number, error)
            raise Refused(503, "differs", f"the store of partition {number} is made again: {error}") from error

    async def _marked(
        self, number: int, answer: Callable[[Store], Any], complete: Callable[[Any], Awaitable[Stated]]
    ) -> web.Response:
        """From a store that differs, for who would rather have that than nothing."""
        if (store := self._differing.get(number)) is None:
            raise Refused(503, "moved", f"partition {number} of the state is being made again")
        try:
            with readable(f"partition {number} of the state, which is being made again"):
                found = answer(store)
        except Corrupt as error:
            raise Refused(503, "differs", f"the store of partition {number} is made again: {error}") from error
        return _json(_differs(await complete(found)))

    async def _as_committed(self, number: int, deadline: float) -> None:
        """Until the store holds all that was committed when this was called."""
        places = await self._changelog.get()
        end = await places.end(number)
        last: int | None = None  # the last record that the store lacked when it was looked for
        end -= 1  # the last offset is the transaction's marker
        while (position := self._look(number, lambda store: store.position)) < end:
            if last is None:
                last = position - 1
                async with aclosing(places.scan(number, position, end)) as lacking:
                    async for record in lacking:
                        last = record.offset
            if position > last:
                return  # markers alone stand between
            if time.monotonic() > deadline:
                raise behind(f"partition {number} of the state stands at {position}, and more was committed since")
            await asyncio.sleep(LOOK_S)

    # --- others'

    async def _forward(self, request: web.Request, number: int) -> web.Response:
        if FORWARDED in request.headers:
            raise Refused(503, "moved", f"partition {number} of the state is not here")
        urls = (await self._directory.holders()).get(number, ())
        if not urls:
            raise Refused(503, "nobody", f"no worker says that it holds partition {number} of the state")
        for url in urls:
            status, body = await self._get(url, request)
            if status != 503:  # else another has a copy
                break
        return web.Response(status=status, body=body, content_type="application/json")

    async def _ask_others(self, request: web.Request, numbers: set[int]) -> list[TransactionStanding]:
        holders = await self._directory.holders() if numbers else {}
        found: list[TransactionStanding] = []
        asked: set[str] = set()
        while True:
            left = numbers - {number for standing in found for number in standing.partitions}
            ways = ([url for url in holders.get(number, ()) if url not in asked] for number in left)
            urls = sorted({each[0] for each in ways if each})
            if not urls:
                return found
            asked.update(urls)
            replies = await asyncio.gather(*(self._get(url, request) for url in urls))
            for url, (status, body) in zip(urls, replies, strict=True):
                if status == 200:
                    with readable(f"the answer of {url}"):
                        found.append(_standing(body))

    async def _get(self, url: str, request: web.Request) -> tuple[int, bytes]:
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=FORWARD_S))
        headers = {FORWARDED: "1", **({"Authorization": f"Bearer {self._token}"} if self._token else {})}
        try:
            async with self._session.get(url + request.path_qs, headers=headers) as response:
                return response.status, await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            refused = Refused(503, "unreachable", f"{url} does not answer: {error or type(error).__name__}")
            return refused.status, refused.body()


class _Lazy:
    """Places that are connected to when first asked for."""

    def __init__(self, places: Places) -> None:
        self._places = places
        self._begun = False
        self._beginning = asyncio.Lock()

    async def get(self) -> Places:
        """Connected."""
        async with self._beginning:
            if not self._begun:
                await self._places.start()
                self._begun = True
        return self._places

    async def stop(self) -> None:
        """Disconnect."""
        if self._begun:
            await self._places.stop()


_standing = msgspec.json.Decoder(TransactionStanding).decode


def _differs(answer: Stated) -> Stated:
    if isinstance(answer, ContextState):
        return msgspec.structs.replace(answer, differs=True)
    return msgspec.structs.replace(answer, state=msgspec.structs.replace(answer.state, differs=True))


def _standings(store: Store, txid: Txid) -> list[Standing]:
    found = (read.transaction(store, context, txid) for context in read.contexts(store))
    return [standing for standing in found if standing is not None]


def _topic(request: web.Request) -> Context:
    name = request.match_info["topic"]
    if not is_topic_name(name):
        raise Refused(400, "bad-request", f"{name!r} is no overlay topic name (BRC-87)")
    return f"topic:{name}"


def owner_of(request: web.Request) -> Context:
    """The context a path names."""
    context = OWNED + request.match_info["owner"].lower()
    if not is_context(context):
        raise Refused(400, "bad-request", "an owner is an identity key: 33 bytes in hexadecimal")
    return context


def _consistency(request: web.Request) -> bool:
    given = request.query.get("consistency", "strong")
    if given not in ("strong", "any"):
        raise Refused(400, "bad-request", "consistency is `strong` or `any`")
    return given == "strong"


def _number(request: web.Request, name: str, default: int, most: int = (1 << 63) - 1, least: int = 1) -> int:
    given = request.query.get(name, "")
    if not given:
        return default
    if not given.isascii() or not given.isdecimal() or not least <= int(given) <= most:
        raise Refused(400, "bad-request", f"{name} is a number from {least} to {most}")
    return int(given)


def _field(given: str) -> tuple[int, bytes]:
    """What an output is to have: a field's number and its value."""
    number, equals, value = given.partition("=")
    if not equals or not number.isascii() or not number.isdecimal() or int(number) not in FIELD_NUMBERS:
        last = FIELD_NUMBERS[-1]
        raise Refused(400, "bad-request", f"field is number=value: a number from 0 to {last}, a value in hexadecimal")
    return int(number), _value("field", value)


def _value(name: str, given: str) -> bytes:
    try:
        value = bytes.fromhex(given)
    except ValueError as error:
        raise Refused(400, "bad-request", f"{name} is hexadecimal: {error}") from error
    if len(value) > FIELD_BYTES:
        raise Refused(400, "bad-request", f"{name}: values of {FIELD_BYTES} bytes at most are indexed")
    return value


def _flag(request: web.Request, name: str) -> bool:
    given = request.query.get(name, "false")
    if given not in ("true", "false"):
        raise Refused(400, "bad-request", f"{name} is `true` or `false`")
    return given == "true"


def _include(request: web.Request) -> str | None:
    """What of the transactions is wanted (BRC-100's `include`)."""
    given = request.query.get("include")
    if given not in (None, SCRIPTS, WHOLE):
        raise Refused(400, "bad-request", f"include is `{SCRIPTS}` or `{WHOLE}`")
    return given


def _listed(numbers: Sequence[int]) -> str:
    shown = ", ".join(map(str, numbers[:8]))
    return shown if len(numbers) <= 8 else f"{shown} and {len(numbers) - 8} more"


def _json(answer: Any) -> web.Response:
    return web.Response(body=_encode(answer), content_type="application/json")
