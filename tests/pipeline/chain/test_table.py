"""A table of roots: what it says, and what is none."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.chain.answer import Answer, Tip
from pipeline.chain.table import BadTableError, read_table
from schemas.types import display
from tests.profiles import CHEAP

ROOT, OTHER = bytes(range(32)), bytes(reversed(range(32)))
TABLE = json.dumps({"tip": 10, "median_time_past": 5, "roots": {"7": display(ROOT), "12": display(ROOT)}}).encode()


@pytest.mark.parametrize(("height", "root", "said"), [
    (7, ROOT, Answer.YES),
    (7, OTHER, Answer.NO),
    (8, ROOT, Answer.NO),
    (10, ROOT, Answer.NO),
    (11, ROOT, Answer.UNKNOWN),
    (12, ROOT, Answer.UNKNOWN),  # above its own tip a table cannot know
])  # fmt: skip
def test_what_a_table_says(height: int, root: bytes, said: Answer) -> None:
    table = read_table(TABLE)
    assert table.tip() == Tip(10, 5)
    assert table.ask([(height, root)]) == {(height, root): said}


def test_roots_are_in_display_order() -> None:
    assert read_table(TABLE).roots[7] == ROOT
    assert display(ROOT).startswith("1f1e")


@pytest.mark.parametrize("text", [
    b"", b"[]", b'{"roots": {}}', b'{"tip": "5", "roots": {}}', b'{"tip": 5}', b'{"tip": -1, "roots": {}}', b"\xff",
    b'{"tip": 5, "roots": {"-3": "' + b"00" * 32 + b'"}}', b'{"tip": 5, "roots": {"3": "00"}}',
    b'{"tip": 5, "roots": {"3": "' + b"zz" * 32 + b'"}}', b'{"tip": 5, "roots": {"\xc2\xb2": "' + b"00" * 32 + b'"}}',
    b'{"tip": 5, "roots": {}, "median_time_past": -1}', b'{"tip": 5, "roots": ' + b"[" * 100_000,
])  # fmt: skip
def test_what_is_no_table(text: bytes) -> None:
    with pytest.raises(BadTableError, match="not a table of roots"):
        read_table(text)


@CHEAP
@given(st.binary(max_size=200))
def test_any_bytes_are_a_table_or_none(text: bytes) -> None:
    try:
        read_table(text)
    except BadTableError:
        return
