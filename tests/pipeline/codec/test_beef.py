"""The envelope: what is written is read, and what is near a BEEF is not one."""

import pytest

from pipeline.codec.beef import Envelope, read_beef, write_atomic, write_beef_v1, write_beef_v2
from pipeline.codec.reader import Malformed
from schemas.types import display
from tests.builders import bag, funding, payment
from tests.vectors import conformance, load, universal


def read(data: bytes) -> Envelope:
    return read_beef(data, 100, 100)


def refusal(data: bytes) -> Malformed:
    with pytest.raises(Malformed) as caught:
        read(data)
    return caught.value


def entries(envelope: Envelope) -> list[tuple[bytes, int]]:
    return [(tx.raw, tx.bump) for tx in envelope.txs]


@pytest.mark.parametrize("name", list(universal()))
def test_each_encoding_is_read_and_written_byte_for_byte(name: str) -> None:
    vector = universal()[name]
    v1, v2, atomic = (bytes.fromhex(vector[key]) for key in ("beef_hex", "beef_v2_hex", "atomic_beef_hex"))
    first = read(v1)
    bumps = [bump.raw for bump in first.bumps]
    assert write_beef_v1(bumps, entries(first)) == v1
    assert write_beef_v2(bumps, entries(read(v2))) == v2
    subject = first.txs[-1].txid
    assert display(subject) == vector["tx_id"]
    assert write_atomic(subject, write_beef_v2(bumps, entries(read(atomic)))) == atomic
    assert read(atomic).subject == subject


@pytest.mark.parametrize("payload", load("mainnet/payloads.json")["payloads"], ids=lambda p: str(p["txid"])[:8])
def test_mainnet_payloads_are_written_as_they_came(payload: dict[str, str]) -> None:
    raw = bytes.fromhex(payload["beef"])
    envelope = read(raw)
    assert write_beef_v1([bump.raw for bump in envelope.bumps], entries(envelope)) == raw


@pytest.mark.parametrize("vector", list(conformance("beef-v2-txid-panic").values()), ids=lambda v: str(v["id"])[-4:])
def test_an_empty_envelope(vector: dict[str, dict[str, str]]) -> None:
    """The first of these regressions has a byte more than an empty BEEF V2 has."""
    raw = bytes.fromhex(vector["input"]["beef_hex"])
    empty = read(raw[:6])
    assert (empty.bumps, empty.txs, empty.entries) == ([], [], 0)
    if len(raw) > 6:
        assert refusal(raw).code == "malformed.trailing-bytes"


def test_a_txid_alone_is_kept_apart() -> None:
    parent = funding()
    envelope = read(write_beef_v2([], [(parent.txid, -1), (parent.raw, -1)]))
    assert envelope.named == {parent.txid: 0}
    assert [tx.index for tx in envelope.txs] == [1]


def test_places_are_those_of_the_entries() -> None:
    envelope = read(payment().v2())
    assert [(tx.index, tx.bump) for tx in envelope.txs] == [(0, 0), (1, -1)]


# --- near misses

GOOD = payment(levels=2)
V1, V2, ATOMIC = GOOD.v1(), GOOD.v2(), GOOD.atomic()
PARENT, CHILD = GOOD.txs
FLAG = V1.index(PARENT.raw) + len(PARENT.raw)
KIND = V2.index(PARENT.raw) - 2


@pytest.mark.parametrize("raw", [V1, V2, ATOMIC], ids=["v1", "v2", "atomic"])
def test_every_shorter_piece_and_a_longer_one_are_refused(raw: bytes) -> None:
    for end in range(len(raw)):
        bad = refusal(raw[:end])
        assert bad.code in ("malformed.truncated", "malformed.count", "malformed.magic"), (end, bad)
    assert refusal(raw + b"\x00").code == "malformed.trailing-bytes"


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (V1[:FLAG] + b"\x02" + V1[FLAG + 1 :], "malformed.format-byte"),
        (V2[:KIND] + b"\x03" + V2[KIND + 1 :], "malformed.format-byte"),
        (V1[: FLAG + 1] + b"\x01" + V1[FLAG + 2 :], "structure.bump-index"),
        (V2[: KIND + 1] + b"\x07" + V2[KIND + 2 :], "structure.bump-index"),
        (V1[: FLAG + 1] + b"\xfd\x00\x00" + V1[FLAG + 2 :], "malformed.varint"),
        (V1[:4] + b"\xfe\xff\xff\xff\xff" + V1[5:], "malformed.count"),
        (V1[:4] + b"\x00" + b"\xfe\xff\xff\xff\xff", "malformed.count"),
        (V2[:4] + b"\x00" + b"\xff" + b"\xff" * 8, "malformed.count"),
        (b"\x03" + V1[1:], "malformed.magic"),
        (ATOMIC[:36] + ATOMIC, "structure.nested-atomic"),
        (ATOMIC[:36] + b"\x00" + ATOMIC[37:], "malformed.magic"),
    ],
)
def test_bytes_that_are_no_beef(raw: bytes, code: str) -> None:
    assert refusal(raw).code == code


@pytest.mark.parametrize(
    ("raw", "hint"),
    [
        (V1.hex().encode(), "hexadecimal"),
        (V1.hex().upper().encode(), "hexadecimal"),
        (b'{"rawTx": "00"}', "JSON"),
        (CHILD.raw[:4] + bytes.fromhex("0000000000ef") + CHILD.raw[4:], "Extended Format"),
    ],
)
def test_a_likely_mistake_is_named(raw: bytes, hint: str) -> None:
    bad = refusal(raw)
    assert bad.code == "malformed.magic"
    assert hint in bad.message


def test_the_place_is_named() -> None:
    bad = refusal(V1[:FLAG] + b"\x02" + V1[FLAG + 1 :])
    assert bad.at == f"tx 0 byte {FLAG}"


def test_limits_are_the_callers() -> None:
    many = bag(*(funding(salt=n) for n in range(5)))
    with pytest.raises(Malformed) as caught:
        read_beef(many.v1(), 10, 4)
    assert caught.value.code == "policy.limits"
    proven = bag(*many.txs, proven=many.txs)
    with pytest.raises(Malformed) as caught:
        read_beef(proven.v1(), 4, 10)
    assert caught.value.code == "policy.limits"
