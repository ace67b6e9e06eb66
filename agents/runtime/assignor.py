"""Which member of a group owns which partitions."""

from collections.abc import Iterable, Mapping
from typing import Any

from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata


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
        partitions = {
            topic: sorted(cluster.partitions_for_topic(topic) or ())
            for member in members.values()
            for topic in member.subscription
        }
        return {
            member: ConsumerProtocolMemberAssignment(cls.version, sorted(owned.items()), b"")
            for member, owned in deal(partitions, sorted(members)).items()
        }

    @classmethod
    def metadata(cls, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        """What a member says of itself when it joins."""
        return ConsumerProtocolMemberMetadata(cls.version, list(topics), b"")

    @classmethod
    def on_assignment(cls, assignment: Any) -> None:
        """Nothing is kept between assignments."""


def deal(partitions: Mapping[str, Iterable[int]], members: list[str]) -> dict[str, dict[str, list[int]]]:
    """Partitions of each topic by member: equal numbers together."""
    dealt: dict[str, dict[str, list[int]]] = {member: {} for member in members}
    for topic, numbers in sorted(partitions.items()):
        for number in numbers:
            dealt[members[number % len(members)]].setdefault(topic, []).append(number)
    return dealt
