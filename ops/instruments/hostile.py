"""Payloads made to cost time, memory or a worker, and what a right verifier says of each, on a machine of any speed.

All stand on the simulated chain and follow from the workshop's coins. Where a block is asked for that the chain does
not have, the row brings its root; an installation on the simulated chain then has another root at that height.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import chain as joined
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from ops.instruments import shapes
from ops.instruments.bombs import ALL, BOMBS, ONE, p2pk, spend_many
from ops.instruments.chain import CHECKPOINT
from ops.instruments.keys import Coin, Made, assemble, spend
from ops.instruments.wire import (
    ATOMIC,
    V1,
    V2,
    Entry,
    Leaf,
    data_carrier,
    hash256,
    merkle_levels,
    merkle_path,
    varint,
    write_beef,
    write_bump,
)
from ops.instruments.workshop import Bag, Workshop
from pipeline.policy import Policy
from schemas.types import Root

POLICY = Policy(chronicle_height=CHECKPOINT)
"""Every coin of the simulated chain follows Chronicle's rules: those that let a script do most."""

Group = Literal["counts", "size", "shape", "proofs", "scripts", "atomic"]


class Laid(Struct, frozen=True):
    """A payload."""

    beef: bytes
    roots: Mapping[int, Root] = {}  # blocks its proofs stand in that the simulated chain does not have


class Hostile(Struct, frozen=True, kw_only=True):
    """A row of the table."""

    group: Group
    says: str
    build: Callable[[Workshop], Laid]
    code: str = ""  # a row of CODES; empty: valid
    fits: bool = True  # within `policy.max_payload_bytes` as it is by default
    policy: Policy = POLICY

    @property
    def outcome(self) -> str:
        """What must be said of it."""
        return "invalid" if self.code else "valid"


# --- counts of 2^64 - 1, in 100 bytes

MOST = b"\xff" * 9
"""2^64 - 1 as a CompactSize number."""

_SMALL_TX = bytes(4) + b"\x01" + bytes(36) + b"\x00" + bytes(4) + b"\x01" + bytes(8) + b"\x01\x51" + bytes(4)

_PLACES: dict[str, tuple[str, bytes, str]] = {
    "proofs": ("proofs", b"", "malformed.count"),
    "height": ("as a proof's height", b"\x01", "structure.bump-height"),
    "leaves": ("leaves on a level", b"\x01\x01\x01", "malformed.count"),
    "offset": ("as a leaf's offset", b"\x01\x01\x01\x01", "structure.bump-leaf"),
    "transactions": ("transactions", b"\x00", "malformed.count"),
    "inputs": ("inputs", b"\x00\x01F" + bytes(4), "malformed.count"),
    "unlocking": ("bytes in an unlocking script", b"\x00\x01F" + _SMALL_TX[:41], "malformed.truncated"),
    "outputs": ("outputs", b"\x00\x01F" + _SMALL_TX[:46], "malformed.count"),
    "locking": ("bytes in a locking script", b"\x00\x01F" + _SMALL_TX[:55], "malformed.truncated"),
}
"""Where a count stands: what it counts, the bytes before it (F: V2's format byte, nothing in V1), what must be said."""

_FRAMES = {"v1": V1, "v2": V2, "atomic": ATOMIC + bytes(32) + V1, "atomic-v2": ATOMIC + bytes(32) + V2}


def _counts() -> Iterator[tuple[str, Hostile]]:
    for frame, magic in _FRAMES.items():
        for place, (what, before, code) in _PLACES.items():
            head = magic + before.replace(b"F", b"\x00" if magic[-4:] == V2 else b"")
            # Behind the prefix of Atomic BEEF: the shortest transaction must seem to have room, so that it is read.
            beef = (head + MOST).ljust(100 + len(magic) - 4, b"\x00")
            says = f"2^64 - 1 {what}, {frame}."
            yield f"count-{place}-{frame}", Hostile(group="counts", says=says, build=_bytes(beef), code=code)
    for frame, magic in _FRAMES.items():
        entry = b"\x01" + MOST + _SMALL_TX if magic[-4:] == V2 else _SMALL_TX + b"\x01" + MOST
        beef = (magic + b"\x00\x01" + entry).ljust(100 + len(magic) - 4, b"\x00")
        says = f"2^64 - 1 as the number of a proof, {frame}."
        yield (
            f"count-proof-{frame}",
            Hostile(group="counts", says=says, build=_bytes(beef), code="structure.bump-index"),
        )


def _bytes(beef: bytes) -> Callable[[Workshop], Laid]:
    return lambda _: Laid(beef)


# --- size


def _filled(size: int) -> Callable[[Workshop], Laid]:
    """A payment beside data, so many bytes in all."""

    def build(shop: Workshop) -> Laid:
        mined, data = shop.take(), size - 1000
        for tried in range(100):  # a signature is a byte longer or shorter from one try to the next
            outputs = [(0, data_carrier(bytes(data))), (1000 + tried, shop.chain.keys[0].script)]
            beef = shop.frame(Bag([mined], [spend([mined.coin], outputs)]))
            if len(beef) == size:
                return Laid(beef)
            data += size - len(beef)
        raise ValueError(f"no payload of {size} bytes")

    return build


def _many_outputs(outs: int, subject: bool) -> Callable[[Workshop], Laid]:
    """A transaction of so many outputs: the subject, or its un-mined parent."""

    def build(shop: Workshop) -> Laid:
        mined, owner = shop.take(), shop.key()
        wide = spend([mined.coin], [(1000, owner.script), *[(0, b"")] * (outs - 1)])
        narrow = spend([wide.coin(0, owner)], [(500, owner.script)])
        return Laid(shop.frame(Bag([mined], [wide] if subject else [wide, narrow])))

    return build


# --- shape


def _framed(make: Callable[[Workshop], Bag]) -> Callable[[Workshop], Laid]:
    return lambda shop: Laid(shop.frame(make(shop)))


def _backwards(make: Callable[[Workshop], Bag]) -> Callable[[Workshop], Laid]:
    """Every child before its parents."""

    def build(shop: Workshop) -> Laid:
        bag = make(shop)
        paths, index = shop.bumps(bag.proven)
        return Laid(write_beef(paths, shop.entries(bag, index)[::-1], "atomic", bag.subject))

    return build


def _inputs(count: int, spoil: bool = False) -> Callable[[Workshop], Bag]:
    """So many coins that anyone may spend, spent at once; spoilt: the last is the first again."""

    def build(shop: Workshop) -> Bag:
        mined, owner = shop.take(), shop.key()
        made = spend([mined.coin], [(1, ONE)] * count)
        coins = [made.coin(vout, owner) for vout in range(count)]
        if spoil:
            coins[-1] = coins[0]
        return Bag([mined], [made, assemble(coins, [b""] * count, [(1, owner.script)])])

    return build


def _everyone(transactions: int) -> Callable[[Workshop], Bag]:
    """Each transaction spends an output of every one before it."""

    def build(shop: Workshop) -> Bag:
        mined, owner = shop.take(), shop.key()
        made = [spend([mined.coin], [(1, ONE)] * transactions)]
        for n in range(1, transactions):
            coins = [earlier.coin(n - place - 1, owner) for place, earlier in enumerate(made)]
            made.append(assemble(coins, [b""] * n, [(0, ONE)] * (transactions - n)))
        return Bag([mined], made)

    return build


def _repeats(shop: Workshop) -> Laid:
    """One ancestor 9,999 times."""
    bag = shapes.payment(shop)
    paths, index = shop.bumps(bag.proven)
    ancestor, subject = shop.entries(bag, index)
    return Laid(write_beef(paths, [*[ancestor] * 9_999, subject]))


# --- proofs


def _named(number: int) -> bytes:
    """A hash that nothing has."""
    return hashlib.sha256(b"hostile %d" % number).digest()


_HEIGHT = CHECKPOINT + 40


def _compound(leaves: int, depth: int) -> Callable[[Workshop], Laid]:
    """One path with so many flagged leaves, of which the payload holds one transaction."""

    def build(shop: Workshop) -> Laid:
        mined = shop.take()
        txids = [mined.coin.txid, *(_named(n) for n in range(1, 1 << depth))]
        tree = merkle_levels(txids)
        bump = write_bump(_HEIGHT, merkle_path(tree, range(leaves)))
        made = shop.pay([mined.coin])
        # Place 0 is a coinbase's; this one is an ordinary transaction's, as `lenient` takes it.
        return Laid(write_beef([bump], [Entry(mined.raw, 0), Entry(made.raw)]), {_HEIGHT: tree[-1][0]})

    return build


def _mined(shop: Workshop, count: int) -> list[Made]:
    """Transactions to be proven, each with one coin of a key of ours."""
    keys = shop.chain.keys
    foreign = [Coin(_named(n), 0, 2000, b"", keys[0]) for n in range(count)]
    return [assemble([coin], [b"\x51"], [(1000, keys[n % 256].script)]) for n, coin in enumerate(foreign)]


def _subject_of(shop: Workshop, made: Sequence[Made]) -> Made:
    keys = shop.chain.keys
    return spend([each.coin(0, keys[n % 256]) for n, each in enumerate(made)], [(1000, keys[0].script)])


def _compound_spent(shop: Workshop) -> Laid:
    """9,999 transactions proven by one path of 10,000 leaves, and a subject that spends all of them."""
    made = _mined(shop, 9_999)
    tree = merkle_levels([_named(-1), *(each.txid for each in made)])
    bump = write_bump(_HEIGHT, merkle_path(tree, range(10_000)))
    entries = [*(Entry(each.raw, 0) for each in made), Entry(_subject_of(shop, made).raw)]
    return Laid(write_beef([bump], entries), {_HEIGHT: tree[-1][0]})


def _blocks(count: int, same: bool = False) -> Callable[[Workshop], Laid]:
    """So many transactions, each in a block of its own below the chain's first; or all at one height."""

    def build(shop: Workshop) -> Laid:
        made = _mined(shop, count)
        trees = [merkle_levels([_named(-n), each.txid]) for n, each in enumerate(made, 1)]
        heights = [_HEIGHT if same else 700_000 + n for n in range(count)]
        bumps = [write_bump(h, merkle_path(tree, [1])) for h, tree in zip(heights, trees, strict=True)]
        entries = [*(Entry(each.raw, n) for n, each in enumerate(made)), Entry(_subject_of(shop, made).raw)]
        roots = {height: tree[-1][0] for height, tree in zip(heights, trees, strict=True)}
        return Laid(write_beef(bumps, entries), roots)

    return build


def _unread(bumps: Sequence[bytes]) -> Callable[[Workshop], Laid]:
    """Proofs before an ordinary payment, which has its own."""

    def build(shop: Workshop) -> Laid:
        bag = shapes.payment(shop)
        paths, _ = shop.bumps(bag.proven)
        entries = shop.entries(bag, {bag.proven[0].height: len(bumps)})
        return Laid(write_beef([*bumps, *paths], entries))

    return build


def _deep(depth: int) -> Callable[[Workshop], Laid]:
    """A proof of so many levels, with made-up neighbours."""

    def build(shop: Workshop) -> Laid:
        mined = shop.take()
        place = (1 << depth) - 6  # far to the right: offsets as long as the depth lets them be
        node, at = mined.coin.txid, place
        path: list[list[Leaf]] = [[(place, 2, node)], *([] for _ in range(depth - 1))]
        for level in range(depth):
            other = _named(level)
            path[level] = sorted([*path[level], (at ^ 1, 0, other)])
            node = hash256(other + node if at & 1 else node + other)
            at >>= 1
        bump = write_bump(_HEIGHT, path)
        return Laid(write_beef([bump], [Entry(mined.raw, 0), Entry(shop.pay([mined.coin]).raw)]), {_HEIGHT: node})

    return build


def _whole(shop: Workshop) -> Laid:
    """A path of one level that holds a whole block of 150,001 transactions."""
    mined = shop.take()
    txids = [_named(0), mined.coin.txid, *(_named(n) for n in range(2, 150_001))]
    bump = write_bump(_HEIGHT, [[(n, 0, txid) for n, txid in enumerate(txids)]])
    roots = {_HEIGHT: merkle_levels(txids)[-1][0]}
    return Laid(write_beef([bump], [Entry(mined.raw, 0), Entry(shop.pay([mined.coin]).raw)]), roots)


def _line() -> bytes:
    """The shortest proof: two neighbours."""
    return write_bump(_HEIGHT, [[(0, 2, _named(0)), (1, 0, _named(1))]])


def _duplicates(count: int) -> bytes:
    """A path whose level is full of duplicates, after as many leaves as a search for one would go through."""
    leaves: list[Leaf] = [(2 * n, 0, _named(n)) for n in range(count)]
    doubled: list[Leaf] = [(2 * n + 1, 1, b"") for n in range(count)]
    return write_bump(_HEIGHT, [leaves + doubled])


# --- Atomic BEEF


def _nested(times: int) -> Callable[[Workshop], Laid]:
    def build(shop: Workshop) -> Laid:
        bag = shapes.payment(shop)
        return Laid((ATOMIC + bag.subject) * times + shop.frame(bag))

    return build


def _atomic_inside(shop: Workshop) -> Laid:
    """BEEF V2 whose transaction is Atomic BEEF."""
    bag = shapes.payment(shop)
    inner = shop.frame(bag, "atomic")
    return Laid(V2 + b"\x00\x01\x00" + inner)


# --- the table

_LIMIT = Policy().max_payload_bytes
_MOST_INS, _MOST_OUTS = Policy().max_inputs, Policy().max_outputs
_WIDER = replace(POLICY, max_payload_bytes=32 << 20)


def _rows(group: Group, *rows: tuple[str, str, str, Callable[[Workshop], Laid]]) -> Iterator[tuple[str, Hostile]]:
    for name, says, code, build in rows:
        yield name, Hostile(group=group, says=says, code=code, build=build)


def _larger(name: str, says: str, code: str, size: int, policy: Policy = POLICY) -> tuple[str, Hostile]:
    return name, Hostile(group="size", says=says, build=_filled(size), code=code, fits=False, policy=policy)


HOSTILE: dict[str, Hostile] = dict(
    joined(
        _counts(),
        _rows(
            "size",
            ("payload-largest", "A payment beside data: all the bytes there may be.", "", _filled(_LIMIT)),
            ("zeros", "8 MiB of zeros.", "malformed.magic", _bytes(bytes(_LIMIT))),
            ("outputs-unmined", "900,000 outputs of which one is spent.", "", _many_outputs(900_000, False)),
            ("outputs-most", "A subject of as many outputs as it may have.", "", _many_outputs(_MOST_OUTS, True)),
            ("outputs-over", "One output more.", "policy.limits", _many_outputs(_MOST_OUTS + 1, True)),
            (
                "txids-flood",
                "250,000 entries of a txid alone.",
                "policy.limits",
                _bytes(V2 + b"\x00" + varint(250_000) + b"".join(b"\x02" + _named(n) for n in range(250_000))),
            ),
        ),
        (
            _larger("payload-over", "One byte more than there may be.", "malformed.too-large", _LIMIT + 1),
            _larger("payload-30mb", "30 MB, where 8 MiB are taken.", "malformed.too-large", 30_000_000),
            _larger("payload-30mb-taken", "30 MB, where they are.", "", 30_000_000, _WIDER),
        ),
        _rows(
            "shape",
            ("diamond-64", "2^64 ways from the subject to its coin.", "", _framed(partial(shapes.diamond, size=64))),
            ("diamond-backwards", "The same, children first.", "", _backwards(partial(shapes.diamond, size=64))),
            ("chain-10000", "10,000 transactions in a row.", "", _framed(partial(shapes.chain, size=9_999))),
            ("chain-over", "One more.", "policy.limits", _framed(partial(shapes.chain, size=10_000))),
            ("chain-backwards", "10,000 of them, children first.", "", _backwards(partial(shapes.chain, size=9_999))),
            ("inputs-50000", "50,000 inputs that need no signature.", "", _framed(_inputs(50_000))),
            ("inputs-signed", "50,000 inputs by P2PK.", "", _framed(spend_many(50_000, ALL, p2pk))),
            ("inputs-over", "One un-mined input more than there may be.", "policy.limits", _framed(_inputs(_MOST_INS))),
            ("inputs-most", "As many inputs as 8 MiB hold.", "policy.limits", _framed(_inputs(164_000))),
            (
                "inputs-twice",
                "50,000 inputs, one coin twice.",
                "structure.double-spend",
                _framed(_inputs(50_000, True)),
            ),
            ("everyone", "300 transactions, each a child of all before.", "", _framed(_everyone(300))),
            ("everyone-over", "400 of them: 80,000 inputs.", "policy.limits", _framed(_everyone(400))),
            ("repeats", "One ancestor 9,999 times.", "", _repeats),
        ),
        _rows(
            "proofs",
            ("compound-10000", "10,000 leaves, one transaction.", "", _compound(10_000, 14)),
            ("compound-130000", "130,000 leaves.", "", _compound(130_000, 17)),
            ("compound-spent", "10,000 leaves, all spent but one.", "", _compound_spent),
            ("whole-block", "One level with 150,001 leaves.", "", _whole),
            ("blocks-4000", "4,000 coins of as many blocks.", "", _blocks(4_000)),
            ("blocks-one-height", "4,000 proofs for one height.", "structure.bump-roots", _blocks(4_000, True)),
            ("proofs-5000", "More proofs than are taken.", "policy.limits", _unread([_line()] * 5_000)),
            ("depth-32", "As deep as a block can be.", "", _deep(32)),
            ("depth-33", "One level more.", "structure.bump-height", _deep(33)),
            ("depth-64", "64 levels, as the format allows.", "structure.bump-height", _deep(64)),
            ("depth-255", "255 levels.", "structure.bump-height", _unread([write_bump(1, [[]] * 255)])),
            ("duplicates", "A level full of duplicates.", "structure.bump-duplicate", _unread([_duplicates(100_000)])),
        ),
        (
            (name, Hostile(group="scripts", says=says, code=code, build=_framed(build)))
            for name, (says, code, build) in BOMBS.items()
        ),
        _rows(
            "atomic",
            ("nested", "Atomic BEEF in Atomic BEEF.", "structure.nested-atomic", _nested(2)),
            ("nested-230000", "The same 230,000 times.", "structure.nested-atomic", _nested(230_000)),
            ("nested-entry", "Atomic BEEF as a transaction of BEEF V2.", "malformed.count", _atomic_inside),
        ),
    )
)
