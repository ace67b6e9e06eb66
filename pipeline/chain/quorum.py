"""Several trackers' answers become one, and how long it may be believed.

QUORUM-1: two equal definite answers of three decide. QUORUM-2: unknown is never no, and is never cached.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence

from msgspec import Struct

from pipeline.chain.answer import Answer, RootAt, Seen, Tip

BURIED = 100
"""Blocks above one after which its root is taken to stay: the depth at which a coinbase may be spent."""


def decide(answers: Iterable[Answer], needed: int = 2) -> Answer:
    """The quorum's word: a definite answer that `needed` trackers gave and no `needed` others contradict."""
    count = Counter(answers)
    yes, no = count[Answer.YES] >= needed, count[Answer.NO] >= needed
    if yes == no:  # neither, or (with four trackers and more) both
        return Answer.UNKNOWN
    return Answer.YES if yes else Answer.NO


def settled(answers: Sequence[Answer], outstanding: int, needed: int = 2) -> Answer:
    """`decide`, once no answer of the `outstanding` trackers can change it; UNKNOWN until then.

    So a silent tracker delays nothing that the others agree on.
    """
    word = decide(answers, needed)
    if word is Answer.UNKNOWN:
        return word
    opposite = Answer.NO if word is Answer.YES else Answer.YES
    return decide([*answers, *[opposite] * outstanding], needed)


def disagree(answers: Iterable[Answer]) -> bool:
    """Whether one tracker says yes and another no: somebody lies, or stands on another branch."""
    return {Answer.YES, Answer.NO} <= set(answers)


def agreed_tip(tips: Sequence[Seen], needed: int = 2) -> Tip | None:
    """The highest height, and the latest median time past, that `needed` trackers vouch for; None with fewer trackers.

    Each is the `needed`-th highest of what was said. A tracker that lies upward is passed over; one that lies
    downward can only make us wait. The two are taken separately: a liar may tell one truth to have the other believed.
    """
    if len(tips) < needed:
        return None
    heights = sorted((tip.height for tip in tips), reverse=True)
    times = sorted((tip.median_time_past for tip in tips), reverse=True)
    return Tip(heights[needed - 1], times[needed - 1])


def reorganised_at(before: Seen, after: Seen) -> int | None:
    """The lowest height at which one tracker's chain was replaced between two looks, as far as the looks overlap."""
    old = dict(before.hashes)
    replaced = [height for height, block_hash in after.hashes if old.get(height, block_hash) != block_hash]
    if replaced:
        return min(replaced)
    return after.height + 1 if after.height < before.height else None


class _Kept(Struct, frozen=True):
    answer: Answer
    until: float
    tip: Tip


class RootCache:
    """Decided answers by (height, root). Pure: time (seconds, any steady origin) and tip come in as arguments.

    Keyed by height *and* root, since a root keyed by transaction or payload would survive a reorganisation.
    """

    def __init__(self, ttl_s: float = 300.0, buried_ttl_s: float = 86_400.0, limit: int = 100_000) -> None:
        self._ttl_s = ttl_s
        self._buried_ttl_s = buried_ttl_s
        self._limit = limit
        self._kept: OrderedDict[RootAt, _Kept] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, at: RootAt, tip: Tip, now: float) -> Answer:
        """What was decided about `at` and still holds; UNKNOWN otherwise."""
        kept = self._kept.get(at)
        if kept is None:
            return Answer.UNKNOWN
        # A no may be about a block that is not there yet or was just replaced: the next block may turn it.
        if now >= kept.until or (kept.answer is Answer.NO and kept.tip != tip):
            del self._kept[at]
            return Answer.UNKNOWN
        self._kept.move_to_end(at)
        return kept.answer

    def put(self, at: RootAt, answer: Answer, tip: Tip, now: float) -> None:
        """Keep a decided answer; UNKNOWN is not one, and is not kept."""
        if answer is Answer.UNKNOWN:
            return
        buried = answer is Answer.YES and tip.height - at[0] >= BURIED
        self._kept[at] = _Kept(answer, now + (self._buried_ttl_s if buried else self._ttl_s), tip)
        self._kept.move_to_end(at)
        if len(self._kept) > self._limit:
            self._kept.popitem(last=False)  # the one unused for longest

    def reorganised(self, height: int) -> int:
        """Forget what was decided at `height` and above; how many answers that were."""
        gone = [at for at in self._kept if at[0] >= height]
        for at in gone:
            del self._kept[at]
        return len(gone)
