"""Hashing, compiled and not: the same answers."""

import hashlib
import importlib.util
import shutil
import sysconfig
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import lthash
from pipeline.codec.hashing import hash256, plain_hash256
from pipeline.codec.quick import not_quick, quick_payload
from pipeline.script.templates import no_payments, payments
from tests.profiles import CHEAP


def test_known_answers() -> None:
    """FIPS 180-4's "abc", hashed twice, and the first block's header."""
    assert hash256(b"abc").hex() == "4f8b42c22dd3729b519ba6f68d2da7cc5b2d606d05daed5ad5128cc03e6c6358"
    first = bytes.fromhex(
        "01000000"
        + "00" * 32
        + "3ba3edfd7a7b12b27ac72c3e67768f617fc81bc3888a51323a9fb8aa4b1e5e4a29ab5f49ffff001d1dac2b7c"
    )
    assert hash256(first)[::-1].hex() == "000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f"


def test_every_length_around_a_block() -> None:
    data = bytes(range(256)) * 2
    for size in range(260):
        assert hash256(data[:size]) == plain_hash256(data[:size]), size


@CHEAP
@given(st.binary(max_size=5_000))
def test_any_bytes(data: bytes) -> None:
    assert hash256(data) == plain_hash256(data) == hashlib.sha256(hashlib.sha256(data).digest()).digest()


def test_long_data() -> None:
    data = hashlib.shake_128(b"long").digest(3_000_001)
    assert hash256(data) == plain_hash256(data)


@pytest.mark.skipif(hash256 is plain_hash256, reason="nothing was compiled here")
def test_only_bytes_are_hashed() -> None:
    with pytest.raises(TypeError):
        hash256("text")  # type: ignore[arg-type]


def test_where_there_is_a_compiler_it_was_compiled() -> None:
    """So that nobody measures the plain one without knowing."""
    header = Path(sysconfig.get_paths()["include"], "Python.h")
    compiler = (sysconfig.get_config_var("CC") or "cc").split()[0]
    if shutil.which(compiler) and header.exists():
        assert importlib.util.find_spec("pipeline.codec._quick") is not None
        assert hash256 is not plain_hash256
        assert quick_payload is not not_quick
        assert payments is not no_payments
        assert lthash.moved is not lthash.plain_moved
        assert lthash.changed is not lthash.plain_changed
