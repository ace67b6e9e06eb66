"""Signed transactions, blocks and BEEFs whose verdict is known by construction.

Digests come from the SDK's native preimages, not from `pipeline.script.sighash`, so that a signature made here is an
independent witness for the code it tests. Everything follows from the arguments: no clock, no chance.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache

import _bsv_native as native
from msgspec import Struct

from pipeline.chain.answer import Answer, RootAt, Tip
from pipeline.codec.beef import write_atomic, write_beef_v1, write_beef_v2
from pipeline.codec.bump import write_bump
from pipeline.codec.hashing import hash256
from pipeline.codec.reader import write_varint
from pipeline.codec.tx import Tx, read_tx
from schemas.types import display

ALL, NONE, SINGLE = 0x41, 0x42, 0x43  # with FORKID
ANYONE, OTDA = 0x80, 0x20
FINAL = 0xFFFFFFFF
N = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141  # order of secp256k1

TIP = Tip(height=960_000, median_time_past=1_790_000_000)


class Key(Struct, frozen=True):
    """A key pair."""

    secret: bytes
    public: bytes  # compressed
    long: bytes  # uncompressed

    def sign(self, digest: bytes, high_s: bool = False) -> bytes:
        """DER signature, low S unless asked otherwise."""
        signature: bytes = native.ecdsa_sign(digest, self.secret)
        return flip_s(signature) if high_s else signature


@cache
def key(number: int = 1) -> Key:
    """The key pair of a number."""
    secret = hashlib.sha256(b"key %d" % number).digest()
    return Key(secret, native.pubkey_from_secret(secret), native.pubkey_from_secret(secret, False))


def flip_s(der: bytes) -> bytes:
    """The signature's twin: equally true, and with a high S if this one has a low one."""
    length = der[3]
    r, s = der[4 : 4 + length], int.from_bytes(der[6 + length :], "big")
    return der_of(int.from_bytes(r, "big"), N - s)


def der_of(r: int, s: int) -> bytes:
    """DER of two numbers."""
    body = b"".join(
        b"\x02" + bytes((len(part),)) + part
        for part in (number.to_bytes(number.bit_length() // 8 + 1, "big") for number in (r, s))
    )
    return b"\x30" + bytes((len(body),)) + body


# --- scripts


def push(data: bytes) -> bytes:
    """The shortest push of `data`."""
    if len(data) == 1 and 1 <= data[0] <= 16:
        return bytes((0x50 + data[0],))
    if data == b"\x81":
        return b"\x4f"
    if len(data) <= 75:
        return bytes((len(data),)) + data
    if len(data) <= 255:
        return b"\x4c" + bytes((len(data),)) + data
    if len(data) <= 65_535:
        return b"\x4d" + len(data).to_bytes(2, "little") + data
    return b"\x4e" + len(data).to_bytes(4, "little") + data


def hash160(data: bytes) -> bytes:
    """RIPEMD-160 of SHA-256."""
    return hashlib.new("ripemd160", hashlib.sha256(data).digest()).digest()


def p2pkh(owner: Key, long: bool = False) -> bytes:
    """Pay to the hash of a key."""
    return b"\x76\xa9\x14" + hash160(owner.long if long else owner.public) + b"\x88\xac"


def p2pk(owner: Key, long: bool = False) -> bytes:
    """Pay to a key."""
    return push(owner.long if long else owner.public) + b"\xac"


def multisig(needed: int, *owners: Key) -> bytes:
    """Bare multisig."""
    return (
        bytes((0x50 + needed,)) + b"".join(push(owner.public) for owner in owners) + bytes((0x50 + len(owners), 0xAE))
    )


def pushdrop(owner: Key, *fields: bytes) -> bytes:
    """Key check first, then fields and their drops."""
    drops = b"\x6d" * (len(fields) // 2) + b"\x75" * (len(fields) % 2)
    return p2pk(owner) + b"".join(push(field) for field in fields) + drops


def pushdrop_after(owner: Key, *fields: bytes) -> bytes:
    """Fields and their drops first, then the key check."""
    lock = p2pk(owner)
    return pushdrop(owner, *fields)[len(lock) :] + lock


Digest = Callable[[int], bytes]  # of a hash type
Unlock = Callable[[Digest], bytes]


def by_p2pkh(owner: Key, kind: int = ALL, long: bool = False, high_s: bool = False) -> Unlock:
    """Unlocks `p2pkh`."""
    return lambda digest: (
        push(owner.sign(digest(kind), high_s) + bytes((kind,))) + push(owner.long if long else owner.public)
    )


def by_key(owner: Key, kind: int = ALL) -> Unlock:
    """Unlocks `p2pk` and `pushdrop`."""
    return lambda digest: push(owner.sign(digest(kind)) + bytes((kind,)))


def by_multisig(*owners: Key, kind: int = ALL) -> Unlock:
    """Unlocks `multisig`; owners in the order of their keys."""
    return lambda digest: b"\x00" + b"".join(push(owner.sign(digest(kind)) + bytes((kind,))) for owner in owners)


def by_script(script: bytes) -> Unlock:
    """Unlocks with bytes that sign nothing."""
    return lambda _: script


# --- transactions


class In(Struct, frozen=True):
    """An input: which output of which transaction, and how it is unlocked."""

    parent: Tx
    vout: int = 0
    unlock: Unlock = by_p2pkh(key())
    sequence: int = FINAL


class Out(Struct, frozen=True):
    """An output."""

    satoshis: int = 1000
    script: bytes = p2pkh(key())

    def bytes(self) -> bytes:
        """As a transaction holds it."""
        return self.satoshis.to_bytes(8, "little") + write_varint(len(self.script)) + self.script


def raw_tx(ins: Sequence[tuple[bytes, bytes, int]], outs: Sequence[Out], version: int = 1, locktime: int = 0) -> bytes:
    """A transaction's bytes. ins: outpoint, unlocking script, sequence."""
    return b"".join(
        (
            version.to_bytes(4, "little"),
            write_varint(len(ins)),
            *(o + write_varint(len(s)) + s + sequence.to_bytes(4, "little") for o, s, sequence in ins),
            write_varint(len(outs)),
            *(out.bytes() for out in outs),
            locktime.to_bytes(4, "little"),
        )
    )


def spend(ins: Sequence[In], outs: Sequence[Out] = (Out(),), version: int = 1, locktime: int = 0) -> Tx:
    """A signed transaction."""
    unlocking = [
        entry.unlock(lambda kind, vin=vin: digest_of(ins, outs, version, locktime, vin, kind))  # type: ignore[misc]
        for vin, entry in enumerate(ins)
    ]
    spent = [
        (entry.parent.txid + entry.vout.to_bytes(4, "little"), script, entry.sequence)
        for entry, script in zip(ins, unlocking, strict=True)
    ]
    return read_tx(raw_tx(spent, outs, version, locktime))


def digest_of(ins: Sequence[In], outs: Sequence[Out], version: int, locktime: int, vin: int, kind: int) -> bytes:
    """What a signature signs, by the SDK's native code."""
    entries = [
        (display(i.parent.txid), i.vout, i.parent.locking(i.vout), i.parent.satoshis(i.vout), i.sequence, kind)
        for i in ins
    ]
    outputs = [out.bytes() for out in outs]
    if kind & 0x40 and not kind & OTDA:
        preimage = native.tx_preimages(version, locktime, entries, outputs)[vin]
    else:
        preimage = native.tx_preimage_otda(vin, version, locktime, entries, outputs)
    return hash256(preimage)


def funding(*outs: Out, salt: int = 0) -> Tx:
    """A transaction of someone else, to be proven: its own parent is not there."""
    outpoint = hashlib.sha256(b"funding %d" % salt).digest() + bytes(4)
    unlocking = push(b"of someone else")  # long enough that no coin makes it the 64 bytes that are refused
    return read_tx(raw_tx([(outpoint, unlocking, FINAL)], outs or (Out(),)))


def coinbase(height: int, *outs: Out) -> Tx:
    """New coins."""
    script = push(height.to_bytes(4, "little")) + b"\x51"
    return read_tx(raw_tx([(bytes(32) + b"\xff\xff\xff\xff", script, FINAL)], outs or (Out(5_000_000_000),)))


# --- blocks


class Proof(Struct, frozen=True):
    """A Merkle path's bytes, and the block it belongs to."""

    bump: bytes
    height: int
    root: bytes


def path(txid: bytes, height: int = 950_000, levels: int = 12, offset: int | None = None) -> Proof:
    """A path of one transaction through a block of 2**levels, the other hashes made up."""
    place = (1 << levels) * 5 // 8 + 1 if offset is None else offset
    nodes: list[dict[int, bytes]] = [{place: txid}]
    node = txid
    for level in range(levels):
        other = hashlib.sha256(b"%d/%d" % (height, level) + txid).digest()
        at = place >> level
        nodes[level][at ^ 1] = other
        node = hash256(other + node if at & 1 else node + other)
        nodes.append({})
    return Proof(write_bump(height, nodes[:levels], {place}), height, node)


def tree(leaves: Sequence[bytes]) -> list[list[bytes]]:
    """All nodes of a block's tree, level 0 first, the root last."""
    levels = [list(leaves)]
    while len(levels[-1]) > 1:
        nodes = levels[-1] + levels[-1][-1:] * (len(levels[-1]) % 2)
        levels.append([hash256(left + right) for left, right in zip(nodes[::2], nodes[1::2], strict=True)])
    return levels


def minimal(levels: Sequence[Sequence[bytes]], offsets: Iterable[int]) -> list[dict[int, bytes]]:
    """What a path through a block's tree must hold for the leaves at `offsets`, and nothing else; level 0 first."""
    need = set(offsets)
    nodes: list[dict[int, bytes]] = []
    for level, line in enumerate(levels[:-1]):
        given = {at ^ 1: line[at ^ 1] if at ^ 1 < len(line) else b"" for at in need if at ^ 1 not in need}
        if level == 0:
            given |= {at: line[at] for at in need}
        nodes.append(given)
        need = {at >> 1 for at in need}
    return nodes or [{0: levels[0][0]}]


def compound(leaves: Sequence[bytes], offsets: Iterable[int], height: int = 950_000) -> Proof:
    """A minimal path of several transactions of one block."""
    levels, wanted = tree(leaves), set(offsets)
    return Proof(write_bump(height, minimal(levels, wanted), wanted), height, levels[-1][0])


# --- payloads


class Bag(Struct):
    """Transactions and proofs, to be written as BEEF in whatever order a test needs."""

    txs: list[Tx]
    proofs: dict[bytes, Proof] = {}  # by txid

    def bumps(self) -> list[bytes]:
        """Distinct paths, in the order their transactions come."""
        return list(dict.fromkeys(self.proofs[tx.txid].bump for tx in self.txs if tx.txid in self.proofs))

    def entries(self) -> list[tuple[bytes, int]]:
        """Raw transaction and number of its path."""
        bumps = self.bumps()
        return [(tx.raw, bumps.index(self.proofs[tx.txid].bump) if tx.txid in self.proofs else -1) for tx in self.txs]

    def v1(self) -> bytes:
        """BEEF V1."""
        return write_beef_v1(self.bumps(), self.entries())

    def v2(self) -> bytes:
        """BEEF V2."""
        return write_beef_v2(self.bumps(), self.entries())

    def atomic(self, subject: Tx | None = None) -> bytes:
        """Atomic BEEF around V2; the subject is the last transaction unless named."""
        return write_atomic((subject or self.txs[-1]).txid, self.v2())

    def answers(self, said: Answer = Answer.YES) -> Mapping[RootAt, Answer]:
        """What trackers say of its roots."""
        return {(proof.height, proof.root): said for proof in self.proofs.values()}


def bag(*txs: Tx, proven: Iterable[Tx] = (), height: int = 950_000, levels: int = 12) -> Bag:
    """A bag whose `proven` transactions have a path each, in blocks of their own from `height` on."""
    return Bag(list(txs), {tx.txid: path(tx.txid, height + n, levels) for n, tx in enumerate(proven)})


def payment(outs: Sequence[Out] = (Out(999),), levels: int = 12) -> Bag:
    """The smallest honest payload: one un-mined P2PKH spend of a proven output."""
    parent = funding(Out(1000))
    return bag(parent, spend([In(parent)], outs), proven=[parent], levels=levels)


def chain(length: int, satoshis: int = 10**9) -> Bag:
    """A line of `length` un-mined transactions behind a proven one, each paying one satoshi."""
    txs = [funding(Out(satoshis))]
    for n in range(length):
        txs.append(spend([In(txs[-1])], [Out(satoshis - n - 1)]))
    return bag(*txs, proven=txs[:1])


def diamonds(levels: int) -> Bag:
    """Each transaction spends both outputs of the one before: 2**levels ways back to the proof."""
    total = 10**9
    txs = [funding(Out(total // 2), Out(total // 2))]
    for _ in range(levels):
        half = total // 2
        txs.append(spend([In(txs[-1], 0), In(txs[-1], 1)], [Out(half), Out(half)]))
    return bag(*txs, proven=txs[:1])
