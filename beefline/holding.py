"""Hold outputs of an owner for a while, and be told what becomes of that: see `Client.reserve`."""

import asyncio
import contextlib
import json
import logging
import uuid
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Protocol
from weakref import WeakValueDictionary

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from beefline.outcomes import Coordinate, NoOutcome, Submitted

log = logging.getLogger(__name__)

SCHEMA = b"owner-answer/1"
"""The version of answers this module reads, as their `schema` header names it."""

REQUEST = ("schema", b"owner-request/1")

GRACE_S = 1.0
"""How long word of what was consumed is waited for behind the transaction's own result: both are written at once."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """A record of the answers topic."""

    id: str  # 128-bit hash, hexadecimal: the same for the same answer, however often it is given
    request_id: str | None
    owner: str | None
    outcome: str  # reserved | extended | released | refused; unasked: expired | consumed | lost
    code: str | None = None  # class.detail, e.g. conflict.too-few
    message: str | None = None
    reservation: str | None = None
    token: int | None = None
    holder: str | None = None
    outputs: tuple[str, ...] = ()  # txid.vout
    ends: str | None = None  # RFC 3339, UTC
    txid: str | None = None
    sequence: int | None = None  # of the owner's journal
    state_root: str | None = None
    repeat: bool = False
    origin: Coordinate | None = None
    time: str  # RFC 3339, UTC


class NotReserved(Exception):  # noqa: N818 - what was answered
    """The request was refused.

    code: why, among others `conflict.too-few`, `conflict.not-free`, `conflict.reservation-lost`.
    """

    def __init__(self, answer: Answer) -> None:
        super().__init__(f"{answer.code}: {answer.message}")
        self.answer = answer
        self.code = answer.code


class Unanswered(TimeoutError):  # noqa: N818 - what time brought
    """Time is up, and the request is not answered. It may be sent again under its id: it takes effect once."""

    def __init__(self, request_id: str, timeout: float) -> None:
        super().__init__(f"request {request_id!r} is not answered within {timeout:g} s")
        self.request_id = request_id


_answer = msgspec.json.Decoder(Answer).decode


class Asker:
    """Writes requests, and hears what is answered. It connects when something is first asked."""

    def __init__(self, requests: str, answers: str, options: Mapping[str, Any], producer: Callable[[], Any]) -> None:
        """requests, answers: names of topics; producer: a started one."""
        self._requests = requests
        self._answers = answers
        self._options = options
        self._producer = producer
        self._reader: Any = None
        self._following: asyncio.Task[None] | None = None
        self._connecting = asyncio.Lock()
        self._waiting: dict[str, list[asyncio.Future[Answer]]] = {}
        self.held: WeakValueDictionary[str, Held] = WeakValueDictionary()
        self._parting: set[asyncio.Task[Any]] = set()  # what is given back, whoever waits for it

    async def stop(self) -> None:
        """Once what is to be given back was written."""
        await asyncio.gather(*self._parting, return_exceptions=True)
        following, self._following = self._following, None
        if following is not None:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        if self._reader is not None:
            await self._reader.stop()
            self._reader = None

    async def ask(self, owner: str, request: Mapping[str, Any], timeout: float) -> Answer:
        """Raises Unanswered, and NotReserved where it is refused."""
        await self._connect()
        name = str(request["id"])
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(name, []).append(answer)
        assert self._following is not None
        try:
            await self.tell(owner, request)
            await asyncio.wait((answer, self._following), timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                if self._following.done():
                    self._following.result()  # whatever ended the reading is the answer for all who wait
                raise Unanswered(name, timeout)
            if (said := answer.result()).outcome == "refused":
                raise NotReserved(said)
            return said
        finally:
            self._waiting[name].remove(answer)
            if not self._waiting[name]:
                del self._waiting[name]

    async def tell(self, owner: str, request: Mapping[str, Any]) -> None:
        """Write a request, and wait for no answer."""
        value = json.dumps({"owner": owner, **request}).encode()
        await self._producer().send_and_wait(self._requests, value, key=owner.encode(), headers=[REQUEST])

    async def part(self, work: Awaitable[Any]) -> None:
        """Wait for something that goes on when whoever waits is cancelled."""
        task = asyncio.ensure_future(work)
        self._parting.add(task)
        task.add_done_callback(self._parting.discard)
        await asyncio.shield(task)

    async def _connect(self) -> None:
        """Answers are read from here on: before what they answer is written."""
        async with self._connecting:
            if self._following is not None:
                return
            reader = AIOKafkaConsumer(**self._options, isolation_level="read_committed", enable_auto_commit=False)
            await reader.start()
            self._reader = reader
            numbers = await self._producer().partitions_for(self._answers)
            partitions = [TopicPartition(self._answers, number) for number in sorted(numbers)]
            reader.assign(partitions)
            for partition, end in (await reader.end_offsets(partitions)).items():
                reader.seek(partition, end)
            self._following = asyncio.create_task(self._follow(reader), name="beefline-answers")

    async def _follow(self, reader: Any) -> None:
        while True:
            for records in (await reader.getmany(timeout_ms=1000)).values():
                for record in records:
                    self._hear(record)

    def _hear(self, record: Any) -> None:
        name = (record.key or b"").decode("utf-8", "replace")
        if name not in self._waiting and name not in self.held:
            return  # for others, as most are
        where = f"{record.topic}/{record.partition}/{record.offset}"
        tag = next((value for header, value in record.headers if header == "schema"), SCHEMA)
        if tag != SCHEMA:
            log.warning("%s: an answer of another version, %r; this client reads %r", where, tag[:40], SCHEMA)
            return
        try:
            answer = _answer(record.value or b"")
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            log.warning("%s: no answer: %s", where, error)
            return
        if answer.origin is None:
            if (held := self.held.get(name)) is not None:
                held.hear(answer)
            return
        for waits in self._waiting.get(name, ()):
            if not waits.done():
                waits.set_result(answer)


class Held:
    """Outputs that are held, until `ends` or until they are spent or given back."""

    def __init__(self, asker: Asker, owner: str, answer: Answer, timeout: float) -> None:
        self._asker = asker
        self._timeout = timeout
        self.owner = owner
        self.answer = answer
        self.id = answer.reservation or ""
        self.token = answer.token or 0
        self.outputs = answer.outputs  # txid.vout, as they were reserved
        self.left = set(answer.outputs)  # that are held still, as far as was heard
        self.ends = _time(answer)
        self.submitted: list[Submitted] = []  # payloads that name it
        self.sending = 0  # of which nobody knows whether the brokers have them
        self._changed = asyncio.Event()

    @property
    def ended(self) -> bool:
        """Whether nothing is held any more, as far as was heard."""
        return not self.left

    @property
    def claim(self) -> dict[str, Any]:
        """As an instruction's `reservations` name it."""
        return {"id": self.id, "token": self.token}

    async def extend(self, lease_s: int, *, request_id: str | None = None) -> datetime:
        """Hold them for so long from now on, if that is longer; until when.

        Raises:
            NotReserved: the lease had ended.
            Unanswered: it may have been extended all the same.
        """
        name = request_id or uuid.uuid4().hex
        asked = {"id": name, "operation": "extend", "reservation": self.id, "token": self.token, "lease_s": lease_s}
        self.ends = _time(await self._asker.ask(self.owner, asked, self._timeout))
        return self.ends

    async def release(self, *, request_id: str | None = None) -> None:
        """Give back what is held still. Raises as `extend`."""
        name = request_id or uuid.uuid4().hex
        asked = {"id": name, "operation": "release", "reservation": self.id, "token": self.token}
        await self._asker.ask(self.owner, asked, self._timeout)
        self.left.clear()

    def hear(self, answer: Answer) -> None:
        """Something was consumed or lost, or the lease ended."""
        self.left.difference_update(answer.outputs)
        self._changed.set()

    async def until_ended(self, within_s: float) -> None:
        """Wait until nothing is held, for so long at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while self.left:
                    self._changed.clear()
                    await self._changed.wait()


def _time(answer: Answer) -> datetime:
    return datetime.fromisoformat(answer.ends or answer.time)


class Decides(Protocol):
    """What is asked of the client about a payload."""

    async def outcome(self, submitted: Submitted, timeout: float = 60.0) -> Any:
        """What the contexts decided. Raises NoOutcome when time is up."""
        ...


class Reserving:
    """What `Client.reserve` gives: for `async with`, or `await` where nobody is to give back what is held."""

    def __init__(self, asker: Asker, client: Decides, owner: str, request: Mapping[str, Any], timeout: float) -> None:
        self._asker = asker
        self._client = client
        self._owner = owner
        self._request = request
        self._timeout = timeout
        self._held: Held | None = None

    def __await__(self) -> Generator[Any, None, Held]:
        return self._reserve().__await__()

    async def __aenter__(self) -> Held:
        self._held = await self._reserve()
        return self._held

    async def _reserve(self) -> Held:
        name = self._request["id"]
        try:
            answer = await self._asker.ask(self._owner, self._request, self._timeout)
        except NotReserved:
            raise
        except BaseException:
            # It may be held by now, or soon. Requests of an owner are heard in order: this one comes behind it.
            back = {"id": f"{name[:190]} back", "operation": "release", "reservation": name}
            try:
                await self._asker.part(self._asker.tell(self._owner, back))
            except KafkaError as error:
                log.warning("reservation %s could not be given back, and ends with its lease: %s", name, error)
            raise
        held = Held(self._asker, self._owner, answer, self._timeout)
        self._asker.held[held.id] = held
        return held

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._held is not None
        try:
            await self._asker.part(self._give_back(self._held, waits=kind is None))
        finally:
            self._asker.held.pop(self._held.id, None)

    async def _give_back(self, held: Held, *, waits: bool) -> None:
        """What a payload under way spends is not given back: it would come too late for what it names."""
        if held.sending or not await self._all_decided(held, waits=waits):
            return  # its lease ends by itself
        if held.submitted:
            await held.until_ended(GRACE_S)
        if held.left:
            with contextlib.suppress(NotReserved, Unanswered):  # it ended before, or ends by itself
                await held.release()

    async def _all_decided(self, held: Held, *, waits: bool) -> bool:
        for submitted in held.submitted:
            left_s = (held.ends - datetime.now(UTC)).total_seconds() if waits else 0.0
            try:
                await self._client.outcome(submitted, max(left_s, 0.0))
            except NoOutcome:
                return False
        return True


def with_claims(baskets: Sequence[Mapping[str, Any]], held: Iterable[Held]) -> list[dict[str, Any]]:
    """Instructions that name what a payload spends of what is held: in their owners', or in one of their own."""
    found = {str(each["owner"]).lower(): dict(each) for each in baskets}
    for each in held:
        owner = each.owner.lower()
        instruction = found.setdefault(owner, {"owner": owner, "description": "spends what is reserved"})
        instruction["reservations"] = [*instruction.get("reservations", ()), each.claim]
    return list(found.values())
