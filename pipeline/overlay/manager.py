"""Topic managers: the rule of an overlay topic (BRC-22, BRC-87), as a plug-in.

A manager is deterministic: no clock, no network, no state of its own. What it raises costs the record it was asked
about, and is never "nothing admitted" (TOPIC-1). The contract for authors is docs/topic-managers.md.
"""

from collections.abc import Sequence
from functools import cached_property
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

from msgspec import Struct, structs

from pipeline.codec.reader import varint
from pipeline.codec.tx import Tx, read_tx
from schemas.external import Admittance
from schemas.flow import Examined
from schemas.state import Submission
from schemas.types import Outpoint, Txid, is_topic_name

CONTRACT = 3
"""Version of this interface; a manager may state the one it was written for as `contract`. It is raised when a manager
that was right before would break, or when one may need what an older beefline does not offer: version 1 offered a
subject's ancestors, which a judgement may not depend on; version 3 asks `examine`."""

TAKEN = (2, CONTRACT)
"""Versions that managers may be written for."""

EXAMINES = 3
"""From this version on `examine` is a method of the contract. In a manager written for an older one, or that does not
say, a method of that name is its own business."""

FACTS_BYTES = 64 << 10
"""Facts at most: they travel beside the payload and stay in the state, in the room that topics leave for names."""

GROUP = "beefline.topic_managers"
"""Entry-point group: the name is the overlay topic's, the value a class or a function without arguments."""


class Output(Struct, frozen=True):
    """An output of the transaction: value in satoshis, and locking script."""

    satoshis: int
    script: bytes


class PreviousCoin(Struct, frozen=True):
    """A coin of the topic that a subject spends."""

    vin: int  # the input that spends it
    outpoint: Outpoint
    satoshis: int
    script: bytes  # locking script


class Transaction:
    """The transaction a manager examines, before anything is known of coins.

    txid: 32 bytes, wire order.
    raw: the transaction's bytes.
    off_chain_values: what the sender added for the managers, or nothing.
    """

    def __init__(self, txid: Txid, raw: bytes, sources: Sequence[bytes], off_chain_values: bytes = b"") -> None:
        """sources: by input the output it spends, as it stands; empty where it is not known."""
        self.txid = txid
        self.raw = raw
        self.sources = sources
        self.off_chain_values = off_chain_values

    @cached_property
    def tx(self) -> Tx:
        """The transaction, read when first asked for."""
        return read_tx(self.raw)

    @property
    def output_count(self) -> int:
        """How many outputs it makes."""
        return len(self.tx.outs) - 1

    @cached_property
    def outputs(self) -> tuple[Output, ...]:
        """What it makes, in order."""
        tx = self.tx
        return tuple(Output(tx.satoshis(vout), tx.locking(vout)) for vout in range(self.output_count))

    @cached_property
    def spent(self) -> tuple[Output | None, ...]:
        """What it spends, by input; None where a proven transaction came without its parents."""
        return tuple(map(_output, self.sources))


class Subject(Transaction):
    """The transaction a manager judges.

    previous_coins: input indices that spend coins admitted to this topic, ascending. What they spend is always known.
    facts: what the manager's `examine` made of the transaction; nothing where it has none.

    That is all a judgement may depend on, with what the inputs spend: one that is judged again gets the same.
    """

    def __init__(
        self,
        txid: Txid,
        raw: bytes,
        sources: Sequence[bytes],
        previous_coins: tuple[int, ...] = (),
        off_chain_values: bytes = b"",
        facts: bytes = b"",
    ) -> None:
        """See `Transaction`."""
        super().__init__(txid, raw, sources, off_chain_values)
        self.previous_coins = previous_coins
        self.facts = facts

    @cached_property
    def coins(self) -> tuple[PreviousCoin, ...]:
        """The previous coins themselves, in the order of `previous_coins`. Read when first asked for."""
        return tuple(map(self._coin, self.previous_coins))

    def _coin(self, vin: int) -> PreviousCoin:
        output = _output(self.sources[vin])
        assert output is not None  # who makes a subject knows the coins of its topic
        return PreviousCoin(vin, self.tx.outpoint(vin), output.satoshis, output.script)


def _output(stored: bytes) -> Output | None:
    if not stored:
        return None
    length, at = varint(stored, 8)
    return Output(int.from_bytes(stored[:8], "little"), stored[at : at + length])


@runtime_checkable
class TopicManager(Protocol):
    """The rule of one overlay topic.

    From contract 3 on it may have `examine(transaction: Transaction) -> bytes` beside: facts that follow from the
    transaction alone. It is asked in the verify stage, on all cores; `admit` finds the facts in its subject.
    """

    version: str
    """Part of what a judgement depends on; change it with the rule."""

    def admit(self, subject: Subject) -> Admittance:
        """Which outputs enter and which spent coins are retained (`identifyAdmissibleOutputs` of BRC-22).

        `coins_removed` may be left empty: what is spent and not retained is removed.
        """
        ...


class Examiner(Protocol):
    """A manager that examines."""

    version: str

    def examine(self, transaction: Transaction) -> bytes:
        """Facts for `admit`, FACTS_BYTES at most; empty where nothing is the topic's."""
        ...


class BadManager(Exception):  # noqa: N818 - what the plug-in is
    """A manager cannot be loaded, or answers what no manager may."""


def places(names: tuple[str, ...]) -> dict[str, str]:
    """Where the managers of overlay topics are, as `package.module:Class`. Nothing is imported.

    names: `tm_x` (an installed entry point), or `tm_x=package.module:Class`.

    Raises:
        BadManager: a name that BRC-87 does not allow, or that nothing provides.
    """
    from importlib.metadata import entry_points  # half of what this module costs a process that needs none of it

    installed = {point.name: point for point in entry_points(group=GROUP)}
    found: dict[str, str] = {}
    for spec in names:
        topic, _, path = spec.partition("=")
        if not is_topic_name(topic):
            raise BadManager(f"{topic!r} is no overlay topic name: tm_ and lower-case words, 50 bytes at most (BRC-87)")
        if not path and topic not in installed:
            known = ", ".join(sorted(installed)) or "none"
            raise BadManager(f"no installed package provides {topic} (entry points: {known})")
        found[topic] = path or installed[topic].value
    return found


def load(names: tuple[str, ...]) -> dict[str, TopicManager]:
    """Managers by overlay topic, in this process.

    names: as for `places`.

    Raises:
        BadManager: as `places`, and for what does not load.
    """
    return {topic: make(topic, path) for topic, path in places(names).items()}


def make(topic: str, path: str) -> TopicManager:
    """A manager, made by calling what stands at `package.module:Class`.

    Raises:
        BadManager: it does not load, is no manager, or was written for a contract that is not taken.
    """
    module, _, name = path.partition(":")
    try:
        made = getattr(import_module(module), name)()
    except Exception as error:
        raise BadManager(f"{topic}: {path} does not load: {type(error).__name__}: {error}") from error
    if not isinstance(made, TopicManager):
        raise BadManager(f"{topic}: {path} is no topic manager: it lacks `version` or `admit`")
    written_for = getattr(made, "contract", None)
    if written_for is not None and written_for not in TAKEN:
        taken = " and ".join(map(str, TAKEN))
        raise BadManager(f"{topic}: {path} was written for another version of the interface; this takes {taken}")
    if written_for is None and hasattr(made, "examine"):
        raise BadManager(f"{topic}: {path} has `examine` and does not say whether it is the contract's: contract = 3")
    return made


def examiner(manager: TopicManager) -> Examiner | None:
    """The manager where it examines, else None."""
    asked: Any = manager
    written_for = getattr(asked, "contract", None) or 0
    return asked if written_for >= EXAMINES and getattr(asked, "examine", None) is not None else None


def examine(manager: Examiner, topic: str, transaction: Transaction) -> Examined:
    """Ask a manager what `admit` is to know of a transaction, and hold it to its contract.

    Raises:
        BadManager: it answers something else than bytes, or too many.
        Exception: whatever the manager raises.
    """
    facts = manager.examine(transaction)
    if not isinstance(facts, bytes):
        raise BadManager(f"{topic} examines and answers {type(facts).__name__}, not bytes")
    if len(facts) > FACTS_BYTES:
        raise BadManager(f"{topic} examines and answers {len(facts):,} bytes; {FACTS_BYTES:,} are taken")
    return Examined(manager.version, facts)


def up_to_date(manager: TopicManager, topic: str, txid: Txid, submission: Submission) -> Submission:
    """A submission with the facts that this version of its manager makes of it. Raises as `examine`.

    They follow from what the submission holds, so it does not matter who asks, and when: the verify stage before, or
    whoever judges with a manager that is another by now (TOPIC-2).
    """
    asked = examiner(manager)
    examined = submission.examined
    if asked is None or (examined is not None and examined.version == asked.version):
        return submission
    transaction = Transaction(txid, submission.raw, submission.sources, submission.off_chain)
    return structs.replace(submission, examined=examine(asked, topic, transaction))


def facts_of(manager: TopicManager, submission: Submission) -> bytes:
    """What `admit` is given of them."""
    return submission.examined.facts if submission.examined is not None and examiner(manager) is not None else b""


def admit(manager: TopicManager, topic: str, subject: Subject) -> Admittance:
    """Ask a manager, and hold it to its contract. The answer is sorted, and names the coins removed.

    Raises:
        BadManager: indices that do not exist, or coins that are not this topic's.
        Exception: whatever the manager raises.
    """
    said = manager.admit(subject)
    outputs = subject.output_count
    # True equals 1 and 1.0 does too, but neither is read again from what is stored.
    if kinds := {type(index).__name__ for index in (*said.outputs_to_admit, *said.coins_to_retain)} - {"int"}:
        raise BadManager(f"{topic} names outputs or inputs by {', '.join(sorted(kinds))}, not by whole numbers")
    admitted = sorted(set(said.outputs_to_admit))
    if strange := [vout for vout in admitted[:1] + admitted[-1:] if not 0 <= vout < outputs]:
        raise BadManager(f"{topic} admits output {strange[0]} of {outputs}")
    retained = sorted(set(said.coins_to_retain))
    strangers = set(retained) - set(subject.previous_coins)
    if strangers:
        raise BadManager(f"{topic} retains inputs {sorted(strangers)}, which spend no coin of it")
    removed = tuple(index for index in subject.previous_coins if index not in set(retained))
    return Admittance(tuple(admitted), tuple(retained), removed)
