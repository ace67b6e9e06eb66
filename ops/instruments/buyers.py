"""Buyers of units: they reserve, and buy, give back, forget, fail, or come too late. As tasks, and as a process.

`python -m ops.instruments.buyers` with a JSON object on standard input runs some until its input ends, and says on
standard output, a line each, what it does: whoever kills it knows what it held.
"""

import asyncio
import contextlib
import json
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from beefline.client import Client, Held, NotReserved, Unanswered, Unreachable
from beefline.outcomes import NoOutcome
from ops.instruments.chain import Chain
from ops.instruments.stock import Stock
from ops.instruments.workshop import Workshop

What = Literal["holding", "refused", "sold", "released", "forgotten", "failed", "late", "unanswered", "wrong"]

WAYS: tuple[tuple[What, float], ...] = (
    ("sold", 0.14), ("released", 0.52), ("forgotten", 0.18), ("failed", 0.14), ("late", 0.02),
)  # fmt: skip
"""What becomes of what is held, of ten thousand attempts: about as many sold as there are units to sell."""

DOUBLED = 0.1
"""Of requests, that are sent twice at once."""

HELD_S = 0.3
"""How long a buyer looks at what he holds, at most."""


class Plan(Struct, frozen=True):
    """What a process of buyers is told."""

    bootstrap: str
    prefix: str
    chain: str  # folder
    chain_seed: int  # of the workshop that made the units
    units: int
    owner: int
    lease_s: int
    buyers: int
    name: str
    seed: int


class Line(Struct, frozen=True):
    """What a buyer says."""

    what: What
    units: tuple[str, ...] = ()
    ms: float = 0.0  # of an attempt: from the request to its answer
    says: str = ""


Say = Callable[[Line], None]


def stock_of(plan: Plan) -> Stock:
    """The same for whoever has the plan."""
    return Stock(Workshop(Chain.open(Path(plan.chain)), plan.chain_seed), plan.units, owner=plan.owner)


class Buyer:
    """One of them."""

    def __init__(self, client: Client, stock: Stock, plan: Plan, number: int, say: Say) -> None:
        self._client = client
        self._stock = stock
        self._lease_s = plan.lease_s
        self._name = f"{plan.name}-{number}"
        self._random = random.Random(f"{plan.seed} {plan.name} {number}")
        self._say = say
        self._attempts = 0

    async def run(self, stop: asyncio.Event) -> None:
        """One attempt after the other."""
        while not stop.is_set():
            await self._attempt()

    async def _attempt(self) -> None:
        self._attempts += 1
        way = self._random.choices([way for way, _ in WAYS], [share for _, share in WAYS])[0]
        began = time.monotonic()
        asked: dict[str, Any] = {
            "basket": self._stock.basket,
            "count": self._random.choice((1, 1, 1, 2)),
            "lease_s": self._lease_s,
            "holder": self._name,
            "request_id": f"{self._name}-{self._attempts}",
        }
        again = self._random.random() < DOUBLED
        try:
            if way == "failed":
                await self._fail(asked)
                return
            held = await self._client.reserve(self._stock.name, **asked)
            took_ms = (time.monotonic() - began) * 1000
            self._say(Line("holding", held.outputs, took_ms))
            if again:
                other = await self._client.reserve(self._stock.name, **asked)
                if (other.token, other.outputs) != (held.token, held.outputs):
                    self._say(Line("wrong", other.outputs, says=f"{held.id} was held twice"))
            await asyncio.sleep(self._random.uniform(0, HELD_S))
            await self._end(way, held)
        except NotReserved as refused:
            self._say(Line("refused", ms=(time.monotonic() - began) * 1000, says=refused.code or ""))
        except (Unanswered, NoOutcome) as late:
            self._say(Line("unanswered", ms=(time.monotonic() - began) * 1000, says=str(late)))

    async def _fail(self, asked: dict[str, Any]) -> None:
        began = time.monotonic()
        with contextlib.suppress(ZeroDivisionError):
            async with self._client.reserve(self._stock.name, **asked) as held:
                self._say(Line("holding", held.outputs, (time.monotonic() - began) * 1000))
                await asyncio.sleep(self._random.uniform(0, HELD_S))
                self._say(Line("failed", held.outputs))
                raise ZeroDivisionError

    async def _end(self, way: What, held: Held) -> None:
        if way == "forgotten":
            self._say(Line("forgotten", held.outputs))
            return
        if way == "released":
            await held.release()
            self._say(Line("released", held.outputs))
            return
        if way == "late":
            await held.until_ended(self._lease_s + 30.0)
        outcome = await self._client.submit_and_wait(self._stock.spend(held.outputs), reservation=held, timeout=120.0)
        if outcome.state == "applied":
            self._say(Line("sold" if way == "sold" else "wrong", held.outputs, says=f"{way}: {outcome.txid}"))
        elif outcome.code == "conflict.reservation-lost":
            self._say(Line("late", held.outputs))
        else:
            self._say(Line("wrong", held.outputs, says=f"{outcome.code}: {outcome.message}"))


async def buy(plan: Plan, stop: asyncio.Event, say: Say) -> None:
    """So many buyers at once, with one client, until told to stop; each ends what it has begun."""
    stock = stock_of(plan)
    async with Client(plan.bootstrap, prefix=plan.prefix) as client:
        buyers = [Buyer(client, stock, plan, number, say) for number in range(plan.buyers)]
        await asyncio.gather(*(buyer.run(stop) for buyer in buyers))


async def _process() -> None:
    plan = msgspec.json.decode(sys.stdin.buffer.readline(), type=Plan)
    stop = asyncio.Event()
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)

    async def until_told() -> None:
        await reader.read()
        stop.set()

    told = asyncio.ensure_future(until_told())

    def say(line: Line) -> None:
        sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
        sys.stdout.flush()

    try:
        await buy(plan, stop, say)
    except Unreachable as error:
        sys.stderr.write(json.dumps(str(error)) + "\n")
    finally:
        told.cancel()


if __name__ == "__main__":
    asyncio.run(_process())
