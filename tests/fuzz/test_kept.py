"""What fuzzing once found, and the payloads it begins with, without the fuzzer: on every platform."""

import time
from collections import Counter
from collections.abc import Callable
from random import Random

import pytest

from pipeline import parse as parse_rules
from pipeline import verify as verify_rules
from pipeline.codec.beef import write_beef_v1
from pipeline.codec.hashing import hash256
from pipeline.codec.reader import Malformed
from pipeline.codec.tx import read_tx
from pipeline.outcome import Verdict
from pipeline.parse import Payload, parse
from pipeline.policy import Policy
from pipeline.verify import Valid
from tests import builders
from tests.asm import asm
from tests.builders import FINAL, In, Out, bag, by_script, chain, compound, funding, raw_tx, spend
from tests.families import Family, family
from tests.fuzz import bare, checks
from tests.fuzz.checks import CHECKS, LENIENT, SCRIPT_MEMORY
from tests.fuzz.kept import corpus, kept, seeds
from tests.fuzz.mutate import mutated, take_apart

SEEDS = seeds()


@pytest.mark.parametrize("name", list(CHECKS))
def test_what_is_kept_holds_in_time_and_memory(name: str) -> None:
    for data in [*kept(name), *SEEDS]:
        CHECKS[name](data)
        cost = bare.measure(name, data)
        assert not cost.fault(len(data)), (cost, data.hex())


def test_the_corpus_is_small_and_in_the_form_described() -> None:
    assert sum(corpus(name).stat().st_size for name in CHECKS) < 600_000
    for name in CHECKS:
        inputs = kept(name)
        assert len(inputs) > 10
        assert inputs == sorted(set(inputs) - set(SEEDS), key=lambda data: (len(data), data))


# --- the bounds hold where a payload is made of one thing only


def _of_outputs() -> bytes:
    parent = funding(*[Out(1, b"")] * 1_050)
    return bag(parent, proven=[parent]).v2()


def _of_inputs() -> bytes:
    parent = funding(*[Out(1, b"\x51")] * 190)
    child = spend([In(parent, vout, by_script(b"")) for vout in range(190)], [Out(1)])
    return bag(parent, child, proven=[parent]).v2()


def _of_foreign_inputs() -> bytes:
    spent = [(bytes(31) + b"\x01" + vout.to_bytes(4, "little"), b"", FINAL) for vout in range(240)]
    parent = read_tx(raw_tx(spent, [Out()]))
    return bag(parent, proven=[parent]).v2()


def _of_leaves() -> bytes:
    parent = funding()
    proof = compound([*(hash256(b"%d" % n) for n in range(255)), parent.txid], range(256))
    return builders.Bag([parent], {parent.txid: proof}).v1()


def _of_script(text: str) -> bytes:
    parent = funding(Out(1000, asm(text)))
    child = spend([In(parent, 0, by_script(b""))], [Out(999)], version=2)
    return bag(parent, child, proven=[parent]).v1()


DENSE: dict[str, Callable[[], bytes]] = {
    "outputs": _of_outputs,
    "inputs": _of_inputs,
    "foreign inputs": _of_foreign_inputs,
    "leaves": _of_leaves,
    "links": lambda: chain(50).v1(),
    "hashes": lambda: _of_script("1 " + "SHA256 " * 9_900),
    "products": lambda: _of_script("3 " + "DUP MUL " * 4_900),
    "remainders": lambda: _of_script("7 100000 LSHIFTNUM 1SUB 13 50000 LSHIFTNUM 1ADD " + "2DUP MOD DROP " * 3_300),
    "one large number": lambda: _of_script(f"1 {SCRIPT_MEMORY - 99} NUM2BIN INVERT 1ADD DROP 1"),
    "signatures": lambda: _of_script(f"x47{'30' * 71} x21{'02' * 33} " + "2DUP CHECKSIG DROP " * 3_200),
}


@pytest.mark.parametrize("thing", list(DENSE))
def test_the_bounds_hold_for_10_kb_of_one_thing(thing: str) -> None:
    data = DENSE[thing]()
    for name in CHECKS:
        cost = bare.measure(name, data)
        assert not cost.fault(len(data)), cost


# --- what notices is able to


def _coins_unchecked(payload: Payload, policy: Policy) -> tuple[list[list[bytes]], int]:
    """VALUE-1 without its rule."""
    coins = [[parent.output(tx.vout(vin)) for vin, parent in enumerate(tx.parents) if parent] for tx in payload.unmined]
    return coins, 0


@pytest.mark.parametrize(
    ("rule", "instead", "defect", "message"),
    [
        ("_refuse_spends", lambda payload: None, "spent across", "an outpoint is spent twice"),
        ("_refuse_values", _coins_unchecked, "inflation", "more comes out than goes in"),
        ("_undecided", lambda *_: None, "", "valid though no tracker has said anything"),
        ("write_ef", lambda tx, coins: tx.raw, "", "no Extended Format marker"),
    ],
)
def test_a_rule_of_verify_that_is_missing_is_noticed(
    rule: str, instead: object, defect: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = family(0, defect).framed["v1"]
    checks.check_verify(data)
    monkeypatch.setattr(verify_rules, rule, instead)
    with pytest.raises((AssertionError, Malformed), match=message):
        checks.check_verify(data)


@pytest.mark.parametrize(
    ("rule", "instead", "made"),
    [
        ("write_beef_v1", lambda bumps, txs: write_beef_v1(bumps, list(txs)[::-1]), family(0, shape="chain")),
        ("write_beef_v1", lambda bumps, txs: write_beef_v1([*bumps, bumps[0]], txs), family(0, shape="chain")),
        ("_ancestors_first", lambda subject: [subject], family(0, shape="chain")),
        ("_refuse_unrelated", lambda *_: None, family(0, harmless=["stranger"])),
    ],
)
def test_a_rule_of_parse_that_is_missing_is_noticed(
    rule: str, instead: object, made: Family, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = made.framed["atomic-v2"]
    checks.check_parse(data)
    monkeypatch.setattr(parse_rules, rule, instead)
    with pytest.raises(AssertionError):
        checks.check_parse(data)


def test_what_takes_too_long_or_too_much_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is 100 ms of processor time for 10 kB, and as much for less."""
    assert not bare.Cost("verify", 0.099, 0, 0).fault(300)
    assert "took 101 ms; at most 100" in bare.Cost("verify", 0.101, 0, 0).fault(300)
    assert "took 201 ms; at most 200" in bare.Cost("verify", 0.201, 0, 0).fault(20_000)

    def busy(data: bytes, policy: Policy) -> None:
        bytearray(1_000_000)
        began = time.process_time()
        while time.process_time() - began < 0.02:
            pass

    monkeypatch.setitem(checks.ONCE, "parse", busy)
    cost = bare.measure("parse", b"")
    assert cost.seconds >= 0.02
    assert cost.peak >= 1_000_000
    assert "took" in cost.fault(10_000)


def test_the_process_beside_measures_as_this_one_and_ends_when_told() -> None:
    beside = bare.Bare()
    data = _of_leaves()
    here, there = bare.measure("parse", data), beside.measure("parse", data)
    assert 0.5 < there.peak / here.peak < 2
    assert 0 < there.seconds < 0.1
    assert there.rss > 1 << 20
    assert beside.close() == 0


# --- changes by structure


def _by_byte(data: bytes, most: int) -> bytes:
    return data[:-1] + b"\x01"


def test_a_payload_is_put_together_again_as_it_was() -> None:
    whole = 0
    for data in SEEDS:
        try:
            parts = take_apart(data)
        except Malformed:
            continue
        assert parts.write() == data
        whole += 1
    assert whole > len(SEEDS) * 0.8


def test_changes_get_behind_the_envelope() -> None:
    """Most rules of the verifier are reached, and one changed payload of ten is valid still."""
    said: Counter[str] = Counter()
    for number, data in enumerate(SEEDS * 8):
        changed = mutated(data, 20_000, Random(number), _by_byte)
        found = parse(changed, LENIENT)
        judged = found if isinstance(found, Verdict) else checks.judge(found, LENIENT)
        said["valid" if isinstance(judged, Valid) else judged.code] += 1
    assert said["valid"] > 0.1 * said.total(), said
    assert said["script.false"] > 0.05 * said.total(), said
    assert {"value.inflation", "structure.double-spend", "finality.not-final", "structure.bump-roots"} <= said.keys()
    assert len(said) > 20


def test_a_change_follows_from_its_number_and_keeps_to_the_size() -> None:
    for number, data in enumerate(SEEDS):
        first = mutated(data, 20_000, Random(number), _by_byte)
        assert first == mutated(data, 20_000, Random(number), _by_byte)
        assert len(mutated(data, len(data), Random(number), _by_byte)) <= len(data)
