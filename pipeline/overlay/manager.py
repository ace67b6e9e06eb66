"""Topic managers: the rule of an overlay topic (BRC-22, BRC-87), as a plug-in.

A manager is deterministic: no clock, no network, no state of its own. What it raises costs the record it was asked
about, and is never "nothing admitted" (TOPIC-1). The contract for authors is docs/topic-managers.md.
"""

from collections.abc import Sequence
from functools import cached_property
from importlib import import_module
from importlib.metadata import entry_points
from typing import Protocol, runtime_checkable

from msgspec import Struct

from pipeline.codec.reader import varint
from pipeline.codec.tx import Tx, read_tx
from schemas.external import Admittance
from schemas.types import Outpoint, Txid, is_topic_name

CONTRACT = 2
"""Version of this interface; a manager may state the one it was written for as `contract`. It is raised when a manager
that was right before would break: version 1 offered a subject's ancestors, which a judgement may not depend on."""

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


class Subject:
    """The transaction a manager judges.

    txid: 32 bytes, wire order.
    raw: the transaction's bytes.
    previous_coins: input indices that spend coins admitted to this topic, ascending.
    off_chain_values: what the sender added for the managers, or nothing.

    That is all a judgement may depend on, with what the inputs spend: one that is judged again gets the same.
    """

    def __init__(
        self,
        txid: Txid,
        raw: bytes,
        sources: Sequence[bytes],
        previous_coins: tuple[int, ...] = (),
        off_chain_values: bytes = b"",
    ) -> None:
        """sources: by input the output it spends, as it stands; empty where it is not known."""
        self.txid = txid
        self.raw = raw
        self._sources = sources
        self.previous_coins = previous_coins
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
        """What it spends, by input. Always known of previous coins; None where a proven one came without parents."""
        return tuple(map(_output, self._sources))

    @cached_property
    def coins(self) -> tuple[PreviousCoin, ...]:
        """The previous coins themselves, in the order of `previous_coins`. Read when first asked for."""
        return tuple(map(self._coin, self.previous_coins))

    def _coin(self, vin: int) -> PreviousCoin:
        output = _output(self._sources[vin])
        assert output is not None  # who makes a subject knows the coins of its topic
        return PreviousCoin(vin, self.tx.outpoint(vin), output.satoshis, output.script)


def _output(stored: bytes) -> Output | None:
    if not stored:
        return None
    length, at = varint(stored, 8)
    return Output(int.from_bytes(stored[:8], "little"), stored[at : at + length])


@runtime_checkable
class TopicManager(Protocol):
    """The rule of one overlay topic."""

    version: str
    """Part of what a judgement depends on; change it with the rule."""

    def admit(self, subject: Subject) -> Admittance:
        """Which outputs enter and which spent coins are retained (`identifyAdmissibleOutputs` of BRC-22).

        `coins_removed` may be left empty: what is spent and not retained is removed.
        """
        ...


class BadManager(Exception):  # noqa: N818 - what the plug-in is
    """A manager cannot be loaded, or answers what no manager may."""


def load(names: tuple[str, ...]) -> dict[str, TopicManager]:
    """Managers by overlay topic.

    names: `tm_x` (an installed entry point), or `tm_x=package.module:Class`.

    Raises:
        BadManager: a name that BRC-87 does not allow, that nothing provides, or whose code does not load.
    """
    installed = {point.name: point for point in entry_points(group=GROUP)}
    managers: dict[str, TopicManager] = {}
    for spec in names:
        topic, _, path = spec.partition("=")
        if not is_topic_name(topic):
            raise BadManager(f"{topic!r} is no overlay topic name: tm_ and lower-case words, 50 bytes at most (BRC-87)")
        if not path and topic not in installed:
            known = ", ".join(sorted(installed)) or "none"
            raise BadManager(f"no installed package provides {topic} (entry points: {known})")
        managers[topic] = _make(topic, path or installed[topic].value)
    return managers


def _make(topic: str, path: str) -> TopicManager:
    module, _, name = path.partition(":")
    try:
        made = getattr(import_module(module), name)()
    except Exception as error:
        raise BadManager(f"{topic}: {path} does not load: {type(error).__name__}: {error}") from error
    if not isinstance(made, TopicManager):
        raise BadManager(f"{topic}: {path} is no topic manager: it lacks `version` or `admit`")
    if getattr(made, "contract", CONTRACT) != CONTRACT:
        raise BadManager(f"{topic}: {path} was written for another version of the interface; this is {CONTRACT}")
    return made


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
