"""A partition's batches, before anything is written."""

from collections.abc import Sequence
from typing import Any

import pytest

from agents.apply import ApplySettings, ApplyStage
from agents.runtime.board import Board
from agents.runtime.desk import Desk
from agents.runtime.outbox import Outbox
from agents.runtime.outcomes import Router
from agents.runtime.partition import Computed, Lanes, Partition
from agents.runtime.settings import KafkaSettings, TopicSettings, TraceSettings, WorkerSettings
from agents.runtime.suspects import Suspicion
from agents.runtime.trace import Tracer
from pipeline import state
from pipeline.codec.tx import Tx, read_tx
from pipeline.state import Layer
from schemas.flow import OPERATION, Evict, Operation
from tests import builders
from tests.fakes import Owner, Producer, Record, apply_of, coin_of_others, verified
from topics.registry import BY_NAME, OPERATIONS

CONTEXT = "topic:tm_all"


def computed(owner: Owner, operations: Sequence[Operation]) -> Computed:
    """What a batch of these comes to."""
    tracer = Tracer("apply", TraceSettings())
    tracer.close()
    desk = Desk(Board(max_in_flight=1_000, max_bytes=64 << 20), restores=True, settle_s=1)
    lane = (OPERATIONS.named("beef."), 0)
    desk.board.assign({lane: (0, Suspicion())}, 1)
    values = [OPERATION.encode(operation) for operation in operations]
    records = [Record(lane[0], 0, offset, CONTEXT.encode(), value) for offset, value in enumerate(values)]
    desk.board.put(lane, records, len(records))
    stage = ApplyStage(ApplySettings(topics=("tm_all=tests.fakes:Keep",), trusted=("tm_all",)))
    counts = {name: topic.partitions for name, topic in BY_NAME.items()}
    settings = WorkerSettings()
    router = Router("apply", "beef.", 1)
    lanes = Lanes(stage, desk, router, tracer, KafkaSettings(), TopicSettings(), settings, counts)
    batch = desk.board.take_from(desk.board.lanes[lane], settings.batch_records, 8 << 20)
    store: Any = owner.store
    outbox = Outbox(Producer(), "beef.", counts, 8 << 20)
    return Partition(lanes, desk.board.lanes[lane])._compute(store, batch, outbox, given_up=False)


def heavy(number: int, size: int) -> Tx:
    """Of so many bytes, most of them in its input."""
    spends = [(coin_of_others(number), builders.push(bytes(size)), builders.FINAL)]
    return read_tx(builders.raw_tx(spends, [builders.Out(1)]))


@pytest.mark.invariant("TXN-1")
def test_a_batch_ends_where_its_records_have_moved_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thirty evictions of 40 kB each, asked for in 200 bytes: the first that goes over the limit is the last."""
    monkeypatch.setattr("agents.runtime.partition.COMPUTE_S", 60.0)  # however slow the machine is
    owner = Owner()
    txs = [heavy(number, 40_000) for number in range(30)]
    for number, tx in enumerate(txs):
        owner.do(CONTEXT, apply_of(verified(tx, offset=number)))
    evictions = [Evict(f"evict:{number}", tx.txid, "network.rejected", "no") for number, tx in enumerate(txs)]
    assert computed(owner, evictions).records == 30
    monkeypatch.setattr("pipeline.waiting.BYTES", 100_000)
    few = computed(owner, evictions)
    assert few.records == 3
    assert len(few.written.outs) == 6  # an entry and a result of each
    assert set(few.heads.live) == {CONTEXT.encode()}
    assert 100_000 <= few.layer.size() < 100_000 + 45_000
    owner.store.write(few.layer.writes)
    whole = Layer(owner.store)
    assert sum(whole.get(state.key(CONTEXT, state.KNOWN, tx.txid)) is None for tx in txs) == 3
