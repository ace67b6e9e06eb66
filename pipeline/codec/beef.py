"""BEEF V1, V2 and Atomic (BRC-62, 96, 95): an envelope of proofs and transactions, read as it stands.

What the parts mean for each other (order, subject, ancestry) is `pipeline/parse.py`'s.
"""

from collections.abc import Iterable, Sequence

from msgspec import Struct

from pipeline.codec.bump import Bump, read_bump
from pipeline.codec.reader import Malformed, counted, truncated, varint, write_varint
from pipeline.codec.tx import SMALLEST_TX, Tx, scan
from schemas.types import Txid

V1 = bytes.fromhex("0100beef")
V2 = bytes.fromhex("0200beef")
ATOMIC = bytes.fromhex("01010101")

_SMALLEST_BUMP = 37  # height, levels, one level of one leaf
_SMALLEST_ENTRY = {V1: SMALLEST_TX + 1, V2: 33}


class Envelope(Struct, gc=False):
    """A payload's parts in the order received."""

    magic: bytes  # V1 or V2
    subject: Txid | None  # as Atomic BEEF names it
    body: int  # where the envelope without the Atomic prefix begins
    bumps: list[Bump]
    txs: list[Tx]  # every entry that has bytes; repeats included
    named: dict[Txid, int]  # entries of a txid alone, and their place
    entries: int


def read_beef(data: bytes, max_bumps: int, max_entries: int) -> Envelope:
    """Read an envelope that fills the buffer.

    Cost: linear in the bytes: each transaction is hashed once, no node of a proof is.

    Raises:
        Malformed: anything else than that.
    """
    subject = None
    body = 0
    magic = data[:4]
    if magic == ATOMIC:
        if len(data) < 36:
            raise truncated(data)
        subject, body, magic = data[4:36], 36, data[36:40]
        if magic == ATOMIC:
            raise Malformed("structure.nested-atomic", "byte 36")
    if magic not in (V1, V2):
        raise _no_magic(data, body)
    count, at = counted(data, body + 4, _SMALLEST_BUMP)
    if count > max_bumps:
        raise Malformed("policy.limits", f"byte {body + 4}", f"{count} proofs; at most {max_bumps}")
    bumps = []
    for index in range(count):
        bump, at = read_bump(data, at, index)
        bumps.append(bump)
    count, at = counted(data, at, _SMALLEST_ENTRY[magic])
    if count > max_entries:
        raise Malformed("policy.limits", f"byte {at}", f"{count} transactions; at most {max_entries}")
    txs: list[Tx] = []
    named: dict[Txid, int] = {}
    index = 0
    try:
        for index in range(count):
            if magic == V1:
                tx = scan(data, at)
                at += len(tx.raw) + 1
                proven = data[at - 1]
                if proven == 1:
                    tx.bump, at = _bump_index(data, at, len(bumps))
                elif proven:
                    raise _format_byte(at - 1, proven, "0 or 1 tells of a proof")
            else:
                kind = data[at]
                at += 1
                if kind == 2:
                    if at + 32 > len(data):
                        raise truncated(data)
                    named.setdefault(data[at : at + 32], index)
                    at += 32
                    continue
                if kind > 2:
                    raise _format_byte(at - 1, kind, "0, 1 or 2 tells what follows")
                # The proof's number stands before the transaction here, and behind it in V1.
                proof, at = _bump_index(data, at, len(bumps)) if kind else (-1, at)
                tx = scan(data, at)
                tx.bump = proof
                at += len(tx.raw)
            tx.index = index
            txs.append(tx)
    except IndexError:
        raise _in_entry(index, truncated(data)) from None
    except Malformed as bad:
        raise _in_entry(index, bad) from None
    if at != len(data):
        raise Malformed("malformed.trailing-bytes", f"byte {at}", f"{len(data) - at} bytes")
    return Envelope(magic, subject, body, bumps, txs, named, count)


def _in_entry(index: int, bad: Malformed) -> Malformed:
    return Malformed(bad.code, f"tx {index}" + (f" {bad.at}" if bad.at else ""), bad.message)


def _format_byte(at: int, found: int, wanted: str) -> Malformed:
    return Malformed("malformed.format-byte", f"byte {at}", f"{found} where {wanted}")


def _bump_index(data: bytes, at: int, count: int) -> tuple[int, int]:
    bump, after = varint(data, at)
    if bump >= count:
        raise Malformed("structure.bump-index", f"byte {at}", f"proof {bump} of {count}")
    return bump, after


def _no_magic(data: bytes, at: int) -> Malformed:
    head = data[at : at + 8]
    hint = f"{data[at : at + 4].hex()} is none of 0100beef, 0200beef, 01010101"
    if head.lower() in (b"0100beef", b"0200beef", b"01010101"):
        hint = "this is hexadecimal text; send the bytes"
    elif head[:1] in (b"{", b"["):
        hint = "this is JSON; the envelopes of BRC-8 to BRC-10 are not taken"
    elif data[at + 4 : at + 10] == bytes.fromhex("0000000000ef"):
        hint = "this is a transaction in Extended Format; send BEEF"
    return Malformed("malformed.magic", f"byte {at}", hint)


def write_beef_v1(bumps: Sequence[bytes], txs: Iterable[tuple[bytes, int]]) -> bytes:
    """BEEF V1.

    txs: raw transaction, and which of `bumps` proves it (-1: none); parents first, subject last.
    """
    entries = list(txs)
    parts = [V1, write_varint(len(bumps)), *bumps, write_varint(len(entries))]
    for raw, bump in entries:
        parts += (raw, b"\x00") if bump < 0 else (raw, b"\x01", write_varint(bump))
    return b"".join(parts)


def write_beef_v2(bumps: Sequence[bytes], txs: Iterable[tuple[bytes, int]]) -> bytes:
    """BEEF V2; arguments as `write_beef_v1`. An entry of 32 bytes is written as a txid alone."""
    entries = list(txs)
    parts = [V2, write_varint(len(bumps)), *bumps, write_varint(len(entries))]
    for raw, bump in entries:
        if len(raw) == 32:
            parts += (b"\x02", raw)
        else:
            parts += (b"\x00", raw) if bump < 0 else (b"\x01", write_varint(bump), raw)
    return b"".join(parts)


def write_atomic(subject: Txid, beef: bytes) -> bytes:
    """Atomic BEEF around a whole BEEF V1 or V2."""
    return ATOMIC + subject + beef
