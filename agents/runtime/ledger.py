"""What of a partition is in hand, and where its group may commit (ACK-2)."""

from collections.abc import Iterable


class Ledger:
    """Inputs of one partition: taken in order, finished in any order, acknowledged in order.

    The position to commit is the first unfinished offset, or, when none is, the position the fetch reached, which
    counts transaction markers and compacted records too: an idle partition's lag is 0 (ACK-3).
    """

    __slots__ = ("_pending", "_read_to")

    def __init__(self, position: int) -> None:
        self._pending: dict[int, int] = {}  # offset -> broker's time in ms; insertion order is offset order
        self._read_to = position

    def __len__(self) -> int:
        """How many inputs are unfinished."""
        return len(self._pending)

    @property
    def position(self) -> int:
        """The next offset the group has to read after a restart."""
        for offset in self._pending:
            return min(offset, self._read_to)
        return self._read_to

    @property
    def oldest_ms(self) -> int | None:
        """The broker's time of the first unfinished input, in Unix milliseconds; None: none is."""
        for written_ms in self._pending.values():
            return written_ms
        return None

    def took(self, inputs: Iterable[tuple[int, int]], read_to: int) -> None:
        """Inputs were fetched, in order, each an offset and the broker's time; the fetch ended before `read_to`."""
        self._pending.update(inputs)
        self._read_to = read_to

    def forget(self, offsets: list[int]) -> None:
        """These inputs, in order, are not touched here: whoever comes next reads them."""
        if offsets:
            for offset in offsets:
                del self._pending[offset]
            self._read_to = min(self._read_to, offsets[0])

    def finished(self, offset: int) -> None:
        """Everything written for this input is acknowledged by the broker."""
        del self._pending[offset]
