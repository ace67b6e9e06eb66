"""Broadcast endpoints together: every request to all of them at once, and what came of it.

The rule is `pipeline/broadcast.py`'s; here is who is called when, and what is kept between calls.
"""

import asyncio
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import quote

from msgspec import Struct, structs

from agents.runtime.http import BreakerOpen, Failure, Remote, Transport, Unavailable, remotes
from agents.runtime.outcomes import MESSAGE_CHARS
from agents.runtime.settings import CALLBACK_PATH
from pipeline.broadcast import AskAgain, Call, Lane, Refused, Success, Waits, decide, halves, lanes
from pipeline.broadcasters import ANSWERS, Batch, Kind, Policy, Reply
from pipeline.broadcasters.arc import DIALECTS
from pipeline.http import HttpReply, HttpRequest, Unreadable
from schemas.flow import BroadcastRequest
from schemas.network import Word
from schemas.types import Txid, why

log = logging.getLogger(__name__)

T = TypeVar("T")

STATUS_CHARS = 64
"""Of what an endpoint calls a status: the longest known has 26."""

MOST_RIVALS = 100
"""Of one transaction, that are told on: a dispute has a handful, and endpoints say what they like."""


class BroadcastSettings(Struct, frozen=True):
    """The network's endpoints."""

    endpoints: Annotated[
        tuple[str, ...],
        why("As dialect=URL[;key-file=PATH]; dialects: arc. Two operators, so that neither's outage is ours."),
    ] = ()
    batch: Annotated[int, why("Transactions in one call, as its operators ask; 23 kB of payments.", ge=1)] = 100
    call_bytes: Annotated[int, why("Of one call; a transaction that is larger goes alone.", ge=1 << 10)] = 8 << 20
    timeout_s: Annotated[
        float, why("ARC holds a reply for 5 s by itself; a batch of 100 is checked within as much.", gt=0)
    ] = 10.0
    concurrency: Annotated[int, why("Calls in flight to one endpoint; the others of a batch wait for them.", ge=1)] = 4
    attempts: Annotated[
        int, why("Quick ones, for a broken connection; what takes longer is the retry tiers' matter.", ge=1)
    ] = 3
    backoff_s: Annotated[
        float, why("Doubled a try, and drawn anew from 0 up to that, so that workers spread.", ge=0)
    ] = 0.2
    wait_for: Annotated[
        Literal[
            "",
            "RECEIVED",
            "STORED",
            "ANNOUNCED_TO_NETWORK",
            "SENT_TO_NETWORK",
            "ACCEPTED_BY_NETWORK",
            "SEEN_ON_NETWORK",
        ],
        why("RECEIVED is what counts as accepted; a later status is truer, and holds a connection up to `max_wait_s`."),
    ] = "RECEIVED"
    max_wait_s: Annotated[
        int, why("How long an endpoint may hold a reply for `wait_for`; below `timeout_s`.", ge=1, le=30)
    ] = 5
    callback_url: Annotated[
        str,
        why(
            "Where endpoints reach the HTTP port of a status worker, as https://host; they are told "
            "`<this>/callback?endpoint=…`. Empty: they call nobody back, and are asked instead."
        ),
    ] = ""
    callback_token_file: Annotated[
        str, why("Holds what endpoints must show with a callback; they are told it with each transaction.")
    ] = ""
    down_limit_s: Annotated[
        float,
        why(
            "An endpoint that has answered nothing for so long does not count where others refuse: what one of two "
            "refuses, and the other would be asked about for ever, is decided.",
            gt=0,
        ),
    ] = 600.0
    remembered: Annotated[
        int, why("Accepted transactions that are not sent again: ancestors shared by a family; 20 MB.", ge=0)
    ] = 100_000


class NoEndpoint(Unavailable):
    """No broadcast endpoint is available."""

    code = "network.no-endpoint"


class Outcome(Struct, frozen=True):
    """What came of one request."""

    request: BroadcastRequest
    step: Success | Refused | Waits
    replies: Mapping[Txid, Sequence[tuple[str, Reply]]]
    """Of each transaction of its family: endpoint and last word, in the order of the setting."""
    endpoints: tuple[str, ...]  # see `Endpoints.counting`


class Found(Struct, frozen=True):
    """Where a transaction stands, as those say that know it."""

    words: tuple[Word, ...]
    paths: tuple[bytes, ...]  # Merkle paths that came along, unverified
    silent: tuple[str, ...] = ()  # who gave no answer


class _Endpoint:
    """One endpoint, its dialect, and how many calls it has in hand."""

    def __init__(self, remote: Remote, settings: BroadcastSettings) -> None:
        self.remote = remote
        self.name = remote.name
        self.dialect = DIALECTS[remote.dialect]
        self.slots = asyncio.Semaphore(settings.concurrency)
        self.silent_since: float | None = None  # monotonic seconds; None: its last call was answered

    def heard(self, answered: bool) -> None:
        """A call came to its end."""
        if answered:
            self.silent_since = None
        elif self.silent_since is None:
            self.silent_since = time.monotonic()


class _Work:
    """The requests of one `broadcast`, and what was said so far."""

    def __init__(
        self, requests: Sequence[BroadcastRequest], endpoints: Sequence[str], known: Mapping[Txid, str], attempts: int
    ) -> None:
        self.requests = requests
        self.done = asyncio.Event()  # every request has succeeded: no further reply changes anything
        self.replies: dict[str, dict[Txid, Reply]] = {name: {} for name in endpoints}
        self.asked = dict.fromkeys(endpoints, 0)
        self._endpoints = endpoints
        self._known = known
        self._attempts = attempts
        self._open = set(range(len(requests)))
        self._check()

    def step(self, request: BroadcastRequest) -> Success | Refused | Waits | AskAgain:
        """The rule's word on `request`, as things stand."""
        return decide(request, self._endpoints, self.replies, self._known, self.asked, self._attempts)

    def wanted(self, name: str) -> set[Txid]:
        """What is still to be asked of an endpoint."""
        steps = (self.step(self.requests[number]) for number in self._open)
        return {txid for step in steps if isinstance(step, AskAgain) for txid in step.calls.get(name, ())}

    def heard(self, name: str, replies: Mapping[Txid, Reply]) -> None:
        """Take down what an endpoint said."""
        self.replies[name].update(replies)
        self._check()

    def unanswered(self) -> list[BroadcastRequest]:
        """Requests about whose subject no endpoint said anything."""
        return [
            request
            for request in (self.requests[number] for number in sorted(self._open))
            if not any(said[request.txid].kind in ANSWERS for said in self.replies.values() if request.txid in said)
        ]

    def _check(self) -> None:
        self._open = {n for n in self._open if not isinstance(self.step(self.requests[n]), Success)}
        if not self._open:
            self.done.set()


def ignore(endpoint: str, reply: Reply) -> None:
    """Nobody counts."""


class Endpoints:
    """All endpoints. One a process: it remembers what was accepted."""

    def __init__(
        self,
        settings: BroadcastSettings,
        transport: Transport,
        *,
        draw: Callable[[], float] = random.random,
        count: Callable[[str, Reply], None] = ignore,
    ) -> None:
        """count: told each reply, also one that came after the matter was decided.

        Raises ValueError for settings that name no endpoint or one twice, and what `Transport.know` raises.
        """
        found = remotes(settings.endpoints, DIALECTS, "broadcast.endpoints")
        if not found:
            raise ValueError("broadcast.endpoints: none is named")
        if settings.wait_for and settings.max_wait_s >= settings.timeout_s:
            raise ValueError("broadcast.max_wait_s: a reply held that long comes after broadcast.timeout_s")
        for remote in found:
            transport.know(remote)
        if bool(settings.callback_url) != bool(settings.callback_token_file):
            raise ValueError("broadcast.callback_url and broadcast.callback_token_file go together")
        self._callback_token = read_token(settings.callback_token_file) if settings.callback_url else ""
        self._settings = settings
        self._transport = transport
        self._draw = draw
        self._count = count
        self._endpoints = [_Endpoint(remote, settings) for remote in found]
        self._accepted: OrderedDict[Txid, str] = OrderedDict()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def broadcast(self, requests: Sequence[BroadcastRequest]) -> list[Outcome]:
        """Send `requests`, each whole; outcomes stand in their order. Idempotent by txid.

        Returns once every request has succeeded somewhere, or nobody is left to ask: who is slow delays nothing that
        another has accepted.

        Raises:
            NoEndpoint: no endpoint answered, nor answers a probe. Nothing is known of these requests then.
        """
        known = {m.txid: self._accepted[m.txid] for r in requests for m in r.unmined if m.txid in self._accepted}
        work = _Work(requests, [e.name for e in self._endpoints], known, self._settings.attempts)
        await self._all(work, [self._serve(endpoint, work) for endpoint in self._endpoints])
        if left := work.unanswered():
            up = await self._up()
            if not up:
                self._remember(work)  # what another call had brought is not sent again
                raise NoEndpoint(f"none of {len(self._endpoints)} endpoints answers")
            # Somebody is up and yet did not answer these: one of them may be the cause. Alone, it spoils no other.
            await self._all(work, [self._serve_apart(endpoint, work, left) for endpoint in up])
        work.asked = dict.fromkeys(work.asked, self._settings.attempts)  # nobody is asked again, however it ended
        self._remember(work)
        return [self._outcome(work, request) for request in requests]

    async def probe(self) -> bool:
        """Whether an endpoint answers, asked now, open breakers or not: what ends a stage's pause."""
        return bool(await self._up())

    async def close(self) -> None:
        """Give up what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _up(self) -> list[_Endpoint]:
        replies = await asyncio.gather(*(self._policy(endpoint) for endpoint in self._endpoints))
        return [e for e, reply in zip(self._endpoints, replies, strict=True) if isinstance(reply, Policy)]

    async def _policy(self, endpoint: _Endpoint) -> Policy | Unreadable | Failure:
        def read(reply: HttpReply) -> tuple[Policy | Unreadable, str]:
            found = endpoint.dialect.read_policy(reply.status, reply.body)
            return found, found.why if isinstance(found, Unreadable) else ""

        return await self._transport.send(
            endpoint.remote,
            endpoint.dialect.ask_policy(),
            read,
            self._settings.timeout_s,
            endpoint.dialect.authorization,
            force=True,
        )

    async def _all(self, work: _Work, serving: Sequence[Coroutine[Any, Any, None]]) -> None:
        """Run `serving` until it ends or the work is done; calls already sent are left to finish by themselves."""
        tasks = [self._spawn(work_of_one) for work_of_one in serving]
        done = self._spawn(work.done.wait())
        try:
            pending: set[asyncio.Task[Any]] = set(tasks)
            while pending and not done.done():
                ended, _ = await asyncio.wait({*pending, done}, return_when=asyncio.FIRST_COMPLETED)
                pending -= ended
                for task in ended - {done}:
                    task.result()
        finally:
            for task in (*tasks, done):
                task.cancel()

    async def _serve(self, endpoint: _Endpoint, work: _Work) -> None:
        """One endpoint's share: its lanes side by side, and again what found no answer."""
        backoff = self._settings.backoff_s
        while wanted := work.wanted(endpoint.name):
            if work.asked[endpoint.name]:
                await asyncio.sleep(self._draw() * backoff)
                backoff *= 2
            work.asked[endpoint.name] += 1
            plan = lanes(work.requests, wanted, self._settings.batch, self._settings.call_bytes)
            await asyncio.gather(*(self._walk(endpoint, lane, work) for lane in plan))

    async def _serve_apart(self, endpoint: _Endpoint, work: _Work, requests: Sequence[BroadcastRequest]) -> None:
        """One more try of each family by itself."""
        size = self._settings.batch, self._settings.call_bytes
        for request in requests:
            wanted = {member.txid for member in request.unmined} - self._accepted.keys()
            if not isinstance(work.step(request), Success):  # another endpoint may have taken it meanwhile
                for lane in lanes((request,), wanted, *size):
                    await self._walk(endpoint, lane, work)

    async def _walk(self, endpoint: _Endpoint, lane: Lane, work: _Work) -> bool:
        """A lane, call by call, to its end; or to a call that found no answer, for what follows may descend from it."""
        for call in lane:
            batch = await self._call(endpoint, call)
            work.heard(endpoint.name, batch.replies)
            if batch.narrow:
                rest = tuple(member for member in call if member.txid in set(batch.narrow))
                answered = await self._walk(endpoint, halves(rest), work)
            else:
                answered = any(reply.kind in ANSWERS for reply in batch.replies.values())
            if not answered:
                return False  # CAST-1
        return True

    async def _call(self, endpoint: _Endpoint, call: Call) -> Batch:
        await endpoint.slots.acquire()
        # A task of its own holds the slot: a call that was sent is heard to its end, even when nobody waits for it.
        return await asyncio.shield(self._spawn(self._send(endpoint, call)))

    async def _send(self, endpoint: _Endpoint, call: Call) -> Batch:
        txids = [member.txid for member in call]
        dialect, settings = endpoint.dialect, self._settings

        def read(reply: HttpReply) -> tuple[Batch, str]:
            batch = dialect.read(txids, reply.status, reply.body)
            words = list(batch.replies.values())
            nothing = words and not batch.narrow and all(reply.kind == "transport" for reply in words)
            return batch, words[0].message if nothing else ""

        try:
            came = await self._transport.send(
                endpoint.remote,
                self._submission(endpoint, [member.ef for member in call]),
                read,
                settings.timeout_s,
                dialect.authorization,
            )
        finally:
            endpoint.slots.release()
        batch = came if isinstance(came, Batch) else _unsent(txids, came)
        endpoint.heard(any(reply.kind in ANSWERS for reply in batch.replies.values()) or bool(batch.narrow))
        if ours := next((reply for reply in batch.replies.values() if reply.kind == "config"), None):
            self._transport.pause(endpoint.remote, ours.message)
        for reply in batch.replies.values():
            self._count(endpoint.name, reply)
        return batch

    def _submission(self, endpoint: _Endpoint, efs: Sequence[bytes]) -> HttpRequest:
        request = endpoint.dialect.submit(efs, self._settings.wait_for, self._settings.max_wait_s)
        if not self._callback_token:
            return request
        url = f"{self._settings.callback_url.rstrip('/')}{CALLBACK_PATH}?endpoint={quote(endpoint.name, safe='')}"
        told = (("X-CallbackUrl", url), ("X-CallbackToken", self._callback_token), ("X-FullStatusUpdates", "true"))
        return structs.replace(request, headers=(*request.headers, *told))

    def _outcome(self, work: _Work, request: BroadcastRequest) -> Outcome:
        step = work.step(request)
        assert not isinstance(step, AskAgain), "nobody has a try left"
        if isinstance(step, Waits) and step.condition.code == "network.orphan":
            for member in request.unmined:  # who accepted them may have lost them: send them again next time
                self._accepted.pop(member.txid, None)
        words = {
            member.txid: [(name, said[member.txid]) for name, said in work.replies.items() if member.txid in said]
            for member in request.unmined
        }
        return Outcome(request, step, words, self.counting())

    @property
    def names(self) -> tuple[str, ...]:
        """Of all, in the order of the setting."""
        return tuple(endpoint.name for endpoint in self._endpoints)

    def counting(self) -> tuple[str, ...]:
        """Endpoints whose silence counts: all but those that have not been reached for long; at least one."""
        since = time.monotonic() - self._settings.down_limit_s
        up = tuple(e.name for e in self._endpoints if e.silent_since is None or e.silent_since > since)
        return up or self.names

    async def look_up(self, txid: Txid, whom: str = "") -> Found | None:
        """Where a transaction stands with every endpoint that knows it; None where none answers.

        whom: the one endpoint to ask; all, where it is empty or no longer among the settings.
        """
        asked = [endpoint for endpoint in self._endpoints if endpoint.name == whom] or self._endpoints
        replies = await asyncio.gather(*(self._look_up(endpoint, txid) for endpoint in asked))
        if all(reply is None for reply in replies):
            return None
        now_ms = int(time.time() * 1000)
        known = [
            (endpoint.name, reply)
            for endpoint, reply in zip(asked, replies, strict=True)
            if reply is not None and reply.status != "UNKNOWN"
        ]
        words = tuple(structs.replace(word_of(name, reply, now_ms), asked=True) for name, reply in known)
        silent = tuple(each.name for each, reply in zip(asked, replies, strict=True) if reply is None)
        return Found(words, tuple(reply.path for _, reply in known if reply.path), silent)

    async def _look_up(self, endpoint: _Endpoint, txid: Txid) -> Reply | None:
        """An endpoint's answer; None where it gives none."""

        def read(reply: HttpReply) -> tuple[Reply, str]:
            found = endpoint.dialect.read_status(txid, reply.status, reply.body)
            return found, found.message if found.kind == "transport" else ""

        came = await self._transport.send(
            endpoint.remote,
            endpoint.dialect.look_up(txid),
            read,
            self._settings.timeout_s,
            endpoint.dialect.authorization,
        )
        endpoint.heard(isinstance(came, Reply) and came.kind in ANSWERS)
        return came if isinstance(came, Reply) and came.kind in ANSWERS else None

    def _remember(self, work: _Work) -> None:
        for request in work.requests:
            step = work.step(request)
            for txid, by in step.accepted if isinstance(step, Success) else ():
                self._accepted[txid] = by
                self._accepted.move_to_end(txid)
        while len(self._accepted) > self._settings.remembered:
            self._accepted.popitem(last=False)

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a broadcast failed", exc_info=error)


def _unsent(txids: Collection[Txid], failure: Failure) -> Batch:
    kind: Kind = "unavailable" if isinstance(failure, BreakerOpen) else "transport"
    return Batch({txid: Reply(txid, kind, message=failure.detail) for txid in txids})


def word_of(endpoint: str, reply: Reply, now_ms: int) -> Word:
    """A reply that is an answer, as it is reported.

    Raises:
        ValueError: it is none.
    """
    match reply.kind:
        case "accepted" | "pending" | "condition" | "refused":
            return Word(
                endpoint,
                reply.kind,
                reply.status[:STATUS_CHARS],
                reply.code,
                reply.message[:MESSAGE_CHARS],
                reply.network,
                now_ms,
                reply.competing[:MOST_RIVALS],
            )
        case _:
            raise ValueError(f"{reply.kind} is no answer")


def read_token(file: str) -> str:
    """What endpoints show with a callback.

    Raises:
        ValueError: the file is empty.
        OSError: it cannot be read.
    """
    token = Path(file).read_text(encoding="utf-8").strip()
    if not token:
        raise ValueError(f"{file} is empty: broadcast.callback_token_file holds the token of callbacks")
    return token
