"""The form of signatures and keys, by one fault each."""

import pytest

from pipeline.script.rules import Rules, ScriptFault
from pipeline.script.signature import ORDER, check_form, check_key, fits
from tests.builders import der_of, flip_s, key

DIGEST = bytes(range(32))
GOOD = key().sign(DIGEST) + b"\x41"
STRICT, RELAXED, EARLY = Rules(), Rules(relaxed=True), Rules(chronicle=False)
R, S = 0x1234, 0x5678


def number(value: bytes) -> bytes:
    return b"\x02" + bytes((len(value),)) + value


def encoded(r: bytes, s: bytes, kind: int = 0x41) -> bytes:
    body = number(r) + number(s)
    return b"\x30" + bytes((len(body),)) + body + bytes((kind,))


@pytest.mark.parametrize("kind", [0x41, 0x42, 0x43, 0xC1, 0xC2, 0xC3, 0x61, 0xE3])
def test_hash_types_the_network_takes(kind: int) -> None:
    check_form(GOOD[:-1] + bytes((kind,)), STRICT)


@pytest.mark.parametrize(
    "signature",
    [
        pytest.param(encoded(b"\x00", b"\x01")[:8], id="too short"),
        pytest.param(encoded(b"\x01" * 34, b"\x01" * 34), id="too long"),
        pytest.param(b"\x31" + GOOD[1:], id="no sequence"),
        pytest.param(GOOD[:1] + bytes((GOOD[1] + 1,)) + GOOD[2:], id="length"),
        pytest.param(GOOD[:-1] + b"\x00\x41", id="bytes behind"),
        pytest.param(GOOD[:2] + b"\x03" + GOOD[3:], id="R is no number"),
        pytest.param(encoded(b"", b"\x01" * 32), id="R is empty"),
        pytest.param(encoded(b"\x80\x01", b"\x01" * 32), id="R is negative"),
        pytest.param(encoded(b"\x00\x01", b"\x01" * 32), id="R is long"),
        pytest.param(encoded(b"\x01" * 32, b""), id="S is empty"),
        pytest.param(encoded(b"\x01" * 32, b"\x80\x01"), id="S is negative"),
        pytest.param(encoded(b"\x01" * 32, b"\x00\x01"), id="S is long"),
        pytest.param(GOOD[:3] + b"\x60" + GOOD[4:], id="R ends behind the signature"),
        pytest.param(GOOD[:3] + b"\x1f" + GOOD[4:], id="R ends before S"),
        pytest.param(GOOD[:-1] + b"\x01", id="no FORKID"),
        pytest.param(GOOD[:-1] + b"\x40", id="no base type"),
        pytest.param(GOOD[:-1] + b"\x44", id="unknown base type"),
        pytest.param(GOOD[:-1] + b"\x51", id="unknown bit"),
    ],
)
@pytest.mark.parametrize("rules", [STRICT, RELAXED], ids=["strict", "relaxed"])
def test_a_signature_of_another_form(signature: bytes, rules: Rules) -> None:
    with pytest.raises(ScriptFault) as caught:
        check_form(signature, rules)
    assert caught.value.code == "script.malformed"


def test_an_empty_signature_has_a_form_and_is_false() -> None:
    check_form(b"", STRICT)
    assert not fits(b"", key().public, lambda _: DIGEST)


def test_a_high_s_is_taken_where_the_version_relaxes() -> None:
    high = flip_s(GOOD[:-1]) + b"\x41"
    with pytest.raises(ScriptFault):
        check_form(high, STRICT)
    check_form(high, RELAXED)
    assert fits(high, key().public, lambda _: DIGEST)
    assert not fits(high, key(2).public, lambda _: DIGEST)


@pytest.mark.parametrize("s", [ORDER // 2, ORDER // 2 + 1])
def test_half_the_order_is_the_last_low_s(s: int) -> None:
    signature = der_of(1, s) + b"\x41"
    if s == ORDER // 2:
        check_form(signature, STRICT)
    else:
        with pytest.raises(ScriptFault):
            check_form(signature, STRICT)


def test_chronicles_hash_type_waits_for_chronicle() -> None:
    check_form(GOOD[:-1] + b"\x61", STRICT)
    with pytest.raises(ScriptFault) as caught:
        check_form(GOOD[:-1] + b"\x61", EARLY)
    assert "Chronicle" in caught.value.message


def test_a_signature_fits_its_key_and_digest() -> None:
    asked: list[int] = []

    def digest(kind: int) -> bytes:
        asked.append(kind)
        return DIGEST

    assert fits(GOOD, key().public, digest)
    assert fits(GOOD, key().long, digest)
    assert not fits(GOOD, key(2).public, digest)
    assert not fits(GOOD, key().public, lambda _: bytes(32))
    assert asked == [0x41] * 3


@pytest.mark.parametrize(("r", "s"), [(0, 1), (1, 0), (ORDER, 1), (1, ORDER), (1, ORDER + 5), (2**256 - 1, 1)])
def test_numbers_out_of_range_fit_nothing(r: int, s: int) -> None:
    assert not fits(der_of(r, s) + b"\x41", key().public, lambda _: DIGEST)


def test_a_key_off_the_curve_fits_nothing() -> None:
    assert not fits(GOOD, b"\x02" + b"\xff" * 32, lambda _: DIGEST)


@pytest.mark.parametrize(
    ("form", "taken"),
    [
        (key().public, True),
        (key().long, True),
        (b"\x06" + key().long[1:], False),
        (b"\x07" + key().long[1:], False),
        (b"\x04" + key().public[1:], False),
        (b"\x02" + key().long[1:], False),
        (key().public[1:], False),
        (b"", False),
    ],
)
def test_forms_of_keys(form: bytes, taken: bool) -> None:
    """The SDK's engine takes hybrid keys (06, 07); the network does not."""
    if taken:
        check_key(form)
        return
    with pytest.raises(ScriptFault) as caught:
        check_key(form)
    assert caught.value.code == "script.malformed"
