import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.codec.hashing import hash256
from pipeline.codec.quick import not_quick, quick_tx
from pipeline.codec.reader import Malformed
from pipeline.codec.tx import NULL_OUTPOINT, Tx, read_tx, scan
from schemas.types import display
from tests import builders
from tests.builders import FINAL, Out, raw_tx
from tests.profiles import CHEAP
from tests.vectors import conformance, universal

OUTPOINT = bytes(range(32)) + b"\x05\x00\x00\x00"


def refusal(data: bytes) -> str:
    with pytest.raises(Malformed) as caught:
        read_tx(data)
    return caught.value.code


def ins_of(tx: Tx) -> list[tuple[bytes, bytes, int]]:
    return [
        (tx.outpoint(vin), tx.unlocking(vin), int.from_bytes(tx.sequence(vin), "little"))
        for vin in range(len(tx.ins) - 1)
    ]


def outs_of(tx: Tx) -> list[Out]:
    return [Out(tx.satoshis(vout), tx.locking(vout)) for vout in range(len(tx.outs) - 1)]


scripts = st.one_of(st.binary(max_size=8), st.integers(250, 256).map(bytes))
inputs = st.tuples(st.binary(min_size=36, max_size=36), scripts, st.integers(0, FINAL))
outputs = st.builds(Out, st.integers(0, 2**64 - 1), scripts)


@CHEAP
@given(
    st.lists(inputs, min_size=1, max_size=4),
    st.lists(outputs, min_size=1, max_size=4),
    st.integers(0, FINAL),
    st.integers(0, FINAL),
)
def test_what_was_written_is_read(
    ins: list[tuple[bytes, bytes, int]], outs: list[Out], version: int, locktime: int
) -> None:
    raw = raw_tx(ins, outs, version, locktime)
    if len(raw) < 61 or len(raw) == 64:
        assert refusal(raw) == "structure.tx-size"
        return
    tx = read_tx(raw)
    assert ins_of(tx) == ins
    assert outs_of(tx) == outs
    assert (tx.version % 2**32, tx.locktime) == (version, locktime)
    assert tx.txid == hash256(raw)
    assert tx.spends() == b"".join(outpoint for outpoint, _, _ in ins)
    assert b"".join(tx.output(vout) for vout in range(len(outs))) == b"".join(out.bytes() for out in outs)


def test_many_inputs_and_outputs_are_read_as_few_are() -> None:
    """From some number on offsets are kept more tightly."""
    ins = [(OUTPOINT, bytes((n % 250,)), n) for n in range(300)]
    outs = [Out(n, bytes(n % 3)) for n in range(300)]
    tx = read_tx(raw_tx(ins, outs))
    assert ins_of(tx) == ins
    assert outs_of(tx) == outs


@pytest.mark.parametrize("vector", ["tx-001", "tx-002", "tx-015"])
def test_published_transactions_are_read(vector: str) -> None:
    found = conformance("serialization")[vector]
    tx = read_tx(bytes.fromhex(found["input"]["raw_hex"]))
    assert raw_tx(ins_of(tx), outs_of(tx), tx.version % 2**32, tx.locktime) == tx.raw
    expected = found["expected"]
    assert len(tx.ins) - 1 == expected.get("inputs_count", 2)
    assert len(tx.outs) - 1 == expected.get("outputs_count", 2)


@pytest.mark.parametrize("name", list(universal()))
def test_universal_transactions_have_their_txid(name: str) -> None:
    vector = universal()[name]
    tx = read_tx(bytes.fromhex(vector["raw_hex"]))
    assert display(tx.txid) == vector["tx_id"]
    assert [tx.locking(vout).hex() for vout in range(len(tx.outs) - 1)] == vector["locking_scripts"]


@pytest.mark.parametrize("sequence", [0, FINAL])
def test_a_sequence_of_zero_stays_zero(sequence: int) -> None:
    """Conformance: tx-sequence-zero-sighash 0003."""
    tx = read_tx(raw_tx([(OUTPOINT, b"", sequence)], [Out()]))
    assert tx.sequence(0) == sequence.to_bytes(4, "little")


# --- what is refused

RAW = raw_tx([(OUTPOINT, b"\x51", FINAL), (OUTPOINT, bytes(300), 7)], [Out(5, bytes(20)), Out(6, bytes(300))])


def test_every_shorter_piece_is_refused() -> None:
    for end in range(len(RAW)):
        assert refusal(RAW[:end]) in ("malformed.truncated", "malformed.count"), end


def test_a_byte_behind_is_refused() -> None:
    assert refusal(RAW + b"\x00") == "malformed.trailing-bytes"
    assert scan(RAW + b"\x00", 0).raw == RAW


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"\x01\x00\x00\x00\x00" + bytes(60), "structure.no-inputs"),
        (RAW[:4] + bytes.fromhex("0000000000ef") + RAW[4:], "structure.no-inputs"),
        (raw_tx([(OUTPOINT, bytes(30), 0)], []), "structure.no-outputs"),
        (raw_tx([(OUTPOINT, b"", 0)], [Out(1, b"")]), "structure.tx-size"),
        (raw_tx([(OUTPOINT, b"", 0)], [Out(1, bytes(4))]), "structure.tx-size"),
        (RAW[:4] + b"\xff" + b"\xff" * 8 + RAW[5:], "malformed.count"),
        (RAW[:4] + b"\xfe\xff\xff\xff\x00" + RAW[5:], "malformed.count"),
        (RAW[:4] + b"\xfd\x02\x00" + RAW[5:], "malformed.varint"),
        (RAW[:41] + b"\xff" * 9 + RAW[42:], "malformed.truncated"),
        (RAW[:-4] + b"\x01", "malformed.truncated"),
    ],
)
def test_bytes_that_are_no_transaction(raw: bytes, code: str) -> None:
    assert refusal(raw) == code


def test_a_script_longer_than_everything_is_refused_among_many_inputs_too() -> None:
    """Where offsets are kept in 32 bits, no offset may grow beyond them before it is refused."""
    bomb = b"\x01\x00\x00\x00\xfd\x00\x01" + (OUTPOINT + b"\xff" + b"\xff" * 8 + bytes(4)) * 260
    assert refusal(bomb) == "malformed.truncated"


def test_61_bytes_are_enough() -> None:
    assert len(read_tx(raw_tx([(OUTPOINT, b"", 0)], [Out(1, b"\x51")])).raw) == 61


def test_a_coinbase_is_told_by_what_it_spends() -> None:
    assert builders.coinbase(7).is_coinbase()
    assert not builders.funding().is_coinbase()
    two = read_tx(raw_tx([(NULL_OUTPOINT, b"", 0), (OUTPOINT, b"", 0)], [Out()]))
    assert not two.is_coinbase()


@pytest.mark.parametrize(
    ("locktime", "sequences", "height", "median", "final"),
    [
        (0, [0], 1, 1, True),
        (100, [FINAL, FINAL], 1, 1, True),
        (100, [FINAL, 0], 100, 1, False),
        (100, [FINAL, 0], 101, 1, True),
        (499_999_999, [0], 499_999_999, 10**10, False),
        (500_000_000, [0], 10**9, 500_000_000, False),
        (500_000_000, [0], 1, 500_000_001, True),
    ],
)
def test_finality(locktime: int, sequences: list[int], height: int, median: int, final: bool) -> None:
    """Strict inequalities, heights below 500,000,000 and seconds from there on."""
    tx = read_tx(raw_tx([(OUTPOINT, b"", sequence) for sequence in sequences], [Out()], locktime=locktime))
    assert tx.is_final(height, median) is final


def test_versions_are_signed() -> None:
    assert read_tx(raw_tx([(OUTPOINT, b"", 0)], [Out()], version=0xFFFFFFFF)).version == -1


def either_way(data: bytes, start: int, monkeypatch: pytest.MonkeyPatch) -> tuple[object, object]:
    """What is read as installed, and by Python alone."""

    def read() -> object:
        try:
            tx = scan(data, start)
        except Malformed as bad:
            return bad.code, bad.at, bad.message
        return tx.txid, tx.raw, list(tx.ins), list(tx.outs), tx.start

    installed = read()
    with monkeypatch.context() as patched:
        patched.setattr("pipeline.codec.tx.quick_tx", not_quick)
        return installed, read()


@settings(CHEAP, max_examples=400, suppress_health_check=list(HealthCheck))
@given(
    st.lists(inputs, min_size=1, max_size=3),
    st.lists(outputs, min_size=1, max_size=3),
    st.binary(max_size=3),
    st.binary(max_size=9),
    st.lists(st.tuples(st.integers(0, 400), st.sampled_from([0, 1, 36, 252, 253, 254, 255])), max_size=3),
    st.none() | st.integers(0, 400),
)
def test_the_compiled_reader_says_what_python_says(
    monkeypatch: pytest.MonkeyPatch,
    ins: list[tuple[bytes, bytes, int]],
    outs: list[Out],
    before: bytes,
    behind: bytes,
    changes: list[tuple[int, int]],
    cut: int | None,
) -> None:
    """Of whole transactions, of changed ones and of ones cut short, with bytes around them."""
    raw = bytearray(before + raw_tx(ins, outs, 1, 0) + behind)
    for place, value in changes:
        raw[place % len(raw)] = value
    installed, plain = either_way(bytes(raw[:cut]), len(before), monkeypatch)
    assert installed == plain


@pytest.mark.parametrize("size", range(60, 66))
def test_sizes_nobody_relays_are_refused_either_way(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    raw = raw_tx([(OUTPOINT, b"", 0)], [Out(1, bytes(size - 60))])
    assert len(raw) == size
    installed, plain = either_way(raw, 0, monkeypatch)
    assert installed == plain


@pytest.mark.parametrize("start", [0, 1, 60, 61, 62, 1000, 2**31, 2**62])
def test_a_start_behind_the_bytes_is_no_transaction(start: int) -> None:
    assert quick_tx(bytes(61), start, Tx) is None


@pytest.mark.skipif(quick_tx is not_quick, reason="nothing was compiled here")
@pytest.mark.parametrize("wrong", [("text", 0, Tx), (bytes(70), "0", Tx), (bytearray(70), 0, Tx), (bytes(70), 0)])
def test_the_compiled_reader_takes_bytes_and_a_place(wrong: tuple[object, ...]) -> None:
    with pytest.raises(TypeError):
        quick_tx(*wrong)  # type: ignore[arg-type] # on purpose
    with pytest.raises(OverflowError):
        quick_tx(bytes(70), -1, Tx)
