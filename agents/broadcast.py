"""broadcast: applied transactions to the network's endpoints, and what they said."""

import asyncio
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import replace

from agents import metrics
from agents.runtime.desk import Teller
from agents.runtime.endpoint_settings import BroadcastSettings
from agents.runtime.endpoints import Endpoints, NoEndpoint, Outcome, word_of
from agents.runtime.http import HttpSettings, Transport, Turned, log_turn
from agents.runtime.outcomes import accepted_headers, waiting
from agents.runtime.records import Decision, Defer, Emit, Fault, Inbound, Out, SetAside, WorldCondition
from agents.runtime.sparing import Sparing, no_event
from pipeline.broadcast import Refused, Success, Waits, remembered
from pipeline.broadcasters import ANSWERS, Reply
from pipeline.outcome import Condition
from pipeline.results import About
from schemas.flow import BROADCAST_REQUEST, BroadcastRequest
from schemas.network import NEWS, Reported, Word
from schemas.types import Txid
from schemas.wire import Undecodable
from topics.registry import (
    BROADCAST,
    DEAD_LETTERS,
    NETWORK_NEWS,
    RESULTS,
    RETRY_1M,
    RETRY_10M,
    RETRY_10S,
    TRANSACTIONS,
    Topic,
)

STANDINGS_S = 2.0
"""Between two looks at how endpoints stand."""

TOGETHER = 100
"""Requests handed to the endpoints at once: a slow one holds back no more than these."""


class Asked(Struct, frozen=True):
    """Requests with what came of them, by the record's identity in memory."""

    outcomes: Mapping[int, Outcome | Fault]


class Broadcast:
    """The stage."""

    name = "broadcast"
    inputs: tuple[Topic, ...] = (BROADCAST,)
    outputs: tuple[Topic, ...] = (TRANSACTIONS, NETWORK_NEWS, RESULTS, DEAD_LETTERS, RETRY_10S, RETRY_1M, RETRY_10M)
    begins_traces = False
    went_well: tuple[str, ...] = ("accepted",)

    def __init__(self, settings: BroadcastSettings, http: HttpSettings) -> None:
        self._settings = settings
        self._transport = Transport(http, tell=self._turned)
        self._tell: Teller = no_event
        self._endpoints: Endpoints | None = None
        self._counters: dict[tuple[str, str, str], Any] = {}

    async def start(self) -> None:
        """Open connections."""
        await self._transport.__aenter__()
        self._endpoints = Endpoints(self._settings, self._transport, count=self._count)
        metrics.register_endpoints(self.name, self._endpoints.names)
        self._endpoints.follow_policies()

    async def beside(self) -> None:
        """Tell how endpoints stand, until cancelled."""
        assert self._endpoints is not None
        while True:
            for each in self._endpoints.standings():
                metrics.ENDPOINT_UP.labels(self.name, each.name).set(each.state == "closed")
                if each.policy is not None:
                    fee = each.policy.fee_satoshis * 1000 / each.policy.fee_bytes
                    metrics.ENDPOINT_FEE.labels(self.name, each.name).set(fee)
            await asyncio.sleep(STANDINGS_S)

    def tell_to(self, teller: Teller) -> None:
        """Who writes events of this stage."""
        self._tell = Sparing(teller).tell_plainly

    def _turned(self, turn: Turned) -> None:
        """An endpoint is left alone, or called again."""
        log_turn(turn)
        name, details = turn.remote.name, {"endpoint": turn.remote.name, "why": turn.why}
        if turn.state == "closed":
            self._tell("endpoint-back", "info", f"{name} answers again", details)
        elif turn.state == "open":
            self._tell("endpoint-down", "warning", f"{name} is left alone for a while: {turn.why}", details)

    def _count(self, endpoint: str, reply: Reply) -> None:
        said = endpoint, reply.kind, reply.code
        if (counter := self._counters.get(said)) is None:
            counter = self._counters[said] = metrics.ENDPOINT_WORDS.labels(self.name, *said)
        counter.inc()

    async def stop(self) -> None:
        """Close them."""
        if self._endpoints is not None:
            await self._endpoints.close()
        await self._transport.__aexit__(None, None, None)

    async def probe(self) -> None:
        """Whether an endpoint is available."""
        assert self._endpoints is not None
        if not await self._endpoints.probe():
            raise WorldCondition(Condition("network.no-endpoint", "no endpoint is available"))

    def about(self, record: Inbound) -> About | None:
        """Whom the transaction concerns."""
        return _about(BROADCAST_REQUEST.decode(record.value, record.headers))

    async def gather(self, batch: Sequence[Inbound]) -> AsyncGenerator[tuple[Sequence[Inbound], Asked], None]:
        """Ask the endpoints; each group is handed on as soon as its answers are in."""
        broken: dict[int, Outcome | Fault] = {}
        readable: list[tuple[Inbound, BroadcastRequest]] = []
        for record in batch:
            try:
                readable.append((record, BROADCAST_REQUEST.decode(record.value, record.headers)))
            except Undecodable as error:
                broken[id(record)] = Fault(error.code, error.message)
        if broken:
            yield [record for record in batch if id(record) in broken], Asked(broken)
        groups = [readable[at : at + TOGETHER] for at in range(0, len(readable), TOGETHER)]
        running = {asyncio.ensure_future(self._ask(group)): group for group in groups}
        try:
            while running:
                done, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    group = running.pop(task)
                    yield [record for record, _ in group], task.result()
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _ask(self, group: Sequence[tuple[Inbound, BroadcastRequest]]) -> Asked:
        assert self._endpoints is not None
        try:
            outcomes = await self._endpoints.broadcast([request for _, request in group])
        except NoEndpoint as error:
            raise WorldCondition(Condition(error.code, str(error))) from error
        return Asked({id(record): outcome for (record, _), outcome in zip(group, outcomes, strict=True)})

    def decide(self, record: Inbound, gathered: Asked, now_ms: int) -> Decision:
        """What the endpoints said, as news of each transaction; and for followers each that one of them took."""
        outcome = gathered.outcomes[id(record)]
        if isinstance(outcome, Fault):
            return outcome
        request, step = outcome.request, outcome.step
        taken = dict(step.accepted)
        efs = [
            Out(TRANSACTIONS, tx.txid, tx.ef, accepted_headers(taken[tx.txid], request.contexts, request.request_ids))
            for tx in request.unmined
            if tx.txid in taken
        ]
        outs = [*efs, *_news(outcome, taken, now_ms, keep=isinstance(step, Refused) or waiting(record) is None)]
        if isinstance(step, Success):
            return Emit(outs, "accepted")
        if isinstance(step, Refused):
            return SetAside(step.verdict, outs)
        return Defer(step.condition, _about(request), outs)


def _news(outcome: Outcome, taken: Mapping[Txid, str], now_ms: int, *, keep: bool) -> list[Out]:
    """Of the subject in any case, for it says whom it concerns; of ancestors that somebody said something of.

    keep: whether status is given what nobody took, to hand it out if that changes.
    """
    request, step = outcome.request, outcome.step
    seen = _seen(outcome, now_ms)
    news = []
    for member in request.unmined:
        replies = outcome.replies.get(member.txid, ())
        words = {
            name: replace(word_of(name, reply, now_ms), began_ms=outcome.began_ms)
            for name, reply in replies
            if reply.kind in ANSWERS
        }
        if (by := taken.get(member.txid)) is not None and by not in words:  # it was taken before, and not sent again
            words[by] = remembered(by)
        own = member.txid == request.txid
        if seen is not None and not own:
            words[seen.endpoint] = seen
        if not (own or words):
            continue
        reported = Reported(
            words=tuple(words.values()),
            endpoints=outcome.endpoints,
            stands=isinstance(step, Success) or member.txid in taken,
            contexts=request.contexts,
            request_ids=request.request_ids if own else (),
            origin=request.origin if own else None,
            handed=member.txid in taken,
            ef=member.ef if keep and member.txid not in taken else b"",
            again=isinstance(step, Waits),
        )
        news.append(Out(NETWORK_NEWS, member.txid, NEWS.encode(reported)))
    return news


def _seen(outcome: Outcome, now_ms: int) -> Word | None:
    """What follows for ancestors when an endpoint says that the network has the subject: it has them too."""
    for name, reply in outcome.replies.get(outcome.request.txid, ()):
        if reply.kind == "accepted" and reply.network:
            said = word_of(name, reply, now_ms)
            return replace(said, message="seen with what descends from it", competing=(), began_ms=outcome.began_ms)
    return None


def _about(request: BroadcastRequest) -> About:
    return About(request.origin, request.request_ids, request.txid, None, len(request.contexts))
