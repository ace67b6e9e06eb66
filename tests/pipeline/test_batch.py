"""Lines of a batch."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipeline.batch import NAMELESS, id_of, read_line
from pipeline.outcome import Verdict
from tests.profiles import CHEAP

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@CHEAP
@given(ANY_JSON, st.binary(max_size=50))
def test_an_id_comes_back_as_it_was_written(name: Any, beef: bytes) -> None:
    written = json.dumps(name)
    for line in (f'{{"id": {written}, "beef": "{beef.hex()}"}}', f'{{"beef":"{beef.hex()}","x":[],"id":{written}}}'):
        asked = read_line(line.encode())
        assert bytes(asked.id).decode() == written
        assert asked.payload == beef
        assert id_of(line.encode()) == asked.id


@CHEAP
@given(st.binary(max_size=100) | st.text(max_size=100).map(str.encode) | ANY_JSON.map(lambda v: json.dumps(v).encode()))
def test_any_line_is_read(line: bytes) -> None:
    asked = read_line(line)
    bytes(asked.id).decode()
    if isinstance(asked.payload, Verdict):
        assert asked.payload.code == "malformed.line"
        assert asked.id == id_of(line)


def test_nesting_of_any_depth_is_an_answer() -> None:
    deep = b'{"id": ' + b"[" * 100_000 + b"]" * 100_000 + b', "beef": ""}'
    assert read_line(deep).id == NAMELESS
    assert isinstance(read_line(deep).payload, Verdict)
