"""Headers by themselves: what the node's rules say of 80 bytes, and of a run of them.

Sources: `arith_uint256_tests.cpp` of the node for compact targets; the documentation of Block Headers Service for real
headers with their work; `validation.cpp` (ContextualCheckBlockHeader) for times; BIP 113 for their median.
"""

import hashlib

import pytest

from ops.instruments.chain import BITS, CHECKPOINT, TARGET, WORK, BareChain
from ops.instruments.chain import write_header as mine
from pipeline.chain.headers import (
    Bad,
    Checked,
    Checkpoint,
    Rules,
    Unlinked,
    begins,
    check,
    checkpoint_of,
    header_hash,
    median_time,
    root_of,
    rules_of,
    shared,
    standing,
    target_of,
    work_in,
    work_of,
    write_header,
)
from schemas.types import display, from_display

FOREVER = 2**32
REGTEST = Rules(TARGET)
CHAIN = [BareChain(40).header(CHECKPOINT + place) for place in range(40)]
CHECK = Checkpoint(CHECKPOINT, hashlib.sha256(hashlib.sha256(CHAIN[0]).digest()).digest())


@pytest.mark.parametrize(
    ("bits", "target"),
    [
        (0x00000000, 0), (0x00123456, 0), (0x01003456, 0), (0x02000056, 0), (0x03000000, 0), (0x04000000, 0),
        (0x00923456, 0), (0x01803456, 0), (0x04800000, 0), (0x20923456, 0),  # negative, of whatever size
        (0x01123456, 0x12), (0x02123456, 0x1234), (0x03123456, 0x123456), (0x04123456, 0x12345600),
        (0x05009234, 0x92340000), (0x20123456, 0x123456 << 232),
        (0xFF123456, 0), (0x22000100, 0),  # beyond 256 bits
        (0x2200007F, 0x7F << 248), (0x21007FFF, 0x7FFF << 240),  # leading zeros make room
        (0x1D00FFFF, 0xFFFF << 208), (0x207FFFFF, 0x7FFFFF << 232),
    ],
)  # fmt: skip
def test_compact_targets(bits: int, target: int) -> None:
    assert target_of(bits) == target


REAL = {
    "0000000000000000" + "02f1849fee8bd71ccea23a6c817bb4ae35d5dc4726a0c443": (
        551550976, "000000000000000008c45de5166aa4ec722a848d2239df2118ebe25d4d4c8f20",
        "c815383b92848eae8ca5d9bc64aac9775a35f83534d02613cc025ccfe9797ea5", 1644246992, 403709977, 1034164745,
        292853008887592053244,
    ),
    "00000000000000000d0e0e8a507c059619c0cd84030406dcfcbe9a527c7d2333": (
        536870912, "00000000000000000502f254bb5502f8a7f2d49aaecc6441bc3271de00033ece",
        "59aa66a7c8b5b4e3f899fd624686129e35f2526936ad0af2b6017d17a345c41f", 1644239852, 403716217, 1140181913,
        291133962747482974399,
    ),
    "000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f": (
        1, "00" * 32, "4a5e1e4baab89f3a32518a88c31bc87f618f76673e2cc77ab2127b7afdeda33b",
        1231006505, 486604799, 2083236893, 4295032833,
    ),
}  # fmt: skip
"""Real blocks: 725,658, one a little below it, and the first; fields, and the work they stand for."""

MAIN = "1903fffc"
"""The floor of the main network's setting."""


@pytest.mark.parametrize("block_hash", REAL)
def test_real_headers_have_their_hash_and_their_work(block_hash: str) -> None:
    version, previous, root, time, bits, nonce, work = REAL[block_hash]
    raw = write_header(version, from_display(previous), from_display(root), time, bits, nonce)
    assert display(header_hash(raw)) == block_hash
    assert root_of(raw) == from_display(root)
    found = check(raw, 5, from_display(previous), (), Rules(target_of(0x1D00FFFF)), FOREVER)
    assert found == Checked(raw, work, from_display(block_hash))
    assert work_in(raw) == work


@pytest.mark.setting("headers.easiest_bits")
def test_the_floor_of_the_main_network_is_below_real_work_and_far_above_a_cheap_chain_s() -> None:
    """Difficulty 2^30: about a sixtieth of block 725,658's, and 2^61 times regtest's work."""
    real, _, first = REAL
    floor = rules_of(MAIN)
    for block_hash, taken in ((real, True), (first, False)):
        version, previous, root, time, bits, nonce, _ = REAL[block_hash]
        raw = write_header(version, from_display(previous), from_display(root), time, bits, nonce)
        assert isinstance(check(raw, 5, from_display(previous), (), floor, FOREVER), Checked) is taken
    assert 60 < REAL[real][-1] / work_of(floor.easiest) < 70
    assert isinstance(check(CHAIN[1], 5, CHECK.hash, (), floor, FOREVER), Bad)


@pytest.mark.parametrize(("version", "first"), [(-1, b"\xff" * 4), (2**32 - 1, b"\xff" * 4), (-(2**31), b"\0\0\0\x80")])
def test_versions_come_signed_or_not(version: int, first: bytes) -> None:
    assert write_header(version, bytes(32), bytes(32), 0, 0, 0)[:4] == first


@pytest.mark.parametrize(
    "fields",
    [
        (2**32, bytes(32), bytes(32), 0, 0, 0),
        (-(2**31) - 1, bytes(32), bytes(32), 0, 0, 0),
        (1, bytes(31), bytes(32), 0, 0, 0),
        (1, bytes(32), bytes(33), 0, 0, 0),
        (1, bytes(32), bytes(32), -1, 0, 0),
        (1, bytes(32), bytes(32), 0, 2**32, 0),
        (1, bytes(32), bytes(32), 0, 0, 2**64),
    ],
)
def test_fields_that_do_not_fit_make_no_header(fields: tuple[int, bytes, bytes, int, int, int]) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        write_header(*fields)


@pytest.mark.parametrize(
    ("times", "median"), [([5], 5), ([1, 9], 9), ([9, 1, 5], 5), ([4, 11, 1, 10, 2, 9, 3, 8, 5, 7, 6], 6)]
)
def test_the_median_is_of_values_and_not_of_places(times: list[int], median: int) -> None:
    """The node takes element size/2 of the sorted times."""
    assert median_time(times) == median


# --- a run of headers


def run(headers: list[bytes], latest: int = FOREVER, below: int = 11) -> Checked | Unlinked | Bad:
    """`headers` on top of the first 20 of the chain."""
    times = [int.from_bytes(header[68:72], "little") for header in CHAIN[20 - below : 20]]
    return check(b"".join(headers), CHECKPOINT + 20, header_hash(CHAIN[19]), times, REGTEST, latest)


def test_headers_that_keep_the_rules() -> None:
    found = run(CHAIN[20:])
    assert found == Checked(b"".join(CHAIN[20:]), 20 * WORK, header_hash(CHAIN[-1]))


def test_headers_that_stand_on_another_block_are_no_lie() -> None:
    assert run(CHAIN[21:]) == Unlinked(CHECKPOINT + 20)


def test_the_first_header_that_does_not_link_is_named() -> None:
    found = run([*CHAIN[20:25], *CHAIN[26:]])
    assert found == Bad(CHECKPOINT + 25, "it does not link to the one below")


def test_a_hash_that_misses_its_target_is_named() -> None:
    """Another nonce, until the hash lies above the target, which half of all do."""
    head, nonce = CHAIN[24][:76], 0
    while int.from_bytes(header_hash(spoiled := head + nonce.to_bytes(4, "little")), "little") <= TARGET:
        nonce += 1
    assert run([*CHAIN[20:24], spoiled]) == Bad(CHECKPOINT + 24, "its hash does not meet its target")


@pytest.mark.parametrize("bits", [BITS + 1, 0x2100FFFF, 0x04923456, 0, 0xFFFFFFFF])
def test_a_target_that_is_easier_than_the_floor_or_none_is_named(bits: int) -> None:
    spoiled = CHAIN[20][:72] + bits.to_bytes(4, "little") + CHAIN[20][76:]
    found = run([spoiled])
    assert isinstance(found, Bad)
    assert (found.height, "easier than any taken" in found.why) == (CHECKPOINT + 20, True)


def timed(time: int) -> bytes:
    return mine(header_hash(CHAIN[19]), bytes(32), time)


def test_a_time_has_to_be_past_the_median_of_eleven() -> None:
    """time-too-old: at or before the median. With fewer known below, the rule cannot be applied."""
    median = int.from_bytes(CHAIN[14][68:72], "little")  # 9 to 19 are below, a minute apart
    assert isinstance(run([timed(median + 1)]), Checked)
    assert run([timed(median)]) == Bad(CHECKPOINT + 20, "its time is not past the median of the eleven below")
    assert isinstance(run([timed(median)], below=10), Checked)


def test_a_time_may_not_lie_beyond_the_latest() -> None:
    last = int.from_bytes(CHAIN[22][68:72], "little")
    assert isinstance(run(CHAIN[20:23], latest=last), Checked)
    assert run(CHAIN[20:23], latest=last - 1) == Bad(CHECKPOINT + 22, "its time lies in the future")


@pytest.mark.parametrize("raw", [b"", CHAIN[20][:79], CHAIN[20] + b"\0"])
def test_bytes_that_are_no_headers(raw: bytes) -> None:
    assert run([raw]) == Bad(CHECKPOINT + 20, "not whole headers")


def test_where_two_runs_part() -> None:
    branch = BareChain(40).branch(6)
    ours = {CHECKPOINT + place: header for place, header in enumerate(CHAIN)}
    told = b"".join([*CHAIN[30:34], *branch])
    assert shared(lambda height: ours.get(height, b""), CHECKPOINT + 30, told) == 4
    assert shared(lambda height: ours.get(height, b""), CHECKPOINT + 30, b"".join(CHAIN[30:]) + branch[-1]) == 10


# --- the checkpoint, and what may be believed from it on


def test_the_first_header_is_the_checkpoint_s_or_nothing_is() -> None:
    assert begins(b"".join(CHAIN), CHECK) is None
    for raw in (b"".join(CHAIN[1:]), b"", CHAIN[0][:79]):
        assert isinstance(begins(raw, CHECK), Bad)
        assert standing(raw, CHECK, REGTEST) == 0


def test_the_newest_header_is_attested_by_nothing_and_does_not_stand() -> None:
    """But the checkpoint's own, which its hash attests."""
    for count in range(1, 41):
        assert standing(b"".join(CHAIN[:count]), CHECK, REGTEST) == max(1, count - 1)


def test_a_run_that_breaks_stands_to_the_last_attested_header() -> None:
    raw = b"".join(CHAIN)
    for at in range(80, len(raw)):
        spoiled = raw[:at] + bytes([raw[at] ^ 0x40]) + raw[at + 1 :]
        kept = standing(spoiled, CHECK, REGTEST)
        place = at // 80  # of the header spoiled: its successor no longer names its hash
        assert max(1, place - 1) <= kept <= place
        assert spoiled[: 80 * kept] == raw[: 80 * kept]


@pytest.mark.setting("headers.checkpoint")
def test_a_checkpoint_is_a_height_and_a_hash() -> None:
    assert checkpoint_of(f"900000:{display(CHECK.hash)}") == Checkpoint(900_000, CHECK.hash)
    for text in ("", "900000", f":{'ab' * 32}", "900000:", f"x:{'ab' * 32}", f"9:{'ab' * 31}", f"{2**31}:{'ab' * 32}"):
        with pytest.raises(ValueError):
            checkpoint_of(text)


@pytest.mark.parametrize("bits", ["", "1d00ff", "1d00ffff00", "zz00ffff", "00000000", "04923456", "0x1d00ff"])
def test_a_floor_is_a_target(bits: str) -> None:
    with pytest.raises(ValueError):
        rules_of(bits)
