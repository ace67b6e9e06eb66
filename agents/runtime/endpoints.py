"""Broadcast endpoints together: every request to all of them at once, and what came of it.

The rule is `pipeline/broadcast.py`'s; here is who is called when, and what is kept between calls.
"""

import asyncio
import logging
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import quote

from msgspec import Struct, structs

from agents.runtime.broadcasting import Endpoint, Work
from agents.runtime.endpoint_settings import BroadcastSettings, chosen, read_token
from agents.runtime.http import (
    BreakerOpen,
    Failure,
    State,
    Transport,
    Unavailable,
    patience_s,
)
from agents.runtime.outcomes import MESSAGE_CHARS
from agents.runtime.settings import CALLBACK_PATH
from pipeline.broadcast import AskAgain, Call, Lane, Refused, Success, Waits, halves, lanes
from pipeline.broadcasters import ANSWERS, Batch, Kind, Policy, Reply
from pipeline.http import HttpReply, HttpRequest, Unreadable
from schemas.flow import BroadcastRequest
from schemas.network import Word
from schemas.types import Txid

log = logging.getLogger(__name__)

T = TypeVar("T")

STATUS_CHARS = 64
"""Of what an endpoint calls a status: the longest known has 26."""

MOST_RIVALS = 100
"""Of one transaction, that are told on: a dispute has a handful, and endpoints say what they like."""


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
    began_ms: int = 0  # before anybody was asked (Unix milliseconds)


class Found(Struct, frozen=True):
    """Where a transaction stands, as those say that know it."""

    words: tuple[Word, ...]
    paths: tuple[bytes, ...]  # Merkle paths that came along, unverified
    silent: tuple[str, ...] = ()  # who gave no answer


class Standing(Struct, frozen=True):
    """How an endpoint stands with us, for whoever shows it."""

    name: str
    priority: int
    state: State  # of its breaker; open also while it is paused
    why: str  # of the state, unless that is closed
    publishes: bool  # whether its kind publishes a policy
    policy: Policy | None  # None: not read yet, or none is published
    policy_age_s: float | None
    policy_fault: str  # why the last reading brought none; empty where it did


POLICY_AGAIN_S = 60.0
"""After a reading of a policy that brought none."""


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
        entries = chosen(settings)
        if not entries:
            raise ValueError("broadcast.endpoints: none is named")
        for entry in entries:
            transport.know(entry.remote)
        if bool(settings.callback_url) != bool(settings.callback_token_file):
            raise ValueError("broadcast.callback_url and broadcast.callback_token_file go together")
        self._callback_token = read_token(settings.callback_token_file) if settings.callback_url else ""
        self._settings = settings
        self._transport = transport
        self._draw = draw
        self._count = count
        self._endpoints = [Endpoint(entry) for entry in entries]
        self._accepted: OrderedDict[Txid, str] = OrderedDict()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def broadcast(self, requests: Sequence[BroadcastRequest]) -> list[Outcome]:
        """Send `requests`, each whole; outcomes stand in their order. Idempotent by txid.

        Endpoints of one priority are asked at once; those of the next when these are through, for requests that have
        found no acceptance, be it that they were refused, that they wait, or that nobody answered. Who would refuse a
        family by its policy is not asked for it.

        Returns once every request has succeeded somewhere, or nobody is left to ask: who is slow delays nothing that
        another of its priority has accepted.

        Raises:
            NoEndpoint: no endpoint answered, nor answers a probe. Nothing is known of these requests then.
        """
        began_ms = int(time.time() * 1000)
        known = {m.txid: self._accepted[m.txid] for r in requests for m in r.unmined if m.txid in self._accepted}
        work = Work(requests, self._endpoints, known, self._settings.attempts)
        for priority in sorted({endpoint.entry.priority for endpoint in self._endpoints}):
            asked = [endpoint for endpoint in self._endpoints if endpoint.entry.priority == priority]
            await self._all(work, [self._serve(endpoint, work) for endpoint in asked])
        await self._reconsider(work)
        if left := work.unanswered():
            up = await self._up()
            if not up:
                self._remember(work)  # what another call had brought is not sent again
                raise NoEndpoint(f"none of {len(self._endpoints)} endpoints answers")
            # Somebody is up and yet did not answer these: one of them may be the cause. Alone, it spoils no other.
            await self._all(work, [self._serve_apart(endpoint, work, left) for endpoint in up])
        work.asked = dict.fromkeys(work.asked, self._settings.attempts)  # nobody is asked again, however it ended
        self._remember(work)
        return [self._outcome(work, number, began_ms) for number in range(len(requests))]

    async def probe(self) -> bool:
        """Whether an endpoint answers, asked now, open breakers or not: what ends a stage's pause."""
        return bool(await self._up())

    async def up(self) -> frozenset[str]:
        """Names of those that answer, asked now, open breakers or not."""
        return frozenset(endpoint.name for endpoint in await self._up())

    async def close(self) -> None:
        """Give up what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def standings(self) -> tuple[Standing, ...]:
        """How each endpoint stands, in the order of the setting."""
        now, found = time.monotonic(), []
        for each in self._endpoints:
            state, reason = self._transport.condition(each.remote)
            age_s = None if each.policy_read is None else now - each.policy_read
            publishes = each.dialect.ask_policy() is not None
            found.append(
                Standing(
                    each.name, each.entry.priority, state, reason, publishes, each.policy, age_s, each.policy_fault
                )
            )
        return tuple(found)

    def follow_policies(self) -> None:
        """Read endpoints' policies from here on, every `policy_refresh_s`, until `close`.

        Nothing waits for it: until its policy is known, an endpoint is asked for everything.
        """
        for endpoint in self._endpoints:
            if endpoint.dialect.ask_policy() is not None:
                self._spawn(self._follow_policy(endpoint))

    async def read_policies(self) -> None:
        """Read them once."""
        await asyncio.gather(*(self._read_policy(endpoint) for endpoint in self._endpoints))

    async def _follow_policy(self, endpoint: Endpoint) -> None:
        while True:
            await self._read_policy(endpoint)
            pause_s = self._settings.policy_refresh_s
            await asyncio.sleep(min(pause_s, POLICY_AGAIN_S) if endpoint.policy_fault else pause_s)

    async def _read_policy(self, endpoint: Endpoint) -> None:
        if (question := endpoint.dialect.ask_policy()) is None:
            return

        def read(reply: HttpReply) -> tuple[Policy | Unreadable, str]:
            # One that cannot be read is no fault for the breaker: transactions may be taken all the same.
            return endpoint.dialect.read_policy(reply.status, reply.body), ""

        authorization = endpoint.dialect.authorization
        timeout_s = endpoint.entry.timeout_s
        endpoint.learned(await self._transport.send(endpoint.remote, question, read, timeout_s, authorization))

    async def _up(self) -> list[Endpoint]:
        up = await asyncio.gather(*(self._is_up(endpoint) for endpoint in self._endpoints))
        return [endpoint for endpoint, is_up in zip(self._endpoints, up, strict=True) if is_up]

    async def _is_up(self, endpoint: Endpoint) -> bool:
        def read(reply: HttpReply) -> tuple[bool, str]:
            fault = endpoint.dialect.read_probe(reply.status, reply.body)
            return not fault, fault

        came = await self._transport.send(
            endpoint.remote,
            endpoint.dialect.probe(),
            read,
            endpoint.entry.timeout_s,
            endpoint.dialect.authorization,
            force=True,
        )
        return came is True

    async def _all(self, work: Work, serving: Sequence[Coroutine[Any, Any, None]]) -> None:
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

    async def _reconsider(self, work: Work) -> None:
        """Read anew the policies of those passed over for what nobody took: by then they may take it, or refuse it."""
        passed = [endpoint for endpoint in self._endpoints if endpoint.name in work.objecting()]
        await asyncio.gather(*(self._read_policy(endpoint) for endpoint in passed if not endpoint.is_fresh()))
        fresh = [endpoint for endpoint in passed if endpoint.is_fresh()]
        for endpoint in fresh:
            work.read_anew(endpoint)
        await self._all(work, [self._serve(endpoint, work) for endpoint in fresh])

    async def _serve(self, endpoint: Endpoint, work: Work) -> None:
        """One endpoint's share: its lanes side by side, and again what found no answer."""
        backoff = self._settings.backoff_s
        while wanted := work.wanted(endpoint.name):
            if work.asked[endpoint.name]:
                await asyncio.sleep(self._draw() * backoff)
                backoff *= 2
            work.asked[endpoint.name] += 1
            plan = lanes(work.requests, wanted, endpoint.entry.batch, self._settings.call_bytes)
            await asyncio.gather(*(self._walk(endpoint, lane, work) for lane in plan))

    async def _serve_apart(self, endpoint: Endpoint, work: Work, numbers: Sequence[int]) -> None:
        """One more try of each family by itself."""
        size = endpoint.entry.batch, self._settings.call_bytes
        for number in numbers:
            request = work.requests[number]
            wanted = {member.txid for member in request.unmined} - self._accepted.keys()
            # Another endpoint may have taken it meanwhile.
            if work.fits(number, endpoint.name) and not isinstance(work.step(number), Success):
                for lane in lanes((request,), wanted, *size):
                    await self._walk(endpoint, lane, work)

    async def _walk(self, endpoint: Endpoint, lane: Lane, work: Work) -> bool:
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

    async def _call(self, endpoint: Endpoint, call: Call) -> Batch:
        await endpoint.slots.acquire()
        # A task of its own holds the slot: a call that was sent is heard to its end, even when nobody waits for it.
        return await asyncio.shield(self._spawn(self._send(endpoint, call)))

    async def _send(self, endpoint: Endpoint, call: Call) -> Batch:
        txids = [member.txid for member in call]
        dialect = endpoint.dialect

        def read(reply: HttpReply) -> tuple[Batch, str]:
            batch = dialect.read(txids, reply.status, reply.body)
            words = list(batch.replies.values())
            nothing = words and not batch.narrow and all(reply.kind == "transport" for reply in words)
            if nothing and reply.status in BUSY and patience_s(reply) is not None:
                # It asks for patience: it is not called before then, and what was not looked at did not fail.
                busy = f"HTTP {reply.status}, asks for patience"
                return Batch({txid: Reply(txid, "unavailable", message=busy) for txid in txids}), busy
            return batch, words[0].message if nothing else ""

        try:
            came = await self._transport.send(
                endpoint.remote,
                self._submission(endpoint, [member.ef for member in call]),
                read,
                endpoint.entry.timeout_s,
                dialect.authorization,
                answers=_is_answer,
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

    def _submission(self, endpoint: Endpoint, efs: Sequence[bytes]) -> HttpRequest:
        request = endpoint.dialect.submit(efs, self._settings.wait_for, self._settings.max_wait_s)
        if not self._callback_token or endpoint.dialect.calls_back is None:
            return request
        url = f"{self._settings.callback_url.rstrip('/')}{CALLBACK_PATH}?endpoint={quote(endpoint.name, safe='')}"
        told = (("X-CallbackUrl", url), ("X-CallbackToken", self._callback_token), ("X-FullStatusUpdates", "true"))
        return structs.replace(request, headers=(*request.headers, *told))

    def _outcome(self, work: Work, number: int, began_ms: int) -> Outcome:
        counting = self.counting()
        step, request = work.step(number, counting), work.requests[number]
        assert not isinstance(step, AskAgain), "nobody has a try left"
        if isinstance(step, Waits) and step.condition.code == "network.orphan":
            for member in request.unmined:  # who accepted them may have lost them: send them again next time
                self._accepted.pop(member.txid, None)
        words = {
            member.txid: [(name, said[member.txid]) for name, said in work.replies.items() if member.txid in said]
            for member in request.unmined
        }
        return Outcome(request, step, words, counting, began_ms)

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
        """Where a transaction stands with every endpoint that knows it; None where none answers of those that count.

        whom: the one endpoint to ask; all, where it is empty, no longer among the settings, or cannot be asked. Where
        none of them can, or none that can has been reached for long, nobody knows more than was said: `Found` is empty.
        """
        can = [endpoint for endpoint in self._endpoints if endpoint.dialect.look_up(txid) is not None]
        if not can:
            return Found((), ())
        asked = [endpoint for endpoint in can if endpoint.name == whom] or can
        replies = await asyncio.gather(*(self._look_up(endpoint, txid) for endpoint in asked))
        if all(reply is None for reply in replies) and (asked != can or {e.name for e in asked} & set(self.counting())):
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

    async def _look_up(self, endpoint: Endpoint, txid: Txid) -> Reply | None:
        """An endpoint's answer; None where it gives none."""
        question = endpoint.dialect.look_up(txid)
        if question is None:
            return None

        def read(reply: HttpReply) -> tuple[Reply, str]:
            found = endpoint.dialect.read_status(txid, reply.status, reply.body)
            return found, found.message if found.kind == "transport" else ""

        came = await self._transport.send(
            endpoint.remote,
            question,
            read,
            endpoint.entry.timeout_s,
            endpoint.dialect.authorization,
        )
        endpoint.heard(isinstance(came, Reply) and came.kind in ANSWERS)
        return came if isinstance(came, Reply) and came.kind in ANSWERS else None

    def _remember(self, work: Work) -> None:
        for number in range(len(work.requests)):
            step = work.step(number)
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


BUSY = frozenset({429, 503})
"""Codes that Retry-After may come with."""


def _is_answer(batch: Batch) -> bool:
    """Whether a reply says something of a transaction: Teranode's HTTP 500 does."""
    return any(reply.kind in ANSWERS for reply in batch.replies.values())


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
