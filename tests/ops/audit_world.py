"""A small world for audits: a few payloads and every record the stages write about them, made by the stages' own rules.

What the network and the trackers would say is given as each payload's fate. A test then takes records away, changes
or repeats them, and the audit must say what is wrong.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec import Struct

from agents.apply import ApplySettings, ApplyStage
from agents.broadcast import _news
from agents.parse import Parse, ParseSettings
from agents.runtime.endpoint_settings import BroadcastSettings
from agents.runtime.endpoints import Outcome
from agents.runtime.http import HttpSettings
from agents.runtime.outcomes import Router
from agents.runtime.partition import Heads
from agents.runtime.partitioner import partition_for
from agents.runtime.records import Decision, Defer, Emit, Out, Refuse, SetAside
from agents.status import Status, StatusSettings
from agents.verify import _about, _operations, _verified
from ops.instruments.audit.books import Books
from pipeline.broadcast import Refused, Success
from pipeline.broadcasters import Reply
from pipeline.chain.answer import Answer
from pipeline.outcome import Condition, Verdict
from pipeline.parse import Payload, parse
from pipeline.policy import Policy
from pipeline.results import About
from pipeline.state import Layer, Memory
from pipeline.state import encode as pack
from pipeline.verify import Valid, verify
from schemas import headers as h
from schemas.flow import BROADCAST_REQUEST
from schemas.network import NEWS, Looked
from schemas.types import display
from tests import builders
from topics.registry import (
    BROADCAST,
    BY_NAME,
    DEAD_LETTERS,
    INGEST,
    JOURNAL,
    NETWORK_NEWS,
    NETWORK_STATUS,
    OPERATIONS,
    PARSED,
    RESULTS,
    STATE,
    TOPICS,
    TRANSACTIONS,
    Topic,
)

NOW_MS = 1_790_000_000_000
DAY_MS = 86_400_000

CONTEXTS = ("topic:tm_anytx", "topic:tm_other")
MANAGERS = ApplySettings(topics=("tm_anytx", "tm_other=pipeline.overlay.builtin.anytx:AnyTx"))

FATES = ("accepted", "refused", "malformed", "rejected", "parked", "cast-parked")
"""By the network; at parse; at verify; after a day at verify, at broadcast."""


class Record(Struct):
    """A record on a topic; its offset is its place in the partition."""

    topic: str  # the name on the cluster
    partition: int
    key: bytes | None
    value: bytes | None
    headers: Sequence[tuple[str, bytes]] = ()
    offset: int = -1
    timestamp: int = NOW_MS


class World:
    """An installation's topics, as lists."""

    def __init__(
        self,
        prefix: str = "w.",
        cluster: str = "c1",
        managers: ApplySettings = MANAGERS,
        names: Sequence[str] = ("tm_anytx", "tm_other"),
    ) -> None:
        """names: the overlay topics that all payloads but the first one ask for."""
        self.now_ms = NOW_MS
        self.prefix = prefix
        self.cluster = cluster
        self.logs: dict[str, list[Record]] = {topic.name: [] for topic in TOPICS}
        self.txids: list[bytes] = []
        self.ingest: list[Record] = []  # by payload
        self.acknowledged = True  # whether groups stand at the ends of their inputs
        self._policy = Policy()
        self._parse = Parse(ParseSettings(), self._policy, cluster)
        self._apply = ApplyStage(managers)
        self._names = json.dumps(list(names)).encode()
        self._state = Memory()
        self._status = Status(StatusSettings(), BroadcastSettings(), HttpSettings())
        self._standings = Memory()

    # --- what senders write

    def asks(self, fates: Iterable[str]) -> list[Record]:
        """One ingest record for each fate, where `partition_for` puts it; offsets count up."""
        for number, fate in enumerate(fates):
            # Distinct scripts make distinct transactions.
            sender = builders.key(100 + number)
            parent = builders.funding(builders.Out(1000, builders.p2pkh(sender)), salt=number)
            child = builders.spend(
                [builders.In(parent, unlock=builders.by_p2pkh(sender))], [builders.Out(999, builders.p2pkh(sender))]
            )
            beef = builders.bag(parent, child, proven=[parent]).v1()
            key = b"request-%d" % number
            headers = [(h.TOPICS, self._names)] if number else []  # the first one says nothing
            record = self._record(Out(INGEST, key, beef + b"\0" if fate == "malformed" else beef, headers))
            self.ingest.append(record)
            self.txids.append(child.txid)
        return self.ingest

    # --- what the stages make of it

    def run(self, fates: Sequence[str]) -> "World":
        """Every stage's records about every payload."""
        for record, fate in zip(self.ingest, fates, strict=True):
            for parsed in self._write("parse", record, self._parse.decide(record, None, self.now_ms), PARSED):
                for operation in self._write("verify", parsed, self._verified(parsed, fate), OPERATIONS):
                    for request in self._write("apply", operation, self._applied(operation), BROADCAST):
                        for news in self._write("broadcast", request, self._cast(request, fate), NETWORK_NEWS):
                            for word in self._write("status", news, self._heard(news), OPERATIONS):
                                self._write("apply", word, self._applied(word), BROADCAST)
        return self

    def _verified(self, record: Record, fate: str) -> Decision:
        parsed = PARSED.schema.decode(record.value)
        about = _about(parsed)
        if fate == "rejected":
            return Refuse(Verdict("script.false", "tx 1 input 0"), about)
        if fate == "parked":
            return Defer(Condition("anchor.unknown"), about)
        payload = parse(parsed.beef, self._policy)
        assert isinstance(payload, Payload)
        answers = dict.fromkeys(payload.roots, Answer.YES)
        valid = verify(payload, answers, {}, builders.TIP, self._policy)
        assert isinstance(valid, Valid)
        return Emit(_operations(_verified(parsed, valid), parsed.asked.contexts, {}))

    def _applied(self, record: Record) -> Decision:
        layer = Layer(self._state)
        decided = self._apply.compute(record, layer, Heads(layer), self.now_ms)
        for key, live in decided.heads.items():
            layer.put(key, pack(live.stored()))
        for key, stored in layer.to_follow():
            self._record(Out(STATE, key, stored, (), record.partition))
        self._state.write(layer.writes)
        return decided.decision

    def _cast(self, record: Record, fate: str) -> Decision:
        request = BROADCAST_REQUEST.decode(record.value)
        txids = [member.txid for member in request.unmined]
        names = ("arc@there",)
        if fate == "refused":
            no = Reply(request.txid, "refused", "network.rejected", "no", "REJECTED", network=True)
            verdict = Verdict("network.rejected", "no")
            outcome = Outcome(request, Refused(verdict, *names), {request.txid: [(*names, no)]}, names)
            look = Looked((), names, self.now_ms + DAY_MS)  # once it has settled
            later = Out(NETWORK_NEWS, request.txid, NEWS.encode(look))
            return SetAside(verdict, [*_news(outcome, {}, self.now_ms, keep=True), later])
        if fate == "cast-parked":
            about = About(request.origin, request.request_ids, request.txid, None, len(request.contexts))
            return Defer(Condition("network.undecided"), about)
        taken = dict.fromkeys(txids, names[0])
        outcome = Outcome(request, Success(tuple(taken.items())), {}, names)
        efs = [Out(TRANSACTIONS, member.txid, member.ef) for member in request.unmined]
        return Emit([*efs, *_news(outcome, taken, self.now_ms, keep=False)])

    def _heard(self, record: Record) -> Decision:
        layer = Layer(self._standings)
        decided = self._status.compute(record, layer, Heads(layer), self.now_ms)
        for key, stored in self._status.form.records(layer):
            self._record(Out(NETWORK_STATUS, key, stored, (), record.partition))
        self._standings.write(layer.writes)
        return decided.decision

    def _write(self, stage: str, record: Record, decision: Decision, to: Topic) -> list[Record]:
        """Write what follows from a decision, conditions having lasted for two days; returns what went to `to`."""
        waited = h.RetryHeaders(
            origin_topic=record.topic.removeprefix(self.prefix), origin_partition=0, origin_offset=0, attempt=9,
            first_failed=self.now_ms - 2 * DAY_MS, not_before=self.now_ms, code="anchor.unknown",
        )  # fmt: skip
        if isinstance(decision, Defer):
            record = Record(
                record.topic, record.partition, record.key, record.value, [*record.headers, *h.to_pairs(waited)],
                record.offset,
            )  # fmt: skip
        outs = Router(stage, self.prefix, DAY_MS).outs(record, decision, self.now_ms)
        written = [(out.topic, self._record(out)) for out in outs]
        return [record for topic, record in written if topic is to]

    def _record(self, out: Out) -> Record:
        partition = out.partition if out.partition is not None else partition_for(out.key, out.topic.partitions)
        log = self.logs[out.topic.name]
        offset = sum(1 for each in log if each.partition == partition)
        name, headers, at_ms = out.topic.named(self.prefix), list(out.headers), self.now_ms + len(log)
        record = Record(name, partition, out.key, out.value, headers, offset, at_ms)
        log.append(record)
        return record

    # --- for tests that spoil it

    def of(self, topic: Topic, test: Callable[[Record], bool] = lambda _: True) -> list[Record]:
        """Records of a topic, in the order written."""
        return [record for record in self.logs[topic.name] if test(record)]

    def drop(self, topic: Topic, test: Callable[[Record], bool]) -> list[Record]:
        """Take records away; returns them."""
        found = self.of(topic, test)
        assert found, "nothing to take away"
        self.logs[topic.name] = [record for record in self.logs[topic.name] if record not in found]
        return found

    def add(self, topic: Topic, like: Record, **changes: object) -> None:
        """A record after all others, like another."""
        fields: dict[str, object] = {name: getattr(like, name) for name in Record.__struct_fields__}
        self.logs[topic.name].append(Record(**{**fields, "topic": topic.named(self.prefix), **changes}))  # type: ignore[arg-type]

    def name(self, payload: int) -> str:
        """The ingest record's id in reports."""
        record = self.ingest[payload]
        return f"ingest/{record.partition}/{record.offset}"

    def tell(self, books: Books) -> Books:
        """All of it, as a reader would."""
        flight = books.flight
        for name, log in self.logs.items():
            counts: dict[int, int] = {}
            for record in log:
                offset = counts.get(record.partition, 0)
                counts[record.partition] = offset + 1
                self._tell(books, BY_NAME[name], record, offset)
            if self.acknowledged:
                flight.acknowledged |= {(name, partition): count for partition, count in counts.items()}
            if name == INGEST.name:
                flight.ends = counts
        return books

    def _tell(self, books: Books, topic: Topic, record: Record, offset: int) -> None:
        where = f"{topic.name}/{record.partition}/{offset}"
        value = record.value or b""
        match topic.name:
            case INGEST.name:
                books.decisions.ask(record.partition, offset, record.timestamp, list(record.headers))
            case RESULTS.name:
                books.result(where, value)
            case JOURNAL.name:
                books.journal.enter(where, value)
            case BROADCAST.name:
                books.network.request(where, (record.partition, offset), record.timestamp, value)
            case TRANSACTIONS.name:
                books.network.handed_on(record.key or b"")
            case DEAD_LETTERS.name:
                books.letters.letter(where, record.timestamp, record.key, record.value, list(record.headers))

    def endpoint(self) -> Mapping[str, str]:
        """What an endpoint would say it got."""
        return {display(record.key or b""): "SEEN_ON_NETWORK" for record in self.of(TRANSACTIONS)}


def fresh(fates: Sequence[str] = FATES) -> World:
    """A world in which everything adds up."""
    world = World()
    world.asks(fates)
    return world.run(fates)
