"""Who owns a partition of the state, and who keeps a copy of it."""

from collections import Counter

import pytest
from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.protocol import ConsumerProtocolMemberMetadata
from hypothesis import given
from hypothesis import strategies as st

from agents.runtime.assignor import CopiesAssignor
from agents.runtime.placement import Dealt, Has, Share
from agents.runtime.placement import place as placed
from tests.profiles import CHEAP

COUNT = 32
FRESH = 1000


def place(count: int, has: dict[str, Has], replication: int) -> dict[str, Share]:
    return placed(count, has, replication, FRESH)


positions = st.dictionaries(
    st.integers(0, COUNT + 3), st.one_of(st.integers(0, 20), st.integers(0, 5 * FRESH)), max_size=COUNT
)
members = st.dictionaries(
    st.sampled_from([f"m{n}" for n in range(9)]),
    st.builds(
        Has,
        st.sampled_from(["left", "right", "far"]),
        positions,
        st.lists(st.integers(0, COUNT + 3), max_size=COUNT, unique=True).map(tuple),
    ),
    min_size=1,
    max_size=9,
)


def owners(shares: dict[str, Share]) -> dict[int, str]:
    """By partition; nobody has one of somebody else's."""
    found: dict[int, str] = {}
    for name, share in shares.items():
        for number in share.owned:
            assert number not in found, f"{number} has two owners"
            found[number] = name
    return found


def holders(shares: dict[str, Share], number: int) -> list[str]:
    return [name for name, share in shares.items() if number in share.owned or number in share.dealt.followed]


def apart(has: dict[str, Has], number: int, name: str) -> int:
    """Records that a member's copy is behind the furthest."""
    return max(each.positions.get(number, 0) for each in has.values()) - has[name].positions.get(number, 0)


def everything(position: int = 500) -> dict[int, int]:
    return dict.fromkeys(range(COUNT), position)


@pytest.mark.invariant("ASSIGN-1")
@pytest.mark.invariant("COPY-1")
@CHEAP
@given(members, st.integers(1, 7))
def test_whatever_members_bring(has: dict[str, Has], replication: int) -> None:
    """One owner each, with a fresh copy; as many copies as members allow, none of them the owner's own; the same again
    for the same members, in whatever order they came."""
    shares = place(COUNT, has, replication)
    dealt = owners(shares)
    assert sorted(dealt) == list(range(COUNT))
    assert set(shares) == set(has)
    wanted = min(replication, len(has))
    for number, owner in dealt.items():
        assert apart(has, number, owner) <= FRESH
        held = holders(shares, number)
        warm = sum(number in share.dealt.warming for share in shares.values())
        assert wanted <= len(held) <= wanted + warm
        assert number not in shares[owner].dealt.followed
    for name, share in shares.items():
        assert share.dealt.missing == replication - wanted
        assert set(share.dealt.warming) <= set(share.dealt.followed)
        assert all(apart(has, number, name) > FRESH for number in share.dealt.warming)
    assert place(COUNT, dict(reversed(has.items())), replication) == shares


@CHEAP
@given(members)
def test_who_could_take_more_does(has: dict[str, Has]) -> None:
    """Nobody has two more than another whose copies of them are fresh."""
    shares = place(COUNT, has, 3)
    for giver, share in shares.items():
        for taker, other in shares.items():
            if len(share.owned) - len(other.owned) >= 2:
                assert all(apart(has, number, taker) > FRESH for number in share.owned), (giver, taker)


def test_an_empty_installation_is_dealt_evenly() -> None:
    """By threes: everybody has everything."""
    shares = place(COUNT, {name: Has(name) for name in ("a", "b", "c")}, 3)
    assert sorted(len(share.owned) for share in shares.values()) == [10, 11, 11]
    assert all(len(share.owned) + len(share.dealt.followed) == COUNT for share in shares.values())
    assert all(share.dealt.warming == () for share in shares.values())
    wide = place(COUNT, {f"m{n}": Has(f"m{n}") for n in range(8)}, 3)
    assert {len(share.owned) for share in wide.values()} == {4}
    assert {len(share.dealt.followed) for share in wide.values()} <= {7, 8, 9}


@pytest.mark.invariant("COPY-1")
def test_a_lost_member_s_partitions_go_to_the_freshest_copies() -> None:
    """Nobody else's move; of two copies the one that is further, where the other is not fresh."""
    behind = {number: 9 * FRESH if number % 2 else 1 for number in range(20, COUNT)}
    has = {
        "a": Has("a", everything(9 * FRESH), tuple(range(10))),
        "b": Has("b", {**everything(9 * FRESH), **behind}, tuple(range(10, 20))),
    }
    shares = place(COUNT, has, 3)
    assert set(range(10)) <= set(shares["a"].owned)
    assert set(range(10, 20)) <= set(shares["b"].owned)
    assert {number for number in range(20, COUNT) if number % 2 == 0} <= set(shares["a"].owned)


def test_a_new_member_waits_until_its_copies_are_fresh() -> None:
    """It is told which, takes nothing until then, and its share afterwards."""
    old = Has("a", everything(9 * FRESH), tuple(range(COUNT)))
    shares = place(COUNT, {"a": old, "b": Has("b")}, 3)
    assert (len(shares["a"].owned), shares["b"].owned) == (COUNT, [])
    assert len(shares["b"].dealt.warming) == COUNT // 2
    assert set(shares["b"].dealt.followed) == set(range(COUNT))
    warm = dict.fromkeys(shares["b"].dealt.warming, 9 * FRESH - 5)
    after = place(COUNT, {"a": old, "b": Has("b", warm)}, 3)
    assert sorted(after["b"].owned) == sorted(warm)
    assert after["b"].dealt.warming == ()


def test_one_of_many_that_follows_little_is_given_what_it_is_to_own() -> None:
    """With more members than copies, a new one follows beyond those copies until it has its share."""
    has = {f"m{n}": Has(f"m{n}", everything(9 * FRESH), tuple(range(n * 8, n * 8 + 8))) for n in range(4)}
    shares = place(COUNT, {**has, "new": Has("new")}, 2)
    warming = shares["new"].dealt.warming
    assert len(warming) == COUNT // 5
    givers = Counter(owners(shares)[number] for number in warming)
    assert max(givers.values()) <= 2, "each gives some"


@pytest.mark.setting("worker.host")
def test_copies_go_to_other_hosts_first() -> None:
    """Two workers on each of two hosts: every partition is on both."""
    hosts = {"a1": "a", "a2": "a", "b1": "b", "b2": "b"}
    shares = place(COUNT, {name: Has(host) for name, host in hosts.items()}, 2)
    for number in range(COUNT):
        assert {hosts[name] for name in holders(shares, number)} == {"a", "b"}


@pytest.mark.setting("worker.replication")
@pytest.mark.parametrize("replication", [1, 2, 3])
def test_as_many_copies_as_are_set(replication: int) -> None:
    """And what the group is too small for is said."""
    shares = place(COUNT, {name: Has(name) for name in ("a", "b")}, replication)
    for number in range(COUNT):
        assert len(holders(shares, number)) == min(2, replication)
    assert {share.dealt.missing for share in shares.values()} == {max(0, replication - 2)}


def test_the_group_protocol_carries_it() -> None:
    """What members say when they join, and what each gets back; one that says what is not understood has nothing."""
    cluster = ClusterMetadata()
    cluster._partitions["beef.operations"] = dict.fromkeys(range(3))
    told: list[tuple[list[int], Dealt]] = []
    own = Has("here", {0: 9 * FRESH, 1: 9 * FRESH, 2: 9 * FRESH}, (0, 1, 2))
    assignor = CopiesAssignor(lambda: own, lambda owned, dealt: told.append((list(owned), dealt)), 2, FRESH)
    said = assignor.metadata(["beef.operations"])
    strange = ConsumerProtocolMemberMetadata(0, ["beef.operations"], b"\xc1")
    read = ConsumerProtocolMemberMetadata.decode(said.encode())
    assigned = assignor.assign(cluster, {"a": read, "strange": strange})
    assert {member: each.assignment for member, each in assigned.items()} == {
        "a": [("beef.operations", [0, 1, 2])],
        "strange": [("beef.operations", [])],
    }
    for each in assigned.values():
        assignor.on_assignment(type(each).decode(each.encode()))
    assert told == [([0, 1, 2], Dealt()), ([], Dealt((0, 1, 2), (0,)))]
