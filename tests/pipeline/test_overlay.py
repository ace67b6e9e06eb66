"""Topic managers: what each admits, what none may answer, and how they are found."""

import hashlib
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agents.apply import ApplySettings
from pipeline.overlay import manager
from pipeline.overlay.builtin.anytx import AnyTx
from pipeline.overlay.builtin.helloworld import HelloWorld, greets
from pipeline.overlay.manager import BadManager, Output, Subject, TopicManager, admit, load
from pipeline.overlay.pushdrop import PushDrop, read_pushdrop
from schemas.external import Admittance
from tests import builders
from tests.fakes import coin_of_others
from tests.profiles import CHEAP

KEY = builders.key(5)
LOCK = b"\x21" + KEY.public + b"\xac"


def subject(*scripts: bytes, previous: tuple[int, ...] = (), inputs: int = 1) -> Subject:
    """A transaction with these locking scripts."""
    spends = [(coin_of_others(n), builders.push(b"enough to be relayed"), builders.FINAL) for n in range(inputs)]
    raw = builders.raw_tx(spends, [builders.Out(1000 + n, script) for n, script in enumerate(scripts)])
    return Subject(hashlib.sha256(raw).digest(), raw, (b"",) * inputs, previous)


# --- PushDrop

READ: list[tuple[bytes, tuple[bytes, ...] | None]] = [
    # behind the lock -> fields
    (b"\x02hi\x75", (b"hi",)),
    (b"\x02hi\x01!\x6d", (b"hi", b"!")),
    (b"\x02hi\x01!\x01?\x6d\x75", (b"hi", b"!", b"?")),
    (b"\x75", ()),
    # opcodes that push: as the reference decoder reads them
    (b"\x00\x75", (b"\x00",)),
    (b"\x4f\x75", (b"\x81",)),
    (b"\x50\x75", (b"\x00",)),
    (b"\x51\x75", (b"\x01",)),
    (b"\x5f\x75", (b"\x0f",)),
    (b"\x60\x75", (b"",)),
    # lengths of one, two and four bytes
    (b"\x4c\x02hi\x75", (b"hi",)),
    (b"\x4c\x00\x75", (b"",)),
    (b"\x4d\x02\x00hi\x75", (b"hi",)),
    (b"\x4e\x02\x00\x00\x00hi\x75", (b"hi",)),
    (b"\x4d\x00\x01" + bytes(256) + b"\x75", (bytes(256),)),
    # no drop, cut short, or another opcode
    (b"\x02hi", None),
    (b"\x02h", None),
    (b"\x4c", None),
    (b"\x4c\x05hi", None),
    (b"\x4d\x02", None),
    (b"\x4e\xff\xff\xff\xff\x75", None),
    (b"\x61\x75", None),
    (b"\x76\x75", None),
    (b"\x02hi\xac\x75", None),
    (b"\xff", None),
]


@pytest.mark.parametrize(("fields", "expected"), READ)
def test_the_fields_of_a_pushdrop(fields: bytes, expected: tuple[bytes, ...] | None) -> None:
    found = read_pushdrop(LOCK + fields)
    assert found == (None if expected is None else PushDrop(KEY.public, expected))


@pytest.mark.parametrize(
    "script",
    [
        b"", b"\x75", LOCK, LOCK[:-1] + b"\xad\x02hi\x75", b"\x20" + KEY.public[:32] + b"\xac\x02hi\x75",
        b"\x41" + KEY.long + b"\xac\x02hi\x75", builders.p2pkh(KEY), b"\x00\x6a\x02hi",
    ],
)  # fmt: skip
def test_what_is_no_pushdrop(script: bytes) -> None:
    assert read_pushdrop(script) is None


@CHEAP
@given(st.lists(st.binary(min_size=2, max_size=300), max_size=6))
def test_what_is_written_is_read(fields: list[bytes]) -> None:
    """Fields of two bytes and more; shorter ones have no single form."""
    script = builders.pushdrop(KEY, *fields)
    assert read_pushdrop(script) == (PushDrop(KEY.public, tuple(fields)) if fields else None)


@CHEAP
@given(st.binary(max_size=60), st.booleans())
def test_no_script_makes_the_reader_raise(script: bytes, locked: bool) -> None:
    found = read_pushdrop(LOCK + script if locked else script)
    assert found is None or all(isinstance(field, bytes) for field in found.fields)


# --- helloworld


def greeting(text: bytes, signed: bytes | None = None, owner: builders.Key = KEY) -> bytes:
    signature = owner.sign(hashlib.sha256(text if signed is None else signed).digest())
    return builders.pushdrop(KEY, text, signature)


@pytest.mark.parametrize(
    ("script", "greeted"),
    [
        (greeting(b"hello"), True),
        (greeting(b"hi"), True),
        (greeting("åß".encode()), True),
        (greeting(b"x" * 70_000), True),
        (greeting(b"h"), False),  # one character
        (greeting("å".encode()), False),  # two bytes, one character
        (greeting(b"\xff\xfe\xfd"), False),  # no text
        (greeting(b"hello", signed=b"other"), False),
        (greeting(b"hello", owner=builders.key(6)), False),
        (builders.pushdrop(KEY, b"hello"), False),
        (builders.pushdrop(KEY, b"hello", KEY.sign(hashlib.sha256(b"hello").digest()), b"more"), False),
        (builders.pushdrop(KEY, b"hello", b"no signature"), False),
        (builders.pushdrop(KEY, b"hello", b""), False),
        (b"\x21" + bytes(33) + b"\xac" + greeting(b"hello")[35:], False),  # no key
        (builders.p2pkh(KEY), False),
        (b"", False),
    ],
)
def test_what_greets(script: bytes, greeted: bool) -> None:
    assert greets(script) is greeted


def test_helloworld_admits_the_outputs_that_greet() -> None:
    scripts = (builders.p2pkh(KEY), greeting(b"hello"), b"\x6a", greeting(b"again"), greeting(b"h"))
    found = admit(HelloWorld(), "tm_helloworld", subject(*scripts, previous=(0,)))
    assert found == Admittance((1, 3), (), (0,))


def test_anytx_admits_every_output_and_keeps_nothing() -> None:
    found = admit(AnyTx(), "tm_anytx", subject(b"\x51", b"", builders.p2pkh(KEY), previous=(1,), inputs=2))
    assert found == Admittance((0, 1, 2), (), (1,))


# --- the contract


class Says:
    """Answers as told."""

    version = "1"

    def __init__(self, outputs: Sequence[Any] = (), retained: Sequence[Any] = ()) -> None:
        self.answer = Admittance(tuple(outputs), tuple(retained), (9, 9))

    def admit(self, subject: Subject) -> Admittance:
        return self.answer


def test_an_answer_is_sorted_without_repeats_and_names_what_is_removed() -> None:
    """What a manager says about removal does not count: what is spent and not retained is removed."""
    about = subject(*[b"\x51"] * 4, previous=(0, 2, 3), inputs=4)
    assert admit(Says([3, 1, 1], [2, 2]), "tm_x", about) == Admittance((1, 3), (2,), (0, 3))
    assert admit(Says(), "tm_x", about) == Admittance((), (), (0, 2, 3))


@pytest.mark.parametrize(
    ("outputs", "retained", "named"),
    [
        ([2], [], "output 2 of 2"),
        ([-1, 0], [], "output -1 of 2"),
        ([0, 99], [], "output 99 of 2"),
        ([], [0], r"\[0\]"),
        ([], [1, 5], r"\[5\]"),
        ([], [-1], r"\[-1\]"),
        ([True], [], "bool"),
        ([0.0], [], "float"),
        (["0"], [], "str"),
        ([None], [], "NoneType"),
        ([], [True], "bool"),
    ],
)
def test_an_answer_no_manager_may_give(outputs: list[Any], retained: list[Any], named: str) -> None:
    with pytest.raises(BadManager, match=named):
        admit(Says(outputs, retained), "tm_x", subject(b"\x51", b"\x52", previous=(1,), inputs=2))


def test_a_subject_shows_its_outputs() -> None:
    about = subject(b"\x51", builders.p2pkh(KEY))
    assert about.output_count == 2
    assert about.outputs == (Output(1000, b"\x51"), Output(1001, builders.p2pkh(KEY)))


# --- finding them


class Written:
    """For another version of the interface."""

    version = "1"
    contract = manager.CONTRACT + 1

    def admit(self, subject: Subject) -> Admittance:
        return Admittance()


class Incomplete:
    """Lacks a version."""

    def admit(self, subject: Subject) -> Admittance:
        return Admittance()


class Failing:
    """Cannot be made."""

    version = "1"

    def __init__(self) -> None:
        raise OSError("no disk")


HERE = "tests.pipeline.test_overlay"


def test_installed_and_named_managers_are_loaded() -> None:
    found = load(("tm_anytx", f"tm_mine={HERE}:Says", "tm_helloworld"))
    assert {topic: type(each) for topic, each in found.items()} == {
        "tm_anytx": AnyTx, "tm_mine": Says, "tm_helloworld": HelloWorld,
    }  # fmt: skip
    assert all(isinstance(each, TopicManager) for each in found.values())


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ("tm_nowhere", "no installed package provides tm_nowhere"),
        ("hello", "no overlay topic name"),
        ("tm_", "no overlay topic name"),
        ("tm_a1", "no overlay topic name"),
        ("tm_A", "no overlay topic name"),
        ("tm_a\n", "no overlay topic name"),
        ("", "no overlay topic name"),
        (f"tm_{'a' * 48}", "no overlay topic name"),
        ("tm_x=nowhere.at.all:X", "ModuleNotFoundError"),
        (f"tm_x={HERE}:Nothing", "AttributeError"),
        (f"tm_x={HERE}", "does not load"),
        (f"tm_x={HERE}:", "does not load"),
        (f"tm_x={HERE}:Failing", "OSError: no disk"),
        (f"tm_x={HERE}:Incomplete", "lacks `version` or `admit`"),
        (f"tm_x={HERE}:Written", "another version"),
        (f"tm_x={HERE}:HERE", "does not load"),
    ],
)
def test_what_cannot_be_loaded_is_named(spec: str, named: str) -> None:
    with pytest.raises(BadManager, match=named):
        load((spec,))


def test_the_products_own_managers_are_entry_points() -> None:
    """As a plug-in's would be: nothing knows them by another way."""
    points = {point.name: point for point in entry_points(group=manager.GROUP)}
    assert {"tm_anytx", "tm_helloworld", "tm_tokendemo", "tm_uhrp"} <= set(points)
    assert set(ApplySettings().topics) <= set(points)
    assert all(isinstance(point, EntryPoint) for point in points.values())
