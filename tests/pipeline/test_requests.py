"""Requests as strangers write them."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.requests import Read, Unread, read
from pipeline.state import encode
from schemas.flow import Extend, Release, Reserve
from tests.pipeline.test_baskets import CONTEXT, OWNER_KEY, asked
from tests.pipeline.test_baskets import read as instruction
from tests.profiles import CHEAP

POINT = "00" * 31 + "01.7"


def request(**more: Any) -> dict[str, Any]:
    return {"id": "one", "owner": OWNER_KEY.hex()} | more


def reserve(**more: Any) -> dict[str, Any]:
    return request(**{"operation": "reserve", "lease_s": 30, "basket": " Coins ", "count": 2, **more})


GOOD: list[tuple[dict[str, Any], Reserve | Extend | Release]] = [
    (reserve(tags=["b", "A ", "b"], holder="till 4"), Reserve((), "coins", ("a", "b"), 2, "till 4", 30_000)),
    (
        request(operation="reserve", lease_s=86_400, outputs=[POINT]),
        Reserve((b"\x01" + bytes(31) + b"\x07\0\0\0",), "", (), 0, "", 86_400_000),
    ),
    (request(operation="extend", lease_s=1, reservation="r", token=7), Extend("r", 7, 1_000)),
    (request(operation="release", reservation="r", token=7), Release("r", 7)),
    (request(operation="release", reservation="r"), Release("r", 0)),
]


@pytest.mark.parametrize(("given_", "what"), GOOD)
def test_a_request_has_one_form(given_: dict[str, Any], what: Reserve | Extend | Release) -> None:
    assert read(json.dumps(given_).encode()) == Read(CONTEXT, "one", what)


def test_order_and_repeats_of_names_say_nothing() -> None:
    points = ["00" * 32 + ".1", "00" * 32 + ".0"]
    one, other = (
        read(json.dumps(request(operation="reserve", lease_s=1, outputs=order)).encode())
        for order in (points, points[::-1])
    )
    assert one == other


@pytest.mark.parametrize(
    ("given_", "says"),
    [
        (reserve(id=""), "1 to 200"),
        (reserve(id="x" * 201), "1 to 200"),
        (reserve(owner="02" + "ff" * 32), "identity key"),
        (reserve(owner="zz"), "identity key"),
        (reserve(lease_s=0), "from 1 to 86,400"),
        (reserve(lease_s=86_401), "from 1 to 86,400"),
        (reserve(lease_s=1.5), "lease_s"),
        (reserve(count=0), "1 to 1,000"),
        (reserve(count=1_001), "1 to 1,000"),
        (reserve(basket=""), "1 to 300"),
        (reserve(basket="default"), "wallet's own"),
        (reserve(tags=[""]), "a tag has"),
        (reserve(tags=[f"t{number}" for number in range(17)]), "16 tags"),
        (reserve(holder="x" * 201), "holder"),
        (reserve(outputs=[POINT]), "named, or counted"),
        (reserve(token=1), "token is not of reserve"),
        (reserve(token=0), "token is not of reserve"),
        (reserve(reservation="x"), "reservation is not of reserve"),
        (reserve(more=1), "more"),
        (request(operation="reserve", lease_s=1, outputs=["x"]), "txid.vout"),
        (request(operation="reserve", lease_s=1, outputs=[POINT, POINT]), "named once"),
        (request(operation="reserve", lease_s=1, outputs=[f"{'00' * 32}.{vout}" for vout in range(1_001)]), "1,000"),
        (request(operation="extend", lease_s=1, reservation="r"), "token is what"),
        (request(operation="extend", lease_s=1, reservation="r", token=0), "from 1 on"),
        (request(operation="extend", lease_s=1, reservation="r", token=1 << 63), "from 1 on"),
        (request(operation="extend", reservation="r", token=1), "lease_s"),
        (request(operation="extend", lease_s=1, reservation="", token=1), "reservation is an id"),
        (request(operation="release", reservation="r", lease_s=1), "lease_s"),
        (request(operation="release", reservation="r", count=1), "count is not of release"),
        (request(operation="consume"), "operation"),
        (request(), "operation"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(given_: dict[str, Any], says: str) -> None:
    found = read(json.dumps({**given_}).encode())
    assert isinstance(found, Unread)
    assert found.verdict.code == "malformed.request"
    assert says in found.verdict.message
    assert found.request_id == given_["id"][:200]


@pytest.mark.parametrize("value", [b"", b"x", b"[]", b"\xff", b'{"id": 1}', b"[" * 100_000, b'{"id": "\\ud800"}'])
def test_what_is_no_request_is_said(value: bytes) -> None:
    found = read(value)
    assert isinstance(found, Unread)
    assert (found.verdict.code, found.request_id) == ("malformed.request", None)


@settings(CHEAP, max_examples=200)
@given(
    st.dictionaries(
        st.sampled_from(["id", "owner", "operation", "lease_s", "basket", "count", "outputs", "reservation", "token"]),
        st.one_of(st.none(), st.integers(), st.text(max_size=70), st.lists(st.text(max_size=70), max_size=2)),
    )
)
def test_nothing_makes_reading_raise_and_what_is_read_can_be_written(fields: dict[str, Any]) -> None:
    for given_, _ in GOOD:
        found = read(json.dumps({**given_, **fields}).encode())
        if isinstance(found, Read):
            assert msgspec.msgpack.decode(encode(found.what))


# --- what a spend names


def test_a_spend_names_reservations() -> None:
    named = [{"id": "b", "token": 2}, {"id": "a", "token": 1}]
    assert instruction(asked(reservations=named)).reservations == (("a", 1), ("b", 2))


@pytest.mark.parametrize(
    ("named", "says"),
    [
        ([{"id": "", "token": 1}], "1 to 200"),
        ([{"id": "x", "token": 0}], "from 1 on"),
        ([{"id": "x", "token": 1 << 63}], "from 1 on"),
        ([{"id": "x", "token": 1}, {"id": "x", "token": 2}], "named once"),
        ([{"id": "x"}], "token"),
        ([{"id": f"{number}", "token": 1} for number in range(2_001)], "2,000"),
    ],
)
def test_what_names_no_reservation_is_said(named: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        instruction(asked(reservations=named))
