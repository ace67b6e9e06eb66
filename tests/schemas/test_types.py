"""Hashes, outpoints and names."""

import pytest

from schemas.types import TOPIC_NAME_BYTES, display, from_display, is_topic_name, outpoint

GENESIS_HEX = "4a5e1e4baab89f3a32518a88c31bc87f618f76673e2cc77ab2127b7afdeda33b"
"""The txid of the first block's coinbase, as every explorer prints it."""


def test_display_reverses_the_wire_order() -> None:
    wire = bytes.fromhex("3ba3edfd7a7b12b27ac72c3e67768f617fc81bc3888a51323a9fb8aa4b1e5e4a")
    assert display(wire) == GENESIS_HEX
    assert from_display(GENESIS_HEX) == wire
    assert from_display(GENESIS_HEX.upper()) == wire


@pytest.mark.parametrize("text", ["", "ab", "zz" * 32, "ab" * 33, " ".join(["ab"] * 32), "ab" * 31 + "a"])
def test_what_is_no_hash_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        from_display(text)


def test_an_outpoint_is_as_an_input_holds_it() -> None:
    assert outpoint(b"\x01" * 32, 258) == b"\x01" * 32 + b"\x02\x01\x00\x00"


@pytest.mark.parametrize("name", ["tm_x", "tm_hello_world", "tm_" + "a" * (TOPIC_NAME_BYTES - 3)])
def test_topic_names_by_brc_87(name: str) -> None:
    assert is_topic_name(name)


@pytest.mark.parametrize(
    "name",
    ["", "tm_", "x", "ls_x", "tm_X", "tm_1", "tm__x", "tm_x_", "tm_x\n", "TM_x", "tm-x", "tm_é", "tm_" + "a" * 48],
)
def test_other_names_are_none(name: str) -> None:
    assert not is_topic_name(name)
