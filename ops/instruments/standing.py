"""Results as readers must keep them: for each id the highest revision; decisions by request and context."""

from collections import Counter
from collections.abc import Iterator

from schemas.external import Result

DECISIONS = frozenset({"applied", "rejected", "parked"})
NETWORK = frozenset({"accepted", "refused"})


def word(result: Result) -> str:
    """An outcome with its code: `rejected anchor.wrong-root`."""
    said = f"{result.outcome} {result.code}" if result.code else result.outcome
    return f"{said} (repeat)" if result.repeat else said


class Standing:
    """What stands."""

    def __init__(self) -> None:
        self.by_id: dict[str, Result] = {}
        self.seen = 0

    def take(self, result: Result) -> None:
        """One record of the results topic."""
        self.seen += 1
        known = self.by_id.get(result.id)
        if known is None or result.revision >= known.revision:
            self.by_id[result.id] = result

    def decisions(self) -> Iterator[Result]:
        """Decisions, each once: a later one under the other id replaces `parked`.

        A record that was parked before its contexts and then replayed is decided in each of them.
        """
        found: dict[tuple[object, str | None], Result] = {}
        for result in self.by_id.values():
            if result.outcome not in DECISIONS or (result.context is None and result.contexts):
                continue  # a parked network outcome is none
            key = (result.origin, result.context)
            if key not in found or found[key].outcome == "parked":
                found[key] = result
        reached = {origin for origin, context in found if context is not None}
        for (origin, context), result in found.items():
            if context is not None or result.outcome != "parked" or origin not in reached:
                yield result

    def network(self) -> Iterator[Result]:
        """Network outcomes, one for each transaction."""
        for result in self.by_id.values():
            if result.outcome in NETWORK or (result.outcome == "parked" and result.context is None and result.contexts):
                yield result

    def counts(self) -> Counter[str]:
        """Everything that stands, by outcome and code."""
        return Counter(word(result) for result in (*self.decisions(), *self.network()))
