"""Jobs: what the sandbox is asked, and what it answers."""

import msgspec
import pytest

from pipeline.codec.tx import Tx
from pipeline.script.engine import ScriptJob, ScriptResult, SpentCoin, rules_for, run_jobs
from tests.builders import ALL, OTDA, In, Out, by_p2pkh, by_script, funding, key, p2pkh, push, spend


def job(key_: int, *pairs: tuple[bytes, bytes], version: int = 1, chronicle: bool = True) -> ScriptJob:
    """Unlocking and locking scripts of one transaction's inputs."""
    parent = funding(*[Out(1000, locking) for _, locking in pairs])
    tx = spend([In(parent, vin, by_script(unlocking)) for vin, (unlocking, _) in enumerate(pairs)], version=version)
    coins = tuple(SpentCoin(vin, parent.output(vin), True, True) for vin in range(len(pairs)))
    return ScriptJob(key_, tx.raw, coins, chronicle, 10**8)


TRUE, FALSE, BROKEN = (b"\x51", b"\x61"), (b"\x51", b"\x91"), (b"\x51", b"\xba")
SLOW = (b"\x51", b"\x61" * 900)


def test_each_job_has_a_result_and_names_the_input_it_failed_at() -> None:
    results = list(run_jobs([job(7, TRUE, TRUE), job(3, TRUE, FALSE, BROKEN), job(9, BROKEN)], 10**6))
    assert [(r.key, r.code, r.vin) for r in results] == [
        (7, "", -1),
        (3, "script.false", 1),
        (9, "script.malformed", 0),
    ]


def test_jobs_share_their_steps() -> None:
    results = list(run_jobs([job(0, SLOW), job(1, SLOW), job(2, TRUE)], 1_000))
    assert [r.code for r in results] == ["", "policy.script-budget", "policy.script-budget"]
    assert [r.code for r in run_jobs([job(0, SLOW), job(1, SLOW), job(2, TRUE)], 2_000)] == ["", "", ""]


def test_an_input_costs_steps_though_its_scripts_do_next_to_nothing() -> None:
    """Reading it and setting up a machine takes about 14 us: as much as ten operations."""
    assert [r.code for r in run_jobs([job(0, TRUE), job(1, TRUE)], 20)] == ["", "policy.script-budget"]
    assert [r.code for r in run_jobs([job(0, TRUE), job(1, TRUE)], 30)] == ["", ""]


@pytest.mark.parametrize(
    ("kind", "behind", "ins"),
    [
        pytest.param(ALL | OTDA, b"", 2_000, id="the original digest goes through all inputs"),
        pytest.param(ALL | OTDA, b"\x6a" + b"\xab" * 8_000, 1, id="and through the script"),
        pytest.param(ALL, b"", 4_000, id="the other one does so once"),
        pytest.param(ALL, b"\x6a" + bytes(2_000_000), 1, id="and hashes the script"),
    ],
)
def test_what_a_digest_costs_is_counted(kind: int, behind: bytes, ins: int) -> None:
    """A template in a job costs 61 steps beside it; by the machine a few more."""
    for locking in (p2pkh(key()) + behind, b"\x61" + p2pkh(key()) + behind):
        parent = funding(*[Out(1000, locking)] * ins)
        unlocking = push(key().sign(bytes(32)) + bytes((kind,))) + push(key().public)
        tx = spend([In(parent, vin, by_script(unlocking if vin == 0 else b"")) for vin in range(ins)])
        asked = ScriptJob(0, tx.raw, (SpentCoin(0, parent.output(0), True, True),), True, 10**8)
        assert [r.code for r in run_jobs([asked], 1_500)] == ["policy.script-budget"]
        assert [r.code for r in run_jobs([asked], 10_000)] == ["script.false"]


def test_templates_are_judged_in_jobs_as_well() -> None:
    parent = funding(Out(1000, p2pkh(key())))
    for unlock, code in ((by_p2pkh(key()), ""), (by_p2pkh(key(2)), "script.false")):
        tx = spend([In(parent, 0, unlock)])
        coin = SpentCoin(0, parent.output(0), True, True)
        (result,) = run_jobs([ScriptJob(0, tx.raw, (coin,), True, 10**8)], 10**6)
        assert result.code == code


@pytest.mark.parametrize(
    ("version", "chronicle", "relaxed"),
    [
        (1, True, False),
        (2, True, True),
        (2, False, False),
        (0x7FFFFFFF, True, True),
        (0xFFFFFFFF, True, False),
        (0, True, False),
    ],
)
def test_who_is_relaxed(version: int, chronicle: bool, relaxed: bool) -> None:
    tx: Tx = spend([In(funding(), 0, by_script(b""))], version=version)
    coin = SpentCoin(0, b"", True, False)
    rules = rules_for(tx, coin, chronicle)
    assert (rules.relaxed, rules.chronicle, rules.after_chronicle) == (relaxed, chronicle, False)


def test_jobs_and_results_travel() -> None:
    asked = job(1, TRUE)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(asked), type=ScriptJob) == asked
    said = ScriptResult(1, "script.false", 2, "why")
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(said), type=ScriptResult) == said
