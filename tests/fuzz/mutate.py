"""Changes to a payload by its parts, so that fuzzing gets behind the envelope.

A payload is taken apart, one to four parts are changed, and it is put together again with right counts. Mostly what
follows from a change is mended too: txids in inputs and proofs, and the signatures of the tests' own keys.
"""

from collections.abc import Callable, Sequence
from random import Random

from msgspec import Struct

from pipeline.codec.beef import ATOMIC, V1, V2, read_beef
from pipeline.codec.hashing import hash256
from pipeline.codec.reader import Malformed, write_varint
from pipeline.codec.tx import NODE_SIZE, SMALLEST_TX, read_tx
from pipeline.codec.tx import Tx as ReadTx
from pipeline.policy import MAX_SATOSHIS
from tests.asm import NAMES, asm
from tests.builders import FINAL, TIP, In, Out, Unlock, by_key, by_p2pkh, by_script, key, p2pk, p2pkh, push, spend
from tests.families import KINDS

Blind = Callable[[bytes, int], bytes]
"""A change that knows nothing of the format: bytes, and how many there may be afterwards."""

MOST_PROOFS, MOST_ENTRIES = 100, 300
"""Of payloads that are taken apart; larger ones are changed as bytes."""

HEIGHTS = (0, 600_000, 620_537, 620_538, 943_815, 943_816, *range(TIP.height - 100, TIP.height - 97), TIP.height,
           TIP.height + 1, 2**31 - 1)  # fmt: skip
"""Around the eras, the maturity of new coins, and the tip."""
SEQUENCES = (0, 1, 2**22, 2**31, FINAL - 1, FINAL)
LOCK_TIMES = (0, 1, TIP.height, TIP.height + 1, 499_999_999, 500_000_000, TIP.median_time_past - 1,
              TIP.median_time_past, 2**32 - 1)  # fmt: skip
VERSIONS = (0, 1, 2, 2**31 - 1, 2**31, 2**32 - 1)
AMOUNTS = (0, 1, 999, MAX_SATOSHIS, MAX_SATOSHIS + 1, 2**63, 2**64 - 1)

OPENED: Sequence[tuple[bytes, bytes]] = tuple(
    (asm(lock), asm(unlock))
    for lock, unlock in (
        ("1", ""),
        ("ADD 5 EQUAL", "2 3"),
        ("SHA256 SIZE NIP 32 NUMEQUAL", "'secret'"),
        ("IF 2 ELSE 3 ENDIF 2 EQUAL", "1"),
        ("DUP HASH160 DROP SIZE NIP", "'data'"),
        ("1 1 1 IF IF IF 1 ENDIF ENDIF ENDIF", ""),
        ("CAT 4 SPLIT SWAP 'left' EQUALVERIFY 'right' EQUAL", "'left' 'right'"),
        ("100 NUM2BIN BIN2NUM 7 NUMEQUAL", "7"),
        ("2DUP MUL ROT ROT MOD SUB", "90000 7"),
        ("1000 NUM2BIN DUP CAT DUP CAT DUP CAT SIZE 8000 NUMEQUALVERIFY DROP 1", "1"),
        ("TOALT 2 PICK FROMALT 3 ROLL WITHIN", "9 5 1 8 6"),
        ("0 LSHIFT 3 RSHIFT INVERT x0106 AND", "'text'"),
        ("0 0 CHECKMULTISIG", "0"),
        ("HASH160 x14da1745e9b549bd0bfa1a569971c77eba30cd5a4b EQUAL", "'Q'"),  # before Genesis a script's hash
        ("100 CLTV DROP", ""),
        ("1 CSV", ""),
        ("1 2 SUBSTR 'el' EQUAL", "'hello'"),
        ("5 LSHIFTNUM 3 RSHIFTNUM 2MUL 2DIV", "77"),
        ("VER VERIF 1 ELSE 0 ENDIF", ""),
        ("RETURN 'behind'", "1"),
        ("0 RETURN 'data'", ""),
        ("SEPARATOR 'field' DROP 2DROP 1", "1 2"),
    )
)
"""Locking scripts that are opened without a signature, and what opens them."""

_OPENERS: dict[bytes, Callable[[int], Unlock]] = {}
for _number in range(1, 17):
    _owner = key(_number)
    _OPENERS[p2pkh(_owner)] = lambda kind, owner=_owner: by_p2pkh(owner, kind)  # type: ignore[misc]
    _OPENERS[p2pk(_owner)] = lambda kind, owner=_owner: by_key(owner, kind)  # type: ignore[misc]

_OPCODES = tuple(NAMES.values())


# --- a payload in parts


class Input(Struct):
    """Of a transaction."""

    outpoint: bytes
    script: bytes
    sequence: int

    def write(self) -> bytes:
        return self.outpoint + write_varint(len(self.script)) + self.script + self.sequence.to_bytes(4, "little")


class Output(Struct):
    """Of a transaction."""

    satoshis: int
    script: bytes

    def write(self) -> bytes:
        return self.satoshis.to_bytes(8, "little") + write_varint(len(self.script)) + self.script


class Tx(Struct):
    """A transaction."""

    version: int
    ins: list[Input]
    outs: list[Output]
    locktime: int

    def write(self) -> bytes:
        return b"".join(
            (
                self.version.to_bytes(4, "little"),
                write_varint(len(self.ins)),
                *(entry.write() for entry in self.ins),
                write_varint(len(self.outs)),
                *(out.write() for out in self.outs),
                self.locktime.to_bytes(4, "little"),
            )
        )


class Entry(Struct):
    """A transaction of the payload, or a txid alone."""

    txid: bytes  # as it was before the changes
    tx: Tx | None
    bump: int = -1


class Path(Struct):
    """A Merkle path."""

    height: int
    levels: list[list[tuple[int, int, bytes]]]  # offset, flags, hash (empty for a duplicate)

    def write(self) -> bytes:
        parts = [write_varint(self.height), bytes((len(self.levels),))]
        for nodes in self.levels:
            parts.append(write_varint(len(nodes)))
            parts += [write_varint(offset) + bytes((flags,)) + node for offset, flags, node in nodes]
        return b"".join(parts)


class Parts(Struct):
    """A payload."""

    magic: bytes
    subject: bytes | None
    paths: list[Path]
    entries: list[Entry]

    def txs(self) -> list[Tx]:
        """Those with bytes."""
        return [entry.tx for entry in self.entries if entry.tx]

    def write(self) -> bytes:
        v1 = self.magic == V1
        parts = [b"" if self.subject is None else ATOMIC + self.subject, self.magic, write_varint(len(self.paths))]
        parts += [path.write() for path in self.paths]
        parts.append(write_varint(len(self.entries)))
        for entry in self.entries:
            proof = b"\x00" if entry.bump < 0 else b"\x01" + write_varint(entry.bump)
            if entry.tx is None:
                parts += (entry.txid, proof) if v1 else (b"\x02", entry.txid)
            else:
                parts += (entry.tx.write(), proof) if v1 else (proof, entry.tx.write())
        return b"".join(parts)


def take_apart(data: bytes) -> Parts:
    """Inverse of `Parts.write`, but that a txid alone is there once.

    Raises:
        Malformed: not BEEF, or more of it than is taken apart.
    """
    envelope = read_beef(data, MOST_PROOFS, MOST_ENTRIES)
    entries = [Entry(tx.txid, _take_apart(tx), tx.bump) for tx in envelope.txs]
    for txid, place in sorted(envelope.named.items(), key=lambda named: named[1]):
        entries.insert(place, Entry(txid, None))
    paths = []
    for bump in envelope.bumps:
        levels = [[(at, 0 if node else 1, node) for at, node in nodes.items()] for nodes in bump.levels]
        levels[0] = [(at, 2 if at in bump.flagged else flags, node) for at, flags, node in levels[0]]
        paths.append(Path(bump.height, levels))
    return Parts(envelope.magic, envelope.subject, paths, entries)


def _take_apart(tx: ReadTx) -> Tx:
    ins = [
        Input(tx.outpoint(vin), tx.unlocking(vin), int.from_bytes(tx.sequence(vin), "little"))
        for vin in range(len(tx.ins) - 1)
    ]
    outs = [Output(tx.satoshis(vout), tx.locking(vout)) for vout in range(len(tx.outs) - 1)]
    return Tx(int.from_bytes(tx.raw[:4], "little"), ins, outs, tx.locktime)


# --- changes


def _of_frame(parts: Parts, draw: Random, blind: Blind) -> None:
    """Another frame, another subject."""
    what = draw.randrange(4)
    if what == 0:
        parts.magic = V1 if parts.magic == V2 else V2
    elif what == 1:
        parts.subject = None
    elif parts.entries:
        parts.subject = (parts.entries[-1] if what == 2 else draw.choice(parts.entries)).txid


def _of_entries(parts: Parts, draw: Random, blind: Blind) -> None:
    """Order, repeats, gaps, and which proof an entry has."""
    entries = parts.entries
    if not entries:
        return
    at, to = draw.randrange(len(entries)), draw.randrange(len(entries))
    entry = entries[at]
    what = draw.randrange(6)
    if what == 0:
        entries.insert(to, Entry(entry.txid, entry.tx, entry.bump))
    elif what == 1:
        del entries[at]
    elif what == 2:
        entries[at], entries[to] = entries[to], entry
    elif what == 3:
        entries[at] = Entry(entry.txid, None)
    elif what == 4:
        entry.bump = draw.randint(-1, len(parts.paths))
    else:
        entries.insert(to, Entry(entry.txid, entry.tx, draw.randint(-1, len(parts.paths) - 1)))


def _of_paths(parts: Parts, draw: Random, blind: Blind) -> None:
    """Heights, levels, and paths as a whole."""
    if not parts.paths:
        return
    path = draw.choice(parts.paths)
    what = draw.randrange(6)
    if what == 0:
        path.height = draw.choice(HEIGHTS)
    elif what == 1:
        parts.paths.append(Path(path.height, [list(level) for level in path.levels]))
    elif what == 2:
        parts.paths.remove(path)
    elif what == 3 and len(path.levels) > 1:
        del path.levels[draw.randrange(len(path.levels))]
    elif what == 4:
        path.levels.append([(draw.randrange(2), 0, draw.randbytes(32))])
    else:
        path.height = draw.choice(parts.paths).height


def _of_nodes(parts: Parts, draw: Random, blind: Blind) -> None:
    """One node of a path."""
    if not parts.paths:
        return
    path = draw.choice(parts.paths)
    level = draw.choice(path.levels)
    if not level:
        level.append((draw.randrange(4), 0, draw.randbytes(32)))
        return
    at = draw.randrange(len(level))
    offset, flags, node = level[at]
    what = draw.randrange(7)
    if what == 0:
        del level[at]
    elif what == 1:
        level[at] = (offset ^ 1 << draw.randrange(len(path.levels) + 1), flags, node)
    elif what == 2:
        level[at] = (offset, 2 if flags == 0 else 0, node or draw.randbytes(32))
    elif what == 3:
        level[at] = (offset, 1, b"")
    elif what == 4:
        level[at] = (offset, flags, draw.choice(draw.choice(path.levels) or level)[2])
    elif what == 5:
        level.append((draw.randrange(1 << len(path.levels)), draw.choice((0, 0, 2)), draw.randbytes(32)))
    else:
        draw.shuffle(level)


def _of_transaction(parts: Parts, draw: Random, blind: Blind) -> None:
    """Version, lock time, and inputs and outputs as a whole."""
    if not (txs := parts.txs()):
        return
    tx = draw.choice(txs)
    what = draw.randrange(8)
    if what == 0:
        tx.version = draw.choice(VERSIONS)
    elif what == 1:
        tx.locktime = draw.choice(LOCK_TIMES)
    elif what == 2:
        draw.choice(tx.ins).sequence = draw.choice(SEQUENCES)
    elif what == 3:
        one = draw.choice(draw.choice(txs).ins)
        tx.ins.append(Input(one.outpoint, one.script, one.sequence))
    elif what == 4:
        one_out = draw.choice(draw.choice(txs).outs)
        tx.outs.append(Output(one_out.satoshis, one_out.script))
    elif what == 5 and len(tx.ins) > 1:
        del tx.ins[draw.randrange(len(tx.ins))]
    elif what == 6 and len(tx.outs) > 1:
        del tx.outs[draw.randrange(len(tx.outs))]
    else:
        draw.shuffle(tx.ins)
        draw.shuffle(tx.outs)


def _of_values(parts: Parts, draw: Random, blind: Blind) -> None:
    """What an output is worth, and which output an input spends."""
    if not (txs := parts.txs()):
        return
    tx = draw.choice(txs)
    if draw.random() < 0.7:
        out = draw.choice(tx.outs)
        out.satoshis = draw.choice((*AMOUNTS, out.satoshis + 1, max(0, out.satoshis - 1))) % 2**64
    else:
        spent = draw.choice(tx.ins)
        spent.outpoint = spent.outpoint[:32] + draw.choice((0, 1, 2, 0xFFFFFFFF)).to_bytes(4, "little")


def _of_scripts(parts: Parts, draw: Random, blind: Blind) -> None:
    """Bytes of one script: an opcode put in, taken out or exchanged, a part repeated, or anything."""
    if not (txs := parts.txs()):
        return
    tx = draw.choice(txs)
    holders: list[Input | Output] = [*tx.ins, *tx.outs]
    one = draw.choice(holders)
    script = bytearray(one.script)
    at, to = sorted((draw.randint(0, len(script)), draw.randint(0, len(script))))
    what = draw.randrange(6)
    if what == 0:
        script[at:at] = bytes((draw.choice(_OPCODES),))
    elif what == 1:
        script[at : at + 1] = bytes((draw.choice(_OPCODES),))
    elif what == 2:
        del script[at:to]
    elif what == 3:
        script[at:at] = script[at:to] * draw.choice((1, 1, 2, 10))
    elif what == 4:
        script[at:at] = draw.choice(
            (push(draw.randbytes(draw.choice((1, 2, 4, 33, 80)))), asm(str(draw.randint(-9, 999))))
        )
    else:
        script[:] = blind(bytes(script) or b"\x00", max(64, 2 * len(script)))
    one.script = bytes(script)


def _of_locks(parts: Parts, draw: Random, blind: Blind) -> None:
    """Another lock on a coin that the payload spends, and what opens it."""
    found = _coins(parts)
    if not found:
        return
    spent, coin = draw.choice(found)
    if draw.random() < 0.4:
        coin.script, spent.script = draw.choice(tuple(_OPENERS)), b""
    else:
        coin.script, spent.script = draw.choice(OPENED)


def _of_ancestry(parts: Parts, draw: Random, blind: Blind) -> None:
    """One more transaction behind the last, which spends an output of any."""
    holders = [entry for entry in parts.entries if entry.tx]
    if not holders:
        return
    ins, brought = [], 0
    for entry in draw.sample(holders, min(len(holders), draw.choice((1, 1, 2)))):
        assert entry.tx
        vout = draw.randrange(len(entry.tx.outs))
        ins.append(Input(entry.txid + vout.to_bytes(4, "little"), push(draw.randbytes(20)), FINAL))
        brought += entry.tx.outs[vout].satoshis
    outs = [Output(min(brought, 2**64 - 1), draw.choice((*_OPENERS, OPENED[0][0])))]
    tx = Tx(draw.choice((1, 1, 2)), ins, outs, 0)
    parts.entries.append(Entry(hash256(tx.write()), tx))
    if parts.subject is not None:
        parts.subject = parts.entries[-1].txid


CHANGES: Sequence[Callable[[Parts, Random, Blind], None]] = (
    _of_frame, _of_entries, _of_paths, _of_nodes, _of_transaction, _of_values, _of_scripts, _of_scripts, _of_scripts,
    _of_locks, _of_ancestry,
)  # fmt: skip


# --- what follows from them


def _coins(parts: Parts) -> list[tuple[Input, Output]]:
    """Inputs whose coin is in the payload, and that coin; by the txids of before."""
    known = {entry.txid: entry.tx for entry in parts.entries if entry.tx}
    found = []
    for tx in parts.txs():
        for spent in tx.ins:
            parent = known.get(spent.outpoint[:32])
            vout = int.from_bytes(spent.outpoint[32:], "little")
            if parent and vout < len(parent.outs):
                found.append((spent, parent.outs[vout]))
    return found


def _mend(parts: Parts, draw: Random) -> None:
    """Give every transaction its txid of now in inputs, proofs and the frame, parents first; and sign again."""
    sign = draw.random() < 0.7
    renamed: dict[bytes, bytes] = {}
    made: dict[bytes, ReadTx] = {}  # by the txid of now
    waiting = [entry for entry in parts.entries if entry.tx]
    while waiting:
        names = {entry.txid for entry in waiting}
        # Two entries of one txid are one transaction, or a changed copy beside it: neither waits for the other.
        ready = [e for e in waiting if e.tx and not {i.outpoint[:32] for i in e.tx.ins} & (names - {e.txid})]
        for entry in ready or waiting[:1]:
            waiting.remove(entry)
            assert entry.tx
            for spent in entry.tx.ins:
                spent.outpoint = renamed.get(spent.outpoint[:32], spent.outpoint[:32]) + spent.outpoint[32:]
            if sign:
                _sign(entry.tx, made, draw)
            raw = entry.tx.write()
            txid = renamed.setdefault(entry.txid, hash256(raw))
            if len(raw) >= SMALLEST_TX and len(raw) != NODE_SIZE:
                made[txid] = read_tx(raw)
    for path in parts.paths:
        path.levels[0] = [(at, flags, renamed.get(node, node)) for at, flags, node in path.levels[0]]
    for entry in parts.entries:
        entry.txid = renamed.get(entry.txid, entry.txid)
    if parts.subject is not None:
        parts.subject = renamed.get(parts.subject, parts.subject)


def _sign(tx: Tx, made: dict[bytes, ReadTx], draw: Random) -> None:
    """Open the coins of the tests' own keys. Only where every coin is there, since a digest is about all of them."""
    ins, signed = [], False
    for spent in tx.ins:
        parent = made.get(spent.outpoint[:32])
        vout = int.from_bytes(spent.outpoint[32:], "little")
        if parent is None or vout >= len(parent.outs) - 1:
            return
        opener = _OPENERS.get(parent.locking(vout))
        signed = signed or opener is not None
        ins.append(In(parent, vout, opener(draw.choice(KINDS)) if opener else by_script(spent.script), spent.sequence))
    if not signed or tx.version >= 2**31 or any(out.satoshis > MAX_SATOSHIS for out in tx.outs):
        return
    if any(entry.parent.satoshis(entry.vout) > MAX_SATOSHIS for entry in ins):
        return
    done = spend(ins, [Out(out.satoshis, out.script) for out in tx.outs], tx.version, tx.locktime)
    for vin, spent in enumerate(tx.ins):
        spent.script = done.unlocking(vin)


def mutated(data: bytes, most: int, draw: Random, blind: Blind) -> bytes:
    """A changed payload of at most `most` bytes: by its parts four times of five, where it has any; else by `blind`."""
    if draw.random() < 0.8:
        try:
            parts = take_apart(data)
        except Malformed:
            return blind(data, most)
        for _ in range(draw.choice((1, 1, 1, 2, 3, 4))):
            draw.choice(CHANGES)(parts, draw, blind)
        if draw.random() < 0.9:
            _mend(parts, draw)
        changed = parts.write()
        if len(changed) <= most:
            return changed
    return blind(data, most)
