"""Managers that examine: facts go with the transaction, and are those of the manager's own version."""

import hashlib
from collections.abc import Mapping
from typing import Any

import msgspec
import pytest

from pipeline import apply as rules
from pipeline import state
from pipeline.contextual import Change
from pipeline.overlay.manager import (
    CONTRACT,
    FACTS_BYTES,
    TAKEN,
    BadManager,
    Subject,
    TopicManager,
    Transaction,
    examine,
    examiner,
    facts_of,
    load,
    up_to_date,
)
from pipeline.state import Layer, Memory, head_key, head_of
from schemas.external import Admittance
from schemas.flow import Apply, Evict, Examined, Operation, Readmit
from schemas.state import Applied, Submission
from schemas.types import Txid, outpoint
from tests.fakes import NOW_MS, apply_of, coin_of_others, made_tx, verified

TOPIC = "topic:tm_x"


class Hashes:
    """Its facts are a hash of all it is shown, and where it gets some it admits the first output."""

    contract = CONTRACT

    def __init__(self, version: str = "1") -> None:
        self.version = version
        self.examined: list[Txid] = []
        self.given: list[bytes] = []

    def facts(self, transaction: Transaction) -> bytes:
        seen = (self.version, transaction.raw, transaction.outputs, transaction.spent, transaction.off_chain_values)
        return hashlib.sha256(repr(seen).encode()).digest()

    def examine(self, transaction: Transaction) -> bytes:
        assert not isinstance(transaction, Subject)  # nothing of coins is known there
        self.examined.append(transaction.txid)
        return self.facts(transaction)

    def admit(self, subject: Subject) -> Admittance:
        self.given.append(subject.facts)
        return Admittance((0,) if subject.facts else (), subject.previous_coins)


class Context:
    """One, whose manager may be replaced by another version."""

    def __init__(self) -> None:
        self.store = Memory()

    def do(self, operation: Operation, manager: TopicManager) -> Change:
        layer, managers = Layer(self.store), {"tm_x": manager}
        head = head_of(layer, TOPIC)
        match operation:
            case Apply():
                change = rules.apply(layer, head, TOPIC, operation, managers, NOW_MS)
            case Evict():
                change = rules.evict(layer, head, TOPIC, operation, NOW_MS)
            case Readmit():
                change = rules.readmit(layer, head, TOPIC, operation, managers, NOW_MS)
            case _:
                raise AssertionError
        layer.put(head_key(TOPIC), state.encode(change.head.stored()))
        self.store.write(layer.writes)
        return change

    def kept(self, txid: Txid) -> Examined | None:
        """The facts that stand with an answer."""
        stored = self.store.get(state.key(TOPIC, state.TX, txid))
        assert stored is not None
        return msgspec.msgpack.decode(stored[32:], type=Applied).submission.examined


PARENT = made_tx([coin_of_others(1)], 2, 1)
CHILD = made_tx([outpoint(PARENT.txid, 0)], 2, 2)
FACTS = Examined("1", b"\x01 made in verify")


def examined_apply(examined: Examined | None, **more: Any) -> Apply:
    return msgspec.structs.replace(apply_of(verified(CHILD, [PARENT], **more)), examined=examined)


@pytest.mark.invariant("TOPIC-2")
def test_facts_that_come_with_a_payload_are_given_and_kept() -> None:
    context, manager = Context(), Hashes()
    context.do(examined_apply(FACTS), manager)
    assert (manager.examined, manager.given) == ([], [FACTS.facts])
    assert context.kept(CHILD.txid) == FACTS


@pytest.mark.invariant("TOPIC-2")
@pytest.mark.parametrize("examined", [None, Examined("0", b"\xffof another version")])
def test_where_facts_are_missing_or_anothers_whoever_judges_examines(examined: Examined | None) -> None:
    context, manager = Context(), Hashes()
    context.do(examined_apply(examined, off_chain=b"x"), manager)
    own = manager.facts(Transaction(CHILD.txid, CHILD.raw, [b""], b"x"))
    assert (manager.examined, manager.given) == ([CHILD.txid], [own])
    assert context.kept(CHILD.txid) == Examined("1", own)


@pytest.mark.invariant("TOPIC-2")
def test_who_is_judged_again_gets_the_facts_that_were_kept() -> None:
    """A parent comes after its child; both leave, and come back."""
    context, manager = Context(), Hashes()
    context.do(examined_apply(FACTS), manager)
    context.do(msgspec.structs.replace(apply_of(verified(PARENT, offset=1)), examined=FACTS), manager)
    context.do(Evict("evict", PARENT.txid, "network.rejected", "no"), manager)
    context.do(Readmit("readmit", PARENT.txid), manager)
    assert manager.examined == []
    assert manager.given == [FACTS.facts] * len(manager.given)
    assert len(manager.given) >= 5
    assert context.kept(CHILD.txid) == FACTS


@pytest.mark.invariant("TOPIC-2")
def test_a_new_version_examines_anew_what_it_judges_again() -> None:
    context, old, new = Context(), Hashes(), Hashes("2")
    context.do(examined_apply(FACTS), old)
    context.do(apply_of(verified(PARENT, offset=1)), new)
    facts = {tx.txid: Examined("2", new.facts(Transaction(tx.txid, tx.raw, [b""]))) for tx in (PARENT, CHILD)}
    assert new.examined == [PARENT.txid, CHILD.txid]
    assert {tx.txid: context.kept(tx.txid) for tx in (PARENT, CHILD)} == facts
    context.do(Evict("evict", PARENT.txid, "network.rejected", "no"), new)
    newest = Hashes("3")
    context.do(Readmit("readmit", PARENT.txid), newest)
    assert newest.examined == [PARENT.txid, CHILD.txid]
    assert context.kept(CHILD.txid) == Examined("3", newest.facts(Transaction(CHILD.txid, CHILD.raw, [b""])))


class Answers:
    """Whatever it is told to."""

    version = "1"
    contract = CONTRACT

    def __init__(self, facts: Any) -> None:
        self._facts = facts

    def examine(self, transaction: Transaction) -> bytes:
        if isinstance(self._facts, Exception):
            raise self._facts
        return self._facts  # type: ignore[no-any-return]

    def admit(self, subject: Subject) -> Admittance:
        return Admittance()


@pytest.mark.invariant("TOPIC-1")
@pytest.mark.parametrize(
    ("facts", "told"),
    [(None, "NoneType"), ("text", "str"), (bytearray(b"x"), "bytearray"), (bytes(FACTS_BYTES + 1), "65,537 bytes")],
)
def test_what_examining_may_not_answer(facts: Any, told: str) -> None:
    transaction = Transaction(CHILD.txid, CHILD.raw, [b""])
    with pytest.raises(BadManager, match=told):
        examine(Answers(facts), "tm_x", transaction)
    assert examine(Answers(bytes(FACTS_BYTES)), "tm_x", transaction) == Examined("1", bytes(FACTS_BYTES))


@pytest.mark.invariant("TOPIC-1")
def test_who_fails_to_examine_what_it_judges_leaves_nothing() -> None:
    context = Context()
    with pytest.raises(RuntimeError, match="no facts"):
        context.do(examined_apply(None), Answers(RuntimeError("no facts")))
    assert context.store.entries == {}


class Helper:
    """Written for a contract that knew no `examine`: a method of that name is its own."""

    version = "1"
    contract = 2

    def examine(self, script: bytes) -> int:
        raise AssertionError

    def admit(self, subject: Subject) -> Admittance:
        assert subject.facts == b""
        return Admittance((0,))


class Silent(Helper):
    """Does not say what it was written for."""

    contract = None  # type: ignore[assignment]


class Plain:
    """Has no `examine`, and says nothing."""

    version = "1"

    def admit(self, subject: Subject) -> Admittance:
        return Admittance((0,))


HERE = "tests.pipeline.test_examine"


def test_who_is_asked_to_examine() -> None:
    assert TAKEN == (2, 3)
    assert (examiner(Plain()), examiner(Helper())) == (None, None)
    manager = Hashes()
    assert examiner(manager) is manager
    for name in ("Hashes", "Helper", "Plain"):
        load((f"tm_x={HERE}:{name}",))
    with pytest.raises(BadManager, match="does not say"):
        load((f"tm_x={HERE}:Silent",))


def test_facts_of_a_manager_that_no_longer_examines_are_not_looked_at() -> None:
    submission = Submission(CHILD.raw, (b"",), b"", FACTS)
    assert up_to_date(Helper(), "tm_x", CHILD.txid, submission) == submission
    assert facts_of(Helper(), submission) == b""
    context = Context()
    context.do(examined_apply(FACTS), Helper())
    context.do(apply_of(verified(PARENT, offset=1)), Helper())


@pytest.mark.parametrize(
    ("kind", "old"),
    [
        (Submission, [b"raw", [b"source"], b"values"]),
        (Apply, ["apply", "id", msgspec.to_builtins(verified(CHILD), builtin_types=(bytes,))]),
    ],
)
def test_what_was_written_before_there_were_facts_is_read(kind: Any, old: Any) -> None:
    found: Mapping[str, Any] = msgspec.structs.asdict(msgspec.msgpack.decode(msgspec.msgpack.encode(old), type=kind))
    assert found["examined"] is None
