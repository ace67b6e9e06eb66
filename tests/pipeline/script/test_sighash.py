"""Both digests: against the node's vectors, and against the SDK's native code on any transaction."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.codec.tx import read_tx
from pipeline.script.sighash import Digests, without_separators
from schemas.types import display
from tests.builders import FINAL, In, Out, by_script, digest_of, funding, raw_tx, spend
from tests.profiles import CHEAP
from tests.vectors import conformance, load


@pytest.mark.parametrize("row", load("sighash.json"), ids=lambda row: str(row[0])[:8])
def test_the_nodes_digests(row: list[Any]) -> None:
    raw, script, vin, kind, expected, original = row
    digests = Digests(read_tx(bytes.fromhex(raw)))
    assert display(digests.digest(vin, bytes(8), bytes.fromhex(script), kind % 2**32)) == expected
    assert display(digests.original(vin, bytes.fromhex(script), kind % 2**32)) == original


kinds = st.sampled_from(
    [base | forkid | anyone for base in (1, 2, 3) for forkid in (0x40, 0x60) for anyone in (0, 0x80)]
)


@CHEAP
@given(
    st.lists(st.tuples(st.binary(max_size=40), st.integers(0, 2**50), st.integers(0, FINAL)), min_size=1, max_size=4),
    st.lists(st.builds(Out, st.integers(0, 2**50), st.binary(min_size=9, max_size=30)), min_size=4, max_size=5),
    kinds,
    st.integers(0, FINAL),
)
def test_digests_are_those_of_the_sdk(
    coins: list[tuple[bytes, int, int]], outs: list[Out], kind: int, locktime: int
) -> None:
    """Scripts without separators: the SDK's preimages leave those to its caller."""
    ins = [
        In(funding(Out(satoshis, script.replace(b"\xab", b"")), salt=n), 0, by_script(b""), sequence)
        for n, (script, satoshis, sequence) in enumerate(coins)
    ]
    tx = spend(ins, outs, 2, locktime)
    digests = Digests(tx)
    for vin, entry in enumerate(ins):
        coin = entry.parent.output(0)
        found = digests.digest(vin, coin[:8], entry.parent.locking(0), kind)
        assert found == digest_of(ins, outs, 2, locktime, vin, kind)


def test_single_without_its_output_signs_one_in_the_original_digest_and_nothing_in_the_other() -> None:
    tx = read_tx(raw_tx([(bytes(36), b"", 0)] * 2, [Out()]))
    digests = Digests(tx)
    assert digests.digest(1, bytes(8), b"", 0x63) == b"\x01" + bytes(31)
    assert digests.digest(1, bytes(8), b"", 0x43) != digests.digest(0, bytes(8), b"", 0x43)


@pytest.mark.parametrize("sequence", [0, FINAL])
def test_the_sequence_is_signed_as_it_is(sequence: int) -> None:
    """Conformance: tx-sequence-zero-sighash 0001 and 0002; the digest equals the SDK's and so holds the field."""
    assert len(conformance("tx-sequence-zero-sighash")) == 3
    parent = funding()
    tx = spend([In(parent, 0, by_script(b""), sequence)])
    found = Digests(tx).digest(0, parent.output(0)[:8], parent.locking(0), 0x41)
    assert found == digest_of([In(parent, 0, by_script(b""), sequence)], [Out()], 1, 0, 0, 0x41)


@pytest.mark.parametrize(
    ("script", "left"),
    [
        ("", ""),
        ("ab", ""),
        ("51abab52ab", "5152"),
        ("02abab51ab", "02abab51"),
        ("4c02abab4d0100ab4e01000000abab", "4c02abab4d0100ab4e01000000ab"),
        ("ab4c05abab", "4c05abab"),
        ("ab4d", "4d"),
    ],
)
def test_separators_in_data_stay(script: str, left: str) -> None:
    assert without_separators(bytes.fromhex(script)).hex() == left


def test_many_inputs_stay_linear() -> None:
    """6,000 inputs: hashing all outpoints for each takes 5 s of processor time, sharing them 0.05 s."""
    parent = funding(*[Out()] * 6_000)
    tx = spend([In(parent, vout, by_script(b"")) for vout in range(6_000)])
    digests = Digests(tx)
    coin = parent.output(0)
    before = time.process_time()
    for vin in range(6_000):
        digests.digest(vin, coin[:8], parent.locking(0), 0x41)
    assert time.process_time() - before < 2.0
