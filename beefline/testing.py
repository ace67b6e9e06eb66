"""The contract of topic managers, as tests that any manager can be run against (docs/topic-managers.md).

    from beefline.testing import RULES, Case, Output, check

    CASES = [Case("a greeting", (Output(1, GREETING),)), Case("a payment", (Output(1000, P2PKH),))]

    @pytest.mark.parametrize("rule", RULES)
    def test_it_keeps_the_contract(rule):
        check(rule, "package.module:Class", CASES)

Give at least one case that the manager admits something of, one with a coin of its topic where it looks at those, and
one that it admits nothing of. Where places of outputs mean something in a topic, leave `order` and `bystanders` out:
`sorted(RULES.keys() - {"order", "bystanders"})`. No test framework is needed: `check` raises AssertionError.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from msgspec import Struct

from beefline.watch import Watch
from pipeline.codec.reader import write_varint
from pipeline.overlay.manager import (
    CONTRACT,
    BadManager,
    Output,
    Subject,
    TopicManager,
    Transaction,
    admit,
    examine,
    examiner,
    load,
)
from schemas.external import Admittance
from schemas.types import Outpoint, Txid

__all__ = ["CONTRACT", "RULES", "Case", "ContractBroken", "Output", "Raised", "Rule", "Spend", "ask", "check"]

TOPIC = "tm_under_test"

ANSWERS_WITHIN_S = 120.0
"""A process that judges the cases: a start takes half a second."""

MAY_TAKE_S = 0.05
"""Of a processor, for an answer: an installation suspends a topic that takes longer (`apply.judge_ms`)."""

T = TypeVar("T")


class Spend(Struct, frozen=True):
    """An input of a case.

    output: what it spends; None where that is not known, as with a proven transaction that came without parents.
    outpoint: of what it spends, 36 bytes; left empty, it is made up.
    """

    output: Output | None = None
    coin: bool = False  # whether it was admitted to the topic before; then its output is known
    outpoint: Outpoint = b""


class Case(Struct, frozen=True):
    """A transaction to be judged. By default it spends one output of a stranger's."""

    name: str
    outputs: tuple[Output, ...]
    spends: tuple[Spend, ...] = (Spend(),)
    off_chain_values: bytes = b""

    @classmethod
    def of(cls, name: str, beef: bytes, coins: Iterable[int] = (), off_chain_values: bytes = b"") -> "Case":
        """The subject of a payload, as far as a manager looks at it: its signatures and its txid are left behind.

        coins: inputs that spend coins of the topic; what they spend must be in the payload.

        Raises:
            ValueError: no payload, or one that does not hold those coins.
        """
        from pipeline.parse import Payload, parse
        from pipeline.policy import Policy

        payload = parse(beef, Policy())
        if not isinstance(payload, Payload):
            raise ValueError(f"{name}: {payload.code} {payload.at}")
        tx, own = payload.subject, set(coins)
        spends = []
        for vin in range(len(tx.ins) - 1):
            parent, vout = tx.parents[vin], tx.vout(vin)
            spent = Output(parent.satoshis(vout), parent.locking(vout)) if parent is not None else None
            spends.append(Spend(spent, vin in own, tx.outpoint(vin)))
        if strange := own - {vin for vin, each in enumerate(spends) if each.output is not None}:
            raise ValueError(f"{name}: the payload does not hold what inputs {sorted(strange)} spend")
        outputs = tuple(Output(tx.satoshis(vout), tx.locking(vout)) for vout in range(len(tx.outs) - 1))
        return cls(name, outputs, tuple(spends), off_chain_values)

    def outpoints(self) -> tuple[Outpoint, ...]:
        """What each input spends."""
        return tuple(each.outpoint or _made_up(vin) for vin, each in enumerate(self.spends))

    def transaction(self) -> Transaction:
        """What the manager examines; a new one each time."""
        subject = self.subject()
        return Transaction(subject.txid, subject.raw, subject.sources, self.off_chain_values)

    def subject(self) -> Subject:
        """What the manager judges; a new one each time."""
        inputs = b"".join(point + b"\x14" + b"\x13" + bytes(19) + b"\xff\xff\xff\xff" for point in self.outpoints())
        outputs = b"".join(map(_written, self.outputs))
        raw = (
            b"\x01\0\0\0" + write_varint(len(self.spends)) + inputs + write_varint(len(self.outputs)) + outputs
            + bytes(4)
        )  # fmt: skip
        txid: Txid = hashlib.sha256(hashlib.sha256(raw).digest()).digest()
        sources = [b"" if each.output is None else _written(each.output) for each in self.spends]
        previous = tuple(vin for vin, each in enumerate(self.spends) if each.coin)
        return Subject(txid, raw, sources, previous, self.off_chain_values)


def _made_up(vin: int) -> Outpoint:
    return hashlib.sha256(b"spent by input %d" % vin).digest() + vin.to_bytes(4, "little")


def _written(output: Output) -> bytes:
    return output.satoshis.to_bytes(8, "little") + write_varint(len(output.script)) + output.script


class Raised(Struct, frozen=True):
    """The manager raised, or answered what none may: a fault, which costs the record. It is no answer."""

    what: str


class ContractBroken(AssertionError):  # noqa: N818 - what became of the contract
    """A manager breaks a rule of the contract."""


def ask(manager: TopicManager, case: Case) -> Admittance | Raised:
    """What a manager says of a case, held to its contract as in service: it examines, where it does, and judges."""
    return _judged(manager, case.subject(), _examined(manager, case))


def _examined(manager: TopicManager, case: Case) -> bytes | Raised:
    """Its facts; none where it does not examine."""
    return _facts(manager, case.transaction())


def _facts(manager: TopicManager, transaction: Transaction) -> bytes | Raised:
    asked = examiner(manager)
    if asked is None:
        return b""
    try:
        return examine(asked, TOPIC, transaction).facts
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a manager may raise anything: that is what is asked
        return Raised(f"examine: {type(error).__name__}: {error}")


def _judged(manager: TopicManager, subject: Subject, facts: bytes | Raised) -> Admittance | Raised:
    """What it says, given the facts."""
    if isinstance(facts, Raised):
        return facts
    subject.facts = facts
    try:
        return admit(manager, TOPIC, subject)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - see `_facts`
        return Raised(f"{type(error).__name__}: {error}")


def make(manager: str) -> TopicManager:
    """A new object of a manager, loaded as in service.

    manager: `package.module:Class`.

    Raises:
        BadManager: it does not load.
    """
    return load((f"{TOPIC}={manager}",))[TOPIC]


class Rule(Struct, frozen=True):
    """A row of the contract."""

    says: str
    broken: Callable[[str, Sequence[Case]], Iterator[str]]  # what is wrong, a line each


def check(rule: str, manager: str, cases: Sequence[Case]) -> None:
    """Hold a manager to one rule.

    rule: a name of RULES; manager: `package.module:Class`, a class or a function without arguments.

    Raises:
        ContractBroken: it is broken, with all that was found.
        ValueError: there are no cases.
    """
    if not cases:
        raise ValueError("a contract is checked on cases; give one that the manager admits something of")
    if found := list(RULES[rule].broken(manager, cases)):
        raise ContractBroken("\n  ".join([f"{manager} breaks the rule {rule!r}: {RULES[rule].says}", *found]))


# --- the rules


def _loads(manager: str, _: Sequence[Case]) -> Iterator[str]:
    try:
        made = make(manager)
    except BadManager as error:
        yield str(error)
        return
    if not (isinstance(made.version, str) and made.version):
        yield f"`version` is {made.version!r}: a text that changes with the rule"


def _answers(manager: str, cases: Sequence[Case]) -> Iterator[str]:
    made = make(manager)
    yield from _raised(made, (*cases, *STRANGERS))


def _off_chain(manager: str, cases: Sequence[Case]) -> Iterator[str]:
    made = make(manager)
    for case in cases:
        for number, values in enumerate(OFF_CHAIN):
            name = f"{case.name}, odd off-chain values {number}"
            yield from _raised(made, [msgspec.structs.replace(case, name=name, off_chain_values=values)])


def _odd_scripts(manager: str, cases: Sequence[Case]) -> Iterator[str]:
    made = make(manager)
    for case in cases:
        for vout, output in enumerate(case.outputs):
            for what, script in _spoiled(output.script):
                odd = (*case.outputs[:vout], Output(output.satoshis, script), *case.outputs[vout + 1 :])
                name = f"{case.name}, output {vout} {what}"
                yield from _raised(made, [msgspec.structs.replace(case, name=name, outputs=odd)])


def _raised(made: TopicManager, cases: Iterable[Case]) -> Iterator[str]:
    for case in cases:
        answer = ask(made, case)
        if isinstance(answer, Raised):
            yield f"{case.name}: {answer.what}; where nothing is a topic's, it says so by an empty Admittance()"


def _spoiled(script: bytes) -> Iterator[tuple[str, bytes]]:
    """Cut off, changed, doubled, and of no form at all; two dozen places, however long it is."""
    step = max(1, len(script) // 24)
    for at in range(0, len(script), step):
        yield f"cut off at byte {at}", script[:at]
        yield f"with another byte {at}", script[:at] + bytes([script[at] ^ 0xFF]) + script[at + 1 :]
        yield f"with byte {at} one higher", script[:at] + bytes([(script[at] + 1) % 256]) + script[at + 1 :]
    yield "twice", script + script
    for number, odd in enumerate(ODD_SCRIPTS):
        yield f"replaced by odd script {number}", odd


def _repeats(manager: str, cases: Sequence[Case]) -> Iterator[str]:
    one, other = make(manager), make(manager)
    first = [ask(one, case) for case in cases]
    backwards = [ask(one, case) for case in reversed(cases)][::-1]
    apart = [ask(other, case) for case in cases]
    for case, before, after, new in zip(cases, first, backwards, apart, strict=True):
        if before != after:
            yield f"{case.name}: {_text(before)}, and after other subjects {_text(after)}"
        if before != new:
            yield f"{case.name}: {_text(before)}, and another object of it {_text(new)}"


def _elsewhere(manager: str, cases: Sequence[Case]) -> Iterator[str]:
    made = make(manager)
    here = [ask(made, case) for case in cases]
    for place in PLACES:
        told = _in_child(Task(manager, tuple(cases), depth=place.depth), place)
        if isinstance(told, str):
            yield f"{place.name}: {told}"
            continue
        for case, before, there in zip(cases, here, told, strict=True):
            if before != there.answer:
                yield f"{case.name}: {_text(before)}, and {place.name} {_text(there.answer)}"


def _closed(manager: str, cases: Sequence[Case]) -> Iterator[str]:
    told = _in_child(Task(manager, (*cases, *STRANGERS), closed=True), PLACES[0])
    if isinstance(told, str):
        yield told
        return
    for case, each in zip((*cases, *STRANGERS), told, strict=True):
        yield from (f"{case.name}: it asks {name}" for name in each.asked)


def _same_facts(manager: str, cases: Sequence[Case]) -> Iterator[str]:
    one, other = make(manager), make(manager)
    if examiner(one) is None:
        return
    first = [_examined(one, case) for case in cases]
    for case, before, after in zip(
        cases[::-1], first[::-1], [_examined(one, case) for case in cases[::-1]], strict=True
    ):
        if before != after:
            yield f"{case.name}: {_of(before)}, and after other transactions {_of(after)}"
    apart = {"another object of it": [_examined(other, case) for case in cases]}
    for place in PLACES:
        told = _in_child(Task(manager, tuple(cases), depth=place.depth), place)
        if isinstance(told, str):
            yield f"{place.name}: {told}"
            continue
        apart[place.name] = [
            each.facts if not each.raised.startswith("examine: ") else Raised(each.raised) for each in told
        ]
    for where, found in apart.items():
        for case, before, there in zip(cases, first, found, strict=True):
            if before != there:
                yield f"{case.name}: {_of(before)}, and {where} {_of(there)}"


def _apart(manager: str, cases: Sequence[Case]) -> Iterator[str]:
    one = make(manager)
    if examiner(one) is None:
        return
    for case in cases:
        facts = _examined(one, case)
        together = _judged(one, case.subject(), facts)
        alone = _judged(make(manager), case.subject(), facts)
        if together != alone:
            yield f"{case.name}: {_text(together)}, and an object that did not examine it {_text(alone)}"


def _in_time(manager: str, cases: Sequence[Case]) -> Iterator[str]:
    made = make(manager)
    for case in (*cases, *STRANGERS):
        facts, took_s = _timed(lambda case=case: _examined(made, case))  # type: ignore[misc]
        if took_s > MAY_TAKE_S:
            yield f"{case.name}: to examine it takes {took_s * 1000:.0f} ms"
        _, took_s = _timed(lambda case=case, facts=facts: _judged(made, case.subject(), facts))  # type: ignore[misc]
        if took_s > MAY_TAKE_S:
            yield f"{case.name}: to judge it takes {took_s * 1000:.0f} ms"


def _timed(what: Callable[[], T]) -> tuple[T, float]:
    """What it comes to, and the least processor time of three tries: the first may import what it needs."""
    took = []
    for _ in range(3):
        began = time.process_time()
        found = what()
        took.append(time.process_time() - began)
        if took[-1] <= MAY_TAKE_S:
            break
    return found, min(took)


def _order(manager: str, cases: Sequence[Case]) -> Iterator[str]:
    made = make(manager)
    for case in cases:
        fixed = msgspec.structs.replace(case, spends=_fixed(case))
        turned = msgspec.structs.replace(fixed, outputs=case.outputs[::-1])
        yield from _compared(made, fixed, turned, "outputs turned round", _from_the_end(case.outputs), _same)
        turned = msgspec.structs.replace(fixed, spends=fixed.spends[::-1])
        yield from _compared(made, fixed, turned, "inputs turned round", _same, _from_the_end(case.spends))


def _bystanders(manager: str, cases: Sequence[Case]) -> Iterator[str]:
    made = make(manager)
    for case in cases:
        fixed = msgspec.structs.replace(case, spends=_fixed(case))
        for output in BYSTANDERS:
            more = msgspec.structs.replace(fixed, outputs=(output, *case.outputs, output))
            yield from _compared(made, fixed, more, "strange outputs around", _one_less, _same)
        stranger = Spend(BYSTANDERS[0], outpoint=b"\xbb" * 36)
        more = msgspec.structs.replace(fixed, spends=(stranger, *fixed.spends))
        yield from _compared(made, fixed, more, "a strange input before", _same, _one_less)


def _fixed(case: Case) -> tuple[Spend, ...]:
    """Each input with its outpoint, which is to stay when its place does not."""
    named = zip(case.spends, case.outpoints(), strict=True)
    return tuple(msgspec.structs.replace(each, outpoint=point) for each, point in named)


def _same(index: int) -> int:
    return index


def _from_the_end(row: Sequence[object]) -> Callable[[int], int]:
    return lambda index: len(row) - 1 - index


def _one_less(index: int) -> int:
    return index - 1


def _compared(
    made: TopicManager, case: Case, other: Case, what: str, output: Callable[[int], int], spend: Callable[[int], int]
) -> Iterator[str]:
    """output, spend: where in `case` an output or input of `other` stands. What stands nowhere there does not count."""
    plain, changed = ask(made, case), ask(made, other)
    if isinstance(plain, Raised) or isinstance(changed, Raised):
        if plain != changed:
            yield f"{case.name}: {_text(plain)}, and with {what} {_text(changed)}"
        return
    admitted = {output(vout) for vout in changed.outputs_to_admit} & set(range(len(case.outputs)))
    retained = {spend(vin) for vin in changed.coins_to_retain}
    if (admitted, retained) != (set(plain.outputs_to_admit), set(plain.coins_to_retain)):
        seen = Admittance(tuple(sorted(admitted)), tuple(sorted(retained)))
        yield f"{case.name}: {_text(plain)}, and with {what} (counted as before) {_text(seen)}"


def _untouched(manager: str, cases: Sequence[Case]) -> Iterator[str]:
    made = make(manager)
    for case in cases:
        transaction = case.transaction()
        before = _image(transaction, *SHOWN)
        facts = _facts(made, transaction)
        after = _image(transaction, *SHOWN)
        yield from (f"{case.name}: to examine it changes `{name}`" for name in after if before.get(name) != after[name])
        subject = case.subject()
        subject.facts = b"" if isinstance(facts, Raised) else facts
        before = _image(subject, *SHOWN, "coins")
        _judged(made, subject, facts)
        after = _image(subject, *SHOWN, "coins")
        yield from (f"{case.name}: it changes `{name}`" for name in after if before.get(name) != after[name])


SHOWN = ("outputs", "spent")


def _image(shown: Transaction, *names: str) -> dict[str, Any]:
    """All that hangs on what a manager is shown, read anew where it was made of something."""
    tx = shown.tx
    seen = {"tx": (tx.txid, tx.raw, list(tx.ins), list(tx.outs), tx.start), "output_count": shown.output_count}
    seen |= {name: getattr(shown, name) for name in names}
    return seen | {name: value for name, value in vars(shown).items() if name not in seen}


def _of(facts: bytes | Raised) -> str:
    if isinstance(facts, Raised):
        return f"raises {facts.what}"
    return f"examines to {facts[:40].hex() or 'nothing'}{'…' if len(facts) > 40 else ''}"


def _text(answer: Admittance | Raised) -> str:
    if isinstance(answer, Raised):
        return f"raises {answer.what}"
    return f"admits {list(answer.outputs_to_admit)}, retains {list(answer.coins_to_retain)}"


RULES: Mapping[str, Rule] = {
    "loads": Rule("It can be made without arguments, has a version, and was written for this contract.", _loads),
    "answers": Rule("It answers with outputs and coins that exist, and does not raise at strangers' either.", _answers),
    "repeats": Rule("The same subject gets the same answer, whatever was asked before.", _repeats),
    "elsewhere": Rule("So it does in other processes, whatever their hash seed, environment and folder.", _elsewhere),
    "facts": Rule("What it examines follows from the transaction alone, whoever asks, and where.", _same_facts),
    "apart": Rule("What it judges by is the facts, and nothing it kept when it examined.", _apart),
    "in-time": Rule("An answer takes less than 50 ms of a processor.", _in_time),
    "closed": Rule("It asks no clock, no chance, no network, no file and no other process.", _closed),
    "order": Rule("In which order outputs and inputs stand does not matter.", _order),
    "bystanders": Rule("What else a transaction makes or spends does not matter.", _bystanders),
    "untouched": Rule("It changes nothing it is given.", _untouched),
    "off-chain": Rule("Off-chain values of any bytes are taken.", _off_chain),
    "odd-scripts": Rule("Locking scripts of any bytes are taken.", _odd_scripts),
}  # fmt: skip

_LOCK = bytes.fromhex("210279be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798ac")
"""A push of a public key, and OP_CHECKSIG."""

BYSTANDERS = (Output(1000, bytes.fromhex("76a914") + bytes(20) + bytes.fromhex("88ac")), Output(0, b"\x00\x6a\x02hi"))

STRANGERS = (
    Case("a payment of strangers", BYSTANDERS[:1]),
    Case("data of strangers", BYSTANDERS[1:]),
    Case("empty scripts", (Output(0, b""), Output(0, b"")), (Spend(), Spend(BYSTANDERS[0]))),
)

OFF_CHAIN = (
    b"\0", b"\xff" * 64, bytes(range(256)) * 16, b"null", b"{", b'{"a":', b"[" * 100_000, b"1" * 5_000,
    b"\xef\xbb\xbf{}", "é".encode("utf-16"), b"\x80\x81", b"\xfe\xff\xff\xff\x7f",
)  # fmt: skip

ODD_SCRIPTS = (
    b"", b"\x00", b"\x6a", b"\x4c", b"\x4d\xff", b"\x4e\xff\xff\xff\xff", b"\xff" * 40, b"\x51" * 1_000,
    _LOCK, _LOCK + b"\x75", _LOCK + b"\x00\x00\x00\x6d\x75", _LOCK + b"\x60\x60\x6d", _LOCK + b"\x01\xff\x01\xfe\x6d",
    _LOCK + (b"\x08" + b"\xff" * 8) * 6 + b"\x6d\x6d\x6d", _LOCK + b"\x4e\xa0\x86\x01\x00" + b"[" * 100_000 + b"\x75",
    b"\x21" + bytes(33) + _LOCK[34:] + (b"\x08" + b"1" * 8) * 3 + b"\x6d\x75",
)  # fmt: skip


# --- other processes


class Place(Struct, frozen=True):
    """Circumstances that must not matter."""

    name: str
    environment: dict[str, str]
    depth: int = 0  # calls below the question: who recurses without a bound stops at another place


PLACES = (
    Place("with hash seed 1", {"PYTHONHASHSEED": "1", "TZ": "UTC", "LANG": "C", "HOME": "/nowhere"}),
    Place("with hash seed 2, elsewhere", {"PYTHONHASHSEED": "2", "TZ": "Asia/Tokyo", "LANG": "C.UTF-8", "X": "1"}, 300),
)

_KEPT = ("PATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "SYSTEMROOT")
"""Of the environment: what an interpreter needs to start."""


class Task(Struct, frozen=True):
    """What a child is to judge."""

    manager: str
    cases: tuple[Case, ...]
    closed: bool = False  # with clock, chance and the outside watched
    depth: int = 0


class Told(Struct, frozen=True):
    """What became of a case there."""

    admittance: Admittance
    raised: str  # empty: it answered
    asked: tuple[str, ...] = ()  # what it may not ask
    facts: bytes = b""

    @property
    def answer(self) -> Admittance | Raised:
        """As `ask` gives it."""
        return Raised(self.raised) if self.raised else self.admittance


def _in_child(task: Task, place: Place) -> list[Told] | str:
    """What a process of its own says of each case, or how it ended without saying."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [os.path.abspath(path) for path in sys.path]  # noqa: PTH100 - the empty one is the folder we are in
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        environment |= {"PYTHONPATH": os.pathsep.join(paths)} | place.environment
        try:
            ran = subprocess.run(
                [sys.executable, "-m", "beefline.testing"],
                input=msgspec.msgpack.encode(task), capture_output=True, cwd=folder, env=environment,
                timeout=ANSWERS_WITHIN_S,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return f"no answer within {ANSWERS_WITHIN_S:g} s"
    if ran.returncode:
        return f"its process ended with {ran.returncode}: {ran.stderr.decode(errors='replace').strip()[-500:]}"
    return msgspec.msgpack.decode(ran.stdout, type=list[Told])


def _serve() -> None:
    """The child: a task on standard input, what became of it on standard output, which is kept from the manager."""
    task = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Task)
    with os.fdopen(os.dup(1), "wb") as out:
        os.dup2(2, 1)
        watch = Watch()
        if task.closed:
            watch.install()
        manager = make(task.manager)
        out.write(msgspec.msgpack.encode([_tell(manager, case, task, watch) for case in task.cases]))


def _tell(manager: TopicManager, case: Case, task: Task, watch: Watch) -> Told:
    transaction, subject = case.transaction(), case.subject()
    watch.asked.clear()
    watch.armed = task.closed
    facts = _deep(task.depth, lambda: _facts(manager, transaction))
    answer = _deep(task.depth, lambda: _judged(manager, subject, facts))
    watch.armed = False
    asked = tuple(dict.fromkeys(watch.asked))
    known = b"" if isinstance(facts, Raised) else facts
    if isinstance(answer, Raised):
        return Told(Admittance(), answer.what, asked, known)
    return Told(answer, "", asked, known)


def _deep(levels: int, what: Callable[[], T]) -> T:
    return what() if levels == 0 else _deep(levels - 1, what)


if __name__ == "__main__":
    _serve()
