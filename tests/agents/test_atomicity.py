"""The three things that show whether a reference overlay engine is atomic, asked of this one.

There: both of two concurrent spends are admitted, a store that fails on the second of two inserts leaves the first, and
a manager that raises leaves its topic out of an answer that calls itself a success.
"""

from pathlib import Path

import pytest
from rocksdict import WriteBatch

from agents.apply import ApplySettings, ApplyStage
from agents.runtime.partition import Heads
from agents.runtime.records import Emit, ManagerFailed
from agents.runtime.store import Store
from pipeline import state
from pipeline.contextual import Answer
from pipeline.outcome import BY_CODE, Condition, Verdict
from pipeline.state import Layer, Memory, head_key, head_of
from schemas.flow import OPERATION, Accept, Evict
from schemas.types import Context, outpoint
from tests.fakes import Owner, Record, apply_of, coin_of_others, decide, made_tx, verified
from topics.registry import JOURNAL, RESULTS

TOPIC = "topic:tm_all"


def coins(store: Memory, context: Context = TOPIC) -> set[bytes]:
    prefix = state.key(context, state.COIN, b"")
    return {key.removeprefix(prefix) for key in store.keys_with(prefix)}


def test_two_concurrent_spends_of_one_coin() -> None:
    """One stands; the other waits for the network's word, and has its turn when the first is refused."""
    owner = Owner()
    parent = made_tx([coin_of_others(1)], 1, 1)
    first, second = (made_tx([outpoint(parent.txid, 0)], 1, salt) for salt in (2, 3))
    owner.do(TOPIC, apply_of(verified(parent)))
    assert isinstance(owner.do(TOPIC, apply_of(verified(first, [parent], offset=1))).said, Answer)
    waits = owner.do(TOPIC, apply_of(verified(second, [parent], offset=2)))
    assert isinstance(waits.said, Condition)
    assert (waits.said.code, waits.competing) == ("conflict.undecided", (first.txid,))
    assert coins(owner.store) == {outpoint(first.txid, 0)}
    accepted, refused = Owner(), owner
    accepted.store = Memory(owner.store.entries)
    accepted.do(TOPIC, Accept("accept", (first.txid,), "arc@a"))
    lost = accepted.do(TOPIC, apply_of(verified(second, [parent], offset=2)))
    assert isinstance(lost.said, Verdict)
    assert (lost.said.code, lost.competing) == ("conflict.double-spend", (first.txid,))
    assert coins(accepted.store) == {outpoint(first.txid, 0)}
    refused.do(TOPIC, Evict("evict", first.txid, "network.rejected", "no"))
    assert coins(refused.store) == {outpoint(parent.txid, 0)}
    assert isinstance(refused.do(TOPIC, apply_of(verified(second, [parent], offset=2))).said, Answer)
    assert coins(refused.store) == {outpoint(second.txid, 0)}


class FailingBatch:
    """RocksDB's batch, which takes one coin and fails on the next."""

    def __init__(self, raw_mode: bool) -> None:
        self._batch = WriteBatch(raw_mode=raw_mode)
        self.delete = self._batch.delete
        self._coins = 0

    def put(self, key: bytes, value: bytes) -> None:
        if key.startswith(state.key(TOPIC, state.COIN, b"")):
            self._coins += 1
            if self._coins == 2:
                raise OSError("the disk is full")
        self._batch.put(key, value)


@pytest.mark.invariant("STORE-1")
def test_the_store_failing_on_the_second_of_two_inserts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the transaction stands in the store, nor that it was read so far; the next try has all of it."""
    store = Store(tmp_path / "store")
    layer = Layer(store)
    change = decide(layer, TOPIC, apply_of(verified(made_tx([coin_of_others(1)], 2, 1))))
    layer.put(head_key(TOPIC), state.encode(change.head.stored()))
    assert isinstance(change.said, Answer)
    with monkeypatch.context() as patched:
        patched.setattr("agents.runtime.store.WriteBatch", FailingBatch)
        with pytest.raises(OSError, match="disk is full"):
            store.write(layer.writes, 7)
    assert list(store.keys_with(TOPIC.encode())) == []
    assert store.position == 0
    store.write(layer.writes, 7)
    assert len(list(store.keys_with(state.key(TOPIC, state.COIN, b"")))) == 2
    assert head_of(store, TOPIC).state_root == change.head.state_root
    assert store.position == 7
    store.close()


@pytest.mark.invariant("TOPIC-1")
@pytest.mark.setting("apply.trusted")
@pytest.mark.parametrize("trusted", [(), ("tm_all", "tm_odd")], ids=["in processes of their own", "trusted"])
async def test_one_of_two_managers_raising(trusted: tuple[str, ...]) -> None:
    """The other's context has all of it, that one's has nothing, and neither is told that nothing was admitted."""
    hosted = ("tm_all=tests.fakes:Keep", "tm_odd=tests.fakes:Odd")
    stage = ApplyStage(ApplySettings(topics=hosted, trusted=trusted))
    contexts = (TOPIC, "topic:tm_odd")
    payload = verified(made_tx([coin_of_others(1)], 2, 1), off_chain=b"raise", contexts=contexts)
    value = OPERATION.encode(apply_of(payload))
    store = Memory()

    def compute(context: Context) -> tuple[Layer, object]:
        layer = Layer(store)
        record = Record("beef.operations", key=context.encode(), value=value, headers=[OPERATION.header])
        return layer, stage.compute(record, layer, Heads(layer), 1).decision

    layer, decision = compute(TOPIC)
    assert isinstance(decision, Emit)
    assert {out.topic for out in decision.outs} >= {JOURNAL, RESULTS}
    store.write(layer.writes)
    with pytest.raises(ManagerFailed, match="does not like it") as raised:
        compute("topic:tm_odd")
    assert BY_CODE[raised.value.code].kind == "fault"
    assert len(coins(store)) == 2
    assert head_of(store, "topic:tm_odd").sequence == 0
    assert not list(store.keys_with(b"topic:tm_odd"))
    await stage.stop()
