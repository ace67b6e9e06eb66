"""The header chain: 80 bytes a header, their links and work, and which of two branches stands.

Sources: Bitcoin's developer reference on block headers and compact targets, `pow.cpp` and `validation.cpp` of the node
(ContextualCheckBlockHeader), BIP 113. What is checked here is what a header says of itself and of the one below it. How
hard the next block has to be (the difficulty adjustment) is not computed: `Rules.easiest` is a fixed floor.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence

from msgspec import Struct

from schemas.types import Root, display, from_display

HEADER_BYTES = 80

SPAN = 11
"""Headers in a median time past (BIP 113)."""

MAX_HEIGHT = 2**31 - 1
"""Heights are signed 32-bit integers to nodes and services."""

AHEAD_S = 7200
"""How far a block's time may lie ahead of the clock of who takes it (node: MAX_FUTURE_BLOCK_TIME)."""


class Checkpoint(Struct, frozen=True):
    """The block that is believed without work: what a follower knows begins with it."""

    height: int
    hash: bytes  # wire order


class Rules(Struct, frozen=True):
    """What every header must keep."""

    easiest: int  # largest target taken, 256-bit number: a floor under the work a header stands for


class Bad(Struct, frozen=True):
    """A header that breaks a rule: no honest service tells it."""

    height: int
    why: str


class Unlinked(Struct, frozen=True):
    """Headers that begin on another block than the one they were to stand on: a branch, or a lie."""

    height: int  # of the first


def header_hash(raw: bytes) -> bytes:
    """The block hash of 80 bytes, wire order."""
    return hashlib.sha256(hashlib.sha256(raw).digest()).digest()


def root_of(raw: bytes) -> Root:
    """Merkle root, wire order."""
    return raw[36:68]


def time_of(raw: bytes) -> int:
    """Unix seconds."""
    return int.from_bytes(raw[68:72], "little")


def write_header(version: int, previous: bytes, root: bytes, time: int, bits: int, nonce: int) -> bytes:
    """80 bytes of the fields; hashes in wire order. Nodes print versions signed: both forms are taken.

    Raises:
        ValueError: a field does not fit.
    """
    numbers = (version & 0xFFFFFFFF if -(2**31) <= version < 2**32 else -1, time, bits, nonce)
    if len(previous) != 32 or len(root) != 32 or not all(0 <= number < 2**32 for number in numbers):
        raise ValueError("a field of the header does not fit")
    first, *rest = (number.to_bytes(4, "little") for number in numbers)
    return first + previous + root + b"".join(rest)


def target_of(bits: int) -> int:
    """The target that compact `bits` stand for; 0 where no hash can meet it (negative, zero, beyond 256 bits)."""
    size, digits = bits >> 24, bits & 0x7FFFFF
    if bits & 0x800000:
        return 0
    target = digits >> 8 * (3 - size) if size <= 3 else digits << 8 * (size - 3)
    return target if target < 1 << 256 else 0


def work_of(target: int) -> int:
    """Hashes it takes on average to meet a target above 0."""
    return (1 << 256) // (target + 1)


def split(raw: bytes) -> Iterator[bytes]:
    """Header after header."""
    return (raw[at : at + HEADER_BYTES] for at in range(0, len(raw), HEADER_BYTES))


def median_time(times: Sequence[int]) -> int:
    """The median as nodes take it: of an even number (a young chain) the upper one."""
    return sorted(times)[len(times) // 2]


def checkpoint_of(text: str) -> Checkpoint:
    """`height:hash`, the hash as people print it.

    Raises:
        ValueError: it is not of this form.
    """
    height, _, block_hash = text.partition(":")
    if not (height.isascii() and height.isdigit() and int(height) <= MAX_HEIGHT):
        raise ValueError(f"a checkpoint is height:hash, not {text!r}")
    return Checkpoint(int(height), from_display(block_hash))


def rules_of(easiest_bits: str) -> Rules:
    """The floor from compact bits as nodes print them, 8 hexadecimal digits.

    Raises:
        ValueError: they stand for no target.
    """
    target = target_of(int.from_bytes(bytes.fromhex(easiest_bits), "big")) if len(easiest_bits) == 8 else 0
    if not target:
        raise ValueError(f"{easiest_bits!r} stands for no target: it wants 8 hexadecimal digits, such as 1d00ffff")
    return Rules(target)


class Checked(Struct, frozen=True):
    """Headers that link to one another and have the work they claim."""

    raw: bytes
    work: int
    last_hash: bytes  # wire order


def check(
    raw: bytes, height: int, parent: bytes, times: Sequence[int], rules: Rules, latest: int
) -> Checked | Unlinked | Bad:
    """Judge headers that are to stand from `height` up; the first that breaks a rule is named.

    raw: 80 bytes a header, at least one.
    parent: hash of the block below the first, wire order.
    times: of up to 11 headers below the first, oldest first; where fewer are known the rule about them is not applied.
    latest: Unix seconds; no header's time lies beyond.
    Cost: about 3 us a header.
    """
    if not raw or len(raw) % HEADER_BYTES:
        return Bad(height, "not whole headers")
    easiest, work, below = rules.easiest, 0, parent
    window = list(times[-SPAN:])
    known: dict[bytes, tuple[int, int]] = {}  # compact bits -> target and work: neighbours often share them
    sha256 = hashlib.sha256
    for place, header in enumerate(split(raw)):
        if header[4:36] != below:
            return Bad(height + place, "it does not link to the one below") if place else Unlinked(height)
        bits = header[72:76]
        if bits not in known:
            target = target_of(int.from_bytes(bits, "little"))
            if not 0 < target <= easiest:
                return Bad(height + place, f"its target ({bits[::-1].hex()}) is easier than any taken")
            known[bits] = (target, work_of(target))
        target, own = known[bits]
        below = sha256(sha256(header).digest()).digest()
        if int.from_bytes(below, "little") > target:
            return Bad(height + place, "its hash does not meet its target")
        time = int.from_bytes(header[68:72], "little")
        if time > latest:
            return Bad(height + place, "its time lies in the future")
        if len(window) == SPAN:
            if time <= sorted(window)[SPAN // 2]:
                return Bad(height + place, "its time is not past the median of the eleven below")
            del window[0]
        window.append(time)
        work += own
    return Checked(raw, work, below)


def begins(raw: bytes, checkpoint: Checkpoint) -> Bad | None:
    """Whether the first of `raw` is the checkpoint's block; what is wrong if not."""
    if len(raw) < HEADER_BYTES or header_hash(raw[:HEADER_BYTES]) != checkpoint.hash:
        return Bad(checkpoint.height, f"it is not the checkpoint's block {display(checkpoint.hash)}")
    return None


def standing(raw: bytes, checkpoint: Checkpoint, rules: Rules) -> int:
    """How many headers of `raw`, which begins with the checkpoint's, form a chain that may be believed.

    For a file that a writer may have left at any byte: what does not link is cut, and the last header before the cut
    as well, for no successor attests its bytes (an easy target is met by half of all garbage). The newest header is
    such a one too: it is fetched again.
    """
    whole = raw[: len(raw) // HEADER_BYTES * HEADER_BYTES]
    if begins(whole, checkpoint) is not None:
        return 0
    first = whole[:HEADER_BYTES]
    count = len(whole) // HEADER_BYTES - 1
    if count < 1:
        return 1  # attested by the checkpoint itself
    found = check(whole[HEADER_BYTES:], checkpoint.height + 1, checkpoint.hash, (time_of(first),), rules, latest=2**32)
    good = count if isinstance(found, Checked) else found.height - checkpoint.height - 1
    return max(1, good)


def shared(ours: Callable[[int], bytes], height: int, raw: bytes) -> int:
    """How many headers of `raw`, the first of which is to stand at `height`, are those we have.

    ours: our header at a height; empty above our tip.
    """
    count = 0
    for header in split(raw):
        if ours(height + count) != header:
            break
        count += 1
    return count


def work_in(raw: bytes) -> int:
    """The work that headers stand for, which were checked before."""
    return sum(work_of(target_of(int.from_bytes(header[72:76], "little"))) for header in split(raw))
