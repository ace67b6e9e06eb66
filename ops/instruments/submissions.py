"""Operations on ordinary payloads, as verify hands them on, and applying them in process as a worker does."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice

from msgspec.structs import replace

from ops.instruments.chain import Chain
from ops.instruments.generate import Generator
from ops.instruments.payloads import Generated
from ops.instruments.wire import varint
from pipeline import apply as rules
from pipeline import member
from pipeline.chain.answer import Tip
from pipeline.codec.tx import read_tx
from pipeline.contextual import Answer
from pipeline.overlay.manager import TopicManager, load
from pipeline.parse import Payload, parse
from pipeline.policy import Policy
from pipeline.prepare import parts_of, whole
from pipeline.results import decision_id
from pipeline.state import Layer, Live, Remembered, View, encode, head_key, head_of, seal
from pipeline.verify import Plan, Valid, plan
from schemas.flow import Apply, Asked, Origin, Part, Prepare, Verified
from schemas.types import Context

TOPICS = tuple(f"tm_bench_{letter}" for letter in "abcdefghijklmnop")
"""Overlay topics. Sixteen, over as many partitions as the names of their contexts hash to."""

HOSTED = tuple(f"{name}=pipeline.overlay.builtin.anytx:AnyTx" for name in TOPICS)
"""All of `tm_anytx`'s rule, as `apply.topics` names them."""

CONTEXTS = tuple(f"topic:{name}" for name in TOPICS)

WIDE = 1_000
"""Outputs of a transaction that fills the state."""

Work = tuple[Context, Apply]
Asks = tuple[Context, Apply | Prepare]


class Maker:
    """Operations on signed payloads, as verify hands them on; their signatures are not looked at here."""

    def __init__(self, chain: Chain) -> None:
        self._generator = Generator(chain, seed=0, first=0)
        self._tip = Tip(chain.tip, chain.median_time_past())
        self._offset = 0

    def ordinary(self, count: int, contexts: Sequence[Context] = CONTEXTS) -> Iterator[Work]:
        """Each payload goes to every one of these contexts."""
        for payload in self._generator.valid(count // len(contexts)):
            for context in contexts:
                yield context, self._apply(self._verified(payload), context)

    def spread(self, count: int, width: int, contexts: Sequence[Context] = CONTEXTS) -> Iterator[list[Asks]]:
        """Each payload goes to the next so many contexts: to one each by itself, to several all or nothing."""
        for number, payload in enumerate(self._generator.valid(count)):
            named = tuple(contexts[(number + place) % len(contexts)] for place in range(width))
            verified = self._verified(payload)
            asked = replace(verified.asked, contexts=named, atomicity="each" if width == 1 else "all")
            verified = replace(verified, asked=asked)
            if width == 1:
                yield [(named[0], self._apply(verified, named[0]))]
            else:
                first = whole(0, verified, [Part(context) for context in named])
                yield [(named[0], first), *parts_of(first)]

    def wide(self, outputs: int) -> Iterator[Work]:
        """Transactions of WIDE outputs each, round the contexts."""
        for number in range(outputs // WIDE):
            raw = _wide_tx(number)
            tx = read_tx(raw)
            tx.parents = (None,)
            # As a proven one nobody broadcasts it.
            verified = Verified(self._asked(), tx.txid, raw, (member.member_of(tx),), -1, self._tip.height)
            context = CONTEXTS[number % len(CONTEXTS)]
            yield context, self._apply(verified, context)

    def _verified(self, payload: Generated) -> Verified:
        parsed = parse(payload.beef, Policy())
        assert isinstance(parsed, Payload)
        found = plan(parsed, Policy(), self._tip)
        assert isinstance(found, Plan)
        valid = Valid(parsed, found.work.coins, found.work.fee_sat)
        return Verified(self._asked(), payload.txid, parsed.canonical(), valid.members(), valid.fee_sat)

    def _asked(self) -> Asked:
        self._offset += 1
        origin = Origin("bench", "beef.ingest", 0, self._offset, 1_790_000_000_000)
        return Asked(origin, f"request-{self._offset}", (CONTEXTS[0],))

    def _apply(self, verified: Verified, context: Context) -> Apply:
        return Apply(decision_id(verified.asked.origin, context), verified)


def _wide_tx(number: int) -> bytes:
    spent = number.to_bytes(32, "big") + bytes(4)
    output = (1).to_bytes(8, "little") + b"\x01\x51"
    return (
        (1).to_bytes(4, "little") + b"\x01" + spent + b"\x00" + b"\xff" * 4
        + varint(WIDE) + output * WIDE + bytes(4)
    )  # fmt: skip


def managers() -> dict[str, TopicManager]:
    """Those of the topics."""
    return load(HOSTED)


def apply_all(
    view: View,
    write: Callable[[Mapping[bytes, bytes | None]], None],
    todo: Iterable[Work],
    hosted: Mapping[str, TopicManager],
    batch: int,
) -> int:
    """Apply operations as a worker does, and write every batch; returns how many outputs were admitted."""
    admitted, left = 0, iter(todo)
    while some := list(islice(left, batch)):
        layer = Layer(Remembered(view))
        heads: dict[Context, Live] = {}
        for context, operation in some:
            own = Layer(layer)
            head = heads.get(context) or head_of(layer, context)
            change = rules.apply(own, head, context, operation, hosted, 1)
            assert isinstance(change.said, Answer)
            admitted += len(change.said.admittance.outputs_to_admit)
            own.merge_into(layer)
            heads[context] = change.head
        for context, head in heads.items():
            layer.writes[head_key(context)] = seal(encode(head.stored()))
        write(layer.writes)
    return admitted
