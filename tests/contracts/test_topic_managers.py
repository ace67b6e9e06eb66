"""The contract of topic managers: every one of the product's keeps it, and none of the broken ones does."""

import hashlib
from importlib.metadata import entry_points

import pytest

from beefline.testing import RULES, Case, ContractBroken, Output, Raised, Spend, ask, check, make
from pipeline.overlay.builtin.tokendemo import MINT, minted
from pipeline.overlay.manager import GROUP
from schemas.external import Admittance
from tests import builders
from tests.fakes import coin_of_others
from tests.pipeline import test_tokendemo as tokens
from tests.pipeline.test_uhrp import advertisement

BUILT_IN = {
    point.name: point.value
    for point in entry_points(group=GROUP)
    if point.value.startswith("pipeline.overlay.builtin.")
}

KEY = builders.key(3)
PAYMENT = Output(1000, builders.p2pkh(KEY))
GREETING = Output(1, builders.pushdrop(KEY, b"hello", KEY.sign(hashlib.sha256(b"hello").digest())))
ADVERTISEMENT = Output(1, advertisement())
FREE, TAKEN = tokens.token(MINT, 12), coin_of_others(1)
NAME = minted(TAKEN)

CASES: dict[str, list[Case]] = {
    "tm_anytx": [
        Case("a payment", (PAYMENT, PAYMENT)),
        Case("a coin is spent", (PAYMENT,), (Spend(PAYMENT), Spend(PAYMENT, coin=True))),
    ],
    "tm_helloworld": [
        Case("greetings", (PAYMENT, GREETING, GREETING)),
        Case("a greeting is spent", (GREETING, PAYMENT), (Spend(GREETING, coin=True), Spend())),
        Case("none", (PAYMENT,)),
    ],
    "tm_tokendemo": [
        Case("made", (FREE, PAYMENT, FREE)),
        Case("moved", (tokens.token(NAME, 5), PAYMENT, tokens.token(NAME, 7)), (Spend(FREE, True, TAKEN), Spend())),
        Case("lost", (tokens.token(NAME, 5),), (Spend(FREE, True, TAKEN), Spend(FREE))),
        Case("none", (PAYMENT,)),
    ],
    "tm_uhrp": [
        Case("advertised", (PAYMENT, ADVERTISEMENT)),
        Case("renewed", (ADVERTISEMENT,), (Spend(ADVERTISEMENT, coin=True), Spend(), Spend(ADVERTISEMENT, coin=True))),
        Case("taken back", (PAYMENT,), (Spend(ADVERTISEMENT, coin=True),)),
    ],
}
"""What each of the product's managers is asked. Each admits something in one of them, and is asked of a coin."""


def test_all_built_in_managers_are_asked() -> None:
    """A new one is an entry point, and has cases here."""
    assert CASES.keys() == BUILT_IN.keys()
    for topic, cases in CASES.items():
        answers = [ask(make(BUILT_IN[topic]), case) for case in cases]
        assert any(isinstance(answer, Admittance) and answer.outputs_to_admit for answer in answers)
        assert any(each.coin for case in cases for each in case.spends) or topic == "tm_helloworld"


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("topic", CASES)
def test_a_built_in_manager_keeps_the_contract(topic: str, rule: str) -> None:
    check(rule, BUILT_IN[topic], CASES[topic])


HERE = "tests.contracts.broken_managers"

SOME = [
    Case("three outputs", (Output(7, b"\x51\x52\x53"), Output(0, b"\x51\x51"), Output(9, b"\x52"))),
    Case("coins", (Output(7, b"\x53"), Output(8, b"\x54")), (Spend(PAYMENT, coin=True), Spend())),
]

BROKEN = [
    ("NoVersion", "loads", "`version` is ''"),
    ("Older", "loads", "written for another version"),
    ("NeedsMore", "loads", "TypeError"),
    ("Nowhere", "loads", "AttributeError"),
    ("BeyondTheEnd", "answers", "admits output 3 of 3"),
    ("RetainsStrangers", "answers", r"retains inputs \[0\]"),
    ("Silent", "answers", "AttributeError"),
    ("RaisesAtStrangers", "answers", "a payment of strangers: ValueError: nothing of mine; .* empty Admittance"),
    ("Exits", "answers", "SystemExit"),
    ("Remembers", "repeats", "after other subjects admits"),
    ("Counts", "repeats", "another object of it"),
    ("HashOrder", "elsewhere", "with hash seed"),
    ("Environment", "elsewhere", "with hash seed 2, elsewhere admits"),
    ("Kills", "elsewhere", "its process ended with 9"),
    ("Recurses", "elsewhere", "with hash seed 2, elsewhere admits"),
    ("Unsaid", "loads", "has `examine` and does not say"),
    ("Wordy", "answers", "examine: BadManager: .* answers str"),
    ("Verbose", "answers", "examine: BadManager: .* 70,000 bytes"),
    ("LooksForCoins", "answers", "examine: AttributeError: .* no attribute 'previous_coins'"),
    ("ForgetsFacts", "facts", "with hash seed 1 examines to"),
    ("CountsFacts", "facts", "after other transactions examines to"),
    ("KeepsFacts", "apart", "an object that did not examine it admits"),
    ("ExaminesTime", "closed", "time.time"),
    ("ExaminesAndSorts", "untouched", "to examine it changes `tx`"),
    ("Ponders", "in-time", "to judge it takes [0-9]+ ms"),
    ("ExaminesAtLength", "in-time", "to examine it takes [0-9]+ ms"),
    ("AsksTime", "closed", "time.time"),
    ("AsksTimeByName", "closed", "time.time"),
    ("AsksMonotonic", "closed", "time.monotonic_ns"),
    ("AsksCalendar", "closed", "time.localtime"),
    ("AsksNow", "closed", "datetime.datetime.now"),
    ("AsksToday", "closed", "datetime.date.today"),
    ("AsksChance", "closed", "random.random"),
    ("AsksNewChance", "closed", r"random.Random\(\)"),
    ("AsksSystemChance", "closed", "random._urandom"),
    ("AsksUrandom", "closed", "os.urandom"),
    ("AsksUuid", "closed", "uuid.uuid4"),
    ("AsksNetwork", "closed", "socket.__new__"),
    ("AsksName", "closed", "socket.getaddrinfo"),
    ("AsksFile", "closed", "asks open"),
    ("AsksProcess", "closed", "asks (subprocess|os|open)"),
    ("FirstOnly", "order", "outputs turned round"),
    ("FirstCoinOnly", "order", "inputs turned round"),
    ("CountsOutputs", "bystanders", "strange outputs around"),
    ("CountsInputs", "bystanders", "a strange input before"),
    ("Sorts", "untouched", "it changes `tx`"),
    ("Replaces", "untouched", "it changes `off_chain_values`"),
    ("Notes", "untouched", "it changes `note`"),
    ("DecodesValues", "off-chain", "odd off-chain values 1: UnicodeDecodeError"),
    ("ReadsThirdByte", "odd-scripts", "IndexError"),
]


@pytest.mark.parametrize(("name", "rule", "told"), BROKEN, ids=[name for name, *_ in BROKEN])
def test_a_broken_manager_is_found(name: str, rule: str, told: str) -> None:
    with pytest.raises(ContractBroken, match=told):
        check(rule, f"{HERE}:{name}", SOME)


def test_every_rule_is_broken_by_somebody() -> None:
    assert {rule for _, rule, _ in BROKEN} == set(RULES)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["Fine", "Sums"])
def test_odd_means_are_no_breach(name: str, rule: str) -> None:
    """Dates that are given, chance with a seed, late imports; and to examine."""
    if (name, rule) not in NOT_CLAIMED:
        check(rule, f"{HERE}:{name}", SOME)


NOT_CLAIMED = {("Sums", "bystanders")}
"""What a share is depends on who else is there."""


@pytest.mark.invariant("TOPIC-1")
def test_a_raise_is_not_nothing_admitted() -> None:
    """The suite tells them apart, as the stage does."""
    nothing, case = ask(make(BUILT_IN["tm_helloworld"]), SOME[0]), SOME[1]
    raised = ask(make(f"{HERE}:Silent"), case)
    assert nothing == Admittance()
    assert isinstance(raised, Raised)


def test_a_contract_without_cases_holds_nobody() -> None:
    with pytest.raises(ValueError, match="give one"):
        check("answers", BUILT_IN["tm_anytx"], [])


def test_a_case_can_be_taken_from_a_payload() -> None:
    parent = builders.funding(builders.Out(5000, GREETING.script), builders.Out(7))
    ins = [builders.In(parent, 0, builders.by_key(KEY)), builders.In(parent, 1)]
    child = builders.spend(ins, (builders.Out(1, GREETING.script), builders.Out(100)))
    beef = builders.Bag([parent, child], {parent.txid: builders.path(parent.txid)}).v1()
    case = Case.of("greeting", beef, coins=[0], off_chain_values=b"x")
    assert case.outputs == (GREETING, Output(100, builders.Out().script))
    assert case.spends[0] == Spend(Output(5000, GREETING.script), True, child.outpoint(0))
    assert (case.spends[1].coin, case.spends[1].outpoint) == (False, child.outpoint(1))
    assert ask(make(BUILT_IN["tm_helloworld"]), case) == Admittance((0,), (), (0,))
    with pytest.raises(ValueError, match="malformed"):
        Case.of("none", b"nonsense")
    with pytest.raises(ValueError, match="does not hold"):
        Case.of("too much", beef, coins=[2])
