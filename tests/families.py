"""Families of signed transactions whose verdict is known by construction: any shape, any template, at most one defect.

A seed gives the same family each time. Bytes are written by the instruments' writers, which share nothing with the
readers under test.
"""

from collections.abc import Callable, Sequence
from hashlib import sha256
from random import Random

import msgspec
from msgspec import Struct

from ops.instruments import wire
from pipeline.chain.answer import Answer, RootAt, Tip
from pipeline.codec.hashing import hash256
from pipeline.codec.tx import Tx
from pipeline.policy import MAX_SATOSHIS
from schemas.types import Txid
from tests.builders import (
    ALL,
    ANYONE,
    FINAL,
    NONE,
    OTDA,
    SINGLE,
    TIP,
    In,
    Key,
    Out,
    Unlock,
    by_key,
    by_multisig,
    by_p2pkh,
    by_script,
    coinbase,
    funding,
    key,
    minimal,
    multisig,
    p2pk,
    p2pkh,
    push,
    pushdrop,
    spend,
    tree,
)

FRAMINGS = ("v1", "v2", "atomic", "atomic-v2")
NAMED = ("atomic", "atomic-v2")
WITH_TXIDS = ("v2", "atomic-v2")


class Family(Struct, frozen=True):
    """A payload in each of its framings, and what must come of it."""

    label: str
    defect: str  # a row of DEFECTS, or empty
    harmless: tuple[str, ...]  # rows of HARMLESS
    framed: dict[str, bytes]
    code: str  # under `lenient`; empty: valid
    strict: str | None  # under `strict`; None: refused, by one of several rules that are broken
    subject: Txid
    unmined: dict[Txid, bytes]  # what must be broadcast: txid, Extended Format
    answers: dict[RootAt, Answer]
    tip: Tip = TIP


# --- coins


class Lock(Struct, frozen=True):
    """A locking script, and how it is opened."""

    script: bytes
    opens: Callable[[int], Unlock]  # by hash type, where it asks for signatures
    fails: Callable[[int], Unlock]  # well-formed, and false


def _to_hash(owner: Key, other: Key) -> Lock:
    return Lock(p2pkh(owner), lambda kind: by_p2pkh(owner, kind), lambda kind: by_p2pkh(other, kind))


def _to_long_hash(owner: Key, other: Key) -> Lock:
    return Lock(
        p2pkh(owner, long=True), lambda kind: by_p2pkh(owner, kind, long=True), lambda kind: by_p2pkh(owner, kind)
    )


def _to_key(owner: Key, other: Key) -> Lock:
    return Lock(p2pk(owner), lambda kind: by_key(owner, kind), lambda kind: by_key(other, kind))


def _to_two_of_three(owner: Key, other: Key) -> Lock:
    third = key(99)
    return Lock(
        multisig(2, owner, third, other),
        lambda kind: by_multisig(owner, other, kind=kind),
        lambda kind: by_multisig(other, owner, kind=kind),
    )


def _to_pushdrop(owner: Key, other: Key) -> Lock:
    script = pushdrop(owner, b"field", bytes(80), b"\x07")
    return Lock(script, lambda kind: by_key(owner, kind), lambda kind: by_key(other, kind))


def _to_whoever_knows(owner: Key, other: Key) -> Lock:
    """A hash puzzle, which no template covers: it runs in the sandbox."""
    script = b"\xa8" + push(sha256(owner.public).digest()) + b"\x87"
    return Lock(script, lambda _: by_script(push(owner.public)), lambda _: by_script(push(other.public)))


LOCKS = (_to_hash, _to_long_hash, _to_key, _to_two_of_three, _to_pushdrop, _to_whoever_knows)
KINDS = tuple(base | extra for base in (ALL, NONE, SINGLE) for extra in (0, ANYONE))
OLD_KINDS = (ALL | OTDA, NONE | OTDA | ANYONE)
"""By the original digest, which Chronicle takes again. Its SINGLE has a trap of its own, shown elsewhere."""

CARRIER = Out(0, b"\x00\x6a\x04beef")


# --- shapes: for each un-mined transaction, which earlier ones it spends an output of; the first ones are proven


class Shape(Struct, frozen=True):
    """Transactions as numbers, ancestors first, the subject last and the only one without a child."""

    roots: int
    spends: list[list[int]]
    mined: frozenset[int] = frozenset()  # of those that spend, the ones that have a proof as well

    @property
    def proven(self) -> list[int]:
        return [*range(self.roots), *sorted(self.mined)]

    def parents(self, number: int) -> list[int]:
        return self.spends[number - self.roots] if number >= self.roots else []

    def unmined(self) -> list[int]:
        """What must be verified: the subject's ancestry down to the proofs."""
        last = self.roots + len(self.spends) - 1
        found, stack = set(), [last]
        while stack:
            number = stack.pop()
            if number not in found and number >= self.roots and number not in self.mined:
                found.add(number)
                stack += self.parents(number)
        return sorted(found)


def _chain(draw: Random) -> Shape:
    return Shape(1, [[n] for n in range(draw.randint(1, 6))])


def _fan_in(draw: Random) -> Shape:
    roots = draw.randint(2, 5)
    return Shape(roots, [list(range(roots))])


def _fan_out(draw: Random) -> Shape:
    """One transaction, many children, one grandchild."""
    width = draw.randint(2, 4)
    return Shape(1, [[0], *([1] for _ in range(width)), list(range(2, 2 + width))])


def _diamonds(draw: Random) -> Shape:
    spends: list[list[int]] = [[0]]
    for _ in range(draw.randint(1, 3)):
        top = len(spends)
        spends += [[top], [top], [top + 1, top + 2]]
    return Shape(1, spends)


def _mixed(draw: Random) -> Shape:
    roots = draw.randint(1, 3)
    spends: list[list[int]] = []
    for number in range(roots, roots + draw.randint(1, 6)):
        spends.append([draw.randrange(number) for _ in range(draw.randint(1, 3))])
    childless = set(range(roots + len(spends))) - {parent for parents in spends for parent in parents}
    spends.append(sorted(childless))
    mined = {number for number in range(roots, roots + len(spends) - 1) if draw.random() < 0.15}
    return Shape(roots, spends, frozenset(mined))


SHAPES = {"chain": _chain, "fan-in": _fan_in, "fan-out": _fan_out, "diamonds": _diamonds, "mixed": _mixed}


# --- transactions, before they are signed


class Draft(Struct):
    """A transaction as it is about to be signed."""

    ins: list[In]
    locks: list[Lock]  # of what each input spends
    kinds: list[int]  # hash type each input signs with
    outs: list[Out]
    version: int = 1
    locktime: int = 0

    def brought(self) -> int:
        """Satoshis of the inputs."""
        return sum(entry.parent.satoshis(entry.vout) for entry in self.ins)

    def also(self, parent: Tx, vout: int, unlock: Unlock) -> None:
        """One more input."""
        self.ins.append(In(parent, vout, unlock))

    def reopen(self, draw: Random, how: Callable[[Lock, int], Unlock]) -> None:
        """Unlock one of the inputs in another way."""
        vin = draw.randrange(len(self.ins))
        entry = self.ins[vin]
        self.ins[vin] = In(entry.parent, entry.vout, how(self.locks[vin], self.kinds[vin]), entry.sequence)


WIDE = funding(*[Out(1000)] * 60)
STRANGER = funding(Out(777), salt=7)


def _inflate(draft: Draft, draw: Random, _: Sequence[In]) -> None:
    made = sum(out.satoshis for out in draft.outs)
    draft.outs.append(Out(draft.brought() - made + draw.choice([1, 2, 10**9])))


def _beyond_all_coins(draft: Draft, draw: Random, _: Sequence[In]) -> None:
    draft.outs.append(Out(MAX_SATOSHIS + draw.choice([1, 2**62])))


def _fail(draft: Draft, draw: Random, _: Sequence[In]) -> None:
    draft.reopen(draw, lambda lock, kind: lock.fails(kind))


def _high_s(draft: Draft, draw: Random, _: Sequence[In]) -> None:
    """The inputs of this one are P2PKH coins of `key()`."""
    draft.reopen(draw, lambda _, kind: by_p2pkh(key(), kind, high_s=True))


def _no_forkid(draft: Draft, draw: Random, _: Sequence[In]) -> None:
    draft.reopen(draw, lambda _, __: by_p2pkh(key(), 0x01))


def _not_only_pushes(draft: Draft, draw: Random, _: Sequence[In]) -> None:
    draft.reopen(draw, lambda lock, kind: lambda digest: b"\x61" + lock.opens(kind)(digest))


def _two_left(draft: Draft, draw: Random, _: Sequence[In]) -> None:
    """An element nobody asked for stays below the result."""
    draft.reopen(draw, lambda lock, kind: lambda digest: b"\x51" + lock.opens(kind)(digest))


def _spent_within(draft: Draft, draw: Random, _: Sequence[In]) -> None:
    draft.ins.append(draw.choice(draft.ins))


def _spent_across(draft: Draft, draw: Random, spent: Sequence[In]) -> None:
    draft.ins.append(draw.choice(spent))


def _no_such_output(draft: Draft, draw: Random, _: Sequence[In]) -> None:
    parent = draft.ins[0].parent
    draft.also(msgspec.structs.replace(WIDE, txid=parent.txid), len(parent.outs) - 1, by_p2pkh(key()))


def _locked(draft: Draft, draw: Random, _: Sequence[In]) -> None:
    vin = draw.randrange(len(draft.ins))
    entry = draft.ins[vin]
    draft.ins[vin] = In(entry.parent, entry.vout, entry.unlock, draw.choice([0, FINAL - 1]))
    draft.locktime = draw.choice([TIP.height + 1, 499_999_999, TIP.median_time_past, 2**32 - 1])


class Defect(Struct, frozen=True):
    """One thing wrong, and the code of it."""

    code: str
    alone: bool = False  # it has this code only where the rest is as it should be
    framings: tuple[str, ...] = FRAMINGS


class TxDefect(Defect, frozen=True):
    """Of one un-mined transaction, before it is signed. The rest spends what comes out."""

    change: Callable[[Draft, Random, Sequence[In]], None] = _inflate
    plain: bool = False  # the coins it spends are P2PKH of `key()`, and its version is 1


class ProofDefect(Defect, frozen=True):
    """Of one proven transaction, which gets a block of its own; the name tells what to do."""


class EntryDefect(Defect, frozen=True):
    """Of the list of entries, or of the bytes."""


DEFECTS: dict[str, Defect] = {
    "inflation": TxDefect("value.inflation", change=_inflate),
    "beyond all coins": TxDefect("value.range", change=_beyond_all_coins),
    "not unlocked": TxDefect("script.false", change=_fail),
    "high s": TxDefect("script.malformed", change=_high_s, plain=True),
    "without forkid": TxDefect("script.malformed", change=_no_forkid, plain=True),
    "not only pushes": TxDefect("script.malformed", change=_not_only_pushes, plain=True),
    "two left": TxDefect("script.malformed", change=_two_left, plain=True),
    "spent within": TxDefect("structure.double-spend", change=_spent_within),
    "spent across": TxDefect("structure.double-spend", change=_spent_across),
    "no such output": TxDefect("structure.input-missing", change=_no_such_output),
    "locked": TxDefect("finality.not-final", change=_locked),
    "root denied": ProofDefect("anchor.wrong-root"),
    "root unknown": ProofDefect("anchor.unknown"),
    "above the tip": ProofDefect("anchor.above-tip"),
    "young coinbase": ProofDefect("anchor.immature"),
    "another's proof": ProofDefect("structure.not-in-bump"),
    "hole in the path": ProofDefect("structure.bump-missing"),
    "equal neighbours": ProofDefect("structure.bump-duplicate"),
    "offset beyond the tree": ProofDefect("structure.bump-leaf"),
    "coinbase off its place": ProofDefect("structure.coinbase"),
    "flag that leads nowhere": ProofDefect("structure.bump-missing"),
    "two roots for a height": ProofDefect("structure.bump-roots"),
    "coinbase without proof": EntryDefect("structure.coinbase", alone=True),
    "proof not claimed": EntryDefect("structure.missing-parent", alone=True),
    "ancestor left out": EntryDefect("structure.missing-parent", alone=True),
    "ancestor by its txid": EntryDefect("structure.txid-only", alone=True, framings=WITH_TXIDS),
    "repeated with another proof": EntryDefect("structure.repeated"),
    "proof beyond the list": EntryDefect("structure.bump-index"),
    "two tips": EntryDefect("structure.subject-unclear", alone=True, framings=("v2",)),
    "another subject": EntryDefect("structure.subject-missing", framings=NAMED),
    "byte missing": EntryDefect("malformed.truncated"),
    "byte too many": EntryDefect("malformed.trailing-bytes"),
    "long varint": EntryDefect("malformed.varint"),
}

HARMLESS: dict[str, Defect] = {
    "repeated": Defect("structure.repeated"),
    "repeated with its proof": Defect("structure.repeated"),
    "repeated with another path": Defect("structure.repeated"),
    "child first": Defect("structure.order"),
    "stranger": Defect("structure.unrelated", framings=("v1", *NAMED)),
    "proof nobody uses": Defect("structure.unused-bump"),
    "node nobody needs": Defect("structure.bump-leaf"),
    "whole block": Defect("structure.bump-leaf"),
    "in a coinbase's place": Defect("structure.coinbase"),
    "txid nobody needs": Defect("structure.txid-only", framings=WITH_TXIDS),
}
"""What `lenient` mends or takes, and the code under `strict`."""


# --- proofs


class Block(Struct, frozen=True):
    """A block that holds some of the proven transactions."""

    height: int
    leaves: list[Txid]

    def levels(self) -> list[list[bytes]]:
        """Its tree."""
        return tree(self.leaves)

    def root_at(self) -> RootAt:
        """What a tracker is asked."""
        return self.height, self.levels()[-1][0]


def write_path(height: int, levels: Sequence[dict[int, bytes]], flagged: set[int]) -> bytes:
    """A path by the instruments' writer; an empty hash is a duplicate."""
    return wire.write_bump(
        height,
        [
            [(at, 1 if not node else 2 if at in flagged and not level else 0, node) for at, node in sorted(row.items())]
            for level, row in enumerate(levels)
        ],
    )


def _filler(height: int, offset: int) -> Txid:
    return sha256(b"filler %d %d" % (height, offset)).digest()


# --- the builder


class _Builder:
    """Puts one family together, in the order in which its parts depend on one another."""

    def __init__(
        self, label: str, draw: Random, shape: Shape, target: int, defect: str, harmless: Sequence[str]
    ) -> None:
        self.draw = draw
        self.shape = shape
        self.name = defect
        self.defect = DEFECTS.get(defect)
        self.harmless = harmless
        self.unmined = shape.unmined()
        self.target = target
        self.label = label
        self.txs: list[Tx] = []
        self.efs: dict[Txid, bytes] = {}
        self.answers: dict[RootAt, Answer] = {}
        self.proof_of: dict[int, bytes] = {}
        self.block_of: dict[int, tuple[Block, int]] = {}

    def build(self) -> Family:
        self._make_transactions()
        self._prove()
        entries, bumps = self._list_entries()
        framed = {framing: self._frame(framing, entries, bumps) for framing in self._framings()}
        code = self.defect.code if self.defect else ""
        strict: str | None = code
        if self.harmless:
            strict = None if self.defect or len(self.harmless) > 1 else HARMLESS[self.harmless[0]].code
        return Family(
            self.label, self.name, tuple(self.harmless), framed, code, strict, self.txs[-1].txid, self.efs, self.answers
        )

    def _framings(self) -> list[str]:
        rows = [HARMLESS[name] for name in self.harmless] + ([self.defect] if self.defect else [])
        return [framing for framing in FRAMINGS if all(framing in row.framings for row in rows)]

    # transactions

    def _make_transactions(self) -> None:
        draw, shape = self.draw, self.shape
        plain = isinstance(self.defect, TxDefect) and self.defect.plain
        total = shape.roots + len(shape.spends)
        children: list[list[int]] = [[] for _ in range(total)]
        for number in range(shape.roots, total):
            for parent in shape.parents(number):
                children[parent].append(number)
        locks: list[list[Lock]] = []
        taken = [0] * total
        spent: list[In] = []
        for number in range(total):
            mine = [
                _to_hash(key(), key(2)) if plain and child == self.target else self._lock()
                for child in children[number]
            ]
            locks.append(mine + [self._lock() for _ in range(draw.randint(0 if mine else 1, 2))])
            if number < shape.roots:
                self.txs.append(self._root(number, locks[number]))
                continue
            draft = Draft([], [], [], [])
            draft.version = 1 if plain and number == self.target else draw.choice([1, 1, 1, 1, 2, 0])
            for parent in shape.parents(number):
                vout = taken[parent]
                taken[parent] += 1
                lock = locks[parent][vout]
                draft.kinds.append(draw.choice(OLD_KINDS if draw.random() < 0.05 else KINDS))
                draft.locks.append(lock)
                draft.also(self.txs[parent], vout, lock.opens(draft.kinds[-1]))
            self._lock_time(draft)
            self._pay(draft, locks[number])
            if number == self.target and isinstance(self.defect, TxDefect):
                self.defect.change(draft, draw, spent)
            tx = spend(draft.ins, draft.outs, draft.version, draft.locktime)
            self.txs.append(tx)
            spent += draft.ins
            if number in self.unmined:
                self.efs[tx.txid] = self._extended(tx, draft)

    def _lock(self) -> Lock:
        owner = self.draw.randint(1, 8)
        return self.draw.choice(LOCKS)(key(owner), key(owner + 8))

    def _root(self, number: int, locks: Sequence[Lock]) -> Tx:
        outs = [Out(self.draw.randint(10**6, 10**7), lock.script) for lock in locks]
        lone = self.name in ("young coinbase", "coinbase off its place", "coinbase without proof")
        if (lone and number == self.target) or (not self.defect and not self.harmless and self.draw.random() < 0.1):
            return coinbase(number, *outs)
        return funding(*outs, salt=number << 64 | self.draw.getrandbits(64))

    def _lock_time(self, draft: Draft) -> None:
        """Some wait for a time that has come, some name one that does not bind."""
        if self.draw.random() < 0.2:
            draft.locktime = self.draw.choice([1, TIP.height, TIP.median_time_past - 1])
            draft.ins = [
                msgspec.structs.replace(entry, sequence=self.draw.choice([0, 5, FINAL])) for entry in draft.ins
            ]
        elif self.draw.random() < 0.1:
            draft.locktime = self.draw.choice([TIP.height + 10, 2**32 - 1])

    def _pay(self, draft: Draft, locks: Sequence[Lock]) -> None:
        rest = draft.brought() - self.draw.choice([0, 1, 500])
        for left in range(len(locks), 0, -1):
            share = rest if left == 1 else rest // left
            draft.outs.append(Out(share, locks[len(locks) - left].script))
            rest -= share
        if self.draw.random() < 0.2:
            draft.outs.append(CARRIER)

    def _extended(self, tx: Tx, draft: Draft) -> bytes:
        spends = [(tx.outpoint(vin), tx.unlocking(vin), entry.sequence) for vin, entry in enumerate(draft.ins)]
        if self.name == "no such output":
            return b""
        coins = [(entry.parent.satoshis(entry.vout), entry.parent.locking(entry.vout)) for entry in draft.ins]
        outs = [(out.satoshis, out.script) for out in draft.outs]
        return wire.write_extended(spends, coins, outs, draft.version, draft.locktime)

    # proofs

    def _prove(self) -> None:
        """Group the proven into blocks, some of which have a path for each and some a shared one."""
        draw = self.draw
        spoiled = self.target if isinstance(self.defect, ProofDefect) else -1
        height = TIP.height - 9_000
        group: list[int] = []
        for number in self.shape.proven:
            if number == spoiled:
                continue
            group.append(number)
            if self.txs[number].is_coinbase() or draw.random() < 0.4:
                height += draw.randint(1, 50)
                self._prove_in_block([number for number in group if not self.txs[number].is_coinbase()], height)
                self._prove_in_block([number for number in group if self.txs[number].is_coinbase()], height + 60)
                height += 60
                group = []
        self._prove_in_block(group, height + 60)
        if spoiled >= 0:
            self._prove_spoiled(height)

    def _prove_spoiled(self, height: int) -> None:
        """The block of the proof that has the defect."""
        draw = self.draw
        if self.name == "above the tip":
            height = TIP.height + draw.randint(1, 9)
        elif self.name == "young coinbase":
            height = TIP.height - draw.randint(0, 98)
        elif self.name == "two roots for a height":
            height = draw.choice(list(self.answers))[0]
        else:
            height += 999
        size = 8 if self.name == "flag that leads nowhere" else draw.randint(3, 20)
        place = draw.randrange(1, size)
        if self.txs[self.target].is_coinbase():
            place = 0 if self.name == "young coinbase" else 2
        if self.name == "equal neighbours":
            size |= 1
            place = size - 1  # the tree pairs it with itself: the root stays what it was
        block = self._fill(height, size, {place: self.target})
        levels = minimal(block.levels(), [place])
        if self.name == "another's proof":
            levels = minimal(block.levels(), [2 if place < 2 else 0])
        elif self.name == "hole in the path":
            level = draw.randrange(len(levels))
            del levels[level][(place >> level) ^ 1]
        elif self.name == "equal neighbours":
            levels[0][place ^ 1] = levels[0][place]
        elif self.name == "offset beyond the tree":
            levels[0] = {at + (1 << len(levels)): node for at, node in levels[0].items()}
        flagged = {place} & levels[0].keys()
        if self.name == "flag that leads nowhere":
            flagged.add(place ^ 2)
            levels[0][place ^ 2] = _filler(height, place ^ 2)  # without its neighbour
        said = {"root denied": Answer.NO, "root unknown": Answer.UNKNOWN, "above the tip": Answer.UNKNOWN}
        self.answers[block.root_at()] = said.get(self.name, Answer.YES)
        self.proof_of[self.target] = write_path(height, levels, flagged)

    def _fill(self, height: int, size: int, numbers: dict[int, int]) -> Block:
        """A block of `size` with our transactions at their places."""
        leaves = [self.txs[numbers[at]].txid if at in numbers else _filler(height, at) for at in range(size)]
        block = Block(height, leaves)
        self.block_of |= {number: (block, at) for at, number in numbers.items()}
        return block

    def _prove_in_block(self, group: Sequence[int], height: int) -> None:
        """Put transactions into a block, and write the path of each or one for all."""
        if not group:
            return
        draw = self.draw
        if self.txs[group[0]].is_coinbase():
            size = 1 if draw.random() < 0.3 and not self.harmless else draw.randint(3, 20)
            places = [0]
        else:
            size = draw.randint(len(group) + 2, len(group) + 20)
            places = draw.sample(range(1, size), len(group))
            if "in a coinbase's place" in self.harmless:
                places[0] = 0
        block = self._fill(height, size, dict(zip(places, group, strict=True)))
        self.answers[block.root_at()] = Answer.YES
        together = draw.random() < 0.6 and "node nobody needs" not in self.harmless
        flagged = set(places) if draw.random() < 0.8 else set()
        for offsets in [places] if together else [[place] for place in places]:
            levels = minimal(block.levels(), offsets)
            if "whole block" in self.harmless:
                levels = [dict(enumerate(block.leaves))]
            elif "node nobody needs" in self.harmless:
                at = offsets[0] >> 1
                levels[1][at] = block.levels()[1][at]  # it follows from level 0
            bump = write_path(height, levels, flagged & set(offsets))
            for offset in offsets:
                self.proof_of[group[places.index(offset)]] = bump

    # entries and bytes

    def _list_entries(self) -> tuple[list[wire.Entry], list[bytes]]:
        draw = self.draw
        bumps = sorted(dict.fromkeys(self.proof_of.values()), key=lambda _: draw.random())
        if "proof nobody uses" in self.harmless:
            unused = write_path(5, minimal(tree([STRANGER.txid, _filler(5, 1)]), [0]), {0})
            bumps.insert(draw.randint(0, len(bumps)), unused)
        index = {number: bumps.index(bump) for number, bump in self.proof_of.items()}
        order = list(range(len(self.txs)))
        if self.name == "ancestor left out":
            order.remove(self.target)
        if self.name in ("proof not claimed", "coinbase without proof"):
            del index[self.target]
        if self.name == "proof beyond the list":
            index[draw.choice(self.shape.proven)] = len(bumps) + draw.choice([0, 1, 300])
        if "child first" in self.harmless:
            child = draw.choice([number for number in order if self.shape.parents(number)])
            order.remove(child)
            order.insert(order.index(draw.choice(self.shape.parents(child))), child)
        if "repeated" in self.harmless:
            for number in draw.choices(order, k=draw.randint(1, 3)):
                order.insert(draw.randint(0, len(order)), number)
        entries = [wire.Entry(self.txs[number].raw, index.get(number)) for number in order]
        number = draw.choice(self.shape.proven)
        at = order.index(number) if number in order else 0
        if "repeated with its proof" in self.harmless:
            entries.insert(at, wire.Entry(self.txs[number].raw))
        for name in ("repeated with another path", "repeated with another proof"):
            if name == self.name or name in self.harmless:
                entries.insert(at + 1, wire.Entry(self.txs[number].raw, len(bumps)))
                bumps.append(self._another_path(number, name.endswith("proof")))
        if self.name == "ancestor by its txid":
            entries[order.index(self.target)] = wire.Entry(self.txs[self.target].txid, txid_only=True)
        if self.name == "two tips" or "stranger" in self.harmless:
            entries.insert(draw.randrange(len(entries)), wire.Entry(STRANGER.raw))
        if "txid nobody needs" in self.harmless:
            entries.insert(draw.randrange(len(entries)), wire.Entry(STRANGER.txid, txid_only=True))
        return entries, bumps

    def _another_path(self, number: int, elsewhere: bool) -> bytes:
        """To the same root, with a leaf more; or to that of another block."""
        block, place = self.block_of[number]
        if elsewhere:
            block, place = Block(TIP.height - 9_999, [_filler(0, 0), self.txs[number].txid]), 1
            self.answers[block.root_at()] = Answer.YES
        more = [place, place ^ 2 if place ^ 2 < len(block.leaves) else 0]
        return write_path(block.height, minimal(block.levels(), more), {place})

    def _frame(self, framing: str, entries: Sequence[wire.Entry], bumps: Sequence[bytes]) -> bytes:
        body = wire.write_beef(bumps, entries, "v2" if framing in WITH_TXIDS else "v1")
        if self.name == "byte missing":
            body = body[:-1]
        if self.name == "byte too many":
            body += bytes([self.draw.randrange(256)])
        if self.name == "long varint":
            body = body[:4] + b"\xfd" + len(bumps).to_bytes(2, "little") + body[5:]
        if framing not in NAMED:
            return body
        subject = hash256(self.txs[-1].txid) if self.name == "another subject" else self.txs[-1].txid
        return wire.ATOMIC + subject + body


def places(shape: Shape, defect: str) -> list[int]:
    """The transactions in which a family of this shape can have the defect."""
    unmined = shape.unmined()
    needed = sorted({parent for number in unmined for parent in shape.parents(number)})
    if defect == "spent across":
        return unmined[1:]
    if defect == "two roots for a height":
        return shape.proven if len(shape.proven) > 1 else []
    if defect in ("young coinbase", "proof not claimed", "coinbase without proof"):
        return [number for number in needed if number < shape.roots]
    if defect in ("ancestor left out", "ancestor by its txid"):
        return needed
    if defect == "coinbase off its place":
        return list(range(shape.roots))
    return shape.proven if isinstance(DEFECTS.get(defect), ProofDefect) else unmined


def family(seed: int, defect: str = "", harmless: Sequence[str] = (), shape: str = "") -> Family:
    """A family with the defect asked for (a row of DEFECTS; none: sound) at a random place.

    harmless: rows of HARMLESS, which change nothing under `lenient`.
    shape: a row of SHAPES; none: any that has room for the defect.
    """
    label = "/".join([str(seed), shape or "any shape", defect or "sound", *harmless])
    draw = Random(label)
    for _ in range(100):
        form = SHAPES[shape or draw.choice(list(SHAPES))](draw)
        if choice := places(form, defect):
            return _Builder(label, draw, form, draw.choice(choice), defect, harmless).build()
    raise AssertionError(f"no shape has room for {label}")
