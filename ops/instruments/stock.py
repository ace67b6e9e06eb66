"""Units for sale: outputs in a basket of an owner, and the transactions that spend them."""

from collections.abc import Iterator, Sequence
from typing import Any

from ops.instruments.chain import Funding
from ops.instruments.keys import Coin, Key, Made, make_key
from ops.instruments.workshop import Bag, Workshop
from schemas.types import display

UNIT_SAT = 200
"""Enough for the fee of a transaction that spends one."""

TOGETHER = 100
"""Units made by one transaction: it comes along with each that spends one."""


class Stock:
    """So many units of one owner."""

    def __init__(self, shop: Workshop, units: int, basket: str = "units", owner: int = 1) -> None:
        """owner: a number: another owner each."""
        self.shop = shop
        self.units = units
        self.basket = basket
        self.owner: Key = make_key("stock owner", owner)
        self.key = shop.key()
        self._made: list[tuple[Funding, Made, int]] = []
        self._at: dict[str, tuple[Funding, Coin, Made]] = {}  # by outpoint
        left = units
        while left:
            count = min(left, TOGETHER)
            funding = shop.take()
            made = shop.pay([funding.coin], [(UNIT_SAT, self.key.script)] * count)
            self._made.append((funding, made, count))
            for vout in range(count):
                self._at[f"{display(made.txid)}.{vout}"] = funding, made.coin(vout, self.key), made
            left -= count

    @property
    def name(self) -> str:
        """The owner's identity key, hexadecimal."""
        return self.owner.public.hex()

    @property
    def outpoints(self) -> list[str]:
        """All units, `txid.vout` each."""
        return list(self._at)

    def payloads(self) -> Iterator[tuple[bytes, list[dict[str, Any]]]]:
        """What makes the units: BEEF, and the instructions that put them into the basket."""
        for funding, made, count in self._made:
            outputs = [
                {
                    "outputIndex": vout,
                    "protocol": "basket insertion",
                    "insertionRemittance": {"basket": self.basket},
                }
                for vout in range(count)
            ]
            instruction = {"owner": self.name, "description": "units for sale", "outputs": outputs}
            yield self.shop.frame(Bag([funding], [made])), [instruction]

    def spend(self, outpoints: Sequence[str]) -> bytes:
        """A transaction that spends units, as BEEF; another one each time."""
        spent = [self._at[point] for point in outpoints]
        made = self.shop.pay([coin for _, coin, _ in spent])
        fundings = {id(funding): funding for funding, _, _ in spent}
        parents = {parent.txid: parent for _, _, parent in spent}
        return self.shop.frame(Bag(list(fundings.values()), [*parents.values(), made]))
