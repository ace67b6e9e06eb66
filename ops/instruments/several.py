"""Operations over several contexts, ready-made: what verify hands to each of them; without signatures.

Half of them have to do with another one that came just before: they spend what it spends, or what it makes, or are the
very same transaction, over contexts that overlap; and some of what does comes to one context alone.
"""

import random
from collections import deque
from collections.abc import Iterator, Sequence

from ops.instruments.operations import Coordinates, Made, funding, made, payload
from pipeline.codec.tx import Tx
from pipeline.prepare import parts_of, whole
from pipeline.results import decision_id
from schemas.flow import Apply, Asked, Operation, Origin, Part, Verified
from schemas.types import Context

RECENT = 40
"""Operations that later ones may have to do with: those of the last second, roughly."""

LEAST, MOST = 2, 6
"""Contexts of one."""


class Draw:
    """Draws them; the same seed gives the same."""

    def __init__(self, contexts: Sequence[Context], seed: int) -> None:
        self.operations: list[Asked] = []  # of all that are over several
        self.alone: list[Asked] = []
        self.subjects: dict[str, Tx] = {}  # by request id
        self._contexts = contexts
        self._random = random.Random(seed)
        self._coordinates = Coordinates(f"several-{seed}")
        self._recent: deque[tuple[Made, tuple[Context, ...]]] = deque(maxlen=RECENT)

    def records(self, count: int) -> Iterator[tuple[Context, Operation]]:
        """What so many of them put on `operations`, those to one context alone among them."""
        for _ in range(count):
            yield from self._next()

    def _next(self) -> Iterator[tuple[Context, Operation]]:
        draw = self._random
        kind = draw.choices(("fresh", "rival", "child", "same", "alone"), (0.5, 0.17, 0.17, 0.06, 0.1))[0]
        if kind == "fresh" or not self._recent:
            near: tuple[Context, ...] = ()
            subject = made(draw.getrandbits(64), [(funding(draw.getrandbits(64)), 0)], 3)
        else:
            other, near = draw.choice(self._recent)
            subject = self._near(kind, other)
        if kind == "alone":
            yield self._to_one(subject, draw.choice(near or self._contexts))
            return
        contexts = self._several(near)
        self._recent.append((subject, contexts))
        asked = Asked(origin := self._coordinates.next(), _name(origin), contexts, "all")
        self.operations.append(asked)
        self.subjects[asked.request_id] = subject.tx
        beef, members = payload(subject)
        parts = [Part(context) for context in contexts]
        operation = whole(0, Verified(asked, subject.txid, beef, members, 1), parts)
        yield contexts[0], operation
        yield from parts_of(operation)

    def _near(self, kind: str, other: Made) -> Made:
        draw = self._random
        if kind == "same":
            return other
        if kind == "rival":
            return made(draw.getrandbits(64), [(other.parents[0], other.tx.vout(0))], 2)
        return made(draw.getrandbits(64), [(other, draw.randrange(len(other.tx.outs) - 1))], 3)

    def _several(self, near: Sequence[Context]) -> tuple[Context, ...]:
        """In any order, one of those of the other among them."""
        draw = self._random
        chosen = set(draw.sample(self._contexts, draw.randint(LEAST, MOST)))
        if near and not chosen & set(near):
            chosen.pop()
            chosen.add(draw.choice(near))
        listed = sorted(chosen)
        draw.shuffle(listed)
        return tuple(listed)

    def _to_one(self, subject: Made, context: Context) -> tuple[Context, Operation]:
        asked = Asked(origin := self._coordinates.next(), _name(origin), (context,))
        self.alone.append(asked)
        self.subjects[asked.request_id] = subject.tx
        beef, members = payload(subject)
        return context, Apply(decision_id(asked.origin, context), Verified(asked, subject.txid, beef, members, 1))


def _name(origin: Origin) -> str:
    return f"request-{origin.partition}-{origin.offset}"
