"""PushDrop read strictly: one script for a key, a layout and fields, and nothing else."""

import pytest
from bsv.transaction.pushdrop import build_lock_before_pushdrop
from hypothesis import given
from hypothesis import strategies as st

from pipeline.overlay.pushdrop import MOST_FIELDS, pushed_fields, read_pushdrop
from tests import builders
from tests.profiles import CHEAP

KEY = builders.key(5)
LOCK = b"\x21" + KEY.public + b"\xac"
FIELDS = st.lists(st.binary(max_size=300), min_size=1, max_size=9)


@pytest.mark.parametrize(
    ("behind", "expected"),
    [
        (b"\x02hi\x75", (b"hi",)),
        (b"\x02hi\x01!\x6d", (b"hi", b"!")),
        (b"\x02hi\x01!\x01?\x6d\x75", (b"hi", b"!", b"?")),
        # opcodes that push: what they leave on the stack
        (b"\x00\x75", (b"",)),
        (b"\x01\x00\x75", (b"\x00",)),
        (b"\x4f\x75", (b"\x81",)),
        (b"\x51\x75", (b"\x01",)),
        (b"\x60\x75", (b"\x10",)),
        (b"\x01\x11\x75", (b"\x11",)),
        # lengths of one and two bytes
        (b"\x4c\x4c" + bytes(76) + b"\x75", (bytes(76),)),
        (b"\x4d\x00\x01" + bytes(256) + b"\x75", (bytes(256),)),
        # pushes that have a shorter form
        (b"\x01\x01\x75", None),
        (b"\x01\x81\x75", None),
        (b"\x4c\x00\x75", None),
        (b"\x4c\x02hi\x75", None),
        (b"\x4d\xff\x00" + bytes(255) + b"\x75", None),
        (b"\x4e\x00\x01\x00\x00" + bytes(256) + b"\x75", None),
        # other drops than the fields need, and what stands between or behind
        (b"\x02hi\x6d", None),
        (b"\x02hi\x01!\x75\x75", None),
        (b"\x02hi\x01!\x01?\x75\x6d", None),
        (b"\x02hi\x75\x75", None),
        (b"\x02hi\x75\x51", None),
        (b"\x02hi\x61\x75", None),
        (b"\x02hi\x75\x6a\x01x", None),
        # no fields, no drops, cut short, other opcodes
        (b"", None),
        (b"\x75", None),
        (b"\x02hi", None),
        (b"\x02h", None),
        (b"\x4c", None),
        (b"\x4d\xff\xff\x75", None),
        (b"\x50\x75", None),
        (b"\x61\x75", None),
    ],
)
def test_the_fields_of_a_script(behind: bytes, expected: tuple[bytes, ...] | None) -> None:
    assert pushed_fields(LOCK + behind) == expected
    if expected is not None:
        assert pushed_fields(behind + LOCK) == expected


@pytest.mark.parametrize(
    "script",
    [
        b"", b"\x75", LOCK, LOCK + LOCK, LOCK[:-1] + b"\xad\x02hi\x75", b"\x21\x04" + LOCK[2:] + b"\x02hi\x75",
        b"\x41" + KEY.long + b"\xac\x02hi\x75", builders.p2pkh(KEY), b"\x00\x6a\x02hi", b"\x61" + LOCK + b"\x02hi\x75",
        b"\x02hi\x75" + LOCK + b"\x61", b"\x02hi" + LOCK + b"\x75", b"\x02hi\x75\x02hi" + LOCK,
    ],
)  # fmt: skip
def test_what_is_no_pushdrop(script: bytes) -> None:
    assert pushed_fields(script) is None


def test_a_script_of_too_many_fields_is_not_read() -> None:
    assert pushed_fields(builders.pushdrop(KEY, *[b"hi"] * MOST_FIELDS)) == (b"hi",) * MOST_FIELDS
    assert pushed_fields(builders.pushdrop(KEY, *[b"hi"] * (MOST_FIELDS + 1))) is None


@CHEAP
@given(FIELDS, st.sampled_from(["before", "after"]))
def test_what_the_reference_writes_is_read(fields: list[bytes], lock: str) -> None:
    """With the lock at either end. It writes a zero byte as it writes nothing: by OP_0."""
    script = bytes.fromhex(build_lock_before_pushdrop(fields, KEY.public, lock_position=lock))
    assert pushed_fields(script) == tuple(b"" if field == b"\0" else field for field in fields)


@CHEAP
@given(FIELDS)
def test_it_reads_what_topics_read_but_for_the_references_faults(fields: list[bytes]) -> None:
    """Fields of two bytes and more, which the reference decoder does not confuse."""
    longer = [field for field in fields if len(field) > 1]
    read = read_pushdrop(builders.pushdrop(KEY, *longer))
    assert (read.fields if read is not None else None) == pushed_fields(builders.pushdrop(KEY, *longer))


@CHEAP
@given(st.lists(st.sampled_from([b"", b"\0", b"\1", b"\x10", b"\x81", b"hi", bytes(80)]), max_size=4), st.data())
def test_a_script_with_a_byte_changed_is_another_or_none(fields: list[bytes], data: st.DataObject) -> None:
    """One script for a key, a layout and fields: what is read of a changed script writes just that script."""
    after = data.draw(st.booleans())
    lay_out = builders.pushdrop_after if after else builders.pushdrop
    script = lay_out(KEY, *fields)
    place, byte = data.draw(st.integers(0, len(script) - 1)), data.draw(st.integers(0, 255))
    changed = script[:place] + bytes((byte,)) + script[place + 1 :]
    found = pushed_fields(changed)
    if found is None:
        return
    body = b"".join(map(builders.push, found)) + b"\x6d" * (len(found) // 2) + b"\x75" * (len(found) % 2)
    lock = changed[-35:] if after else changed[:35]
    assert changed == (body + lock if after else lock + body)


@CHEAP
@given(st.binary(max_size=60), st.sampled_from(["", "before", "after"]))
def test_no_script_makes_the_reader_raise(script: bytes, lock: str) -> None:
    found = pushed_fields({"": script, "before": LOCK + script, "after": script + LOCK}[lock])
    assert found is None or all(isinstance(field, bytes) for field in found)
