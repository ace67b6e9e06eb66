"""Apply and coordinate side by side without a broker: real stages, real batches, and topics in hand between them."""

from collections import defaultdict, deque

import msgspec

from agents.apply import ApplySettings, ApplyStage
from agents.coordinate import Coordinate, CoordinateSettings, standing
from agents.runtime.board import Board
from agents.runtime.desk import Desk
from agents.runtime.outbox import Outbox
from agents.runtime.outcomes import Router
from agents.runtime.partition import AtomicStage, Computed, Lanes, Partition
from agents.runtime.records import Inbound, Kept, Out
from agents.runtime.settings import KafkaSettings, TopicSettings, TraceSettings, WorkerSettings
from agents.runtime.suspects import Suspicion
from agents.runtime.trace import Tracer
from pipeline import state
from pipeline.prepare import parts_of, whole
from pipeline.state import APPLIED_KEY, Memory, head_key, head_of, seal
from schemas import headers as h
from schemas.external import RESULT, Result
from schemas.flow import OPERATION, Apply, Operation, Part, Prepare, Verified
from schemas.operations import VOTE, OperationStatus, Said
from schemas.state import AppliedOffset
from schemas.types import Context
from tests.fakes import NOW_MS, Producer
from topics.registry import BY_NAME, OPERATIONS, VOTES

COUNTS = {name: topic.partitions for name, topic in BY_NAME.items()}
GIVE_UP_MS = 3_600_000


class Place:
    """One partition of a stage, with its store."""

    def __init__(self, stage: AtomicStage, prefix: str = "beef.") -> None:
        tracer = Tracer(stage.name, TraceSettings())
        tracer.close()
        self.desk = Desk(Board(max_in_flight=1_000, max_bytes=64 << 20), restores=True, settle_s=1)
        self.lane = (stage.inputs[0].named(prefix), 0)
        self.desk.board.assign({self.lane: (0, Suspicion())}, 1)
        router = Router(stage.name, prefix, GIVE_UP_MS)
        lanes = Lanes(stage, self.desk, router, tracer, KafkaSettings(), TopicSettings(), WorkerSettings(), COUNTS)
        self.stage = stage
        self.partition = Partition(lanes, self.desk.board.lanes[self.lane])
        self.outbox = Outbox(Producer(), prefix, COUNTS, 8 << 20)
        self.store = Memory()
        self.offset = 0

    def do(self, records: list[Inbound], *, given_up: bool = False) -> list[Out]:
        """A batch, and what it left waiting in a queue; what both write."""
        self.desk.board.put(self.lane, records, len(records))
        outs: list[Out] = []
        lane = self.desk.board.lanes[self.lane]
        while lane.queue:
            batch = self.desk.board.take_from(lane, 1_000, 8 << 20)
            computed = self.partition._compute(self.store, batch, self.outbox, given_up=given_up)  # type: ignore[arg-type]
            done, left = batch.records[: computed.records], batch.records[computed.records :]
            if left:
                batch.give_back(left)
            batch.finished(done)
            outs += self._write(computed)
            while self.partition.applied.settling:
                settled = self.partition._settled(self.partition.applied.settling[0], self.store, self.outbox)  # type: ignore[arg-type]
                assert settled is not None
                settled.undecided = set(self.partition.applied.undecided)
                outs += self._write(settled)
        return outs

    def _write(self, computed: Computed) -> list[Out]:
        layer = computed.layer
        for key, live in computed.heads.live.items():
            layer.writes[key] = seal(state.encode(live.stored()))
        self.offset += computed.records
        applied = AppliedOffset(self.offset, "", 1, computed.settling, tuple(sorted(computed.undecided)))
        layer.writes[APPLIED_KEY] = seal(state.encode(applied))
        self.partition.applied = applied
        self.store.write(layer.writes)
        return [out for out, _ in computed.written.outs]


class Rig:
    """Contexts with a partition each, and one coordinator."""

    def __init__(self, topics: tuple[str, ...], **coordinate: float) -> None:
        """topics: as `apply.topics`, trusted."""
        names = tuple(spec.partition("=")[0] for spec in topics)
        self.stage = ApplyStage(ApplySettings(topics=topics, trusted=names), failures=1_000)
        self.contexts: dict[Context, Place] = {}
        self.coordinator = Place(Coordinate(CoordinateSettings(**coordinate)))
        self.queues: dict[tuple[str, bytes], deque[Inbound]] = defaultdict(deque)
        self.written: dict[str, list[Out]] = defaultdict(list)
        self.lag: set[bytes] = set()  # keys whose records stay where they are
        self._offset = 0

    def part(self, context: Context) -> Place:
        """Where a context is."""
        return self.contexts.setdefault(context, Place(self.stage))

    def send(self, payload: Verified) -> None:
        """What verify writes of a payload for all of its contexts."""
        asked = payload.asked
        if asked.atomicity == "each":
            for context in asked.contexts:
                self.ask(context, Apply(f"{asked.request_id} {context}", payload))
            return
        for context, each in asked_of(payload):
            self.ask(context, each)

    def ask(self, context: Context, operation: Operation) -> None:
        """A record of `operations`."""
        self.put(Out(OPERATIONS, context.encode(), OPERATION.encode(operation)))

    def say(self, operation: str, said: Said) -> None:
        """A record of `votes`."""
        self.put(Out(VOTES, bytes.fromhex(operation), VOTE.encode(said)))

    def put(self, out: Out) -> None:
        """A record, to where it goes."""
        self.written[out.topic.name].append(out)
        if out.topic in (OPERATIONS, VOTES):
            self._offset += 1
            headers = [out.topic.schema.header, *out.headers]
            record = Kept(out.topic.named("beef."), 0, self._offset, NOW_MS, out.key, out.value, headers)
            self.queues[out.topic.name, out.key or b""].append(record)

    def run(self, *, given_up: Context | None = None) -> None:
        """Until nothing is left to read, but for what lags. given_up: its next record has ended its process."""
        while waiting := [at for at, queue in self.queues.items() if queue and at[1] not in self.lag]:
            topic, key = waiting[0]
            record = self.queues[topic, key].popleft()
            if topic == VOTES.name:
                outs = self.coordinator.do([record])
            else:
                context = key.decode()
                outs = self.part(context).do([record], given_up=context == given_up)
                given_up = None if context == given_up else given_up
            for out in outs:
                self.put(out)

    def come_back(self) -> int:
        """What waits in tiers returns, as the retry stage has it; how many."""
        tiers = [name for name in self.written if name.startswith("retry.")]
        found = [out for name in tiers for out in self.written.pop(name)]
        for out in found:
            self.put(Out(OPERATIONS, out.key, out.value, h.without(out.headers, frozenset({"schema"}))))
        return len(found)

    def standing(self, operation: str) -> OperationStatus | None:
        """As the coordinator has it."""
        return standing(self.coordinator.store, bytes.fromhex(operation))

    def results(self) -> dict[tuple[str, Context | None], Result]:
        """The decision that stands, by request and context."""
        found: dict[tuple[str, Context | None], Result] = {}
        for out in self.written["results"]:
            result = RESULT.decode(out.value)
            key = result.request_ids[0], result.context
            if key not in found or found[key].revision <= result.revision or found[key].outcome == "parked":
                found[key] = result
        return found

    def outcomes(self, request: str) -> dict[Context, str]:
        """What stands for a request, by context: the outcome, and its code where it has one."""
        return {
            context or "": " ".join(filter(None, (result.outcome, result.code)))
            for (name, context), result in self.results().items()
            if name == request
        }

    def root(self, context: Context) -> bytes:
        """State root of a context."""
        return head_of(self.part(context).store, context).state_root

    def undecided(self, context: Context) -> list[bytes]:
        """Kinds of entries there that are of undecided operations."""
        kinds = state.PREPARED + state.LOCK + state.SUBJECT + state.HOLDS + state.WAITER + state.BEHIND + state.OWN
        store = self.part(context).store.entries
        here = [key for key in store if key.find(b"\0") > 0 and key != head_key(context)]
        return [bytes([state.kind_of(key)]) for key in here if state.kind_of(key) in kinds]


def all_of(payload: Verified) -> Verified:
    """The same, all or nothing."""
    return msgspec.structs.replace(payload, asked=msgspec.structs.replace(payload.asked, atomicity="all"))


def asked_of(payload: Verified) -> list[tuple[Context, Prepare]]:
    """What each of its contexts is asked."""
    operation = whole(0, payload, [Part(context) for context in payload.asked.contexts])
    return [(payload.asked.contexts[0], operation), *parts_of(operation)]


def name_of(payload: Verified) -> str:
    """Its operation's."""
    operation: Prepare = whole(0, payload, [Part(context) for context in payload.asked.contexts])
    return operation.operation
