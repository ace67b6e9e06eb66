"""Headers on disk: whatever a kill or a bad disk leaves of the file, what is read of it begins the chain."""

import mmap
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agents.runtime.header_file import FILES, HeaderFile, head_of
from ops.instruments.chain import CHECKPOINT, TARGET, BareChain
from pipeline.chain.headers import HEADER_BYTES, Rules, checkpoint_of, header_hash
from tests.agents import header_writer

RULES = Rules(TARGET)
BARE = BareChain(30)
CHAIN = [BARE.header(CHECKPOINT + place) for place in range(30)]
CHECK = checkpoint_of(BARE.begins)
FORKED = [*CHAIN[:24], *BARE.branch(6)]
"""The last six replaced by seven."""


def opened(folder: Path) -> HeaderFile:
    return HeaderFile.open(folder, CHECK, RULES)


def held(file: HeaderFile) -> list[bytes]:
    """All its headers; what else it says of them agrees."""
    found = [file.header(height) for height in range(CHECKPOINT, file.tip + 1)]
    assert b"".join(found) == file.headers(CHECKPOINT, file.tip)
    assert [file.hash_at(CHECKPOINT + place) for place in range(len(found))] == [header_hash(each) for each in found]
    assert file.header(file.tip + 1) == file.header(CHECKPOINT - 1) == file.hash_at(file.tip + 1) == b""
    return found


def content(headers: list[bytes]) -> bytes:
    """A file that holds them."""
    return head_of(CHECK) + b"".join(headers)


def read_as(folder: Path, raw: bytes) -> list[bytes]:
    """What a file of these bytes is opened with."""
    (folder / "headers-0.bin").write_bytes(raw)
    file = opened(folder)
    try:
        return held(file)
    finally:
        file.close()


def begins(chain: list[bytes], found: list[bytes]) -> bool:
    return found == chain[: len(found)]


def test_what_is_written_is_read_and_all_but_the_newest_again_after_a_restart(tmp_path: Path) -> None:
    file = opened(tmp_path)
    assert held(file) == []
    file.write(CHECKPOINT, CHAIN[0])
    for first in range(1, 30, 7):
        file.write(CHECKPOINT + first, b"".join(CHAIN[first : first + 7]))
    assert held(file) == CHAIN
    file.close()
    assert (tmp_path / "headers-0.bin").read_bytes() == content(CHAIN)  # 80 bytes a header, and a head of as many
    file = opened(tmp_path)
    assert held(file) == CHAIN[:-1]
    file.close()


def test_a_branch_takes_the_place_of_what_stood_also_when_it_is_shorter(tmp_path: Path) -> None:
    file = opened(tmp_path)
    file.write(CHECKPOINT, b"".join(CHAIN))
    file.write(CHECKPOINT + 24, b"".join(FORKED[24:]))
    assert held(file) == FORKED
    file.write(CHECKPOINT + 24, b"".join(CHAIN[24:26]))
    assert held(file) == CHAIN[:26]
    file.close()


@pytest.mark.parametrize("kept", [0, 1, 15, 29])
def test_an_append_that_ends_at_any_byte(tmp_path: Path, kept: int) -> None:
    """The headers that were there stand, and of the new ones those that a successor attests."""
    before, after = content(CHAIN[:kept]), content(CHAIN)
    for at in range(len(before), len(after)):
        found = read_as(tmp_path, after[:at])
        whole = (at - HEADER_BYTES) // HEADER_BYTES
        assert begins(CHAIN, found)
        assert len(found) == max(min(1, whole), whole - 1)


@pytest.mark.parametrize("cut", [True, False])
def test_a_reorganisation_that_ends_at_any_byte(tmp_path: Path, cut: bool) -> None:
    """Old bytes behind new ones, whether the file was as long as it becomes or not; and on it goes from there."""
    for old, new in ((CHAIN, FORKED), (FORKED, CHAIN)):
        before, after = content(old), content(new)
        for at in range(HEADER_BYTES * 25, len(after) + 1):
            raw = after[:at] + (b"" if cut else before[at:])
            found = read_as(tmp_path, raw)
            assert begins(old, found) or begins(new, found)
            assert len(found) >= 23
            file = opened(tmp_path)
            file.write(CHECKPOINT + 20, b"".join(new[20:]))
            assert held(file) == new
            file.close()


def test_a_byte_spoiled_anywhere_costs_what_stands_on_it(tmp_path: Path) -> None:
    whole = content(CHAIN)
    for at in range(len(whole)):
        found = read_as(tmp_path, whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        assert begins(CHAIN, found)
        place = at // HEADER_BYTES - 1  # -1: the head, without which nothing is believed
        assert len(found) >= (max(1, place - 1) if place > 0 else 0)
        assert len(found) <= max(0, place)


@pytest.mark.parametrize("filled", [b"\0", b"\xff"])
def test_a_tail_of_nothing_is_cut(tmp_path: Path, filled: bytes) -> None:
    """As file systems leave behind a crash of the machine."""
    for length in (1, 79, 80, 81, 160, 5000):
        assert read_as(tmp_path, content(CHAIN) + filled * length) in (CHAIN, CHAIN[:-1])
        assert read_as(tmp_path, filled * length) == []


def test_a_file_of_another_checkpoint_or_of_nobody_is_begun_anew(tmp_path: Path) -> None:
    other = checkpoint_of(BareChain(1, seed=9).begins)
    for raw in (head_of(other) + b"".join(CHAIN), b"x" * 5000, head_of(CHECK)[:79], b""):
        assert read_as(tmp_path, raw) == []
        assert (tmp_path / "headers-0.bin").read_bytes() == head_of(CHECK)


def test_a_file_that_a_harder_floor_forbids_is_cut(tmp_path: Path) -> None:
    (tmp_path / "headers-0.bin").write_bytes(content(CHAIN))
    file = HeaderFile.open(tmp_path, CHECK, Rules(TARGET >> 8))
    assert held(file) == CHAIN[:1]  # the checkpoint's own, which is believed
    file.close()


def test_each_process_has_a_file_of_its_own(tmp_path: Path) -> None:
    """flock is by open file: two of one process keep each other out like those of two."""
    first, second = opened(tmp_path), opened(tmp_path)
    assert [file.path.name for file in (first, second)] == ["headers-0.bin", "headers-1.bin"]
    first.write(CHECKPOINT, b"".join(CHAIN))
    assert held(second) == []
    first.close()
    third = opened(tmp_path)
    assert (third.path.name, held(third)) == ("headers-0.bin", CHAIN[:-1])
    second.close()
    third.close()


def test_when_every_file_is_taken_it_is_said(tmp_path: Path) -> None:
    files = [opened(tmp_path) for _ in range(FILES)]
    with pytest.raises(OSError, match="64 processes"):
        opened(tmp_path)
    for file in files:
        file.close()


def test_after_a_disk_that_fails_what_is_known_is_what_the_file_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk takes three headers of a branch and 20 bytes, and then no more: the third is attested by none."""
    file = opened(tmp_path)
    file.write(CHECKPOINT, b"".join(CHAIN))
    real, room = os.pwrite, [260]

    def full(descriptor: int, data: memoryview, at: int) -> int:
        if not room[0]:
            raise OSError(28, "no space left on device")
        written = real(descriptor, data[: room[0]], at)
        room[0] -= written
        return written

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="no space"):
        file.write(CHECKPOINT + 24, b"".join(FORKED[24:]))
    monkeypatch.undo()
    assert held(file) == FORKED[:26]
    file.write(CHECKPOINT + 26, b"".join(FORKED[26:]))
    assert held(file) == FORKED
    file.close()


def test_headers_are_read_from_the_map(tmp_path: Path) -> None:
    file = opened(tmp_path)
    file.write(CHECKPOINT, b"".join(CHAIN))
    assert isinstance(file._map, mmap.mmap)
    assert len(file._map) == HEADER_BYTES * 31
    file.close()


# --- killed


def started(folder: Path) -> subprocess.Popen[bytes]:
    argv = [sys.executable, "-m", "tests.agents.header_writer", str(folder), str(os.getpid())]
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)


def test_a_process_killed_while_it_writes_leaves_a_chain(tmp_path: Path) -> None:
    """kill -9 after ever other times; the next process goes on with the same file."""
    bare = BareChain(header_writer.BLOCKS)
    chain = [bare.header(CHECKPOINT + place) for place in range(header_writer.BLOCKS)]
    branch = [*chain[: -header_writer.DEPTH], *bare.branch(header_writer.DEPTH)]
    sizes = set()
    for turn in range(8):
        process = started(tmp_path)
        assert process.stdout
        assert process.stdout.readline() == b"writing\n"
        time.sleep(0.011 * turn)
        process.kill()
        process.wait()
        process.stdout.close()
        file = HeaderFile.open(tmp_path, checkpoint_of(bare.begins), RULES)
        found = held(file)
        file.close()
        assert file.path.name == "headers-0.bin"  # the dead hold no lock
        assert begins(chain, found) or begins(branch, found)
        sizes.add(len(found))
    assert len(sizes) > 1
