"""Broadcast endpoints together: every request to all of them at once, and what came of it.

The rule is `pipeline/broadcast.py`'s; here is who is called when, and what is kept between calls.
"""

import asyncio
import logging
import random
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar
from urllib.parse import quote

from msgspec import Struct, structs

from agents.runtime.http import (
    BreakerOpen,
    Failure,
    Remote,
    State,
    Transport,
    Unavailable,
    listed,
    patience_s,
)
from agents.runtime.outcomes import MESSAGE_CHARS
from agents.runtime.settings import CALLBACK_PATH
from pipeline.broadcast import AskAgain, Call, Lane, Refused, Success, Waits, decide, halves, lanes
from pipeline.broadcasters import ANSWERS, Batch, Dialect, Kind, Policy, Reply
from pipeline.broadcasters.policy import Measure, Objection, measure, objection, told, word
from pipeline.broadcasters.table import DIALECTS
from pipeline.http import HttpReply, HttpRequest, Unreadable
from schemas.flow import BroadcastRequest, Unmined
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
        why(
            "As dialect=URL[;key-file=PATH][;priority=N][;batch=N][;concurrency=N][;timeout-s=N]; dialects: arc, "
            "arcade, teranode, whatsonchain (its URL ends with /v1/bsv/main). What an entry leaves out is taken from "
            "the settings below, and priority 0. The lowest priority is asked first, the next for what has found no "
            "acceptance there. "
            "Two operators, so that neither's outage is ours."
        ),
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
    policy_refresh_s: Annotated[
        float,
        why("How often endpoints' fees and limits are read: they move by decision, not by the minute.", gt=0),
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
    began_ms: int = 0  # before anybody was asked (Unix milliseconds)


class Found(Struct, frozen=True):
    """Where a transaction stands, as those say that know it."""

    words: tuple[Word, ...]
    paths: tuple[bytes, ...]  # Merkle paths that came along, unverified
    silent: tuple[str, ...] = ()  # who gave no answer


class Chosen(Struct, frozen=True):
    """An entry of `broadcast.endpoints`, with what it leaves out taken from the other settings."""

    remote: Remote
    priority: int  # lower is asked first
    batch: int  # transactions in one call
    concurrency: int  # calls in flight
    timeout_s: float


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


OPTIONS = ("priority", "batch", "concurrency", "timeout-s")

FRESH_S = 5.0
"""A policy read so long ago is still the endpoint's word: a flood of low fees asks for it no more often."""

POLICY_AGAIN_S = 60.0
"""After a reading of a policy that brought none."""


def chosen(settings: BroadcastSettings) -> list[Chosen]:
    """What `broadcast.endpoints` lists, in its order.

    Raises:
        ValueError: what `listed` raises; or an option that is no number, or not one that can be meant.
    """
    setting = "broadcast.endpoints"
    found = []
    for remote, given in listed(settings.endpoints, DIALECTS, setting, OPTIONS):
        most = DIALECTS[remote.dialect].most
        batch = _whole(given, "batch", min(settings.batch, most), 1, setting)
        if batch > most:
            raise ValueError(f"{setting}: {remote.dialect}= takes {most} transactions in a call, not {batch}")
        timeout_s = _seconds(given, "timeout-s", settings.timeout_s, setting)
        if DIALECTS[remote.dialect].waits and settings.wait_for and settings.max_wait_s >= timeout_s:
            raise ValueError("broadcast.max_wait_s: a reply held that long comes after broadcast.timeout_s")
        priority = _whole(given, "priority", 0, 0, setting)
        concurrency = _whole(given, "concurrency", settings.concurrency, 1, setting)
        found.append(Chosen(remote, priority, batch, concurrency, timeout_s))
    return found


def _whole(given: Mapping[str, str], name: str, default: int, least: int, setting: str) -> int:
    text = given.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= least):
        raise ValueError(f"{setting}: {name} is a whole number, {least} or more")
    return int(text)


def _seconds(given: Mapping[str, str], name: str, default: float, setting: str) -> float:
    text = given.get(name)
    if text is None:
        return default
    if re.fullmatch(r"\d{1,6}(\.\d{1,6})?", text, re.ASCII) is None or float(text) == 0:
        raise ValueError(f"{setting}: {name} is a number of seconds above 0")
    return float(text)


class _Endpoint:
    """One endpoint, its dialect, how many calls it has in hand, and what it says that it takes."""

    def __init__(self, entry: Chosen) -> None:
        self.entry = entry
        self.remote = entry.remote
        self.name = entry.remote.name
        self.dialect: Dialect = DIALECTS[entry.remote.dialect]
        self.slots = asyncio.Semaphore(entry.concurrency)
        self.silent_since: float | None = None  # monotonic seconds; None: its last call was answered
        self.policy: Policy | None = None  # the last that was read
        self.policy_read: float | None = None  # monotonic seconds
        self.policy_fault = ""

    def heard(self, answered: bool) -> None:
        """A call came to its end."""
        if answered:
            self.silent_since = None
        elif self.silent_since is None:
            self.silent_since = time.monotonic()

    def is_fresh(self) -> bool:
        """Whether its policy was read so lately that it is what the endpoint would say now."""
        read = self.policy_read
        return read is not None and not self.policy_fault and time.monotonic() - read < FRESH_S

    def learned(self, found: Policy | Unreadable | Failure) -> None:
        """What asking for its policy brought. One that cannot be read leaves the last in force."""
        if isinstance(found, Policy):
            if found != self.policy:
                log.info("%s takes %s", self.name, told(found))
            self.policy, self.policy_read, self.policy_fault = found, time.monotonic(), ""
            return
        fault = found.why if isinstance(found, Unreadable) else found.detail
        if not self.policy_fault:
            log.warning("%s: its policy cannot be read: %s", self.name, fault)
        self.policy_fault = fault


class _Work:
    """The requests of one `broadcast`, and what was said so far."""

    def __init__(
        self,
        requests: Sequence[BroadcastRequest],
        endpoints: Sequence[_Endpoint],
        known: Mapping[Txid, str],
        attempts: int,
    ) -> None:
        self.requests = requests
        names = [endpoint.name for endpoint in endpoints]
        self.done = asyncio.Event()  # every request has succeeded: no further reply changes anything
        self.replies: dict[str, dict[Txid, Reply]] = {name: {} for name in names}
        self.asked = dict.fromkeys(names, 0)
        self._endpoints = names
        self._sizes: dict[Txid, Measure | None] = {}
        self._unfit: list[dict[str, Objection]] = [{} for _ in requests]
        self._known = known
        self._attempts = attempts
        self._open = set(range(len(requests)))
        for endpoint in endpoints:
            self._weigh(endpoint)
        self._check()

    def step(self, number: int, counting: Sequence[str] = ()) -> Success | Refused | Waits | AskAgain:
        """The rule's word on a request, by its place, as things stand.

        counting: endpoints that count; empty for all.
        """
        unfit = {
            name: "network.undecided" if found.own else "network.orphan" for name, found in self._unfit[number].items()
        }
        return decide(
            self.requests[number],
            counting or self._endpoints,
            self.replies,
            self._known,
            self.asked,
            self._attempts,
            unfit,
        )

    def fits(self, number: int, name: str) -> bool:
        """Whether the endpoint may take the family, by its policy."""
        return name not in self._unfit[number]

    def objecting(self) -> set[str]:
        """Endpoints that were passed over for a request which found no acceptance."""
        return {name for number in self._open for name in self._unfit[number]}

    def read_anew(self, endpoint: _Endpoint) -> None:
        """Judge by a policy that was just read: what it still would not take it has refused."""
        assert endpoint.policy is not None
        self._weigh(endpoint)
        refused = {}
        for number in self._open:
            found = self._unfit[number].get(endpoint.name)
            txid = self.requests[number].txid
            said = self.replies[endpoint.name].get(txid)  # where another request brought it there: its own word stands
            if found is not None and found.own and (said is None or said.kind not in ANSWERS):
                refused[txid] = word(txid, found.code, endpoint.policy)
        self.heard(endpoint.name, refused)

    def _weigh(self, endpoint: _Endpoint) -> None:
        """Whom of the open requests its policy would refuse."""
        for number in self._open:
            self._unfit[number].pop(endpoint.name, None)
            if endpoint.policy is not None and (found := self._objection(self.requests[number], endpoint.policy)):
                self._unfit[number][endpoint.name] = found

    def _objection(self, request: BroadcastRequest, policy: Policy) -> Objection | None:
        sizes = {m.txid: size for m in request.unmined if m.txid not in self._known and (size := self._size(m))}
        subject = sizes.pop(request.txid, None)
        return None if subject is None else objection(policy, subject, tuple(sizes.values()))

    def _size(self, member: Unmined) -> Measure | None:
        if member.txid not in self._sizes:
            self._sizes[member.txid] = measure(member.ef)
        return self._sizes[member.txid]

    def wanted(self, name: str) -> set[Txid]:
        """What is still to be asked of an endpoint."""
        steps = (self.step(number) for number in self._open)
        return {txid for step in steps if isinstance(step, AskAgain) for txid in step.calls.get(name, ())}

    def heard(self, name: str, replies: Mapping[Txid, Reply]) -> None:
        """Take down what an endpoint said."""
        self.replies[name].update(replies)
        self._check()

    def unanswered(self) -> list[int]:
        """Places of requests about whose subject no endpoint said anything."""
        return [number for number in sorted(self._open) if not self._answered(self.requests[number].txid)]

    def _answered(self, txid: Txid) -> bool:
        return any(said[txid].kind in ANSWERS for said in self.replies.values() if txid in said)

    def _check(self) -> None:
        self._open = {number for number in self._open if not isinstance(self.step(number), Success)}
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
        self._endpoints = [_Endpoint(entry) for entry in entries]
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
        work = _Work(requests, self._endpoints, known, self._settings.attempts)
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

    async def _follow_policy(self, endpoint: _Endpoint) -> None:
        while True:
            await self._read_policy(endpoint)
            pause_s = self._settings.policy_refresh_s
            await asyncio.sleep(min(pause_s, POLICY_AGAIN_S) if endpoint.policy_fault else pause_s)

    async def _read_policy(self, endpoint: _Endpoint) -> None:
        if (question := endpoint.dialect.ask_policy()) is None:
            return

        def read(reply: HttpReply) -> tuple[Policy | Unreadable, str]:
            # One that cannot be read is no fault for the breaker: transactions may be taken all the same.
            return endpoint.dialect.read_policy(reply.status, reply.body), ""

        authorization = endpoint.dialect.authorization
        timeout_s = endpoint.entry.timeout_s
        endpoint.learned(await self._transport.send(endpoint.remote, question, read, timeout_s, authorization))

    async def _up(self) -> list[_Endpoint]:
        up = await asyncio.gather(*(self._is_up(endpoint) for endpoint in self._endpoints))
        return [endpoint for endpoint, is_up in zip(self._endpoints, up, strict=True) if is_up]

    async def _is_up(self, endpoint: _Endpoint) -> bool:
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

    async def _reconsider(self, work: _Work) -> None:
        """Read anew the policies of those passed over for what nobody took: by then they may take it, or refuse it."""
        passed = [endpoint for endpoint in self._endpoints if endpoint.name in work.objecting()]
        await asyncio.gather(*(self._read_policy(endpoint) for endpoint in passed if not endpoint.is_fresh()))
        fresh = [endpoint for endpoint in passed if endpoint.is_fresh()]
        for endpoint in fresh:
            work.read_anew(endpoint)
        await self._all(work, [self._serve(endpoint, work) for endpoint in fresh])

    async def _serve(self, endpoint: _Endpoint, work: _Work) -> None:
        """One endpoint's share: its lanes side by side, and again what found no answer."""
        backoff = self._settings.backoff_s
        while wanted := work.wanted(endpoint.name):
            if work.asked[endpoint.name]:
                await asyncio.sleep(self._draw() * backoff)
                backoff *= 2
            work.asked[endpoint.name] += 1
            plan = lanes(work.requests, wanted, endpoint.entry.batch, self._settings.call_bytes)
            await asyncio.gather(*(self._walk(endpoint, lane, work) for lane in plan))

    async def _serve_apart(self, endpoint: _Endpoint, work: _Work, numbers: Sequence[int]) -> None:
        """One more try of each family by itself."""
        size = endpoint.entry.batch, self._settings.call_bytes
        for number in numbers:
            request = work.requests[number]
            wanted = {member.txid for member in request.unmined} - self._accepted.keys()
            # Another endpoint may have taken it meanwhile.
            if work.fits(number, endpoint.name) and not isinstance(work.step(number), Success):
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

    def _submission(self, endpoint: _Endpoint, efs: Sequence[bytes]) -> HttpRequest:
        request = endpoint.dialect.submit(efs, self._settings.wait_for, self._settings.max_wait_s)
        if not self._callback_token or endpoint.dialect.calls_back is None:
            return request
        url = f"{self._settings.callback_url.rstrip('/')}{CALLBACK_PATH}?endpoint={quote(endpoint.name, safe='')}"
        told = (("X-CallbackUrl", url), ("X-CallbackToken", self._callback_token), ("X-FullStatusUpdates", "true"))
        return structs.replace(request, headers=(*request.headers, *told))

    def _outcome(self, work: _Work, number: int, began_ms: int) -> Outcome:
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
        """Where a transaction stands with every endpoint that knows it; None where none answers.

        whom: the one endpoint to ask; all, where it is empty, no longer among the settings, or cannot be asked. Where
        none of them can, nobody knows more than was said: `Found` is empty.
        """
        can = [endpoint for endpoint in self._endpoints if endpoint.dialect.look_up(txid) is not None]
        if not can:
            return Found((), ())
        asked = [endpoint for endpoint in can if endpoint.name == whom] or can
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

    def _remember(self, work: _Work) -> None:
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
