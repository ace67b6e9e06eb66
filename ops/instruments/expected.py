"""What an apply stage must have written: its rule, run over `operations` as the topic holds it, in memory.

The rule is the same; what is checked against it is everything around the rule: that each operation took effect once and
wholly, whatever was killed, whoever owned its partition, and that nothing else stands on any topic.
"""

import hashlib
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct, msgpack, structs

from agents.runtime.outcomes import Router
from agents.runtime.partition import AtomicStage, Heads
from agents.runtime.records import Headers, Inbound, Out
from pipeline.state import Layer, Live, Memory, encode, head_key, head_of, seal
from schemas import headers as h
from schemas.external import RESULT
from schemas.journal import JOURNAL as JOURNAL_SCHEMA
from schemas.state import Head
from schemas.types import Context
from schemas.wire import HEADER
from topics.registry import JOURNAL, RESULTS, Topic

TIMES = frozenset((HEADER, h.TRACEPARENT, h.FIRST_FAILED, h.NOT_BEFORE, h.FAILED_AT))
"""Headers that no two runs have alike, and the schema's, which follows from the topic."""

_head = msgpack.Decoder(Head).decode


class Trace(Struct, frozen=True):
    """A record of an output topic, apart from the time it was written at."""

    topic: str
    what: str  # for people
    digest: bytes


def trace(topic: Topic, key: bytes | None, value: bytes, headers: Headers) -> Trace:
    """Of a record that was, or should have been, written.

    Raises:
        msgspec.MsgspecError: it is not what its topic holds.
    """
    if topic is JOURNAL:
        entry = JOURNAL_SCHEMA.decode(value)
        what = f"{entry.context} {entry.sequence} {entry.kind}"
        # Each entry names the hash of the one before, times and all: the chain is walked by itself.
        value = JOURNAL_SCHEMA.encode(structs.replace(entry, previous=b"", time_ms=0))
    elif topic is RESULTS:
        result = RESULT.decode(value)
        what = f"{result.id} revision {result.revision}: {result.outcome}"
        value = RESULT.encode(structs.replace(result, time=""))
    else:
        what = (key or b"").hex()
    kept = [(name, value) for name, value in headers if name not in TIMES]
    digest = hashlib.blake2b(msgpack.encode((key, value, kept)), digest_size=16).digest()
    return Trace(topic.name, what, digest)


class Expected:
    """Takes the records of `operations`, those of a partition in their order."""

    def __init__(self, stage: AtomicStage, prefix: str, give_up_after_s: float) -> None:
        self.stage = stage
        self.stores: dict[Context, Memory] = defaultdict(Memory)  # of each context: a rule sees no other
        self.traces: Counter[Trace] = Counter()
        self.operations: Counter[str] = Counter()  # by what became of them
        self.last: dict[int, int] = {}  # partition -> offset
        self._router = Router(stage.name, prefix, int(give_up_after_s * 1000))

    def take(self, record: Inbound) -> None:
        """The next record of a partition, and the work it leaves behind.

        Raises:
            Exception: whatever the rule raises; operations here are such as it does not raise on.
        """
        context = (record.key or b"").decode()
        more = False
        todo = deque((record,))
        while todo and not more:  # what waited for one that leaves work behind is on the topic again, behind that
            one = todo.popleft()
            layer = Layer(self.stores[context])
            decided = self.stage.compute(one, layer, Heads(layer), 0)
            self.operations[":".join(filter(None, self._router.kind(decided.decision)))] += 1
            outs = [*self._router.outs(one, decided.decision, 0)]
            for kept, what in decided.also:
                outs += self._router.outs(kept, what, 0)
            self._write(context, layer, decided.heads, outs, record.partition)
            todo.extendleft(reversed(decided.resumed))
            more = decided.settling is not None
        self.last[record.partition] = record.offset
        while more:
            layer = Layer(self.stores[context])
            settled = self.stage.settle(context, record.partition, layer, Heads(layer), 0)
            self._write(context, layer, {head_key(context): settled.head}, settled.outs, record.partition)
            more = settled.more

    def _write(
        self, context: Context, layer: Layer, heads: Mapping[bytes, Live], outs: Iterable[Out], partition: int
    ) -> None:
        for key, live in heads.items():
            layer.writes[key] = seal(encode(live.stored()))
        self.stores[context].write(layer.writes)
        for out in outs:
            assert out.partition in (None, partition)  # set A: one number a context
            if out.topic in self.stage.inputs:
                continue  # that is taken as it comes
            self.traces[trace(out.topic, out.key, out.value or b"", out.headers)] += 1

    def entries(self) -> Iterator[tuple[bytes, bytes]]:
        """Of all contexts."""
        for store in self.stores.values():
            yield from store.entries.items()

    def heads(self) -> dict[Context, Live]:
        """Where every context must stand. Hashes of entries are not comparable: they hold times."""
        return {context: head_of(store, context) for context, store in self.stores.items() if store.entries}


def differences(expected: Counter[Trace], found: Counter[Trace]) -> tuple[list[str], list[str], list[str]]:
    """What is lost, what is doubled, and what stands there that nothing asked for."""
    lost = [f"{each.topic} {each.what}" for each in (expected - found).elements()]
    more = found - expected
    doubled = [f"{each.topic} {each.what}" for each in more.elements() if each in expected]
    strange = [f"{each.topic} {each.what}" for each in more.elements() if each not in expected]
    return lost, doubled, strange


def comparable(entries: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Entries of a store, heads without the hash of their last entry, which holds a time."""
    return {key: stored if b"\0" in key else _sums(stored) for key, stored in entries}


def _sums(stored: bytes) -> bytes:
    head: Head = _head(stored[32:])
    return encode(structs.replace(head, entry_hash=b""))
