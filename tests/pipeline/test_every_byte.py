"""Each published BEEF with every bit flipped, cut at every length, and with something behind it (domain.md 1.4, 10.5).

What comes out is a code of the table, or the payload that was there before: nothing else, and never an exception.
"""

from collections.abc import Iterator

import pytest
from msgspec import Struct

from pipeline.chain.answer import Answer, RootAt
from pipeline.codec.ef import write_ef
from pipeline.codec.reader import varint
from pipeline.outcome import BY_CODE
from pipeline.parse import Payload, parse
from pipeline.policy import Policy
from pipeline.verify import Valid
from tests.builders import payment
from tests.pipeline.test_verify import judge
from tests.vectors import universal

LENIENT, STRICT = Policy(), Policy(form="strict")
ENCODINGS = ("beef_hex", "beef_v2_hex", "atomic_beef_hex")


class Published(Struct, frozen=True):
    """A payload that is valid, and what it says."""

    beef: bytes
    roots: dict[RootAt, Answer]
    raw: bytes  # the subject
    efs: list[bytes]
    strict: bool  # whether `strict` takes it too


def sources() -> dict[str, Published]:
    """The universal files in their encodings, which only `lenient` takes; and a payment of ours, which both take."""
    found = {}
    for name, vector in universal().items():
        for encoding in ENCODINGS:
            beef = bytes.fromhex(vector[encoding])
            payload = parse(beef, LENIENT)
            assert isinstance(payload, Payload)
            roots = dict.fromkeys(payload.roots, Answer.YES)
            raw, ef = bytes.fromhex(vector["raw_hex"]), bytes.fromhex(vector["ef_hex"])
            found[f"{name} {encoding}"] = Published(beef, roots, raw, [ef], False)
    made = payment(levels=2)
    parent, child = made.txs
    ef = write_ef(child, [parent.output(0)])
    for label, beef in (("v1", made.v1()), ("v2", made.v2()), ("atomic", made.atomic())):
        found[f"payment {label}"] = Published(beef, dict(made.answers()), child.raw, [ef], True)
    return found


SOURCES = sources()


def flags_of_leaves(beef: bytes) -> set[int]:
    """Where the flags of leaves stand."""
    number, at = varint(beef, 40 if beef.startswith(b"\x01\x01\x01\x01") else 4)
    found = set()
    for _ in range(number):
        _, at = varint(beef, at)
        levels, at = varint(beef, at)
        for level in range(levels):
            nodes, at = varint(beef, at)
            for _ in range(nodes):
                _, at = varint(beef, at)
                found |= {at} if level == 0 else set()
                at += 1 if beef[at] & 1 else 33
    return found


def told(source: Published, beef: bytes) -> Iterator[bool]:
    """Whether each form takes these bytes, which it may do only if they say what the published ones say.

    The tracker denies every root but the true ones, as one would that has the headers.
    """
    for policy in (LENIENT, STRICT):
        payload = parse(beef, policy)
        asked = payload.roots if isinstance(payload, Payload) else ()
        judged = judge(beef, dict.fromkeys(asked, Answer.NO) | source.roots, policy=policy)
        yield isinstance(judged, Valid)
        if isinstance(judged, Valid):
            assert judged.payload.subject.raw == source.raw
            assert [ef for _, ef in judged.extended()] == source.efs
        else:
            assert judged.code in BY_CODE


@pytest.mark.invariant("FORM-1")
@pytest.mark.parametrize("name", list(SOURCES))
def test_a_flipped_bit_gives_a_code_or_changes_nothing(name: str) -> None:
    """Only the flag "this leaf is a transaction of mine" may change: its hash is what counts (domain.md 1.7)."""
    source = SOURCES[name]
    taken: list[set[int]] = [set(), set()]
    for bit in range(8 * len(source.beef)):
        beef = bytearray(source.beef)
        beef[bit // 8] ^= 1 << bit % 8
        for found, valid in zip(taken, told(source, bytes(beef)), strict=True):
            found |= {bit} if valid else set()
    flags = {8 * at + 1 for at in flags_of_leaves(source.beef)}
    assert taken == [flags, flags if source.strict else set()]


@pytest.mark.invariant("FORM-1")
@pytest.mark.parametrize("name", list(SOURCES))
def test_no_shorter_piece_is_taken(name: str) -> None:
    source = SOURCES[name]
    for end in range(len(source.beef)):
        assert not any(told(source, source.beef[:end])), end


@pytest.mark.invariant("FORM-1")
@pytest.mark.parametrize("name", list(SOURCES))
def test_nothing_may_stand_behind(name: str) -> None:
    """Any byte, several, the payload again, the subject again as an entry or not, the beginning of another one."""
    source = SOURCES[name]
    assert list(told(source, source.beef)) == [True, source.strict]
    behind = [bytes([byte]) for byte in range(256)]
    behind += [bytes(4), b"\x00\x01", source.beef, source.raw, source.raw + b"\x00", b"\x00" + source.raw]
    behind += [*source.efs, source.beef[:4], source.beef[:40]]
    for more in behind:
        found = parse(source.beef + more, LENIENT)
        assert not isinstance(found, Payload)
        assert found.code == "malformed.trailing-bytes", more[:8].hex()
        assert not any(told(source, source.beef + more))
