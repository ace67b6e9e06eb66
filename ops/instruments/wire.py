"""How the instruments write things down: transactions, Merkle paths, BEEF. Trusted values only; it reads nothing.

Formats: BRC-12 and 30 (transactions), BRC-74 (Merkle paths), BRC-62, 95, 96 (BEEF). Hashes are in wire order.
"""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Literal, TypeAlias

from msgspec import Struct

from schemas.types import Outpoint, Txid

Output: TypeAlias = tuple[int, bytes]
"""Satoshis and locking script."""

Input: TypeAlias = tuple[Outpoint, bytes, int]
"""Outpoint, unlocking script, sequence."""

Framing = Literal["v1", "v2", "atomic"]

FINAL = 0xFFFFFFFF
"""The sequence of an input that waits for nothing."""

V1 = bytes.fromhex("0100beef")
V2 = bytes.fromhex("0200beef")
ATOMIC = bytes.fromhex("01010101")
EF_MARKER = bytes.fromhex("0000000000ef")


def hash256(data: bytes) -> bytes:
    """Double SHA-256. hashlib is quicker than the native module for the short inputs here."""
    return hashlib.sha256(hashlib.sha256(data).digest()).digest()


def varint(n: int) -> bytes:
    """A number in its shortest form."""
    if n < 0xFD:
        return n.to_bytes(1, "little")
    if n <= 0xFFFF:
        return b"\xfd" + n.to_bytes(2, "little")
    if n <= 0xFFFFFFFF:
        return b"\xfe" + n.to_bytes(4, "little")
    return b"\xff" + n.to_bytes(8, "little")


def push(data: bytes) -> bytes:
    """The script that pushes `data`, as short as it goes for data of two bytes and more."""
    size = len(data)
    if size <= 75:
        return size.to_bytes(1, "little") + data
    if size <= 0xFF:
        return b"\x4c" + size.to_bytes(1, "little") + data
    if size <= 0xFFFF:
        return b"\x4d" + size.to_bytes(2, "little") + data
    return b"\x4e" + size.to_bytes(4, "little") + data


def p2pkh(pkh: bytes) -> bytes:
    """Locking script that pays to the hash of a public key (20 bytes)."""
    return b"\x76\xa9\x14" + pkh + b"\x88\xac"


def data_carrier(data: bytes) -> bytes:
    """Locking script of an output that carries data and cannot be spent: OP_FALSE OP_RETURN <data>."""
    return b"\x00\x6a" + push(data)


def outpoint_text(outpoint: Outpoint) -> str:
    """As wallets write it: `txid.vout`, the txid turned round."""
    return f"{outpoint[31::-1].hex()}.{int.from_bytes(outpoint[32:], 'little')}"


def pushdrop(public: bytes, fields: Sequence[bytes]) -> bytes:
    """Locking script `<key> OP_CHECKSIG <fields…> OP_2DROP… [OP_DROP]`; fields of two bytes and more."""
    drops = b"\x6d" * (len(fields) // 2) + b"\x75" * (len(fields) % 2)
    return push(public) + b"\xac" + b"".join(map(push, fields)) + drops


def write_output(output: Output) -> bytes:
    """One output as a transaction holds it."""
    satoshis, script = output
    return satoshis.to_bytes(8, "little") + varint(len(script)) + script


def write_input(spend: Input) -> bytes:
    """One input as a raw transaction holds it."""
    outpoint, unlocking, sequence = spend
    return outpoint + varint(len(unlocking)) + unlocking + sequence.to_bytes(4, "little")


def write_transaction(inputs: Sequence[Input], outputs: Sequence[Output], version: int = 1, locktime: int = 0) -> bytes:
    """A raw transaction."""
    return b"".join(
        (
            version.to_bytes(4, "little"),
            varint(len(inputs)),
            *map(write_input, inputs),
            varint(len(outputs)),
            *map(write_output, outputs),
            locktime.to_bytes(4, "little"),
        )
    )


def write_extended(
    inputs: Sequence[Input], spent: Sequence[Output], outputs: Sequence[Output], version: int = 1, locktime: int = 0
) -> bytes:
    """Extended Format: each input followed by the output it spends (satoshis in 8 bytes; BRC-30's prose says 4)."""
    return b"".join(
        (
            version.to_bytes(4, "little"),
            EF_MARKER,
            varint(len(inputs)),
            *(write_input(spend) + write_output(coin) for spend, coin in zip(inputs, spent, strict=True)),
            varint(len(outputs)),
            *map(write_output, outputs),
            locktime.to_bytes(4, "little"),
        )
    )


Levels: TypeAlias = list[list[bytes]]
"""A Merkle tree: level 0 holds the txids, the last level the root."""


def merkle_levels(txids: list[Txid]) -> Levels:
    """The whole tree over at least one txid; an odd node at a level's end is paired with itself."""
    sha = hashlib.sha256
    levels = [txids]
    while len(levels[-1]) > 1:
        below = levels[-1]
        padded = below if len(below) % 2 == 0 else [*below, below[-1]]
        pairs = zip(padded[::2], padded[1::2], strict=True)
        levels.append([sha(sha(left + right).digest()).digest() for left, right in pairs])
    return levels


Leaf: TypeAlias = tuple[int, int, bytes]
"""Of a Merkle path: offset, flags (0 sibling, 1 duplicate, 2 txid), hash (empty for a duplicate)."""


def merkle_path(levels: Levels, indexes: Iterable[int]) -> list[list[Leaf]]:
    """What a path holds on each level to prove the leaves at `indexes`, and nothing that can be computed.

    A block of one transaction has the path of one level with one leaf.
    """
    working = sorted(set(indexes))
    if len(levels) == 1:
        return [[(0, 2, levels[0][0])]]
    path = []
    for height, nodes in enumerate(levels[:-1]):
        on_path = set(working)
        leaves: list[Leaf] = [(i, 2, nodes[i]) for i in working] if height == 0 else []
        for sibling in sorted({i ^ 1 for i in working} - on_path):
            leaves.append((sibling, 0, nodes[sibling]) if sibling < len(nodes) else (sibling, 1, b""))
        leaves.sort()
        path.append(leaves)
        working = sorted({i >> 1 for i in working})
    return path


def write_bump(height: int, path: Sequence[Sequence[Leaf]]) -> bytes:
    """A Merkle path in binary form (BRC-74)."""
    parts = [varint(height), len(path).to_bytes(1, "little")]
    for leaves in path:
        parts.append(varint(len(leaves)))
        parts.extend(varint(offset) + flags.to_bytes(1, "little") + node for offset, flags, node in leaves)
    return b"".join(parts)


class Entry(Struct, frozen=True):
    """One transaction of a BEEF: bytes, or for V2 a txid alone, with the index of its proof where it has one."""

    raw: bytes
    bump: int | None = None
    txid_only: bool = False  # `raw` is then the 32 bytes of a txid


def write_beef(bumps: Sequence[bytes], entries: Sequence[Entry], framing: Framing = "v1", subject: Txid = b"") -> bytes:
    """A BEEF. `subject` is for Atomic framing, which wraps V1."""
    if framing == "atomic":
        return ATOMIC + subject + write_beef(bumps, entries)
    write_entry, magic = (_entry_v2, V2) if framing == "v2" else (_entry_v1, V1)
    return b"".join((magic, varint(len(bumps)), *bumps, varint(len(entries)), *map(write_entry, entries)))


def _entry_v1(entry: Entry) -> bytes:
    return entry.raw + (b"\x00" if entry.bump is None else b"\x01" + varint(entry.bump))


def _entry_v2(entry: Entry) -> bytes:
    if entry.txid_only:
        return b"\x02" + entry.raw
    return (b"\x00" if entry.bump is None else b"\x01" + varint(entry.bump)) + entry.raw
