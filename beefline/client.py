"""Submit BEEF to a beefline installation and learn what became of it.

    from beefline import Client

    async with Client("127.0.0.1:9092") as client:
        outcome = await client.submit_and_wait(beef, topics=["tm_helloworld"])
        if outcome.state == "applied":
            print(outcome.txid, outcome.decisions[0].admittance)
        else:
            print(outcome.code, outcome.message)

`beef` is BEEF V1, V2 or Atomic BEEF as bytes. A *context* is what a request asks to take the transaction in: one for
each overlay topic it names. Each context decides for itself, once:

    applied     the context took the transaction; `admittance` says which outputs entered
    rejected    final: `code`, `message` and `at` say what is wrong and where; sending it again cannot help
    parked      it could not be decided; the payload is kept, and an operator can replay it

Contexts that are to take it together or not at all (`atomicity="all"`) decide alike: where one does not agree, all of
them say `rejected` (or `parked`) with the same code, and none shows anything of it.

What is refused before any context sees it (bytes that are no BEEF, a bad script) has one decision, whose `context` is
None. Afterwards the network answers on what a context admitted: `accepted`, `refused` or `parked` (`Client.network`).
`Client.results` gives everything that becomes of anything, `mined` and `evicted` included.

Submitting the same bytes again is safe: a context applies a transaction once, and answers a repeat with what it said
the first time (`Result.repeat`).

This module needs aiokafka and msgspec, and nothing of the pipeline.
"""

import asyncio
import contextlib
import json
import ssl
import uuid
from collections import OrderedDict
from collections.abc import AsyncGenerator, Mapping, Sequence
from datetime import datetime
from types import TracebackType
from typing import Any, Literal
from weakref import WeakValueDictionary

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.errors import KafkaConnectionError, MessageSizeTooLargeError

from beefline.holding import Answer, Asker, Held, NotReserved, Reserving, Unanswered, with_claims
from beefline.outcomes import (
    Admittance,
    Coordinate,
    NoOutcome,
    RequestOutcome,
    Result,
    Submitted,
    Watch,
    decoded,
    request_ids,
    standing_for,
)

__all__ = [
    "Admittance",
    "Answer",
    "Client",
    "Coordinate",
    "Held",
    "MissingTopic",
    "NoOutcome",
    "NotReserved",
    "RequestOutcome",
    "Reserving",
    "Result",
    "Submitted",
    "TooLarge",
    "Unanswered",
    "Unreachable",
]

Since = Literal["start", "now"] | datetime

Atomicity = Literal["each", "all"]

PAYLOAD_BYTES = 8 << 20
"""Largest payload an installation takes unless its operator chose otherwise (`topics.max_payload_bytes`)."""

HEADROOM = 512 << 10
"""Bytes a record may have beyond the payload: headers, off-chain values among them."""

REQUEST_ID_CHARACTERS = 200
"""What is longer would come back cut off."""

REMEMBERED = 100_000
"""Results by id that `results` keeps in mind, to leave out what repeats them: some 20 MB."""


class TooLarge(ValueError):  # noqa: N818 - a property of the payload
    """The payload is over the limit. Nothing was sent.

    size, limit: bytes; limit is None where the broker, not this client, drew the line.
    """

    def __init__(self, size: int, limit: int | None, what: str = "payload") -> None:
        most = "more than the topic takes" if limit is None else f"at most {limit} are taken"
        super().__init__(f"the {what} has {size} bytes; {most} (topics.max_payload_bytes of the installation)")
        self.size = size
        self.limit = limit


class Unreachable(ConnectionError):  # noqa: N818 - the cluster's state
    """No Kafka broker answers at the address."""


class MissingTopic(LookupError):  # noqa: N818 - the cluster's state
    """The cluster does not have the installation's topics: another prefix, or they were not created yet."""


class Client:
    """A connection to an installation, for `async with` (or `start` and `stop`).

    bootstrap: `host:port` of one or more brokers, by commas.
    prefix: of the installation's topics.
    max_payload_bytes: what the installation takes.
    security_protocol, ssl_context, sasl_*: as aiokafka's clients take them.

    One client may serve any number of tasks of one event loop. Payloads submitted at the same time share requests to
    the broker: for speed, submit many at once (`asyncio.gather`) and not one after the other.
    """

    def __init__(
        self,
        bootstrap: str = "127.0.0.1:9092",
        *,
        prefix: str = "beef.",
        max_payload_bytes: int = PAYLOAD_BYTES,
        client_id: str = "beefline-client",
        security_protocol: str = "PLAINTEXT",
        ssl_context: ssl.SSLContext | None = None,
        sasl_mechanism: str = "SCRAM-SHA-512",
        sasl_plain_username: str | None = None,
        sasl_plain_password: str | None = None,
    ) -> None:
        self.ingest = f"{prefix}ingest"
        self.results_topic = f"{prefix}results"
        self.max_payload_bytes = max_payload_bytes
        self._bootstrap = bootstrap
        self._options: dict[str, Any] = {
            "bootstrap_servers": bootstrap.split(","),
            "client_id": client_id,
            "security_protocol": security_protocol,
            "ssl_context": ssl_context,
        }
        if security_protocol.startswith("SASL"):
            self._options |= {
                "sasl_mechanism": sasl_mechanism,
                "sasl_plain_username": sasl_plain_username,
                "sasl_plain_password": sasl_plain_password,
            }
        self._producer: Any = None
        self._reader: Any = None
        self._positions: dict[Any, int] = {}
        self._following: asyncio.Task[None] | None = None
        self._watches: WeakValueDictionary[str, Watch] = WeakValueDictionary()
        self._asker = Asker(
            f"{prefix}requests", f"{prefix}answers", self._options, lambda: self._started(self._producer)
        )

    async def __aenter__(self) -> "Client":
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Connect, and note where the results end: outcomes are read from there on.

        Raises:
            Unreachable: no broker answers.
            MissingTopic: the installation's topics are not there.
        """
        self._producer = AIOKafkaProducer(
            **self._options,
            acks="all",
            enable_idempotence=True,
            max_request_size=self.max_payload_bytes + HEADROOM,
            max_batch_size=1 << 20,
        )
        self._reader = self._consumer()
        try:
            await self._producer.start()
            await self._reader.start()
            await self._check_topics()
            self._positions = await self._reader.end_offsets(await self._partitions())
        except KafkaConnectionError as error:
            await self.stop()
            raise Unreachable(f"no Kafka broker answers at {self._bootstrap}") from error
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Send what is under way, and disconnect."""
        await self._asker.stop()
        following, self._following = self._following, None
        if following is not None:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        for each in (self._producer, self._reader):
            if each is not None:
                await each.stop()
        self._producer = self._reader = None

    async def submit(
        self,
        beef: bytes,
        *,
        topics: Sequence[str] | None = None,
        request_id: str | None = None,
        off_chain_values: bytes = b"",
        baskets: Sequence[Mapping[str, Any]] = (),
        atomicity: Atomicity = "each",
        reservation: Held | Sequence[Held] = (),
        traceparent: str = "",
    ) -> Submitted:
        """Hand over a payload. Returns when the brokers have it: from then on it is not lost.

        topics: overlay topics that are to take it, 32 at most; None leaves the choice to the installation. `tm_anytx`
            verifies and broadcasts.
        request_id: what results call this request, 200 characters at most; made up when there is none. It is the
            record's key too: requests of one id are read in order.
        off_chain_values: handed to the topic managers, beside the transaction.
        baskets: what owners of baskets are to make of the transaction: for each an object with `owner` and what
            `internalizeAction` of BRC-100 takes beside its transaction. Who names owners and no topics wants none.
        atomicity: whether each context decides for itself, or all of them take it or none does.
        reservation: what it spends of what is held (`reserve`), which need not be named in `baskets`.
        traceparent: W3C trace context to go on with.

        Raises:
            TooLarge: over `max_payload_bytes`; nothing was sent.
            ValueError: a request id of more than 200 characters, or another atomicity.
            aiokafka.errors.KafkaError: the brokers did not confirm it. It may be there all the same: submit it again.
        """
        producer = self._started(self._producer)
        held = (reservation,) if isinstance(reservation, Held) else reservation
        baskets = with_claims(baskets, held) if held else baskets
        headers = self._headers(beef, topics, off_chain_values, baskets, atomicity, traceparent)
        request_id = request_id or uuid.uuid4().hex
        if len(request_id) > REQUEST_ID_CHARACTERS:
            raise ValueError(f"a request id has {REQUEST_ID_CHARACTERS} characters at most")
        key = request_id.encode()
        headers.append(("request-id", key))
        # Before it is sent: the decision may be read before the broker's confirmation is.
        watch = self._watches.setdefault(request_id, Watch())
        for each in held:
            each.sending += 1
        try:
            written = await producer.send_and_wait(self.ingest, beef, key=key, headers=headers)
        except MessageSizeTooLargeError as error:
            for each in held:
                each.sending -= 1
            raise TooLarge(len(beef), None) from error
        submitted = Submitted(request_id, written.topic, written.partition, written.offset, watch)
        for each in held:
            each.sending -= 1
            each.submitted.append(submitted)
        return submitted

    def reserve(
        self,
        owner: str,
        *,
        lease_s: int,
        basket: str = "",
        count: int = 0,
        tags: Sequence[str] = (),
        outputs: Sequence[str] = (),
        holder: str = "",
        request_id: str | None = None,
        timeout: float = 30.0,
    ) -> Reserving:
        """Hold outputs of an owner for a while, so that nobody else spends them:

            async with client.reserve(owner, basket="tickets", count=2, lease_s=60) as held:
                beef = make(held.outputs)
                await client.submit(beef, reservation=held)

        What is held when the body is left, however it is left, is given back; but for what a submitted payload spends,
        which is waited for while the lease lasts. `await client.reserve(…)` gives the same without giving back.

        owner: identity key, hexadecimal.
        lease_s: 1 to 86,400 seconds; it begins when the request is decided.
        basket, count, tags: so many of a basket, with all of these tags; all of them, or none.
        outputs: or these, `txid.vout` each; all of them, or none.
        holder: who it is for, as people want to read it.
        request_id: 200 characters at most. A request of the same id and content holds once, and is told the same.
        timeout: seconds to wait for an answer, of this and of what the `Held` is asked.

        Raises (where it is awaited or entered):
            NotReserved: it was refused, and nothing is held.
            Unanswered: time is up; it is given back, should it be held after all.
        """
        asked = {
            "basket": basket, "count": count, "tags": list(tags), "outputs": list(outputs), "holder": holder,
        }  # fmt: skip
        request = {"id": request_id or uuid.uuid4().hex, "operation": "reserve", "lease_s": lease_s}
        request |= {name: value for name, value in asked.items() if value}
        return Reserving(self._asker, self, owner.lower(), request, timeout)

    async def release(self, owner: str, reservation: str, token: int | None = None, *, timeout: float = 30.0) -> Answer:
        """Give back what a reservation holds, whoever made it. Raises as `Held.extend`."""
        known = {} if token is None else {"token": token}
        asked = {"id": uuid.uuid4().hex, "operation": "release", "reservation": reservation, **known}
        return await self._asker.ask(owner.lower(), asked, timeout)

    async def extend(self, owner: str, reservation: str, token: int, lease_s: int, *, timeout: float = 30.0) -> Answer:
        """Hold for longer what a reservation holds, whoever made it. Raises as `Held.extend`."""
        asked = {"operation": "extend", "reservation": reservation, "token": token, "lease_s": lease_s}
        return await self._asker.ask(owner.lower(), {"id": uuid.uuid4().hex, **asked}, timeout)

    async def outcome(self, submitted: Submitted, timeout: float = 60.0) -> RequestOutcome:
        """What the contexts decided; waits until every one has.

        submitted: of this client. Results are kept while it is held.
        timeout: seconds. A condition that may pass (an ancestor in flight, a lock time) keeps a payload waiting for
            up to a day, so that no outcome in time says nothing against it.

        Raises:
            NoOutcome: time is up. Ask again, or look at `NoOutcome.outcome` for what is known.
        """
        watch = self._watch(submitted)
        deadline = asyncio.get_running_loop().time() + timeout
        while not (found := RequestOutcome(submitted, standing_for(watch.results.values(), submitted))).complete:
            if not await self._news(watch, deadline):
                raise NoOutcome(found, timeout)
        return found

    async def network(self, submitted: Submitted, timeout: float = 60.0) -> Result:
        """What the network said of the transaction: `accepted`, `refused`, or `parked` when it said nothing for a day.

        Only what a context admitted is sent to the network, once, and not what is mined already. For a repeat of an
        earlier request the answer was given then, under that request's id.

        Raises:
            NoOutcome: time is up.
        """
        watch = self._watch(submitted)
        deadline = asyncio.get_running_loop().time() + timeout
        while True:
            for result in watch.results.values():
                if result.is_network_answer and result.origin == submitted.coordinate:
                    return result
            if not await self._news(watch, deadline):
                raise NoOutcome(RequestOutcome(submitted, standing_for(watch.results.values(), submitted)), timeout)

    async def submit_and_wait(
        self,
        beef: bytes,
        *,
        timeout: float = 60.0,
        topics: Sequence[str] | None = None,
        request_id: str | None = None,
        off_chain_values: bytes = b"",
        baskets: Sequence[Mapping[str, Any]] = (),
        atomicity: Atomicity = "each",
        reservation: Held | Sequence[Held] = (),
        traceparent: str = "",
    ) -> RequestOutcome:
        """`submit`, then `outcome`: arguments and exceptions are theirs. The time counts from the confirmation."""
        submitted = await self.submit(
            beef,
            topics=topics,
            request_id=request_id,
            off_chain_values=off_chain_values,
            baskets=baskets,
            atomicity=atomicity,
            reservation=reservation,
            traceparent=traceparent,
        )
        return await self.outcome(submitted, timeout)

    async def results(self, *, since: Since = "now", follow: bool = True) -> AsyncGenerator[Result, None]:
        """Everything that becomes of anything, in the order of its partition; read-committed.

        since: `now`, `start` (of what the topic keeps: a week), or a time with its zone.
        follow: whether to wait for more at the end, or to stop there.

        Of results with one id only the ones with a higher revision than those before are given (of the last 100,000
        ids). For reading on where you left off, use a consumer group: `examples/python/consumer.py`.
        """
        async with contextlib.aclosing(self._records(since, follow)) as records:
            newest: OrderedDict[str, int] = OrderedDict()
            async for record in records:
                result = decoded(record)
                if result is None or newest.get(result.id, -1) >= result.revision:
                    continue
                newest[result.id] = result.revision
                newest.move_to_end(result.id)
                if len(newest) > REMEMBERED:
                    newest.popitem(last=False)
                yield result

    # --- inside

    def _started(self, what: Any) -> Any:
        if what is None:
            raise RuntimeError("the client is not started: `async with Client(...) as client`")
        return what

    def _headers(
        self,
        beef: bytes,
        topics: Sequence[str] | None,
        off_chain_values: bytes,
        baskets: Sequence[Mapping[str, Any]],
        atomicity: Atomicity,
        traceparent: str,
    ) -> list[tuple[str, bytes]]:
        if isinstance(topics, str):
            raise TypeError(f"topics is a list of names: [{topics!r}]")
        if atomicity not in ("each", "all"):
            raise ValueError(f"atomicity is `each` or `all`, not {atomicity!r}")
        if len(beef) > self.max_payload_bytes:
            raise TooLarge(len(beef), self.max_payload_bytes)
        if len(off_chain_values) > HEADROOM // 2:
            raise TooLarge(len(off_chain_values), HEADROOM // 2, "off-chain part")
        given = {
            "topics": json.dumps(list(topics)).encode() if topics is not None else b"",
            "off-chain-values": off_chain_values,
            "baskets": json.dumps(list(baskets)).encode() if baskets else b"",
            "atomicity": b"all" if atomicity == "all" else b"",
            "traceparent": traceparent.encode(),
        }
        return [(name, value) for name, value in given.items() if value]

    def _consumer(self) -> Any:
        return AIOKafkaConsumer(
            **self._options, isolation_level="read_committed", enable_auto_commit=False, auto_offset_reset="earliest"
        )

    async def _check_topics(self) -> None:
        there = await self._reader.topics()
        for topic in (self.ingest, self.results_topic):
            if topic not in there:
                raise MissingTopic(
                    f"there is no topic {topic} at {self._bootstrap}: is the prefix another one, "
                    "or are the topics still to be created (`beefline topics create`)?"
                )

    async def _partitions(self) -> list[Any]:
        numbers = await self._started(self._producer).partitions_for(self.results_topic)
        return [TopicPartition(self.results_topic, number) for number in sorted(numbers)]

    def _watch(self, submitted: Submitted) -> Watch:
        watch = submitted.watch
        if self._watches.get(submitted.request_id) is not watch:
            raise ValueError("another client submitted this")
        self._follow_results()
        return watch

    def _follow_results(self) -> None:
        # Only who asks for outcomes pays for reading them.
        if self._following is None:
            reader = self._started(self._reader)
            reader.assign(list(self._positions))
            for partition, offset in self._positions.items():
                reader.seek(partition, offset)
            self._following = asyncio.create_task(self._follow(reader), name="beefline-results")

    async def _follow(self, reader: Any) -> None:
        while True:
            for records in (await reader.getmany(timeout_ms=1000)).values():
                for record in records:
                    self._hand_out(record)

    def _hand_out(self, record: Any) -> None:
        watches = [watch for name in request_ids(record) if (watch := self._watches.get(name)) is not None]
        if watches and (result := decoded(record)) is not None:
            for watch in watches:
                watch.add(result)

    async def _news(self, watch: Watch, deadline: float) -> bool:
        """Wait until something new is known of a request; False when time is up."""
        following = self._started(self._following)
        watch.changed.clear()
        left = deadline - asyncio.get_running_loop().time()
        if left <= 0:
            return False
        changed = asyncio.ensure_future(watch.changed.wait())
        try:
            done, _ = await asyncio.wait((changed, following), timeout=left, return_when=asyncio.FIRST_COMPLETED)
        finally:
            changed.cancel()
        if following in done:
            following.result()  # whatever ended the reading is the answer for all who wait
        return bool(done)

    async def _records(self, since: Since, follow: bool) -> AsyncGenerator[Any, None]:
        partitions = await self._partitions()
        reader = self._consumer()
        await reader.start()
        try:
            ends: Mapping[Any, int] = await reader.end_offsets(partitions)
            reader.assign(partitions)
            for partition, offset in (await _begins(reader, partitions, since, ends)).items():
                reader.seek(partition, offset)
            while True:
                for records in (await reader.getmany(timeout_ms=500)).values():
                    for record in records:
                        if follow or record.offset < ends[TopicPartition(record.topic, record.partition)]:
                            yield record
                # Positions pass the markers of transactions, which are no records.
                if not follow and all([await reader.position(each) >= ends[each] for each in partitions]):
                    return
        finally:
            await reader.stop()


async def _begins(reader: Any, partitions: Sequence[Any], since: Since, ends: Mapping[Any, int]) -> Mapping[Any, int]:
    if since == "now":
        return ends
    starts: Mapping[Any, int] = await reader.beginning_offsets(partitions)
    if not isinstance(since, datetime):
        return starts
    at_ms = int(since.timestamp() * 1000)
    found = await reader.offsets_for_times(dict.fromkeys(partitions, at_ms))
    return {each: found[each].offset if found.get(each) is not None else ends[each] for each in partitions}
