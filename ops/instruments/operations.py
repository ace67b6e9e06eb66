"""Operations ready-made: what verify, and whoever knows the network's word, hand to apply; without signatures.

What a context is asked to do is drawn from a small model of it, so that it means something there: chains, children
before their parents, double spends, repeats, off-chain values or instructions for baskets, acceptances, evictions,
readmissions.
"""

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from msgspec import Struct, structs

from ops.instruments.wire import FINAL, Output, p2pkh, push, pushdrop, write_transaction
from pipeline import baskets
from pipeline.codec.tx import Tx, read_tx
from pipeline.member import member_of
from pipeline.overlay.manager import Subject
from pipeline.results import decision_id
from schemas.baskets import Insertion, Instruction, Payment
from schemas.external import Admittance
from schemas.flow import Accept, Apply, Asked, Evict, Member, Operation, Origin, Readmit, Verified
from schemas.types import Context, Txid, outpoint

T = TypeVar("T")

BEGINS = b"begins"
"""Off-chain values of a transaction that begins a line, for `Linked`."""

MINED = 6
"""Generations that a payload brings along; what lies before them is in a block by then."""

REMEMBERED = 200
"""Coins, transactions and rivals that the model of a context keeps, each."""

PARTITIONS = 8
"""Of the ingest topic that coordinates name."""


class Linked:
    """A topic manager: admits what begins a line, or spends a coin of the topic. Each judgement leads to the next."""

    version = "1"

    def admit(self, subject: Subject) -> Admittance:
        """All outputs, or none."""
        if subject.previous_coins or subject.off_chain_values == BEGINS:
            return Admittance(tuple(range(subject.output_count)))
        return Admittance()


class Made(Struct, frozen=True):
    """A transaction, and what it descends from as far as a payload has to bring that along."""

    tx: Tx
    parents: tuple["Made", ...] = ()
    mined: bool = False
    depth: int = 0  # un-mined generations before it

    @property
    def txid(self) -> Txid:
        """Of the transaction."""
        return self.tx.txid


_SCRIPT = p2pkh(bytes(20))
_TOKENS = [pushdrop(b"\x02" + bytes(32), [color, b"no amount"]) for color in (b"green", b"red")]

TOKEN = 2
"""Which output of a transaction that makes as many is a token."""


def made(number: int, spends: Sequence[tuple[Made, int]], outputs: int = 1) -> Made:
    """A transaction that spends these outputs, and is like no other of another number."""
    parents = tuple(Made(parent.tx, mined=True) if parent.depth >= MINED else parent for parent, _ in spends)
    inputs = [(outpoint(parent.txid, vout), push(b"%08d" % number), FINAL) for parent, vout in spends]
    scripts = [_TOKENS[number % len(_TOKENS)] if vout == TOKEN else _SCRIPT for vout in range(outputs)]
    coins: list[Output] = [(1_000 + vout, script) for vout, script in enumerate(scripts)]
    depth = max((parent.depth + 1 for parent in parents if not parent.mined), default=0)
    return Made(read_tx(write_transaction(inputs, coins)), parents, depth=depth)


def funding(number: int, outputs: int = 1) -> Made:
    """A transaction in a block, of which no context knows."""
    raw = write_transaction(
        [(number.to_bytes(32, "big") + bytes(4), push(b"%08d" % number), FINAL)], [(2_000, _SCRIPT)] * outputs
    )
    return Made(read_tx(raw), mined=True)


def payload(subject: Made) -> tuple[bytes, tuple[Member, ...]]:
    """The bytes of a payload, parents first, and where its un-mined transactions stand in them."""
    order: dict[Txid, Made] = {}

    def visit(one: Made) -> None:
        if one.txid not in order:
            for parent in () if one.mined else one.parents:
                visit(parent)
            order[one.txid] = one

    visit(subject)
    placed: dict[Txid, Tx] = {}
    parts, at = [], 0
    for one in order.values():
        tx = one.tx
        parents = [placed.get(tx.outpoint(vin)[:32]) for vin in range(len(tx.ins) - 1)]
        placed[tx.txid] = structs.replace(tx, start=at, parents=parents)
        parts.append(tx.raw)
        at += len(tx.raw)
    members = tuple(member_of(placed[one.txid]) for one in order.values() if not one.mined)
    return b"".join(parts), members


class Coordinates:
    """Ingest coordinates, each once.

    cluster: those of another are others.
    """

    def __init__(self, cluster: str = "chaos") -> None:
        self._cluster = cluster
        self.count = 0

    def next(self) -> Origin:
        """One that nothing else has."""
        self.count += 1
        partition, offset = self.count % PARTITIONS, self.count // PARTITIONS
        return Origin(self._cluster, "ingest", partition, offset, 1_790_000_000_000 + self.count)


def apply_of(context: Context, subject: Made, origin: Origin, off_chain: bytes = b"") -> Apply:
    """The operation that brings a payload to a context."""
    beef, members = payload(subject)
    asked = Asked(origin, f"request-{origin.partition}-{origin.offset}", (context,), "each", off_chain)
    return Apply(decision_id(origin, context), Verified(asked, subject.txid, beef, members, 1))


class Line:
    """One context's operations, in their order."""

    def __init__(self, context: Context, coordinates: Coordinates, seed: int) -> None:
        self.context = context
        self._coordinates = coordinates
        self._random = random.Random(f"{seed} {context}")
        self._count = 0
        self._coins: list[tuple[Made, int]] = []
        self._spent: list[tuple[Made, int, Made]] = []  # with who spends it
        self._applied: list[tuple[Made, Apply]] = []
        self._rivals: deque[tuple[Txid, Apply]] = deque(maxlen=REMEMBERED)  # with whom they compete with
        self._refused: list[Txid] = []
        self._due: deque[Operation] = deque()  # what is to come a little later

    def next(self) -> Operation:
        """The next operation."""
        self._count += 1
        if self._due and self._random.random() < 0.3:
            return self._due.popleft()
        (kind,) = self._random.choices(_KINDS, _WEIGHTS)
        return kind(self) or self._fresh()

    # --- what it may be; None where there is nothing yet that it could be about

    def _fresh(self) -> Operation:
        """It spends what no context knows of."""
        return self._submitted(self._made([(funding(self._number()), 0)]))

    def _chain(self) -> Operation | None:
        """It spends one or two coins of the context."""
        spends = [self._taken(self._coins) for _ in range(min(len(self._coins), self._random.randint(1, 2)))]
        return self._submitted(self._made(spends)) if spends else None

    def _late_parent(self) -> Operation:
        """A child comes before its parent is submitted; until then that is an ancestor, and admits nothing."""
        parent = self._made([(funding(self._number()), 0)])
        child = self._made([(parent, 0)])
        self._due.append(self._asked(parent, self._says(parent, True)))
        return self._submitted(child, False)

    def _rival(self) -> Operation | None:
        """It spends what another spends already."""
        if not self._spent:
            return None
        parent, vout, holder = self._random.choice(self._spent)
        rival = self._made([(parent, vout)], outputs=2)
        operation = self._asked(rival, self._says(rival, False))
        self._rivals.append((holder.txid, operation))
        return operation

    def _repeat(self) -> Operation | None:
        """The same transaction under another coordinate."""
        if not self._applied:
            return None
        subject, before = self._random.choice(self._applied)
        return self._asked(subject, self._said(before))

    def _again(self) -> Operation | None:
        """The very same operation: its writer delivers at least once."""
        return self._random.choice(self._applied)[1] if self._applied else None

    def _otherwise(self) -> Operation | None:
        """The same transaction with something else beside it."""
        if not self._applied:
            return None
        subject, _ = self._random.choice(self._applied)
        return self._asked(subject, self._says_else(subject))

    def _accept(self) -> Operation | None:
        if not self._applied:
            return None
        txids = tuple({self._random.choice(self._applied)[0].txid for _ in range(3)})
        return Accept(self._id("accept"), tuple(sorted(txids)), "arc@chaos")

    def _evict(self) -> Operation | None:
        """The network refuses a transaction; who competed with it is heard again."""
        if not self._applied:
            return None
        gone, _ = self._taken(self._applied)
        self._coins = [coin for coin in self._coins if not _descends(coin[0], gone)]
        self._refused.append(gone.txid)
        rivals = [operation for holder, operation in self._rivals if holder == gone.txid]
        self._due += rivals
        competing = tuple(sorted(operation.verified.txid for operation in rivals))
        return Evict(self._id("evict"), gone.txid, "network.rejected", "as drawn", competing)

    def _readmit(self) -> Operation | None:
        return Readmit(self._id("readmit"), self._taken(self._refused)) if self._refused else None

    # ---

    def _number(self) -> int:
        return self._random.getrandbits(64)

    def _id(self, what: str) -> str:
        return f"{what}:{self.context}:{self._count}"

    def _drawn(self, share: float) -> bool:
        return self._random.random() < share

    def _made(self, spends: Sequence[tuple[Made, int]], outputs: int = 0) -> Made:
        return made(self._number(), spends, outputs or self._random.randint(1, 3))

    # --- what is said beside a transaction: to a topic, off-chain values

    def _says(self, subject: Made, begins: bool) -> bytes:
        return BEGINS if begins else b""

    def _says_else(self, subject: Made) -> bytes:
        return b"others"

    def _said(self, operation: Apply) -> bytes:
        return operation.verified.asked.off_chain

    def _asked(self, subject: Made, said: bytes) -> Apply:
        return apply_of(self.context, subject, self._coordinates.next(), said)

    # ---

    def _submitted(self, subject: Made, begins: bool | None = None) -> Apply:
        operation = self._asked(subject, self._says(subject, self._drawn(0.4) if begins is None else begins))
        self._applied.append((subject, operation))
        self._coins += [(subject, vout) for vout in range(len(subject.tx.outs) - 1)]
        for vin, parent in enumerate(subject.parents):
            self._spent.append((parent, subject.tx.vout(vin), subject))
        for listed in (self._applied, self._coins, self._spent):
            del listed[:-REMEMBERED]
        return operation

    def _taken(self, listed: list[T]) -> T:
        return listed.pop(self._random.randrange(len(listed)))


class OwnerLine(Line):
    """An owner's: beside a transaction stands an instruction for its outputs, which pay nobody that is known."""

    def _says(self, subject: Made, begins: bool) -> bytes:
        return baskets.encode(self._instruction(subject, range(len(subject.tx.outs) - 1) if begins else ()))

    def _says_else(self, subject: Made) -> bytes:
        """Of outputs of its own, and of one that it has left alone before: a merge, or refused for what is change."""
        drawn = [index for index in range(len(subject.tx.outs) - 1) if self._drawn(0.5)]
        left = [(parent.txid, vout) for parent, vout in self._coins[-3:]]
        gone = [(self._basket(), outpoint(*self._random.choice(left)))] if left else []
        return baskets.encode(structs.replace(self._instruction(subject, drawn), relinquished=tuple(gone)))

    def _said(self, operation: Apply) -> bytes:
        return operation.instruction

    def _asked(self, subject: Made, said: bytes) -> Apply:
        return structs.replace(super()._asked(subject, b""), instruction=said)

    def _instruction(self, subject: Made, outputs: Sequence[int]) -> Instruction:
        placed = tuple((index, self._place(index)) for index in outputs)
        return Instruction(placed, (f"drawn {self._number() % 1_000}",), ())

    def _place(self, index: int) -> Payment | Insertion:
        if index == TOKEN:
            return Insertion(self._basket(), "", (), tuple(field for field in (0, 1) if self._drawn(0.6)))
        if self._drawn(0.4):
            return Payment("cHJlZml4", "c3VmZml4", bytes.fromhex(self.context.removeprefix(baskets.OWNED)))
        return Insertion(self._basket(), "", tuple(tag for tag in ("blue", "green", "red") if self._drawn(0.3)))

    def _basket(self) -> str:
        return self._random.choice(("coins", "tickets"))


def _descends(one: Made, ancestor: Made) -> bool:
    return one.txid == ancestor.txid or any(_descends(parent, ancestor) for parent in one.parents)


_TABLE: dict[Callable[[Line], Operation | None], float] = {
    Line._fresh: 0.30,
    Line._chain: 0.34,
    Line._late_parent: 0.06,
    Line._rival: 0.07,
    Line._repeat: 0.05,
    Line._again: 0.03,
    Line._otherwise: 0.02,
    Line._accept: 0.06,
    Line._evict: 0.05,
    Line._readmit: 0.02,
}
"""What a context is asked to do, and how often."""

_KINDS, _WEIGHTS = list(_TABLE), list(_TABLE.values())


def operations(contexts: Sequence[Context], seed: int) -> Iterator[tuple[Context, Operation]]:
    """Operations without end, over the contexts at random. The same seed gives the same."""
    coordinates = Coordinates(f"chaos-{seed}")
    lines = [(OwnerLine if baskets.is_owner(context) else Line)(context, coordinates, seed) for context in contexts]
    draw = random.Random(seed)
    while True:
        line = draw.choice(lines)
        yield line.context, line.next()
