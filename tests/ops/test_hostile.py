"""The hostile set in short: payloads of every kind, judged by a process that is watched. The bench has all of it."""

import resource
from collections.abc import Iterator

import msgspec
import pytest

from ops.hostile_bench import MOST_BYTES, Measured, Worker, lay, page, table, warm_up
from ops.instruments.chain import Chain
from ops.instruments.hostile import HOSTILE, POLICY, Hostile, Laid
from pipeline.parse import Payload, parse
from pipeline.policy import Policy

ONLY_MEASURED = {
    "inputs-signed", "chain-backwards", "everyone", "compound-130000", "whole-block",
    *(name for name, row in HOSTILE.items() if row.group == "scripts"),
} - {
    "cat-doubling", "multiply-squares", "shift-beyond", "num2bin-2gib", "dup-flood", "roll-flood", "hash-flood",
    "if-open", "push-flood", "script-longest", "opcodes-edge", "opcodes-over", "multisig-10000", "multisig-billions",
    "sighash-1000", "template-long",
}  # fmt: skip
"""Rows of seconds each, of which the others of their kind tell enough here."""

TESTED = [name for name in HOSTILE if name not in ONLY_MEASURED]

ADDRESS_SPACE = 1 << 30
KILLED_AFTER_S = 300.0
"""A stop for what never ends, and no measure of speed."""


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain.open(tmp_path_factory.mktemp("hostile") / "chain")


class Bench:
    """One worker for every row that the chain's own roots and the usual policy are enough for."""

    def __init__(self, chain: Chain) -> None:
        self.chain = chain
        self.usual = self.worker(HOSTILE["nested"], Laid(b""))

    def worker(self, row: Hostile, laid: Laid) -> Worker:
        made = Worker(row, table(self.chain, laid), warm_up(self.chain), KILLED_AFTER_S)
        resource.prlimit(made.pid, resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
        return made


@pytest.fixture(scope="module")
def bench(chain: Chain) -> Iterator[Bench]:
    made = Bench(chain)
    with made.usual:
        yield made


@pytest.mark.parametrize("name", TESTED)
def test_a_hostile_payload_gets_its_code_and_no_process_grows_beyond_its_bound(bench: Bench, name: str) -> None:
    row, laid = HOSTILE[name], lay(bench.chain, name)
    assert (len(laid.beef) <= Policy().max_payload_bytes) == row.fits
    if laid.roots or row.policy != POLICY:
        with bench.worker(row, laid) as own:
            said, _ = own.judge(laid.beef)
            peaks = own.peaks
    else:
        said, _ = bench.usual.judge(laid.beef)
        peaks = bench.usual.peaks
    assert (said["outcome"], said["code"] or "") == (row.outcome, row.code)
    assert max(peaks) <= MOST_BYTES


@pytest.mark.parametrize("name", [name for name in TESTED if HOSTILE[name].group == "counts"])
def test_a_count_of_2_64_is_in_100_bytes_behind_the_prefix_of_its_frame(chain: Chain, name: str) -> None:
    beef = lay(chain, name).beef
    assert b"\xff" * 9 in beef
    assert len(beef) - beef.startswith(bytes.fromhex("01010101")) * 36 == 100


def test_payloads_follow_from_the_chain_alone(chain: Chain) -> None:
    assert lay(chain, "diamond-64") == lay(chain, "diamond-64")
    assert lay(chain, "diamond-64").beef != lay(chain, "diamond-64", first=50).beef


@pytest.mark.parametrize(
    ("name", "unmined"), [("diamond-64", 256), ("chain-10000", 9_999), ("inputs-50000", 2), ("compound-spent", 1)]
)
def test_what_is_said_to_be_many_is(chain: Chain, name: str, unmined: int) -> None:
    payload = parse(lay(chain, name).beef, POLICY)
    assert isinstance(payload, Payload)
    assert len(payload.unmined) == unmined
    if name == "inputs-50000":
        assert len(payload.subject.ins) - 1 == 50_000
    if name == "compound-spent":
        assert len(payload.bumps[0].first) == 10_000


GOOD = Measured(
    name="cat-flood", bytes=1, outcome="invalid", code="policy.script-budget", wall_s=5.4, cpu_s=4.9,
    worker_bytes=100, child_bytes=390_000_000,
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"outcome": "valid", "code": ""}, "valid , not invalid policy.script-budget"),
        ({"wall_s": 5.6}, "5.60 s, at most 5.5"),
        ({"child_bytes": 601_000_000}, "601 MB, at most 600"),
        ({"worker_bytes": 601_000_000}, "601 MB, at most 600"),
        ({"name": "count-inputs-v1", "code": "malformed.count", "wall_s": 1.1}, "1.10 s, at most 1.0"),
        (
            {"name": "count-inputs-v1", "code": "malformed.count", "wall_s": 0.1, "worker_bytes": 401_000_000},
            "401 MB, at most 400",
        ),
    ],
)  # fmt: skip
def test_a_row_beyond_its_bounds_is_told(change: dict[str, object], says: str) -> None:
    assert GOOD.wrong() == []
    bad = msgspec.structs.replace(GOOD, **change)
    assert bad.wrong() == [says]
    assert f"- {bad.name}: {says}" in page([bad], [], "a machine")
    assert "Not as it must be" not in page([GOOD], [], "a machine")
