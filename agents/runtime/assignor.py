"""Which member of a group owns which partitions."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import msgspec
from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata

from agents.runtime.placement import NOTHING, Dealt, Has, encode, place, read_dealt, read_has

log = logging.getLogger(__name__)


class SameNumberAssignor(AbstractPartitionAssignor):
    """One member owns the same partition number of every topic the group reads (ASSIGN-1).

    Faust's default deals the partitions of all topics round in one circle: with 3 workers every one of 32 numbers had
    two owners.
    """

    name = "beefline-same-number"
    version = 0

    @classmethod
    def assign(
        cls, cluster: ClusterMetadata, members: Mapping[str, ConsumerProtocolMemberMetadata]
    ) -> dict[str, ConsumerProtocolMemberAssignment]:
        """Number p goes to member p modulo the members, in the order of their ids."""
        return {
            member: ConsumerProtocolMemberAssignment(cls.version, sorted(owned.items()), b"")
            for member, owned in deal(_partitions(cluster, members), sorted(members)).items()
        }

    @classmethod
    def metadata(cls, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        """What a member says of itself when it joins."""
        return ConsumerProtocolMemberMetadata(cls.version, list(topics), b"")

    @classmethod
    def on_assignment(cls, assignment: Any) -> None:
        """Nothing is kept between assignments."""


class CopiesAssignor:
    """The same for a stage with state: a number goes to a member with a fresh copy, and others are told to keep one.

    Members say in their metadata what copies they have. aiokafka calls this in the consumer's thread, and takes objects
    as well as classes.
    """

    name = "beefline-copies"
    version = 0

    def __init__(
        self, has: Callable[[], Has], dealt: Callable[[Sequence[int], Dealt], None], replication: int, fresh: int
    ) -> None:
        self._has = has
        self._dealt = dealt
        self._replication = replication
        self._fresh = fresh

    def assign(
        self, cluster: ClusterMetadata, members: Mapping[str, ConsumerProtocolMemberMetadata]
    ) -> dict[str, ConsumerProtocolMemberAssignment]:
        """See `placement.place`; by one member, for all."""
        partitions = _partitions(cluster, members)
        count = max((number + 1 for numbers in partitions.values() for number in numbers), default=0)
        brought = {member: _has(said) for member, said in members.items()}
        shares = place(count, brought, self._replication, self._fresh)
        return {
            member: ConsumerProtocolMemberAssignment(
                self.version,
                [(topic, [n for n in share.owned if n in numbers]) for topic, numbers in sorted(partitions.items())],
                encode(share.dealt),
            )
            for member, share in shares.items()
        }

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        """What a member says of itself when it joins."""
        return ConsumerProtocolMemberMetadata(self.version, list(topics), encode(self._has()))

    def on_assignment(self, assignment: ConsumerProtocolMemberAssignment) -> None:
        """What this member was dealt."""
        owned = {number for _, numbers in assignment.assignment for number in numbers}
        self._dealt(sorted(owned), read_dealt(assignment.user_data))


def _has(said: ConsumerProtocolMemberMetadata) -> Has:
    try:
        return read_has(said.user_data)
    except msgspec.MsgspecError:
        log.warning("a member of the group says of its copies what is not understood: taken for none")
        return NOTHING


def _partitions(
    cluster: ClusterMetadata, members: Mapping[str, ConsumerProtocolMemberMetadata]
) -> dict[str, list[int]]:
    return {
        topic: sorted(cluster.partitions_for_topic(topic) or ())
        for member in members.values()
        for topic in member.subscription
    }


def deal(partitions: Mapping[str, Iterable[int]], members: list[str]) -> dict[str, dict[str, list[int]]]:
    """Partitions of each topic by member: equal numbers together."""
    dealt: dict[str, dict[str, list[int]]] = {member: {} for member in members}
    for topic, numbers in sorted(partitions.items()):
        for number in numbers:
            dealt[members[number % len(members)]].setdefault(topic, []).append(number)
    return dealt
