"""Which member of a group owns a partition of the state, and who else keeps a copy of it (COPY-1). Pure."""

from collections.abc import Callable, Mapping

from msgspec import Struct, msgpack


class Has(Struct, frozen=True, array_like=True):
    """What a member brings when it joins."""

    host: str
    positions: dict[int, int] = {}  # of its copies in their changelog, by partition; one that is of no use is not there
    owned: tuple[int, ...] = ()  # what it was dealt last


class Dealt(Struct, frozen=True, array_like=True):
    """What a member is told besides what it owns."""

    followed: tuple[int, ...] = ()  # copies to keep of what others own
    warming: tuple[int, ...] = ()  # of these, those it is to own once they are fresh: then it joins anew
    missing: int = 0  # copies of each partition that the group is too small for


class Share(Struct):
    """A member's part of it all."""

    owned: list[int]
    dealt: Dealt


NOTHING = Has("")

encode = msgpack.Encoder().encode
read_has = msgpack.Decoder(Has).decode
read_dealt = msgpack.Decoder(Dealt).decode


def place(count: int, members: Mapping[str, Has], replication: int, fresh: int) -> dict[str, Share]:
    """Deal `count` partitions to members.

    A partition goes to one of those whose copies are fresh, evenly among them, and to whoever had it before where that
    is as good. Its copies go to others, on other hosts first, to those that have one already before those that would
    begin. A member that gets less than its share for want of fresh copies is given copies to make fresh.
    replication: copies of a partition, the owner's among them; fresh: records that a copy may be behind the furthest.
    """
    return _Placing(count, members, replication, fresh).shares()


class _Placing:
    def __init__(self, count: int, members: Mapping[str, Has], replication: int, fresh: int) -> None:
        self.count = count
        self.members = members
        self.fresh = fresh
        self.names = sorted(members)
        self.others = min(replication, len(members)) - 1
        self.missing = replication - 1 - self.others
        self.best = [max(has.positions.get(number, 0) for has in members.values()) for number in range(count)]
        self.owned: dict[str, list[int]] = {name: [] for name in self.names}
        self.followed: dict[str, set[int]] = {name: set() for name in self.names}

    def shares(self) -> dict[str, Share]:
        self._deal()
        self._even_out()
        self._copies()
        warming = self._warming()
        return {
            name: Share(
                sorted(self.owned[name]),
                Dealt(tuple(sorted(self.followed[name])), tuple(sorted(warming[name])), self.missing),
            )
            for name in self.names
        }

    def _behind(self, name: str, number: int) -> int:
        return self.best[number] - self.members[name].positions.get(number, 0)

    def _fresh(self, name: str, number: int) -> bool:
        return self._behind(name, number) <= self.fresh

    # --- owners

    def _deal(self) -> None:
        """To a fresh copy each: first what its last owner may keep, then the rest to who has least."""
        left = []
        for number in range(self.count):
            before = [name for name in self.names if number in self.members[name].owned and self._fresh(name, number)]
            if before:
                self.owned[min(before, key=lambda name: self._behind(name, number))].append(number)
            else:
                left.append(number)
        for number in left:
            fresh = [name for name in self.names if self._fresh(name, number)]
            self.owned[min(fresh, key=lambda name: len(self.owned[name]))].append(number)

    def _even_out(self) -> None:
        """From whoever has two more than another whose copy is fresh, for as long as there is such a pair."""
        moved = True
        while moved:
            moved = False
            for giver in sorted(self.names, key=lambda name: -len(self.owned[name])):
                for number in list(self.owned[giver]):
                    taker = min(
                        (name for name in self.names if self._fresh(name, number)),
                        key=lambda name: len(self.owned[name]),
                    )
                    if len(self.owned[giver]) - len(self.owned[taker]) >= 2:
                        self.owned[giver].remove(number)
                        self.owned[taker].append(number)
                        moved = True

    # --- copies

    def _copies(self) -> None:
        most = -(-self.count * self.others // max(1, len(self.names)))
        for number in range(self.count):
            owner = next(name for name in self.names if number in self.owned[name])
            holders = [owner]
            for _ in range(self.others):
                hosts = {self.members[name].host for name in holders}
                holders.append(min((n for n in self.names if n not in holders), key=self._rank(number, hosts, most)))
                self.followed[holders[-1]].add(number)

    def _rank(self, number: int, hosts: set[str], most: int) -> Callable[[str], tuple[bool, bool, bool, int]]:
        def key(name: str) -> tuple[bool, bool, bool, int]:
            return (
                self.members[name].host in hosts,
                len(self.followed[name]) >= most,
                number not in self.members[name].positions or not self._fresh(name, number),
                len(self.followed[name]),
            )

        return key

    def _warming(self) -> dict[str, list[int]]:
        """What members with too little would take from those with most."""
        share = self.count // len(self.names) if self.names else 0
        loads = {name: len(self.owned[name]) for name in self.names}
        warming: dict[str, list[int]] = {name: [] for name in self.names}
        promised: set[int] = set()
        for name in self.names:
            while loads[name] < share:
                giver = max(self.names, key=lambda each: loads[each])
                takes = [n for n in sorted(self.owned[giver]) if n not in promised and not self._fresh(name, n)]
                if loads[giver] - loads[name] < 2 or not takes:
                    break
                takes.sort(key=lambda n: n not in self.followed[name])  # what it is to follow anyway
                warming[name].append(takes[0])
                promised.add(takes[0])
                self.followed[name].add(takes[0])
                loads[giver] -= 1
                loads[name] += 1
        return warming
