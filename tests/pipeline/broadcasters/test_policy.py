"""By its policy alone: who would refuse a family, and who is asked in any doubt."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ops.simulate.rules import Policy as NodePolicy
from ops.simulate.rules import required_fee
from pipeline.broadcasters import Policy
from pipeline.broadcasters.policy import Measure, Objection, measure, objection, required, told, word
from pipeline.codec.ef import write_ef
from tests.builders import In, Out, by_script, funding, spend
from tests.profiles import CHEAP

POLICY = Policy(max_tx_bytes=10_000, max_script_bytes=500, fee_satoshis=100, fee_bytes=1000)


def test_a_transaction_is_measured_by_what_it_carries() -> None:
    """The size of the raw form, the longest script that is run, and what the coins behind the inputs leave."""
    parent = funding(Out(5000), Out(7000))
    tx = spend([In(parent, 0), In(parent, 1)], [Out(4000), Out(7900, b"\x6a" + bytes(300))])
    found = measure(write_ef(tx, [parent.output(0), parent.output(1)]))
    assert found == Measure(len(tx.raw), max(len(tx.unlocking(0)), len(tx.unlocking(1))), 100)
    assert found.longest_script < 110


def test_the_script_of_a_coin_that_is_spent_is_run() -> None:
    parent = funding(Out(5000, b"\x51" + b"\x61" * 400))
    tx = spend([In(parent, unlock=by_script(b"\x51"))], [Out(4000)])
    assert measure(write_ef(tx, [parent.output(0)])) == Measure(len(tx.raw), 401, 1000)


@pytest.mark.parametrize("data", [b"", bytes(40), b"\x01\x00\x00\x00\x00\x00\x00\x00\x00\xef" + b"\xff" * 9])
def test_other_bytes_have_no_measure(data: bytes) -> None:
    assert measure(data) is None


@given(st.binary(max_size=120))
@CHEAP
def test_no_bytes_make_measuring_raise(tail: bytes) -> None:
    found = measure(b"\x01\x00\x00\x00\x00\x00\x00\x00\x00\xef" + tail)
    assert found is None or found.size > 0


@given(st.integers(0, 10**6), st.integers(0, 1000))
@CHEAP
def test_a_fee_is_judged_as_the_simulated_node_judges_it(size: int, rate: int) -> None:
    policy = Policy(0, 0, rate, 1000)
    assert required(size, policy) == required_fee(size, NodePolicy(fee_sat_per_kb=rate))


OWN_FEE, OWN_SIZE = Objection("policy.fee", True), Objection("network.too-large", True)
ITS_FEE, ITS_SIZE = Objection("policy.fee", False), Objection("network.too-large", False)
FREE, FINE = Measure(1000, 100, 0), Measure(1000, 100, 100)


@pytest.mark.parametrize(
    ("subject", "ancestors", "expected"),
    [
        (FINE, (), None),
        (Measure(1000, 100, 99), (), OWN_FEE),
        (Measure(1000, 100, -5), (), OWN_FEE),
        (Measure(1, 1, 0), (), OWN_FEE),  # 1 satoshi at least
        (Measure(10_000, 500, 1000), (), None),
        (Measure(10_001, 500, 9999), (), OWN_SIZE),
        (Measure(1000, 501, 9999), (), OWN_SIZE),
        (Measure(1000, 100, 200), (FREE,), None),  # it pays for its parent: the endpoint decides
        (Measure(1000, 100, 199), (FREE,), ITS_FEE),
        (FREE, (Measure(1000, 100, 200),), None),
        (FREE, (FINE,), OWN_FEE),
        (FREE, (FREE,), OWN_FEE),
        (FINE, (Measure(20_000, 100, 9999),), ITS_SIZE),
        (Measure(20_000, 100, 9999), (FREE,), OWN_SIZE),
    ],
)
def test_who_would_refuse_a_family(
    subject: Measure, ancestors: tuple[Measure, ...], expected: Objection | None
) -> None:
    assert objection(POLICY, subject, ancestors) == expected


def test_limits_of_nothing_are_none() -> None:
    assert objection(Policy(0, 0, 0, 1000), Measure(10**9, 10**9, 0), ()) is None


def test_a_policy_is_told_in_words() -> None:
    assert told(POLICY).startswith("100 satoshis for 1000 bytes, transactions up to 10000 bytes")


def test_a_policy_is_a_refusal_of_the_endpoint_s_own() -> None:
    said = word(b"\x01" * 32, "policy.fee", POLICY)
    assert (said.kind, said.code, said.network, said.status) == ("refused", "policy.fee", False, "policy")
    assert said.message == f"not asked, since it takes {told(POLICY)}"
