"""tm_uhrp: what advertises a file, and what becomes of advertisements that are spent."""

import hashlib

import pytest

from beefline.testing import Case, Spend, ask
from ops.instruments.keys import child_key, key_of
from pipeline.codec.reader import write_varint
from pipeline.keys import ANYONE, child_public
from pipeline.overlay.builtin.uhrp import INVOICE, Uhrp, advertises, is_https, is_positive
from pipeline.overlay.manager import Output
from schemas.external import Admittance
from tests import builders

HOST, OTHER = builders.key(8), builders.key(9)
FILE = hashlib.sha256(b"file").digest()
URL = b"https://example.com/file.bin"
FIELDS = (HOST.public, FILE, URL, write_varint(1_790_000_000), write_varint(1024))
SDK_ANYONE = key_of(ANYONE).public


def own_key(host: builders.Key = HOST, invoice: str = INVOICE) -> builders.Key:
    """What a host derives with anyone, from its secret."""
    made = key_of(child_key(key_of(host.secret), SDK_ANYONE, invoice).secret)
    return builders.Key(made.secret, made.public, b"")


def advertisement(
    *fields: bytes, signer: builders.Key | None = None, lock: builders.Key | None = None, signed: bytes | None = None
) -> bytes:
    fields = fields or FIELDS
    digest = hashlib.sha256(b"".join(fields) if signed is None else signed).digest()
    return builders.pushdrop(lock or own_key(), *fields, (signer or own_key()).sign(digest))


def changed(place: int, field: bytes) -> bytes:
    """Signed as it should be, with another field."""
    return advertisement(*FIELDS[:place], field, *FIELDS[place + 1 :])


OTHER_ID, OTHER_LEVEL = own_key(invoice="2-uhrp advertisement-2"), own_key(invoice="1-uhrp advertisement-1")
HIGH_S = builders.pushdrop(own_key(), *FIELDS, own_key().sign(hashlib.sha256(b"".join(FIELDS)).digest(), high_s=True))


@pytest.mark.parametrize(
    ("script", "taken"),
    [
        (advertisement(), True),
        (advertisement(*FIELDS, b"a field of the host's own"), True),
        # the host's key
        (changed(0, OTHER.public), False),
        (changed(0, HOST.long), False),
        (changed(0, HOST.public[:32]), False),
        (changed(0, b"\x02" + b"\xff" * 32), False),
        # the file
        (changed(1, FILE[:31]), False),
        (changed(1, FILE + b"\0"), False),
        # the address
        (changed(2, b"http://example.com/file.bin"), False),
        (changed(2, b"\xff\xfe"), False),
        # expiry and size
        (changed(3, write_varint(17)), True),
        (changed(3, b"\x01"), True),
        (changed(3, b"\x00"), False),
        (changed(4, write_varint(2**64 - 1)), True),
        (changed(4, b"\x00"), False),
        (changed(4, b"\xfd\x01\x00"), False),
        # all six fields
        (advertisement(*FIELDS[:4]), False),
        (builders.pushdrop(own_key(), *FIELDS), False),
        (builders.p2pkh(HOST), False),
        (b"", False),
        # linked: signed by the key that locks, which is the host's for this and nothing else
        (advertisement(signer=OTHER), False),
        (advertisement(lock=OTHER, signer=OTHER), False),
        (advertisement(lock=HOST, signer=HOST), False),
        (advertisement(lock=own_key(OTHER), signer=own_key(OTHER)), False),
        (advertisement(lock=OTHER_ID, signer=OTHER_ID), False),
        (advertisement(lock=OTHER_LEVEL, signer=OTHER_LEVEL), False),
        (advertisement(signed=b"something else"), False),
        (builders.pushdrop(own_key(), *FIELDS, b"no signature"), False),
        (builders.pushdrop(own_key(), *FIELDS, b""), False),
        (HIGH_S, False),
    ],
)  # fmt: skip
def test_what_advertises(script: bytes, taken: bool) -> None:
    assert advertises(script) is taken


def test_each_byte_of_the_fields_is_signed() -> None:
    script = advertisement()
    end = script.index(write_varint(1024)) + 3
    begin = 35
    for place in range(begin, end):
        other = script[:place] + bytes([script[place] ^ 1]) + script[place + 1 :]
        assert not advertises(other), place


@pytest.mark.parametrize(
    ("address", "taken"),
    [
        ("https://example.com", True), ("https://example.com/", True), ("https://example.com/a?b=c#d", True),
        ("https://example.com:8443/x", True), ("https://127.0.0.1/x", True), ("https://[::1]:443/x", True),
        ("https://user@example.com/x", True), ("HTTPS://EXAMPLE.COM/X", True), ("https://exämple.com/ß", True),
        ("https://example.com?x", True), ("https://" + "x" * 100_000, True),
        ("", False), ("https://", False), ("https:///file", False), ("https://?x", False), ("https://:443/x", False),
        ("http://example.com", False), ("httpss://example.com", False), (" https://example.com", False),
        ("https://example.com ", False), ("https://example.com/a b", False), ("https://exa mple.com", False),
        ("https:/example.com", False), ("https:example.com", False), ("https:\\\\example.com", False),
        ("https://example.com:port/", False), ("https://example.com:/", False), ("https://example.com\n", False),
        ("https://example.com/\x00", False), ("https://exa\x00mple.com/", False), ("ftp://https://example.com", False),
    ],
)  # fmt: skip
def test_an_address_is_https(address: str, taken: bool) -> None:
    assert is_https(address.encode()) is taken


@pytest.mark.parametrize(
    ("field", "taken"),
    [
        (b"\x01", True), (b"\xfc", True), (b"\xfd\xfd\x00", True), (b"\xfe\x00\x00\x01\x00", True), (b"\xff" * 9, True),
        (b"", False), (b"\x00", False), (b"\xfd\xfc\x00", False), (b"\xfd\xff", False), (b"\x01\x00", False),
        (b"\xff" * 8, False), (b"\xff" * 10, False),
    ],
)  # fmt: skip
def test_a_number_is_one_number_from_one_up(field: bytes, taken: bool) -> None:
    assert is_positive(field) is taken


def test_the_key_is_derived_with_anyone() -> None:
    """Whoever reads an advertisement can: no secret is needed."""
    assert INVOICE == "2-uhrp advertisement-1"
    assert own_key().public == child_public(HOST.public, ANYONE, INVOICE)


# --- what a transaction does

ADVERTISING, PAYMENT = Output(1, advertisement()), Output(5000, builders.p2pkh(HOST))
COIN = Spend(ADVERTISING, coin=True)


@pytest.mark.parametrize(
    ("spends", "outputs", "said"),
    [
        ((Spend(),), (PAYMENT, ADVERTISING, ADVERTISING), Admittance((1, 2))),
        ((Spend(), COIN, COIN), (ADVERTISING,), Admittance((0,), (1, 2))),
        ((COIN, Spend(ADVERTISING)), (PAYMENT,), Admittance((), (0,))),
        ((Spend(ADVERTISING),), (PAYMENT,), Admittance()),
    ],
    ids=["new", "renewed", "taken back", "a stranger's"],
)
def test_advertisements_that_are_spent_stay_as_history(
    spends: tuple[Spend, ...], outputs: tuple[Output, ...], said: Admittance
) -> None:
    assert ask(Uhrp(), Case("hosting", outputs, spends)) == said
