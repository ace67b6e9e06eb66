"""Who holds which partitions of the state, and where it answers."""

from msgspec import Struct

from schemas.wire import Schema


class Held(Struct, frozen=True, array_like=True):
    """A partition as its holder has it."""

    partition: int
    generation: int  # of the group's assignment: of two that claim it, the later one has it
    position: int  # in its changelog
    owner: bool = True  # whether it applies what comes, or follows who does


class Member(Struct, frozen=True, array_like=True):
    """A worker that answers reads."""

    worker: str
    url: str  # as others reach it
    held: tuple[Held, ...]
    time_ms: int  # when it said so


MEMBER = Schema("member", 1, Member, "msgpack", "A worker that answers reads, and what it holds.")
