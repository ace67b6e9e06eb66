"""Batches of the apply stage, computed as in service, over a store in memory: no broker."""

from collections.abc import Sequence
from typing import Any

from agents.apply import ApplyStage
from agents.runtime.board import Board
from agents.runtime.desk import Desk
from agents.runtime.outbox import Outbox
from agents.runtime.outcomes import Router
from agents.runtime.partition import Lanes, Partition
from agents.runtime.records import Out
from agents.runtime.settings import KafkaSettings, TopicSettings, TraceSettings, WorkerSettings
from agents.runtime.suspects import Suspicion
from agents.runtime.trace import Tracer
from pipeline.state import Memory, encode, seal
from schemas.external import RESULT, Result
from schemas.flow import OPERATION, Operation
from schemas.types import Context
from tests.fakes import Producer, Record
from topics.registry import OPERATIONS, RESULTS, TOPICS, Topic

DAY_MS = 86_400_000


class Batches:
    """One partition, and what was written for it."""

    def __init__(self, stage: ApplyStage) -> None:
        self.stage = stage
        self.store = Memory()
        self.outs: list[Out] = []
        self.events: list[tuple[str, str]] = []
        board = Board(max_in_flight=10_000, max_bytes=1 << 30)
        board.assign({(OPERATIONS.name, 0): (0, Suspicion())}, 1)
        self.desk = Desk(board, restores=True, settle_s=1)
        self.desk.teller = lambda kind, severity, message, details: self.events.append((kind, message))
        stage.tell_to(self.desk.tell)
        tracer = Tracer("apply", TraceSettings())
        tracer.close()
        counts = {topic.name: topic.partitions for topic in TOPICS}
        router = Router("apply", "", DAY_MS)
        settings = WorkerSettings()
        self.lanes = Lanes(stage, self.desk, router, tracer, KafkaSettings(), TopicSettings(), settings, counts)
        self.partition = Partition(self.lanes, board.lanes[OPERATIONS.name, 0])
        producer: Any = Producer()
        self._outbox = Outbox(producer, "", counts, 8 << 20)
        self._offset = 0

    def record(self, context: Context, operation: Operation, headers: Sequence[tuple[str, bytes]] = ()) -> Record:
        """Of `operations`."""
        self._offset += 1
        value = OPERATION.encode(operation)
        return Record(OPERATIONS.name, 0, self._offset, context.encode(), value, [OPERATION.header, *headers])

    def do(self, *records: Record) -> list[Out]:
        """Put them into the lane and compute batches until it is empty; what they wrote, waiting pieces among it."""
        begun = len(self.outs)
        lane, board = self.partition.lane, self.desk.board
        board.put(lane.tp, list(records), records[-1].offset + 1 if records else 0)
        store: Any = self.store
        while lane.queue or self._ready():
            if self._settle():
                continue
            batch = board.take_from(lane, 500, 1 << 30)
            computed = self.partition._compute(store, batch, self._outbox, given_up=False)
            done, left = batch.records[: computed.records], batch.records[computed.records :]
            batch.give_back(left)
            self._write(computed)
            batch.finished(done)
        return self.outs[begun:]

    def _ready(self) -> bool:
        store: Any = self.store
        _, wait_s = self.partition._settling(store)
        return wait_s == 0 and self.desk.halted is None

    def _settle(self) -> bool:
        """One piece of what waits, as `Partition.run` does it, its transaction aside."""
        store: Any = self.store
        context, wait_s = self.partition._settling(store)
        if context is None or wait_s != 0:
            return False
        computed = self.partition._settled(context, store, self._outbox)
        if computed is not None:
            self._write(computed)
        return True

    def _write(self, computed: Any) -> None:
        self.outs += [out for out, _ in computed.written.outs]
        for key, live in computed.heads.live.items():
            computed.layer.writes[key] = seal(encode(live.stored()))
        self.store.write(computed.layer.writes)
        applied = self.partition.applied
        self.partition.applied = type(applied)(0, "", 1, computed.settling)


def to(outs: Sequence[Out], *topics: Topic) -> list[Out]:
    """Those that go there."""
    return [out for out in outs if out.topic in topics]


def results(outs: Sequence[Out]) -> list[Result]:
    """In the order they were written."""
    return [RESULT.decode(out.value) for out in to(outs, RESULTS)]
