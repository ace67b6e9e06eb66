"""What a replica compares: the chain and the roots of every entry, and its copy's at the entry it stands at."""

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from agents.replica import Comparison
from agents.runtime.settings import KafkaSettings
from pipeline.state import Live, head_of
from schemas.flow import Evict
from schemas.journal import JournalEntry
from tests.fakes import Owner, apply_of, coin_of_others, made_tx, verified

ALL = "topic:tm_all"
COUNT = 8


def histories() -> tuple[Owner, list[Live]]:
    """A context's journal, and where it stood after each entry."""
    owner = Owner()
    heads = [head_of(owner.store, ALL)]
    txs = [made_tx([coin_of_others(number)], 2, number) for number in range(COUNT - 1)]
    for number, tx in enumerate(txs):
        owner.do(ALL, apply_of(verified(tx, offset=number)))
        heads.append(head_of(owner.store, ALL))
    owner.do(ALL, Evict("evict", txs[2].txid, "network.rejected", "no"))
    return owner, [*heads, head_of(owner.store, ALL)]


def comparison(head: Live) -> Comparison:
    made = Comparison({ALL: 3}, KafkaSettings(), "beef.journal", 32)
    made.begin(ALL, head)
    return made


def record(value: bytes, offset: int = 0, key: str = ALL) -> Any:
    return SimpleNamespace(partition=3, offset=offset, key=key.encode(), value=value)


@pytest.mark.invariant("COPY-3")
@pytest.mark.parametrize("begin", range(COUNT))
def test_from_wherever_a_copy_stood_it_agrees_with_its_journal(begin: int) -> None:
    """Entries before that, and other contexts', do not count; the copy may be behind the journal or before it."""
    owner, heads = histories()
    compared = comparison(heads[begin])
    compared.take(record(b"\xc1", key="topic:tm_other"))
    for sequence, value in enumerate(owner.journal[ALL], 1):
        compared.take(record(value))
        for head in heads[begin:]:
            if head.sequence <= sequence:
                last = head
        if sequence >= begin:
            assert compared.differs(ALL, last) == ""
    assert compared.differs(ALL, heads[-1]) == ""
    assert compared.said[ALL].chain.sequence == COUNT


@pytest.mark.invariant("COPY-3")
@pytest.mark.parametrize("field", ["previous", "txid", "effects", "state_root", "store_root", "operation"])
def test_an_entry_that_was_altered_is_found(field: str) -> None:
    """By its roots, or by the entry that names its hash: whichever entry, and whatever of it."""
    owner, heads = histories()
    for altered in range(COUNT - 1):
        compared = comparison(heads[0])
        for sequence, value in enumerate(owner.journal[ALL]):
            compared.take(record(_altered(value, field) if sequence == altered else value))
        assert compared.differs(ALL, heads[-1]) != "", (field, altered)


@pytest.mark.invariant("COPY-3")
def test_the_entry_a_copy_stands_at_must_be_the_one_its_state_names() -> None:
    """Also where it is the journal's last."""
    owner, heads = histories()
    compared = comparison(heads[-1])
    compared.take(record(_altered(owner.journal[ALL][-1], "operation")))
    assert "is not the entry that its state names" in compared.differs(ALL, heads[-1])


@pytest.mark.invariant("COPY-3")
@pytest.mark.parametrize("values", [[b"\xc1"], []])
def test_what_is_no_entry_or_leaves_a_gap_is_found(values: list[bytes]) -> None:
    owner, heads = histories()
    compared = comparison(heads[2])
    for value in [*values, *owner.journal[ALL][3:]]:
        compared.take(record(value))
    assert compared.differs(ALL, heads[-1]) != ""


@pytest.mark.invariant("COPY-3")
def test_a_copy_with_other_roots_is_found_once_the_journal_is_as_far() -> None:
    owner, heads = histories()
    wrong = msgspec.structs.replace(heads[5], state_sum=heads[4].state_sum)
    compared = comparison(heads[2])
    assert compared.differs(ALL, wrong) == ""
    for value in owner.journal[ALL]:
        compared.take(record(value))
    assert compared.differs(ALL, wrong) == f"{ALL} 5: the copy has other roots than the journal"


def _altered(value: bytes, field: str) -> bytes:
    entry = msgspec.msgpack.decode(value, type=JournalEntry)
    old = getattr(entry, field)
    if field == "effects":
        new: Any = msgspec.structs.replace(old, added=old.added[1:], removed=old.removed[1:])
    elif isinstance(old, str):
        new = old + "x"
    else:
        new = bytes([old[0] ^ 1]) + old[1:]
    return msgspec.msgpack.encode(msgspec.structs.replace(entry, **{field: new}))
