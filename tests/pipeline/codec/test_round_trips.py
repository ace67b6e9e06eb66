"""What is read is written again byte for byte: else one thing would have two forms, and two txids (domain.md 1.1)."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.codec.beef import ATOMIC, V1, read_beef, write_atomic, write_beef_v1, write_beef_v2
from pipeline.codec.bump import read_bump, write_bump
from pipeline.codec.ef import read_ef, write_ef
from pipeline.codec.reader import Malformed, varint, write_varint
from pipeline.codec.tx import Tx, read_tx
from tests.builders import FINAL, Out, raw_tx
from tests.families import FRAMINGS, HARMLESS, family
from tests.profiles import CHEAP, much
from tests.vectors import conformance, load, universal

MANY = settings(CHEAP, max_examples=much(200, 20_000))


# --- reading, and writing from what was read


def again_tx(data: bytes) -> bytes:
    tx = read_tx(data)
    return fields(tx)


def fields(tx: Tx) -> bytes:
    """From its parts, each through the reader's accessors."""
    ins = [
        (tx.outpoint(vin), tx.unlocking(vin), int.from_bytes(tx.sequence(vin), "little"))
        for vin in range(len(tx.ins) - 1)
    ]
    outs = [Out(tx.satoshis(vout), tx.locking(vout)) for vout in range(len(tx.outs) - 1)]
    return raw_tx(ins, outs, tx.version % 2**32, tx.locktime)


def again_bump(data: bytes) -> bytes:
    bump, end = read_bump(data, 0)
    if end != len(data):
        raise Malformed("malformed.trailing-bytes")
    assert bump.raw == data
    return write_bump(bump.height, bump.levels, set(bump.flagged))


def again_beef(data: bytes) -> bytes:
    envelope = read_beef(data, 100, 100)
    bumps = [bump.raw for bump in envelope.bumps]
    entries = {tx.index: (fields(tx), tx.bump) for tx in envelope.txs}
    entries |= {place: (txid, -1) for txid, place in envelope.named.items()}
    if len(entries) < envelope.entries:
        raise Malformed("structure.repeated", "", "a txid alone that is said twice is kept once")
    listed = [entries[place] for place in range(envelope.entries)]
    body = write_beef_v1(bumps, listed) if envelope.magic == V1 else write_beef_v2(bumps, listed)
    return body if envelope.subject is None else write_atomic(envelope.subject, body)


def again_ef(data: bytes) -> bytes:
    tx, coins = read_ef(data)
    return write_ef(tx, coins)


BEEFS = [bytes.fromhex(v[key]) for v in universal().values() for key in ("beef_hex", "beef_v2_hex", "atomic_beef_hex")]
BEEFS += [bytes.fromhex(payload["beef"]) for payload in load("mainnet/payloads.json")["payloads"]]
BEEFS += [family(seed).framed[framing] for seed in range(5) for framing in FRAMINGS]
BEEFS += [family(1, harmless=[name]).framed["atomic"] for name in HARMLESS if "atomic" in HARMLESS[name].framings]
PATHS = conformance("merkle-path")
BUMPS = [bytes.fromhex(PATHS[name]["input"]["bump_hex"]) for name in ("mp-parse-001", "mp-compound-001")]
BUMPS += [bump.raw for beef in BEEFS for bump in read_beef(beef, 100, 100).bumps]
TXS = [tx.raw for beef in BEEFS for tx in read_beef(beef, 100, 100).txs]
EFS = [bytes.fromhex(vector["ef_hex"]) for vector in universal().values()]
EFS += [ef for seed in range(9) for ef in family(seed).unmined.values()]

AGAIN = {"tx": (again_tx, TXS), "bump": (again_bump, BUMPS), "beef": (again_beef, BEEFS), "ef": (again_ef, EFS)}


@pytest.mark.parametrize("kind", list(AGAIN))
def test_what_others_wrote_is_written_again(kind: str) -> None:
    again, examples = AGAIN[kind]
    for data in examples:
        assert again(data) == data


@pytest.mark.parametrize("kind", list(AGAIN))
@MANY
@given(data=st.data())
def test_what_is_taken_after_a_change_is_written_as_it_came(kind: str, data: st.DataObject) -> None:
    """No two byte strings are read as one thing, but paths whose nodes stand in another order."""
    again, examples = AGAIN[kind]
    whole = data.draw(st.sampled_from(examples))
    at = data.draw(st.integers(0, len(whole) - 1))
    cut, put = data.draw(st.integers(0, 3)), data.draw(st.binary(max_size=3))
    changed = whole[:at] + put + whole[at + cut :]
    try:
        written = again(changed)
    except Malformed:
        return
    assert written == changed or (kind == "bump" and sorted(written) == sorted(changed))


# --- writing, and reading what was written

scripts = st.one_of(st.binary(max_size=8), st.sampled_from([0xFC, 0xFD, 0xFF, 0x100, 0xFFFF, 0x1_0000]).map(bytes))
inputs = st.tuples(st.binary(min_size=36, max_size=36), scripts, st.integers(0, FINAL))
outputs = st.builds(Out, st.integers(0, 2**64 - 1), scripts)
txs = st.builds(
    raw_tx,
    st.lists(inputs, min_size=1, max_size=3),
    st.lists(outputs, min_size=1, max_size=3),
    st.integers(0, FINAL),
    st.integers(0, FINAL),
).filter(lambda raw: len(raw) > 64)
nodes = st.binary(min_size=32, max_size=32)
levels = st.integers(1, 8).flatmap(
    lambda height: st.tuples(
        *(
            st.dictionaries(st.integers(0, (1 << height - level) - 1), nodes, min_size=not level, max_size=4)
            for level in range(height)
        )
    )
)
bumps = st.builds(
    lambda height, rows, flagged: write_bump(height, list(rows), set(rows[0]) if flagged else set()),
    st.integers(0, 2**31 - 1),
    levels,
    st.booleans(),
)


@CHEAP
@given(txs)
def test_any_transaction_is_read_as_it_was_written(raw: bytes) -> None:
    assert again_tx(raw) == raw


@CHEAP
@given(bumps)
def test_any_path_is_read_as_it_was_written(raw: bytes) -> None:
    assert again_bump(raw) == raw


@CHEAP
@given(txs, st.data())
def test_any_extended_transaction_is_read_as_it_was_written(raw: bytes, data: st.DataObject) -> None:
    """Whatever the coins: 8 bytes of value and a script of any length (BRC-30)."""
    tx = read_tx(raw)
    coins = [data.draw(outputs).bytes() for _ in tx.ins[:-1]]
    assert again_ef(write_ef(tx, coins)) == write_ef(tx, coins)
    assert read_ef(write_ef(tx, coins))[1] == coins


@CHEAP
@given(st.lists(bumps, max_size=3), st.lists(txs, max_size=4), st.data())
def test_any_envelope_is_read_as_it_was_written(paths: list[bytes], raws: list[bytes], data: st.DataObject) -> None:
    """In both versions, and with a name in front of either."""
    entries = [(raw, data.draw(st.integers(-1, len(paths) - 1))) for raw in raws]
    named = data.draw(st.lists(nodes, unique=True, max_size=2))
    v1, v2 = write_beef_v1(paths, entries), write_beef_v2(paths, [*entries, *((txid, -1) for txid in named)])
    for beef in (v1, v2):
        assert again_beef(beef) == beef
        atomic = ATOMIC + bytes(range(32)) + beef
        assert again_beef(atomic) == atomic


@CHEAP
@given(st.binary(min_size=9, max_size=9))
def test_a_number_that_is_read_is_written_as_it_came(data: bytes) -> None:
    try:
        number, end = varint(data, 0)
    except Malformed:
        return
    assert write_varint(number) == data[:end]
