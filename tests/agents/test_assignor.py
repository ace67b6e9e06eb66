"""Assignments: one member owns a number of all topics, and none owns many more than another."""

from collections import Counter

import pytest
from aiokafka.cluster import ClusterMetadata
from hypothesis import given
from hypothesis import strategies as st

from agents.runtime.assignor import SameNumberAssignor, deal
from tests.profiles import CHEAP


def members(count: int) -> list[str]:
    return [f"member-{n}" for n in range(count)]


def owners(dealt: dict[str, dict[str, list[int]]], topic: str) -> dict[int, str]:
    """Who has which partition of a topic; nobody has one of somebody else's."""
    found: dict[int, str] = {}
    for member, owned in dealt.items():
        for number in owned.get(topic, ()):
            assert number not in found, f"{topic}-{number} has two owners"
            found[number] = member
    return found


@pytest.mark.invariant("ASSIGN-1")
@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 7, 32, 40])
def test_equal_numbers_go_together(count: int) -> None:
    """Faust's default split all 32 numbers with 3 and with 5 workers."""
    dealt = deal({"one": range(32), "other": range(32)}, members(count))
    assert owners(dealt, "one") == owners(dealt, "other")
    assert set(owners(dealt, "one")) == set(range(32))
    sizes = [sum(map(len, dealt[member].values())) // 2 for member in members(count)]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.invariant("ASSIGN-1")
@CHEAP
@given(
    st.dictionaries(st.sampled_from(["a", "b", "c", "d"]), st.integers(0, 40), min_size=1),
    st.sets(st.integers(0, 99), min_size=1, max_size=9),
)
def test_every_partition_has_one_owner_whatever_the_topics(counts: dict[str, int], names: set[int]) -> None:
    """Topics of different widths too: a number that both have has one owner."""
    found = sorted(f"m{name}" for name in names)
    dealt = deal({topic: range(count) for topic, count in counts.items()}, found)
    assert set(dealt) == set(found)
    by_number: dict[int, set[str]] = {}
    for topic, count in counts.items():
        held = owners(dealt, topic)
        assert set(held) == set(range(count))
        loads = Counter(held.values())
        assert max(loads.values(), default=0) - min((loads[name] for name in found), default=0) <= 1
        for number, member in held.items():
            by_number.setdefault(number, set()).add(member)
    assert all(len(held) == 1 for held in by_number.values())


def test_the_group_protocol_carries_it() -> None:
    """What members send when they join, and what each gets back; the order in which they joined does not count."""
    cluster = ClusterMetadata()
    for topic, count in (("beef.retry.10s", 3), ("beef.retry.1m", 3)):
        cluster._partitions[topic] = dict.fromkeys(range(count))
    topics = ["beef.retry.10s", "beef.retry.1m", "beef.not-there"]
    said = {name: SameNumberAssignor.metadata(topics) for name in ("b", "a")}
    assigned = SameNumberAssignor.assign(cluster, said)
    assert {member: each.assignment for member, each in assigned.items()} == {
        "a": [("beef.retry.10s", [0, 2]), ("beef.retry.1m", [0, 2])],
        "b": [("beef.retry.10s", [1]), ("beef.retry.1m", [1])],
    }
    turned = SameNumberAssignor.assign(cluster, dict(reversed(said.items())))
    assert {member: each.encode() for member, each in turned.items()} == {
        member: each.encode() for member, each in assigned.items()
    }
    assert SameNumberAssignor.metadata(topics).subscription == topics
