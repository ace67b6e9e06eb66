"""Where payloads are put together: coins taken in order, outputs paid for, transactions framed as BEEF."""

from collections.abc import Sequence

from msgspec import Struct

from ops.instruments.chain import COIN_BLOCKS, COINS, Chain, Funding
from ops.instruments.keys import Coin, Key, Made, spend
from ops.instruments.wire import Entry, Framing, Output, merkle_path, write_beef, write_bump, write_output
from schemas.types import Txid

FEE_PER_KB = 100
"""Satoshis for 1,000 bytes: Arcade's default, hundred times ARC's. Whoever simulates a network takes it."""

STRIDE = 1200
"""Coins between the first coins of neighbouring seeds."""

LANES = COIN_BLOCKS * COINS // STRIDE
"""How many seeds have coins of their own on a chain of one stretch: 96."""


class Bag(Struct):
    """The transactions of a payload, ancestors first; the subject is the last un-mined one, or the last proven one."""

    proven: list[Funding]
    unmined: list[Made]

    @property
    def subject(self) -> Txid:
        """Txid of the subject."""
        return self.unmined[-1].txid if self.unmined else self.proven[-1].coin.txid


class Workshop:
    """Takes coins off a chain, in order, and spends them.

    A workshop begins at coin 1,200 x (seed mod 96): those of fewer payloads than that, with neighbouring seeds, spend
    different coins; `first` begins elsewhere. Workshops on one chain that meet make double spends of one another.
    """

    def __init__(self, chain: Chain, seed: int, first: int | None = None) -> None:
        self.chain = chain
        self.seed = seed
        self.next_coin = seed % LANES * STRIDE if first is None else first
        self._paid = 0
        self._recent: dict[int, int] = {}
        self._counted: dict[str, int] = {}

    def take(self) -> Funding:
        """The next buried coin."""
        self.next_coin += 1
        return self.chain.coin(self.next_coin - 1)

    def take_recent(self, depth: int) -> Funding:
        """A coin of the block `depth` blocks deep: 1 is the tip.

        There are 13 in a block, shared by all workshops.

        Raises:
            ValueError: this workshop took all of them.
        """
        height = self.chain.tip - depth + 1
        taken = self._recent.get(height, 0)
        if taken == 13:
            raise ValueError(f"block {height} has 13 recent coins")
        self._recent[height] = taken + 1
        return self.chain.funding(height, 1 + (self.seed + taken) % 13)

    def number(self, what: str) -> int:
        """A running number, 37 of them to a seed before the next seed's begin: for things of which there are few."""
        self._counted[what] = self._counted.get(what, self.seed * 37 - 1) + 1
        return self._counted[what]

    def key(self) -> Key:
        """A key of the wallet, another one each time."""
        self._paid += 1
        return self.chain.keys[(self.seed + self._paid) % len(self.chain.keys)]

    def pay(self, coins: Sequence[Coin], outputs: Sequence[Output] = (), key: Key | None = None) -> Made:
        """Spend `coins` on `outputs` and send what is left, less the fee, to `key`, as the last output.

        Raises:
            ValueError: the outputs cost more than the coins are worth.
        """
        size = 10 + 149 * len(coins) + sum(len(write_output(output)) for output in outputs) + 34
        fee = -(-size * FEE_PER_KB // 1000)
        rest = sum(coin.satoshis for coin in coins) - sum(satoshis for satoshis, _ in outputs) - fee
        if rest <= 0:
            raise ValueError(f"{len(coins)} coins do not pay for these outputs")
        return spend(coins, [*outputs, (rest, (key or self.key()).script)])

    def bumps(self, proven: Sequence[Funding]) -> tuple[list[bytes], dict[int, int]]:
        """One Merkle path a block, for all of its transactions in `proven`; and which path is which height's."""
        by_height: dict[int, list[int]] = {}
        for mined in proven:
            by_height.setdefault(mined.height, []).append(mined.leaf)
        paths = [write_bump(h, merkle_path(self.chain.block(h).levels, leaves)) for h, leaves in by_height.items()]
        return paths, {height: index for index, height in enumerate(by_height)}

    def entries(self, bag: Bag, index: dict[int, int]) -> list[Entry]:
        """The bag's transactions as entries of a BEEF."""
        proven = [Entry(mined.raw, index[mined.height]) for mined in bag.proven]
        return proven + [Entry(made.raw) for made in bag.unmined]

    def frame(self, bag: Bag, framing: Framing = "v1") -> bytes:
        """The bag as a BEEF: about 20 us for one coin."""
        paths, index = self.bumps(bag.proven)
        return write_beef(paths, self.entries(bag, index), framing, bag.subject)
