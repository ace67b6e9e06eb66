"""Valid payloads: the shapes in which transactions come."""

import hashlib
from collections.abc import Callable

from msgspec import Struct

from ops.instruments.chain import BURIAL_BLOCKS, CHECKPOINT, COIN_BLOCKS, RECENT_COINS
from ops.instruments.keys import ANYONE, Coin, Key, Made, child_key
from ops.instruments.wire import Framing, Output, data_carrier, outpoint_text, pushdrop, varint
from ops.instruments.workshop import Bag, Workshop


class Shape(Struct, frozen=True):
    """A row of the table. `build` takes the workshop and a size, whose meaning `size_is` tells."""

    says: str
    build: Callable[[Workshop, int], Bag]
    size: int = 1
    size_is: str = ""  # empty: the size means nothing
    framing: Framing = "v1"
    topics: tuple[str, ...] = ("tm_anytx",)


def payment(shop: Workshop, _: int = 1) -> Bag:
    """One un-mined P2PKH transaction over one proven coin: the simplest, and the quickest to build."""
    mined = shop.take()
    return Bag([mined], [shop.pay([mined.coin])])


def chain(shop: Workshop, size: int) -> Bag:
    """Each transaction spends the one before."""
    bag = Bag([shop.take()], [])
    coin = bag.proven[0].coin
    for _ in range(size):
        owner = shop.key()
        bag.unmined.append(shop.pay([coin], key=owner))
        coin = bag.unmined[-1].coin(0, owner)
    return bag


def fan_in(shop: Workshop, size: int) -> Bag:
    """Many coins into one: neighbours in a block share one compound path."""
    mined = [shop.take() for _ in range(size)]
    return Bag(mined, [shop.pay([each.coin for each in mined])])


def fan_out(shop: Workshop, size: int) -> Bag:
    """One coin into many outputs."""
    mined = shop.take()
    share = mined.coin.satoshis // (2 * size)
    return Bag([mined], [shop.pay([mined.coin], [(share, shop.key().script) for _ in range(size)])])


def diamond(shop: Workshop, size: int) -> Bag:
    """Split in two, each half spent by itself, joined again: a naive verifier visits the bottom 2^size times."""
    mined = shop.take()
    coin, bag = mined.coin, Bag([mined], [])
    for _ in range(size):
        left, right, joined = shop.key(), shop.key(), shop.key()
        split = shop.pay([coin], [(coin.satoshis // 2, left.script)], key=right)
        halves = [shop.pay([split.coin(vout, owner)], key=owner) for vout, owner in enumerate((left, right))]
        join = shop.pay([half.coin(0, owner) for half, owner in zip(halves, (left, right), strict=True)], key=joined)
        bag.unmined += [split, *halves, join]
        coin = join.coin(0, joined)
    return bag


def data(shop: Workshop, size: int) -> Bag:
    """A data carrier beside the change."""
    mined = shop.take()
    content = hashlib.shake_128(mined.coin.txid).digest(size)
    return Bag([mined], [shop.pay([mined.coin], [(0, data_carrier(content))])])


def greeting(key: Key, text: str) -> Output:
    """An output that tm_helloworld admits: the field is signed by the locking key, over its single SHA-256."""
    field = text.encode()
    return 1, pushdrop(key.public, [field, key.sign(hashlib.sha256(field).digest())])


def hello(shop: Workshop, _: int) -> Bag:
    """A greeting for tm_helloworld."""
    mined = shop.take()
    return Bag([mined], [_greet(shop, [mined.coin], shop.key())])


def _greet(shop: Workshop, coins: list[Coin], owner: Key, change: Key | None = None) -> Made:
    return shop.pay(coins, [greeting(owner, f"hello {owner.pkh.hex()}")], key=change)


def hello_spent(shop: Workshop, _: int) -> Bag:
    """A greeting spent by another greeting: the coin leaves tm_helloworld, one enters."""
    mined, owner, change = shop.take(), shop.key(), shop.key()
    first = _greet(shop, [mined.coin], owner, change)
    return Bag([mined], [first, _greet(shop, [first.coin(0, owner), first.coin(1, change)], shop.key())])


def tokens(key: Key, name: bytes, amount: int) -> Output:
    """An output that holds tokens of tm_tokendemo."""
    return 1, pushdrop(key.public, [name, amount.to_bytes(8, "little"), b'{"label":"token"}'])


def mint(shop: Workshop, size: int) -> Bag:
    """An output that makes tokens."""
    return _mint(shop, size, shop.key(), shop.key())


def _mint(shop: Workshop, size: int, owner: Key, change: Key) -> Bag:
    mined = shop.take()
    return Bag([mined], [shop.pay([mined.coin], [tokens(owner, b"___mint___", size)], key=change)])


def mint_and_move(shop: Workshop, size: int) -> tuple[Bag, Bag]:
    """Tokens are made, and moved to two others. The second holds the first as its ancestor."""
    owner, change = shop.key(), shop.key()
    first = _mint(shop, size, owner, change)
    coin, rest = (first.unmined[0].coin(vout, key) for vout, key in enumerate((owner, change)))
    name = outpoint_text(coin.outpoint).encode()
    shares = [tokens(shop.key(), name, size // 3), tokens(shop.key(), name, size - size // 3)]
    return first, Bag(first.proven, [*first.unmined, shop.pay([coin, rest], shares)])


UHRP = "2-uhrp advertisement-1"
"""What an advertisement's key is derived for."""


def advertisement(host: Key, number: int, size: int) -> Output:
    """An output that tm_uhrp admits: file `number` of a host, in force until 2100."""
    file = hashlib.sha256(number.to_bytes(8, "little")).digest()
    address = f"https://host.example/{file.hex()[:16]}".encode()
    fields = [host.public, file, address, varint(4_102_444_800), varint(size)]
    own = child_key(host, ANYONE, UHRP)
    return 1, pushdrop(own.public, [*fields, own.sign(hashlib.sha256(b"".join(fields)).digest())])


def hosting(shop: Workshop, size: int) -> Bag:
    """A host advertises a file."""
    mined = shop.take()
    return Bag([mined], [shop.pay([mined.coin], [advertisement(shop.key(), shop.next_coin, size)])])


def proven(shop: Workshop, _: int) -> Bag:
    """The subject has a proof of its own: it is mined."""
    return Bag([shop.take()], [])


def coinbase(shop: Workshop, _: int) -> Bag:
    """Spends a mature coinbase: offset 0 of a small block. There are 60 of those, shared by all generators."""
    mined = shop.chain.funding(CHECKPOINT + COIN_BLOCKS + shop.number("coinbase") % 60, 0)
    return Bag([mined], [shop.pay([mined.coin])])


def recent(shop: Workshop, size: int) -> Bag:
    """Anchored in a block near the tip: a reorganisation of that depth takes the proof away."""
    mined = shop.take_recent(size)
    return Bag([mined], [shop.pay([mined.coin])])


def odd(shop: Workshop, _: int) -> Bag:
    """Anchored in the last leaf of an odd tree: its path holds a duplicate. 160 of them, shared by all generators."""
    block = COIN_BLOCKS + shop.number("odd") % BURIAL_BLOCKS
    mined = shop.chain.funding(CHECKPOINT + block, RECENT_COINS)
    return Bag([mined], [shop.pay([mined.coin])])


SHAPES: dict[str, Shape] = {
    "p2pkh": Shape("One un-mined P2PKH transaction over a proof of 12 levels.", payment),
    "v2": Shape("The same in BEEF V2.", payment, framing="v2"),
    "atomic": Shape("The same in Atomic BEEF.", payment, framing="atomic"),
    "chain": Shape("Un-mined transactions in a row.", chain, size=4, size_is="transactions"),
    "fan-in": Shape("Many coins into one output; neighbours share a compound path.", fan_in, size=8, size_is="inputs"),
    "fan-out": Shape("One coin into many outputs.", fan_out, size=8, size_is="outputs"),
    "diamond": Shape("A coin split, spent twice and joined, over and over.", diamond, size=2, size_is="diamonds"),
    "data": Shape("A data carrier.", data, size=256, size_is="bytes"),
    "hello": Shape("A greeting that tm_helloworld admits.", hello, topics=("tm_helloworld",)),
    "hello-spent": Shape("A greeting that spends a greeting.", hello_spent, topics=("tm_helloworld",)),
    "mint": Shape("Tokens that tm_tokendemo admits.", mint, size=1000, size_is="tokens", topics=("tm_tokendemo",)),
    "hosting": Shape("An offer that tm_uhrp admits.", hosting, size=65_536, size_is="bytes", topics=("tm_uhrp",)),
    "proven": Shape("The subject carries its own proof.", proven),
    "coinbase": Shape("Spends a mature coinbase.", coinbase),
    "recent": Shape("Anchored near the tip.", recent, size=3, size_is="blocks from the anchor to the tip"),
    "odd": Shape("Anchored at the odd end of a tree.", odd),
}  # fmt: skip
