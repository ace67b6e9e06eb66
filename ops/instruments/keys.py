"""Deterministic keys, and the signing of transactions with them. None of these keys guards anything."""

import hashlib
import hmac
from collections.abc import Sequence

import _bsv_native as native
from msgspec import Struct

from ops.instruments.wire import (
    FINAL,
    Input,
    Output,
    hash256,
    p2pkh,
    push,
    varint,
    write_extended,
    write_output,
    write_transaction,
)
from schemas.types import Outpoint, Txid, outpoint

SIGHASH_ALL = 0x41
"""ALL | FORKID: the whole transaction, by the digest in use since 2017 (domain: BIP 143 with FORKID)."""


class Key(Struct, frozen=True):
    """A private key and what others see of it."""

    secret: bytes  # 32 bytes
    public: bytes  # 33 bytes, compressed
    pkh: bytes  # 20 bytes: RIPEMD-160 of SHA-256 of the public key
    script: bytes  # P2PKH locking script

    def sign(self, digest: bytes) -> bytes:
        """DER signature of 32 bytes: low S, nonce by RFC 6979, so the same for the same input. About 35 us."""
        signature: bytes = native.ecdsa_sign(digest, self.secret)
        return signature


def make_key(*labels: object) -> Key:
    """The key that belongs to `labels`."""
    return key_of(hashlib.sha256("/".join(["beefline", "key", *map(str, labels)]).encode()).digest())


def child_key(parent: Key, counterparty: bytes, invoice: str) -> Key:
    """The key its holder derives for something with a counterparty (a public key): BRC-42."""
    shared = native.pubkey_tweak_mul(counterparty, parent.secret)
    return key_of(native.seckey_tweak_add(parent.secret, hmac.digest(shared, invoice.encode(), "sha256")))


ANYONE: bytes = native.pubkey_from_secret((1).to_bytes(32, "big"))
"""Public key of the secret everybody knows (BRC-43)."""


def key_of(secret: bytes) -> Key:
    """The key with this secret, 32 bytes."""
    public: bytes = native.pubkey_from_secret(secret)
    pkh = hashlib.new("ripemd160", hashlib.sha256(public).digest()).digest()
    return Key(secret, public, pkh, p2pkh(pkh))


def keyring(seed: int, size: int = 256) -> list[Key]:
    """The keys of a simulated wallet. Deriving one costs 20 us, so that payloads share these."""
    return [make_key(seed, number) for number in range(size)]


class Coin(Struct, frozen=True):
    """An output, and the key that may spend it. Its script is P2PKH, or begins with `<key> OP_CHECKSIG`."""

    txid: Txid
    vout: int
    satoshis: int
    script: bytes
    key: Key

    @property
    def outpoint(self) -> Outpoint:
        """The 36 bytes an input names it by."""
        return outpoint(self.txid, self.vout)

    def unlock(self, signature: bytes) -> bytes:
        """The unlocking script around a signature (DER with its type byte)."""
        wants_key = self.script.startswith(b"\x76\xa9")
        return push(signature) + (push(self.key.public) if wants_key else b"")


class Made(Struct, frozen=True):
    """A transaction of ours: its bytes, and what it took to make them."""

    txid: Txid
    raw: bytes
    inputs: tuple[Input, ...]
    spent: tuple[Coin, ...]
    outputs: tuple[Output, ...]
    version: int = 1
    locktime: int = 0

    def coin(self, vout: int, key: Key) -> Coin:
        """Output `vout`, which `key` may spend."""
        satoshis, script = self.outputs[vout]
        return Coin(self.txid, vout, satoshis, script, key)

    def extended(self) -> bytes:
        """The transaction in Extended Format (BRC-30)."""
        spent = [(coin.satoshis, coin.script) for coin in self.spent]
        return write_extended(self.inputs, spent, self.outputs, self.version, self.locktime)


def digests(
    coins: Sequence[Coin], outputs: Sequence[Output], *, sequence: int = FINAL, version: int = 1, locktime: int = 0
) -> list[bytes]:
    """What each input signs with SIGHASH_ALL. Linear: what the inputs share is hashed once."""
    number = sequence.to_bytes(4, "little")
    head = (
        version.to_bytes(4, "little")
        + hash256(b"".join(coin.outpoint for coin in coins))
        + hash256(number * len(coins))
    )
    tail = (
        number
        + hash256(b"".join(map(write_output, outputs)))
        + locktime.to_bytes(4, "little")
        + SIGHASH_ALL.to_bytes(4, "little")
    )
    return [
        hash256(
            head
            + coin.outpoint
            + varint(len(coin.script))
            + coin.script
            + coin.satoshis.to_bytes(8, "little")
            + tail
        )
        for coin in coins
    ]  # fmt: skip


def spend(
    coins: Sequence[Coin], outputs: Sequence[Output], *, sequence: int = FINAL, version: int = 1, locktime: int = 0
) -> Made:
    """A signed transaction that spends `coins`. What the outputs add up to is the caller's business."""
    signed = zip(coins, digests(coins, outputs, sequence=sequence, version=version, locktime=locktime), strict=True)
    unlocked = [coin.unlock(coin.key.sign(digest) + b"\x41") for coin, digest in signed]
    return assemble(coins, unlocked, outputs, sequence=sequence, version=version, locktime=locktime)


def assemble(
    coins: Sequence[Coin],
    unlocked: Sequence[bytes],
    outputs: Sequence[Output],
    *,
    sequence: int = FINAL,
    version: int = 1,
    locktime: int = 0,
) -> Made:
    """A transaction with the unlocking scripts given."""
    inputs = tuple((coin.outpoint, script, sequence) for coin, script in zip(coins, unlocked, strict=True))
    raw = write_transaction(inputs, outputs, version, locktime)
    return Made(hash256(raw), raw, inputs, tuple(coins), tuple(outputs), version, locktime)
