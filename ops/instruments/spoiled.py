"""Payloads that are refused, or not yet decided, and the code each must get.

Each is a right payload with one thing wrong, so that no other rule can be what refuses it.
"""

from collections.abc import Callable
from typing import Literal

from msgspec import Struct

from ops.instruments.chain import COINS, Funding
from ops.instruments.keys import SIGHASH_ALL, Coin, Made, assemble, digests, spend
from ops.instruments.payloads import Expectation
from ops.instruments.shapes import chain, payment
from ops.instruments.wire import ATOMIC, Entry, Leaf, hash256, merkle_path, push, write_beef, write_bump
from ops.instruments.workshop import Bag, Workshop
from schemas.types import Txid

MAX_MONEY = 21_000_000 * 100_000_000
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
"""Of secp256k1's group: a signature's s and ORDER - s both verify."""

Spoiled = tuple[bytes, Txid]
"""The payload, and its subject as its maker would name it."""

Path = list[list[Leaf]]


class Fault(Struct, frozen=True):
    """A row of the table."""

    says: str
    code: str
    build: Callable[[Workshop], Spoiled]
    outcome: Literal["invalid", "indeterminate"] = "invalid"
    form: Literal["any", "strict"] = "any"

    @property
    def expect(self) -> Expectation:
        """The verdict or condition that must come."""
        return Expectation(self.outcome, self.code, self.form)


# --- the bytes


def _bytes(change: Callable[[bytes], bytes]) -> Callable[[Workshop], Spoiled]:
    """A fault of the bytes of a simple V1 payload."""

    def build(shop: Workshop) -> Spoiled:
        bag = payment(shop)
        return change(shop.frame(bag)), bag.subject

    return build


def _count(shop: Workshop) -> Spoiled:
    """Says two thousand million transactions, and holds two."""
    bag = payment(shop)
    beef, raw = shop.frame(bag), bag.proven[0].raw
    at = beef.index(raw) - 1
    return beef[:at] + b"\xfe\xff\xff\xff\x7f" + beef[at + 1 :], bag.subject


def _format_byte(shop: Workshop) -> Spoiled:
    """BEEF V2 knows the format bytes 0, 1 and 2."""
    bag = payment(shop)
    beef, raw = shop.frame(bag, "v2"), bag.unmined[0].raw
    at = beef.index(raw) - 1
    return beef[:at] + b"\x03" + beef[at + 1 :], bag.subject


# --- which transactions are there


def _no_transactions(shop: Workshop) -> Spoiled:
    return write_beef([], []), payment(shop).subject


def _subject_missing(shop: Workshop) -> Spoiled:
    bag = payment(shop)
    other = hash256(bag.subject)
    paths, index = shop.bumps(bag.proven)
    return write_beef(paths, shop.entries(bag, index), "atomic", other), other


def _nested_atomic(shop: Workshop) -> Spoiled:
    bag = payment(shop)
    return ATOMIC + bag.subject + shop.frame(bag, "atomic"), bag.subject


def _subject_unclear(shop: Workshop) -> Spoiled:
    first, second = payment(shop), payment(shop)
    both = Bag(first.proven + second.proven, first.unmined + second.unmined)
    return shop.frame(both, "v2"), both.subject


def _unrelated(shop: Workshop) -> Spoiled:
    bag = payment(shop)
    return shop.frame(Bag([shop.take(), *bag.proven], bag.unmined), "atomic"), bag.subject


def _unused_bump(shop: Workshop) -> Spoiled:
    bag, other = payment(shop), shop.chain.funding(shop.chain.tip - 20, 1)
    paths, index = shop.bumps([*bag.proven, other])
    return write_beef(paths, shop.entries(bag, index)), bag.subject


def _txid_only(shop: Workshop) -> Spoiled:
    bag = payment(shop)
    known = Entry(bag.proven[0].coin.txid, txid_only=True)
    return write_beef([], [known, Entry(bag.unmined[0].raw)], "v2"), bag.subject


def _missing_parent(shop: Workshop) -> Spoiled:
    bag = payment(shop)
    return write_beef([], [Entry(bag.unmined[0].raw)]), bag.subject


def _order(shop: Workshop) -> Spoiled:
    """Atomic, since the last entry of V1 would be taken for the subject."""
    bag = chain(shop, 3)
    parent, child, subject = bag.unmined
    return shop.frame(Bag(bag.proven, [child, parent, subject]), "atomic"), bag.subject


def _repeated(shop: Workshop) -> Spoiled:
    """The proven ancestor twice: with its proof, and with that of a block which never was."""
    bag = payment(shop)
    paths, index = shop.bumps(bag.proven)
    ancestor, subject = shop.entries(bag, index)
    alone = write_bump(bag.proven[0].height + 1, [[(0, 2, bag.proven[0].coin.txid)]])
    return write_beef([*paths, alone], [ancestor, Entry(ancestor.raw, 1), subject]), bag.subject


# --- transactions that cannot be


def _made(make: Callable[[Workshop, Coin], Made]) -> Callable[[Workshop], Spoiled]:
    """A fault of the subject, over a right proof."""

    def build(shop: Workshop) -> Spoiled:
        mined = shop.take()
        bag = Bag([mined], [make(shop, mined.coin)])
        return shop.frame(bag), bag.subject

    return build


def _size_64(_: Workshop, coin: Coin) -> Made:
    """64 bytes, which an inner node of a Merkle tree has too."""
    return assemble([coin], [b"\x51\x51"], [(coin.satoshis, b"\x51\x51")])


def _no_inputs(shop: Workshop, _: Coin) -> Made:
    """Makes nothing and spends nothing; long enough not to be refused for its length."""
    return assemble([], [], [(0, shop.key().script), (0, shop.key().script)])


def _no_outputs(_: Workshop, coin: Coin) -> Made:
    return spend([coin], [])


def _coinbase(shop: Workshop, coin: Coin) -> Made:
    """Un-mined, and spends what only a coinbase spends."""
    nothing = Coin(bytes(32), 0xFFFFFFFF, 0, b"", coin.key)
    return assemble([nothing], [push(b"not mined by anyone")], [(coin.satoshis, shop.key().script)])


def _input_missing(shop: Workshop, coin: Coin) -> Made:
    return shop.pay([Coin(coin.txid, 7, coin.satoshis, coin.script, coin.key)])


def _spent_twice(shop: Workshop, coin: Coin) -> Made:
    """Both inputs are signed as they should be."""
    return spend([coin, coin], [(2 * coin.satoshis - 100, shop.key().script)])


def _spent_across(shop: Workshop) -> Spoiled:
    """Two transactions spend one coin, and the subject spends both."""
    mined, owner = shop.take(), shop.key()
    left = shop.pay([mined.coin], key=owner)
    right = shop.pay([mined.coin], [(1000, owner.script)], key=owner)
    subject = shop.pay([left.coin(0, owner), right.coin(1, owner)])
    bag = Bag([mined], [left, right, subject])
    return shop.frame(bag), bag.subject


# --- scripts and values


def _bad_signature(shop: Workshop, coin: Coin) -> Made:
    """By the right key, in the right form, over something else."""
    return assemble(
        [coin], [coin.unlock(coin.key.sign(hash256(coin.txid)) + b"\x41")], [(coin.satoshis - 100, shop.key().script)]
    )


def _wrong_key(shop: Workshop, coin: Coin) -> Made:
    """Signed by a key that is not the one paid to."""
    thief = next(key for key in shop.chain.keys if key.pkh != coin.key.pkh)
    return shop.pay([Coin(coin.txid, coin.vout, coin.satoshis, coin.script, thief)])


def _high_s(shop: Workshop, coin: Coin) -> Made:
    """A signature's twin, which has another txid: malleability."""
    outputs = [(coin.satoshis - 100, shop.key().script)]
    der = coin.key.sign(digests([coin], outputs)[0])
    r = der[4 : 4 + der[3]]
    s = ORDER - int.from_bytes(der[6 + len(r) :], "big")
    high = b"\x00" + s.to_bytes(32, "big")
    body = b"\x02" + bytes([len(r)]) + r + b"\x02" + bytes([len(high)]) + high
    return assemble([coin], [coin.unlock(b"\x30" + bytes([len(body)]) + body + bytes([SIGHASH_ALL]))], outputs)


def _not_push_only(shop: Workshop, coin: Coin) -> Made:
    """An OP_NOP in the unlocking script, which the signature does not cover."""
    outputs = [(coin.satoshis - 100, shop.key().script)]
    signature = coin.key.sign(digests([coin], outputs)[0]) + b"\x41"
    return assemble([coin], [coin.unlock(signature) + b"\x61"], outputs)


def _range(shop: Workshop, coin: Coin) -> Made:
    return spend([coin], [(MAX_MONEY + 1, shop.key().script)])


def _inflation(shop: Workshop, coin: Coin) -> Made:
    return spend([coin], [(coin.satoshis + 1, shop.key().script)])


def _not_final(shop: Workshop, coin: Coin) -> Made:
    return spend([coin], [(coin.satoshis - 100, shop.key().script)], sequence=0, locktime=shop.chain.tip + 1000)


# --- proofs


def _path(change: Callable[[Path], None]) -> Callable[[Workshop], Spoiled]:
    """A fault of the Merkle path. The coin's leaf is made odd, so that its sibling stands before it."""

    def build(shop: Workshop) -> Spoiled:
        mined = shop.take()
        while mined.leaf % 2 == 0:
            mined = shop.take()
        path = merkle_path(shop.chain.block(mined.height).levels, [mined.leaf])
        change(path)
        bump = write_bump(mined.height, path)
        bag = Bag([mined], [shop.pay([mined.coin])])
        return write_beef([bump], shop.entries(bag, {mined.height: 0})), bag.subject

    return build


def _wrong_root(path: Path) -> None:
    offset, flags, node = path[-1][0]
    path[-1][0] = (offset, flags, hash256(node))


def _leaf_flag(path: Path) -> None:
    offset, _flags, node = path[0][0]
    path[0][0] = (offset, 4, node)


def _no_levels(path: Path) -> None:
    path.clear()


def _hole(path: Path) -> None:
    path[5] = []


def _false_duplicate(path: Path) -> None:
    """The sibling on the left cannot be the leaf itself."""
    path[0][0] = (path[0][0][0], 1, b"")


def _not_in_bump(shop: Workshop) -> Spoiled:
    """Another transaction's proof: it leads to the right root."""
    bag = payment(shop)
    mined = bag.proven[0]
    other = mined.leaf + 10 if mined.leaf < 100 else mined.leaf - 10
    path = merkle_path(shop.chain.block(mined.height).levels, [other])
    return write_beef([write_bump(mined.height, path)], shop.entries(bag, {mined.height: 0})), bag.subject


def _bump_index(shop: Workshop) -> Spoiled:
    bag = payment(shop)
    paths, _ = shop.bumps(bag.proven)
    return write_beef(paths, shop.entries(bag, {bag.proven[0].height: 9})), bag.subject


def _two_roots(shop: Workshop) -> Spoiled:
    """Two coins said to be mined at one height, by paths that lead to different roots."""
    first, second = shop.take(), shop.chain.funding(shop.chain.tip - 30, 1 + shop.number("two-roots") % 13)
    paths = [
        write_bump(first.height, merkle_path(shop.chain.block(mined.height).levels, [mined.leaf]))
        for mined in (first, second)
    ]
    made = shop.pay([first.coin, second.coin])
    return write_beef(paths, [Entry(first.raw, 0), Entry(second.raw, 1), Entry(made.raw)]), made.txid


# --- the chain


def _anchored(mined: Callable[[Workshop], Funding]) -> Callable[[Workshop], Spoiled]:
    """A right transaction over a coin that cannot be spent yet."""

    def build(shop: Workshop) -> Spoiled:
        funding = mined(shop)
        bag = Bag([funding], [shop.pay([funding.coin])])
        return shop.frame(bag), bag.subject

    return build


def _young_coinbase(shop: Workshop) -> Funding:
    return shop.chain.funding(shop.chain.tip - shop.number("immature") % 90, 0)


def _above_tip(shop: Workshop) -> Funding:
    return shop.chain.funding(shop.chain.tip + 3, 1 + shop.number("above-tip") % COINS)


KINDS: dict[str, Fault] = {
    "empty": Fault("No bytes.", "malformed.empty", _bytes(lambda _: b"")),
    "magic": Fault(
        "A version that does not exist.", "malformed.magic", _bytes(lambda beef: b"\x03\x00\xbe\xef" + beef[4:])
    ),
    "truncated": Fault("The last byte is missing.", "malformed.truncated", _bytes(lambda beef: beef[:-1])),
    "trailing-bytes": Fault("A byte follows the end.", "malformed.trailing-bytes", _bytes(lambda beef: beef + b"\x00")),
    "varint": Fault(
        "A count in three bytes where one does.",
        "malformed.varint",
        _bytes(lambda beef: beef[:4] + b"\xfd\x01\x00" + beef[5:]),
    ),
    "count": Fault("More transactions promised than bytes can hold.", "malformed.count", _count),
    "format-byte": Fault("A format byte of V2 that does not exist.", "malformed.format-byte", _format_byte),
    "no-transactions": Fault("A BEEF of nothing.", "structure.no-transactions", _no_transactions),
    "subject-missing": Fault(
        "Atomic BEEF names a transaction it does not hold.", "structure.subject-missing", _subject_missing
    ),
    "nested-atomic": Fault("Atomic BEEF in Atomic BEEF.", "structure.nested-atomic", _nested_atomic),
    "subject-unclear": Fault("A bag with two tips.", "structure.subject-unclear", _subject_unclear),
    "unrelated": Fault(
        "A mined transaction the subject does not descend from.", "structure.unrelated", _unrelated, form="strict"
    ),
    "unused-bump": Fault("A proof nobody uses.", "structure.unused-bump", _unused_bump, form="strict"),
    "order": Fault("A child before its parent.", "structure.order", _order, form="strict"),
    "repeated": Fault("An ancestor twice, with different proofs.", "structure.repeated", _repeated),
    "txid-only": Fault("An ancestor by its txid alone.", "structure.txid-only", _txid_only),
    "missing-parent": Fault("The subject without its ancestors.", "structure.missing-parent", _missing_parent),
    "tx-size": Fault("A transaction of 64 bytes.", "structure.tx-size", _made(_size_64)),
    "no-inputs": Fault("A transaction that spends nothing.", "structure.no-inputs", _made(_no_inputs)),
    "no-outputs": Fault("A transaction that makes nothing.", "structure.no-outputs", _made(_no_outputs)),
    "coinbase-unmined": Fault("A coinbase nobody mined.", "structure.coinbase", _made(_coinbase)),
    "input-missing": Fault(
        "Spends an output its parent does not have.", "structure.input-missing", _made(_input_missing)
    ),
    "spent-twice": Fault("One coin in two inputs of a transaction.", "structure.double-spend", _made(_spent_twice)),
    "spent-across": Fault("One coin in two transactions of the payload.", "structure.double-spend", _spent_across),
    "bad-signature": Fault("A signature over something else.", "script.false", _made(_bad_signature)),
    "wrong-key": Fault("Signed by a thief.", "script.false", _made(_wrong_key)),
    "high-s": Fault("A signature's malleated twin.", "script.malformed", _made(_high_s)),
    "not-push-only": Fault("An opcode in the unlocking script.", "script.malformed", _made(_not_push_only)),
    "value-range": Fault("More than 21 million coins.", "value.range", _made(_range)),
    "inflation": Fault("One satoshi more than was spent.", "value.inflation", _made(_inflation)),
    "wrong-root": Fault("A proof that leads to another root.", "anchor.wrong-root", _path(_wrong_root)),
    "bump-leaf": Fault("A flag of a leaf that does not exist.", "structure.bump-leaf", _path(_leaf_flag)),
    "bump-height": Fault("A proof of no level.", "structure.bump-height", _path(_no_levels)),
    "bump-missing": Fault("A proof with a hole.", "structure.bump-missing", _path(_hole)),
    "bump-duplicate": Fault(
        "A leaf paired with itself on the wrong side.", "structure.bump-duplicate", _path(_false_duplicate)
    ),
    "not-in-bump": Fault("A proof that does not hold the transaction.", "structure.not-in-bump", _not_in_bump),
    "bump-index": Fault("A proof beyond the list.", "structure.bump-index", _bump_index),
    "two-roots": Fault("One height, two roots.", "structure.bump-roots", _two_roots),
    "immature": Fault("Spends a young coinbase.", "anchor.immature", _anchored(_young_coinbase)),
    "above-tip": Fault(
        "Anchored in a block that is not mined yet.", "anchor.above-tip", _anchored(_above_tip), outcome="indeterminate"
    ),
    "not-final": Fault(
        "A lock time 1,000 blocks ahead.", "finality.not-final", _made(_not_final), outcome="indeterminate"
    ),
}
