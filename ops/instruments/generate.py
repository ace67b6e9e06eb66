"""Signed BEEFs on the simulated chain, with the verdict each must get. The same seed gives the same payloads."""

import itertools
import random
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from ops.instruments.chain import Chain
from ops.instruments.payloads import Expectation, Generated, write_pool
from ops.instruments.shapes import SHAPES, mint_and_move
from ops.instruments.spoiled import KINDS
from ops.instruments.wire import Framing
from ops.instruments.workshop import Bag, Workshop
from schemas.types import Txid

__all__ = ["GROUPS", "KINDS", "SHAPES", "Expectation", "Generated", "Generator", "kind_names", "prepare_pool"]

GROUPS: dict[str, str] = {
    "duplicate": "A payload, and the same bytes again.",
    "double-spend": "Two valid payloads that spend one coin.",
    "family": "Valid payloads, each spending the one before and holding all un-mined ancestors.",
    "tokens": "Tokens of tm_tokendemo are made, and moved.",
}
"""What only several payloads can show. Each payload alone is valid."""


def kind_names() -> dict[str, str]:
    """Everything a generator makes, by name, with what it is."""
    return {name: row.says for table in (SHAPES, KINDS) for name, row in table.items()} | GROUPS


class Generator:
    """Makes payloads from the chain's coins.

    Generators on one chain with different seeds spend different coins as long as each makes fewer than 1,200 payloads
    of one coin and their seeds differ by less than 96 (`Workshop`); `first` is the number of the first coin otherwise.
    Expectations about heights (`immature`, `above-tip`, `recent`) hold while the chain does not grow.
    """

    def __init__(self, chain: Chain, seed: int = 0, first: int | None = None) -> None:
        self.shop = Workshop(chain, seed, first)
        self._made = 0

    def _name(self, kind: str, beef: bytes, txid: Txid, **rest: object) -> Generated:
        self._made += 1
        return Generated(f"{self.shop.seed}-{self._made}", kind, beef, txid, **rest)  # type: ignore[arg-type]

    def _from_bag(self, kind: str, bag: Bag, framing: Framing = "v1", **rest: object) -> Generated:
        return self._name(kind, self.shop.frame(bag, framing), bag.subject, unmined=len(bag.unmined), **rest)

    def valid(
        self, n: int = 1, *, shape: str = "p2pkh", size: int | None = None, framing: Framing | None = None
    ) -> Iterator[Generated]:
        """`n` valid payloads of a shape (a row of SHAPES). `size` and `framing` replace the shape's own.

        Raises:
            KeyError: no such shape.
        """
        row = SHAPES[shape]
        chosen = row.size if size is None else size
        for _ in range(n):
            yield self._from_bag(shape, row.build(self.shop, chosen), framing or row.framing, topics=row.topics)

    def invalid(self, kind: str) -> Generated:
        """A payload with one fault (a row of KINDS).

        Raises:
            KeyError: no such kind.
        """
        row = KINDS[kind]
        beef, txid = row.build(self.shop)
        return self._name(kind, beef, txid, expect=row.expect)

    def duplicate(self) -> tuple[Generated, Generated]:
        """A payload, and the same bytes under another id."""
        (one,) = self.valid()
        return one, self._name("duplicate", one.beef, one.txid)

    def double_spend(self, rivals: int = 2) -> tuple[Generated, ...]:
        """Valid payloads that spend one coin: the network can take only one of them."""
        mined = self.shop.take()
        bags = [Bag([mined], [self.shop.pay([mined.coin])]) for _ in range(rivals)]
        txids = tuple(bag.subject for bag in bags)
        return tuple(
            self._from_bag("double-spend", bag, rivals=tuple(txid for txid in txids if txid != bag.subject))
            for bag in bags
        )

    def family(self, n: int = 4) -> tuple[Generated, ...]:
        """Payloads of which each spends the one before, parents first. Each holds all its ancestors."""
        bag = SHAPES["chain"].build(self.shop, n)
        return tuple(self._from_bag("family", Bag(bag.proven, bag.unmined[: length + 1])) for length in range(n))

    def tokens(self, amount: int = 1000) -> tuple[Generated, Generated]:
        """Two payloads: tokens are made, and moved to two others; tm_tokendemo admits all that hold some."""
        first, second = mint_and_move(self.shop, amount)
        topics = ("tm_tokendemo",)
        return self._from_bag("tokens", first, topics=topics), self._from_bag("tokens", second, topics=topics)

    def make(self, kind: str, size: int | None = None) -> tuple[Generated, ...]:
        """What any name of `kind_names` stands for: one payload, or those of a group.

        Raises:
            KeyError: no such kind.
        """
        groups: dict[str, Callable[[], tuple[Generated, ...]]] = {
            "duplicate": self.duplicate,
            "double-spend": lambda: self.double_spend(size or 2),
            "family": lambda: self.family(size or 4),
            "tokens": lambda: self.tokens(size or 1000),
        }
        if kind in SHAPES:
            return tuple(self.valid(shape=kind, size=size))
        return groups[kind]() if kind in groups else (self.invalid(kind),)

    def mixed(self, n: int, mix: Mapping[str, float], size: int | None = None) -> Iterator[Generated]:
        """`n` payloads of the kinds in `mix`, drawn by their weights. A group's payloads follow one another."""
        draw = random.Random(self.shop.seed)
        names, weights = list(mix), list(mix.values())
        drawn = (self.make(draw.choices(names, weights)[0], size) for _ in itertools.count())
        return itertools.islice(itertools.chain.from_iterable(drawn), n)


def prepare_pool(
    path: Path, n: int, *, chain: Chain, seed: int = 0, first: int | None = None, mix: Mapping[str, float] | None = None
) -> int:
    """Generate `n` payloads (default: of the simplest shape) into a file that `read_pool` streams. Returns how many."""
    generator = Generator(chain, seed, first)
    return write_pool(path, generator.mixed(n, mix) if mix else generator.valid(n))
