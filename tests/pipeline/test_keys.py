"""Key derivation against the published vectors, and against the SDK's own, which goes another way.

`key-derivation.json` is the conformance file `sdk/keys/key-derivation` of the TypeScript stack (ts-stack c3fe101c).
Left out are the cases about that SDK's constructors (key-001 to 004, 015, 016) and its error for a shared secret (017).
Secrets' children are derived by the instruments alone: nothing in the pipeline holds a secret.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from bsv.keys import PrivateKey, PublicKey

from ops.instruments.keys import child_key, key_of
from pipeline.keys import ANYONE, child_public, invoice_number, is_public
from tests import builders

VECTORS: list[dict[str, Any]] = json.loads(Path(__file__).with_name("key-derivation.json").read_text())["vectors"]
LEFT_OUT = {"key-001", "key-002", "key-003", "key-004", "key-015", "key-016", "key-017"}
PUBLIC = [v for v in VECTORS if "derived_public_key_hex" in v["expected"]]
PRIVATE = [v for v in VECTORS if "derived_private_key_hex" in v["expected"]]


def test_every_case_is_run_or_left_out() -> None:
    assert {v["id"] for v in VECTORS} == {v["id"] for v in (*PUBLIC, *PRIVATE)} | LEFT_OUT
    assert len(VECTORS) == len(PUBLIC) + len(PRIVATE) + len(LEFT_OUT)


@pytest.mark.parametrize("vector", PUBLIC, ids=lambda v: v["id"])
def test_childs_of_a_public_key(vector: dict[str, Any]) -> None:
    given = vector["input"]
    public, secret = bytes.fromhex(given["recipient_public_key_hex"]), bytes.fromhex(given["sender_private_key_hex"])
    assert child_public(public, secret, given["invoice_number"]).hex() == vector["expected"]["derived_public_key_hex"]


@pytest.mark.parametrize("vector", PRIVATE, ids=lambda v: v["id"])
def test_childs_of_a_secret(vector: dict[str, Any]) -> None:
    """And what others derive is the public key of just that secret."""
    given = vector["input"]
    parent = key_of(bytes.fromhex(given["recipient_private_key_hex"]))
    child = child_key(parent, bytes.fromhex(given["sender_public_key_hex"]), given["invoice_number"])
    assert child.secret.hex() == vector["expected"]["derived_private_key_hex"]


@pytest.mark.parametrize("number", range(8))
def test_what_anyone_derives_is_what_the_holder_has(number: int) -> None:
    """By three ways: ours, the instruments' from the secret, the SDK's in plain Python."""
    owner, invoice = builders.key(number), invoice_number(2, "uhrp advertisement", str(number))
    assert invoice == f"2-uhrp advertisement-{number}"
    child = child_public(owner.public, ANYONE, invoice)
    assert child == child_key(key_of(owner.secret), PrivateKey(1).public_key().serialize(), invoice).public
    assert child == PublicKey(owner.public).derive_child(PrivateKey(1), invoice).serialize()
    assert child == child_public(owner.long, ANYONE, invoice)


OFF_THE_CURVE = next(
    b"\x02" + x for n in range(9) if not is_public(b"\x02" + (x := hashlib.sha256(b"%d" % n).digest()))
)


@pytest.mark.parametrize("public", [b"", bytes(33), b"\x05" + b"\x01" * 32, OFF_THE_CURVE, b"\x02" + b"\xff" * 32])
def test_what_is_no_key_has_no_child(public: bytes) -> None:
    with pytest.raises(ValueError):
        child_public(public, ANYONE, "2-x-1")
    assert not is_public(public)


@pytest.mark.parametrize("secret", [bytes(32), b"\xff" * 32, b"", b"\x01" * 31])
def test_what_is_no_secret_derives_nothing(secret: bytes) -> None:
    with pytest.raises(ValueError):
        child_public(builders.key().public, secret, "2-x-1")
    assert is_public(builders.key().public)
