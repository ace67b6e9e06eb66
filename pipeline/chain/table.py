"""A table of Merkle roots in the place of header services: what a caller himself knows of the chain."""

from collections.abc import Collection, Mapping

import msgspec
from msgspec import Struct

from pipeline.chain.answer import Answer, RootAt, Tip
from schemas.types import Root, from_display


class BadTableError(ValueError):
    """The text is no table of roots."""


class RootTable(Struct, frozen=True):
    """Roots by height, and the best header. It is asked as chain trackers are."""

    best: Tip
    roots: Mapping[int, Root]

    def tip(self) -> Tip:
        """The best header."""
        return self.best

    def ask(self, roots: Collection[RootAt]) -> dict[RootAt, Answer]:
        """Yes to the root the table has; no to any other, and where it has none; unknown above the tip."""
        return {at: self._answer(*at) for at in roots}

    def _answer(self, height: int, root: Root) -> Answer:
        if height > self.best.height:
            return Answer.UNKNOWN
        return Answer.YES if self.roots.get(height) == root else Answer.NO


class _Text(Struct):
    tip: int
    roots: dict[str, str]
    median_time_past: int = 0


def read_table(text: bytes) -> RootTable:
    """A table from JSON: `{"tip": height, "median_time_past": seconds, "roots": {"height": "display hex"}}`.

    Without a median time past no lock that is a time counts as over.

    Raises:
        BadTableError: something else than that.
    """
    try:
        found = msgspec.json.decode(text, type=_Text)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadTableError(f"not a table of roots: {error}") from None
    if found.tip < 0 or found.median_time_past < 0:
        raise BadTableError("not a table of roots: a height or a time below 0")
    roots: dict[int, Root] = {}
    for height, root in found.roots.items():
        if not (height.isascii() and height.isdigit()):
            raise BadTableError(f"not a table of roots: {height[:20]!r} is no height")
        try:
            roots[int(height)] = from_display(root)
        except ValueError:
            raise BadTableError(f"not a table of roots: the root at height {height[:20]} is no 64 digits") from None
    return RootTable(Tip(found.tip, found.median_time_past), roots)
