"""Who holds which partition: what is said, what is believed, and where a worker says it can be reached."""

from collections.abc import Sequence
from typing import Any

import pytest

from agents.runtime.members import STALE_S, Directory, advertised, worker_name
from agents.runtime.settings import KafkaSettings, WorkerSettings
from schemas.members import MEMBER, Held, Member
from tests.fakes import Record

NOW_S = 1_000_000.0


def said(worker: str, *held: tuple[int, int], ago_s: float = 0.0, owner: bool = True) -> Record:
    url = f"http://{worker}"
    member = Member(worker, url, tuple(Held(*each, 5, owner) for each in held), int((NOW_S - ago_s) * 1000))
    return Record("beef.members", key=worker.encode(), value=MEMBER.encode(member), headers=[MEMBER.header])


async def holders(*records: Record) -> dict[int, Sequence[str]]:
    directory = Directory(KafkaSettings(), "beef.members", lambda: NOW_S)
    for record in records:
        directory._take(record)

    async def nothing_new() -> None: ...

    directory._catch_up = nothing_new  # type: ignore[method-assign]
    return dict(await directory.holders())


async def test_of_two_that_claim_a_partition_the_later_generation_has_it() -> None:
    """Whoever speaks last: a worker that was paused does not know that it was replaced."""
    found = await holders(said("new", (1, 8), ago_s=9), said("old", (1, 7), (2, 7)))
    assert found == {1: ["http://new", "http://old"], 2: ["http://old"]}


async def test_the_owner_is_asked_first_and_then_who_has_a_copy() -> None:
    """Whatever they say of generations, and whoever spoke last."""
    found = await holders(said("copy", (1, 9), owner=False), said("owner", (1, 7), ago_s=9))
    assert found == {1: ["http://owner", "http://copy"]}


async def test_the_newest_word_of_a_worker_counts() -> None:
    assert await holders(said("a", (1, 7), (2, 7)), said("a", (2, 8))) == {2: ["http://a"]}


async def test_who_left_or_fell_silent_is_not_asked() -> None:
    left = said("left", (1, 1))
    left.value = None
    silent = said("silent", (3, 1), ago_s=STALE_S + 1)
    assert await holders(said("left", (1, 1)), left, silent, said("there", (4, 1), ago_s=STALE_S - 1)) == {
        4: ["http://there"]
    }


async def test_a_word_of_another_version_is_not_understood() -> None:
    strange: Any = said("a", (1, 1))
    strange.headers = [("schema", b"member/9")]
    assert await holders(said("a", (1, 1)), strange) == {}


@pytest.mark.setting("worker.advertised_url")
def test_a_worker_says_where_others_reach_it() -> None:
    """As set; else as bound; bound to every address, by the one that leads to the broker."""
    bound = WorkerSettings()
    assert advertised(bound, "http://127.0.0.1:9100", "kafka:9092") == "http://127.0.0.1:9100"
    assert advertised(bound, "http://[::1]:9100", "kafka:9092") == "http://[::1]:9100"
    assert advertised(bound, "http://0.0.0.0:9100", "127.0.0.1:9092") == "http://127.0.0.1:9100"
    assert advertised(bound, "http://[::]:9100", "127.0.0.1:9092,other:9092") == "http://127.0.0.1:9100"
    given = WorkerSettings(advertised_url="https://reads.example/")
    assert advertised(given, "http://0.0.0.0:9100", "kafka:9092") == "https://reads.example"


def test_a_worker_without_a_lasting_name_has_one_of_its_own() -> None:
    assert worker_name(WorkerSettings(instance="apply-0"), "apply") == "apply-0"
    names = {worker_name(WorkerSettings(), "apply") for _ in range(2)}
    assert len(names) == 2
    assert all(name.startswith("apply-") for name in names)
