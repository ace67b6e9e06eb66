"""Finding the record that kills its process (FAULT-2).

The marks travel in the metadata of the group's commits, so that whoever gets the partition next, on whatever machine,
knows how the last owner ended:

    ""          nothing was in hand, and nothing is suspected
    "open=N"    inputs were in hand; the N-th process in a row that began at this offset
    "hand=N"    this very input was in hand, alone, for the N-th time

Two processes that ended uncleanly at one offset make the third go record by record, one in the whole process, each
marked while it is computed, and not while it waits for the world (`hand.py`): who ends then was ended by somebody, and
says nothing against it. An input that was in hand alone at three ends in a row is given up. A process that stops in
order leaves the marks of what it did not touch as it found them.
"""

from msgspec import Struct

UNCLEAN_ENDS = 2
"""Ends at one offset before going record by record."""

ENDS_IN_HAND = 3
"""Ends with one input alone in hand before it is given up. Two could be somebody's kill -9 and a restart that failed
right after it: at two, one innocent record of 50,000 was given up among 24 kills, each with such a restart."""


class Suspicion(Struct, frozen=True):
    """How earlier owners ended at a committed position."""

    ends: int = 0  # uncleanly, in a row, at this offset
    in_hand: int = 0  # of these, with the first input alone in hand

    @classmethod
    def read(cls, metadata: str) -> "Suspicion":
        """From a commit's metadata; anything that is not ours (a reset by an operator) is no suspicion."""
        name, _, number = metadata.partition("=")
        if not number.isdigit():
            return cls()
        if name == "open":
            return cls(ends=int(number))
        if name == "hand":
            return cls(ends=UNCLEAN_ENDS, in_hand=int(number))
        return cls()

    @property
    def one_by_one(self) -> bool:
        """Whether inputs go one at a time."""
        return self.ends >= UNCLEAN_ENDS

    @property
    def given_up(self) -> bool:
        """Whether the first input has ended its process often enough."""
        return self.in_hand >= ENDS_IN_HAND


def mark_open(before: Suspicion) -> str:
    """Metadata while inputs are in hand, or wait while others are; what is suspected of one alone is kept."""
    return f"hand={before.in_hand}" if before.in_hand else f"open={before.ends + 1}"


def mark_untouched(before: Suspicion) -> str:
    """Metadata while nothing is in hand: what is suspected of the next input stays as it was."""
    if before.in_hand:
        return f"hand={before.in_hand}"
    return f"open={before.ends}" if before.ends else ""


def mark_waiting(before: Suspicion) -> str:
    """Metadata while one input alone waits for the world: ends with it in hand are no longer in a row.

    But for one that is given up, which waits for its letter to be written.
    """
    return mark_open(before if before.given_up else Suspicion(ends=before.ends))


def mark_in_hand(before: Suspicion) -> str:
    """Metadata while one input is in hand alone."""
    return f"hand={before.in_hand + 1}"
