"""Every published vector is run, or left out with a reason."""

from collections import Counter

import pytest

from ops.reference import ROOT
from tests.vectors import HERE
from tests.vectors.table import ELSEWHERE, ROWS, Row, page, vectors_of

FILES = {row.file for row in ROWS}


@pytest.mark.parametrize(
    ("row", "case"),
    [pytest.param(row, case, id=case) for row in ROWS if row.check for case in row.cases.split()],
)
def test_a_vector_says_what_we_do(row: Row, case: str) -> None:
    assert row.check is not None
    row.check(vectors_of(row.file)[case])


def test_every_case_of_every_file_has_one_row() -> None:
    listed = Counter((row.file, case) for row in ROWS for case in row.cases.split())
    published = {(file, case) for file in FILES for case in vectors_of(file)}
    assert set(listed) == published
    assert set(listed.values()) == {1}


def test_every_file_that_is_here_is_listed() -> None:
    here = {path.stem for path in (HERE / "conformance").glob("*.json")}
    assert here == FILES - {"universal", "mainnet/payloads"}
    assert not here & ELSEWHERE.keys()


def test_what_is_left_out_or_done_otherwise_has_a_reason() -> None:
    assert all(row.why for row in ROWS if row.check is None)


def test_the_page_is_made_of_the_table() -> None:
    """python -m tests.vectors.table > docs/decisions/vectors.md"""
    assert (ROOT / "docs/decisions/vectors.md").read_text() == page()
