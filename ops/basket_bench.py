"""`beefline bench baskets`: applying in an owner's context beside a topic's, and what `listOutputs` costs."""

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from msgspec import Struct, structs

from agents.runtime.store import Store
from ops.bench import Say, one_core
from ops.home import home
from ops.instruments.chain import Chain
from ops.instruments.keys import make_key
from ops.instruments.submissions import CONTEXTS, WIDE, Maker, Work, apply_all, managers
from pipeline import baskets, listed
from pipeline.state import Memory
from schemas.baskets import Insertion, Instruction, Payment
from schemas.types import Context

OPERATIONS = 2_000
ROUNDS = 5
BATCH = 500

LISTED = 100_000
"""Outputs in the basket that is read."""

ASKED = 200
"""Times a question is asked."""

_KEY = make_key("basket bench")
OWNER: Context = f"{baskets.OWNED}{_KEY.public.hex()}"
_PAYMENT = Payment("cHJlZml4", "c3VmZml4", _KEY.public)


def _placed(what: Payment | Insertion) -> Instruction:
    return Instruction(((0, what),), ("as measured",), ())


FORMS: Mapping[str, Instruction | None] = {
    "a topic, one output admitted": None,
    "an owner, a payment": _placed(_PAYMENT),
    "an owner, an insertion": _placed(Insertion("coins", "", ())),
    "an owner, an insertion with three tags": _placed(Insertion("coins", "", ("blue", "green", "red"))),
}
"""What operations ask for."""

QUESTIONS: Mapping[str, listed.Wanted] = {
    "ten of a basket": listed.Wanted(basket="coins"),
    "ten with a tag": listed.Wanted(basket="coins", tags=("even",)),
    "ten with a tag, and their scripts": listed.Wanted(basket="coins", tags=("even",), locking_scripts=True),
    "a thousand of a basket": listed.Wanted(basket="coins", limit=1_000),
    "ten behind 10,000 others": listed.Wanted(basket="coins", offset=10_000),
    "ten with both of two tags": listed.Wanted(basket="coins", tags=("even", "rare"), every_tag=True),
    "ten with one of two tags": listed.Wanted(basket="coins", tags=("even", "rare")),
}
"""What readers ask; of the two tags every second output has one, and every thousandth the other."""


class Row(Struct, frozen=True):
    """One form, or one question: median of the rounds."""

    name: str
    cpu_us: float


class Report(Struct, frozen=True):
    """All of it."""

    applied: tuple[Row, ...]
    check_us: float  # whether a payment pays the owner, by its linkage
    reads: tuple[Row, ...]


def work(maker: Maker, count: int, instruction: Instruction | None) -> list[Work]:
    """Operations on ordinary payloads, for one context."""
    if instruction is None:
        return list(maker.ordinary(count, CONTEXTS[:1]))
    encoded = baskets.encode(instruction)
    return [
        (OWNER, structs.replace(operation, instruction=encoded)) for _, operation in maker.ordinary(count, (OWNER,))
    ]


def measure(say: Say) -> Report:
    """Each form in turn, round by round, so that what slows the machine slows all of them."""
    chain = Chain.open(home() / "bench-chain")
    forms = {name: work(Maker(chain), OPERATIONS, instruction) for name, instruction in FORMS.items()}
    taken: dict[str, list[float]] = {name: [] for name in forms}
    with one_core():
        for number in range(ROUNDS):
            say(f"baskets: round {number + 1} of {ROUNDS}")
            for name, todo in forms.items():
                memory = Memory()
                taken[name].append(
                    _timed(lambda memory=memory, todo=todo: apply_all(memory, memory.write, todo, managers(), BATCH))  # type: ignore[misc]
                    / len(todo)
                )
        checked = min(_timed(lambda: _check_all(1_000)) / 1_000 for _ in range(ROUNDS))
        reads = tuple(_reads(say))
    applied = tuple(Row(name, statistics.median(each) * 1e6) for name, each in taken.items())
    return Report(applied, checked * 1e6, reads)


def _check_all(count: int) -> None:
    """Whether so many payments pay the owner: what apply asks of each whose linkage is known."""
    owner = _KEY.public
    for number in range(count):
        baskets.paid_to(owner, number.to_bytes(32, "big")[::-1])


def _reads(say: Say) -> Iterator[Row]:
    say(f"baskets: reading one of {LISTED:,} outputs")
    folder = Path(tempfile.mkdtemp(prefix="basket-bench-", dir=home()))
    store = Store(folder / "store")
    try:
        apply_all(store, lambda writes: store.write(writes, 0), _wide(LISTED), managers(), 1)
        for name, wanted in QUESTIONS.items():
            count = ASKED if len(wanted.tags) < 2 and not wanted.offset else 5
            took = _timed(lambda count=count, wanted=wanted: _ask(store, wanted, count))  # type: ignore[misc]
            yield Row(name, took / count * 1e6)
    finally:
        store.close()
        shutil.rmtree(folder)


def _ask(store: Store, wanted: listed.Wanted, count: int) -> None:
    for _ in range(count):
        listed.outputs(store, OWNER, wanted)


def _wide(outputs: int) -> Iterator[Work]:
    """Transactions of many outputs, all of them the owner's."""
    maker = Maker(Chain.open(home() / "bench-chain"))
    for number, (_, operation) in enumerate(maker.wide(outputs)):
        placed = tuple((index, Insertion("coins", "", _tags(number * WIDE + index))) for index in range(WIDE))
        yield OWNER, structs.replace(operation, instruction=baskets.encode(Instruction(placed, ("as measured",), ())))


def _tags(number: int) -> tuple[str, ...]:
    return (*(("even",) if number % 2 == 0 else ()), *(("rare",) if number % 1_000 == 0 else ()))


def _timed(what: Callable[[], object]) -> float:
    began = time.process_time()
    what()
    return time.process_time() - began


def run(say: Say) -> str:
    """The page's part."""
    return page(measure(say))


def page(report: Report) -> str:
    """As Markdown."""
    base = report.applied[0].cpu_us
    return "\n".join([
        "## Baskets",
        "",
        f"Apply's rule in memory, {OPERATIONS:,} operations of one context, processor time on one core; median of "
        f"{ROUNDS} rounds in turn.",
        "",
        "| operation | us | of a topic's |",
        "|---|---|---|",
        *(f"| {row.name} | {row.cpu_us:,.0f} | {row.cpu_us / base:.2f} |" for row in report.applied),
        "",
        f"Whether a payment pays the owner, by its linkage: {report.check_us:,.0f} us more.",
        "",
        f"`listOutputs` of a basket of {LISTED:,}, from the store on disk:",
        "",
        "| asked for | us |",
        "|---|---|",
        *_rows(report.reads),
        "",
    ])  # fmt: skip


def _rows(reads: Sequence[Row]) -> Iterator[str]:
    for row in reads:
        yield f"| {row.name} | {row.cpu_us:,.0f} |"
