"""What may be said about a Merkle root and about the best header."""

from enum import Enum
from typing import TypeAlias

from msgspec import Struct

from schemas.types import Root

RootAt: TypeAlias = tuple[int, Root]
"""A question to the chain: block height, and the Merkle root (32 bytes, wire order) a proof leads to there."""


class Answer(Enum):
    """Whether the block at a height has a root. Three values: a tracker that cannot say has not said no."""

    YES = "yes"
    NO = "no"
    UNKNOWN = "unknown"


class Tip(Struct, frozen=True):
    """The best header, as far as lock times and heights are concerned."""

    height: int
    median_time_past: int  # Unix seconds: median of the times of the last 11 headers (BIP 113), not wall-clock time


class Seen(Struct, frozen=True):
    """The end of one tracker's own chain: one opinion about the tip, not yet agreed with anybody."""

    height: int
    median_time_past: int  # Unix seconds
    hashes: tuple[
        tuple[int, bytes], ...
    ]  # (height, block hash in wire order) of the newest headers it showed, tip last
