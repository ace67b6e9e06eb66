"""Payloads in files: each form read back to the same bytes, and what is none named."""

import base64
import io
import json
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beefline.encodings import Given, Unreadable, read_payloads, to_bytes
from tests.profiles import CHEAP

BODY = bytes(range(256)) * 2
V1, V2, ATOMIC = (bytes.fromhex(magic) + BODY for magic in ("0100beef", "0200beef", "01010101"))


def read(data: bytes) -> list[Given]:
    found = list(read_payloads(io.BytesIO(data), "file"))
    assert all(isinstance(each, Given) for each in found), found
    return [each for each in found if isinstance(each, Given)]


def errors(data: bytes) -> list[str]:
    return [str(each) for each in read_payloads(io.BytesIO(data), "file") if isinstance(each, Unreadable)]


def wrapped(text: str, width: int) -> str:
    return "".join(text[at : at + width] + "\n" for at in range(0, len(text), width))


@pytest.mark.parametrize("beef", [V1, V2, ATOMIC])
@pytest.mark.parametrize(
    "write",
    [
        lambda beef: beef,
        lambda beef: beef.hex().encode(),
        lambda beef: beef.hex().upper().encode() + b"\r\n",
        lambda beef: beef.hex(" ").encode(),
        lambda beef: wrapped(beef.hex(), 60).encode(),
        lambda beef: base64.b64encode(beef),
        lambda beef: base64.encodebytes(beef),
        lambda beef: base64.urlsafe_b64encode(beef).rstrip(b"="),
        lambda beef: json.dumps({"beef": beef.hex()}).encode(),
        lambda beef: json.dumps({"beef": base64.b64encode(beef).decode()}).encode(),
        lambda beef: json.dumps({"beef": list(beef)}).encode(),
    ],
    ids=["bytes", "hex", "HEX", "h e x", "hex wrapped", "base64", "base64 wrapped", "base64url", "json hex",
         "json base64", "json numbers"],
)  # fmt: skip
def test_every_form_gives_the_same_bytes(beef: bytes, write: object) -> None:
    assert callable(write)
    assert [each.beef for each in read(write(beef))] == [beef]


def test_several_payloads_in_text_are_kept_apart_even_when_their_lines_are_wrapped() -> None:
    text = wrapped(V1.hex(), 64) + wrapped(base64.b64encode(V2).decode(), 76) + "\n" + wrapped(ATOMIC.hex(), 64)
    found = read(text.encode())
    assert [each.beef for each in found] == [V1, V2, ATOMIC]
    assert found[0].where == "file line 1"
    assert found[1].where == f"file line {1 + wrapped(V1.hex(), 64).count(chr(10))}"


def test_a_json_line_names_its_request_and_topics_and_other_fields_are_passed_over() -> None:
    lines = [
        {"id": "0-1", "kind": "p2pkh", "beef": V1.hex(), "topics": ["tm_a", "tm_b"], "expect": {"outcome": "valid"}},
        {"id": 7, "beef": V2.hex()},
        {"beef": "00"},
    ]
    found = read("\n\n".join(json.dumps(line) for line in lines).encode())
    assert [(each.id, each.topics, each.beef) for each in found] == [
        ("0-1", ("tm_a", "tm_b"), V1),
        ("7", None, V2),
        (None, None, b"\0"),
    ]
    assert [each.where for each in found] == ["file line 1", "file line 3", "file line 5"]


def test_a_json_line_may_ask_for_all_or_nothing() -> None:
    lines = [{"beef": "00"}, {"beef": "01", "atomicity": "all"}, {"beef": "02", "atomicity": "each"}]
    found = read("\n".join(json.dumps(line) for line in lines).encode())
    assert [each.atomicity for each in found] == ["each", "all", "each"]
    (wrong,) = errors(b'{"beef": "00", "atomicity": "some"}')
    assert "some" in wrong


def test_lines_that_begin_like_no_beef_are_a_payload_each() -> None:
    """Someone may want to see what the pipeline says of them."""
    assert [each.beef for each in read(b"00ff\nabcd\n")] == [b"\x00\xff", b"\xab\xcd"]


def test_bytes_that_begin_like_no_beef_are_a_payload_too() -> None:
    assert [each.beef for each in read(b"\x7fELF\0\n\xff" + BODY)] == [b"\x7fELF\0\n\xff" + BODY]


@pytest.mark.parametrize("data", [b"", b"\n \r\n"])
def test_an_empty_file_is_said_to_be_empty(data: bytes) -> None:
    assert errors(data) == ["file is empty"]


def test_a_file_of_something_else_is_named_once() -> None:
    assert errors(b"# Payloads to try\nOne BEEF a file.\nMore text!\n") == [
        "file holds no BEEF: neither bytes nor hexadecimal, base64 or JSON lines"
    ]


def test_a_bad_line_among_good_ones_is_named_and_the_others_are_read() -> None:
    good, better = (json.dumps({"beef": beef.hex()}) for beef in (V1, V2))
    lines = [good, "not hex, not base64", '{"id": "x"}', '{"beef": "zz!"}', '{"beef": [256]}', better]
    found = list(read_payloads(io.BytesIO("\n".join(lines).encode()), "file"))
    assert [each.beef for each in found if isinstance(each, Given)] == [V1, V2]
    assert [str(each) for each in found if isinstance(each, Unreadable)] == [
        "file line 2: neither hexadecimal nor base64",
        "file line 3: Object missing required field `beef`",
        "file line 4: neither hexadecimal nor base64",
        "file line 5: bytes must be in range(0, 256)",
    ]


def test_text_that_breaks_off_a_payload_spoils_that_payload_alone() -> None:
    found = list(read_payloads(io.BytesIO(f"{V1.hex()}\nhello!\n{V2.hex()}".encode()), "file"))
    assert str(found[0]) == "file line 1: neither hexadecimal nor base64"
    assert [each.beef for each in found[1:] if isinstance(each, Given)] == [V2]


@CHEAP
@given(st.lists(st.binary(max_size=200), min_size=1, max_size=5), st.integers(20, 100))
def test_whatever_follows_the_magic_hex_lines_come_back_whole(bodies: list[bytes], width: int) -> None:
    beefs = [bytes.fromhex("0100beef") + body for body in bodies]
    assert [each.beef for each in read("\n".join(beef.hex() for beef in beefs).encode())] == beefs
    assert [
        each.beef for each in read("".join(json.dumps({"beef": beef.hex()}) + "\n" for beef in beefs).encode())
    ] == beefs


@CHEAP
@given(st.binary(max_size=300))
def test_no_bytes_make_the_reader_raise(data: bytes) -> None:
    found: Iterable[Given | Unreadable] = read_payloads(io.BytesIO(data), "file")
    assert list(found)


@pytest.mark.parametrize("text", ["", "a", "0", "=", "a===", "ab*d"])
def test_text_that_says_no_bytes(text: str) -> None:
    with pytest.raises(Unreadable):
        to_bytes(text)
