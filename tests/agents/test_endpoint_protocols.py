"""Each client against the simulated service of its kind, over real HTTP: one suite, every status and every code.

The services are processes of their own, checked by `tests/ops/test_simulate*.py` against the published descriptions;
they read and judge with code of their own.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from agents.runtime.endpoint_settings import BroadcastSettings
from agents.runtime.endpoints import Endpoints, NoEndpoint
from agents.runtime.http import HttpSettings, Transport
from ops.instruments.chain import Chain
from ops.instruments.generate import Generator
from ops.instruments.keys import Made, spend
from ops.simulate.client import Simulated, spawn, spawn_all
from ops.simulate.teranode import ERRORS as TERANODE_ERRORS
from pipeline.broadcasters import Policy, Reply
from schemas.flow import BroadcastRequest, Unmined
from schemas.types import Txid, display
from tests.agents.serving import Clock
from tests.agents.test_endpoints import ORIGIN, told
from tests.pipeline.broadcasters import test_arc, test_arcade, test_teranode

KINDS = ("arc", "arcade", "teranode", "whatsonchain")
SIZES = {"whatsonchain": 4}  # requests in a batch: it takes one transaction a call

pytestmark = pytest.mark.invariant("CAST-2")


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain.open(tmp_path_factory.mktemp("protocols") / "chain")


@pytest.fixture(scope="module")
def shop(chain: Chain) -> Generator:
    return Generator(chain, seed=11)


@pytest.fixture(scope="module")
def services(chain: Chain) -> Iterator[dict[str, Simulated]]:
    """One of each kind, each with a network of its own."""
    started = spawn_all([(kind,) for kind in KINDS] + [("teranode", "--old")], chain=chain.folder)
    yield dict(zip((*KINDS, "old"), started, strict=True))
    for service in started:
        service.stop()


class World(Struct):
    """One client and its service."""

    endpoints: Endpoints
    service: Simulated
    clock: Clock
    counted: list[Reply]


@asynccontextmanager
async def world_of(service: Simulated, kind: str, options: str = "", **settings: Any) -> AsyncIterator[World]:
    chosen: dict[str, Any] = {
        "endpoints": (f"{kind}={service.url}{options}",),
        "backoff_s": 0.0,
        "attempts": 2,
        "timeout_s": 2.0,
        "wait_for": "",
        **settings,
    }
    clock, counted = Clock(), list[Reply]()
    async with Transport(HttpSettings(), clock=clock) as transport:
        made = Endpoints(BroadcastSettings(**chosen), transport, count=lambda _, reply: counted.append(reply))
        yield World(made, service, clock, counted)
        await made.close()
    service.fault("none")


def request(*family: Made) -> BroadcastRequest:
    """Un-mined transactions, ancestors first, the subject last."""
    members = tuple(Unmined(made.txid, made.extended()) for made in family)
    return BroadcastRequest(members[-1].txid, members, ("topic:tm_anytx",), ("r",), ORIGIN)


def payment(shop: Generator) -> Made:
    return shop.shop.pay([shop.shop.take().coin])


def requests(shop: Generator, kind: str) -> list[BroadcastRequest]:
    return [request(payment(shop)) for _ in range(SIZES.get(kind, 20))]


def family(shop: Generator, length: int) -> list[Made]:
    """A chain of transactions, parents first."""
    owner, coin = shop.shop.key(), shop.shop.take().coin
    made: list[Made] = []
    for _ in range(length):
        made.append(spend([coin], [(coin.satoshis - 500, owner.script)]))
        coin = made[-1].coin(0, owner)
    return made


def poor(shop: Generator) -> Made:
    """One that pays nothing."""
    coin = shop.shop.take().coin
    return spend([coin], [(coin.satoshis, coin.script)])


def has(service: Simulated, txids: Sequence[Txid]) -> list[bool]:
    """Whether the service took each: neither refused nor missing a parent."""
    known = service.transactions()
    found = [known.get(display(txid), "nothing") for txid in txids]
    return [status in ("RECEIVED", "STORED", "SEEN_ON_NETWORK", "MINED") for status in found]


# --- what goes well


@pytest.mark.parametrize("kind", KINDS)
async def test_what_is_accepted_is_there(services: dict[str, Simulated], shop: Generator, kind: str) -> None:
    some = requests(shop, kind)
    async with world_of(services[kind], kind) as world:
        assert told(await world.endpoints.broadcast(some)) == ["success"] * len(some)
    assert has(services[kind], [each.txid for each in some]) == [True] * len(some)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_second_time_changes_nothing(services: dict[str, Simulated], shop: Generator, kind: str) -> None:
    """By another process, which remembers nothing; once seen and once not."""
    some = requests(shop, kind)
    for _ in range(2):
        async with world_of(services[kind], kind) as world:
            assert told(await world.endpoints.broadcast(some)) == ["success"] * len(some)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.invariant("CAST-1")
async def test_a_family_goes_parents_first(
    services: dict[str, Simulated], shop: Generator, kind: str, batch: int
) -> None:
    """No member is ever an orphan there, also where a family takes several calls."""
    made = family(shop, 7)
    async with world_of(services[kind], kind, batch=batch) as world:
        assert told(await world.endpoints.broadcast([request(*made)])) == ["success"]
        assert {reply.kind for reply in world.counted} == {"accepted"}
    assert has(services[kind], [one.txid for one in made]) == [True] * 7


@pytest.mark.parametrize("kind", KINDS)
async def test_a_missing_parent_is_waited_for(services: dict[str, Simulated], shop: Generator, kind: str) -> None:
    parent, child = family(shop, 2)
    async with world_of(services[kind], kind) as world:
        assert told(await world.endpoints.broadcast([request(child)])) == ["waits network.orphan"]
        assert told(await world.endpoints.broadcast([request(parent, child)])) == ["success"]


@pytest.mark.parametrize("kind", KINDS)
async def test_of_two_that_spend_one_coin_the_second_is_refused(
    services: dict[str, Simulated], shop: Generator, kind: str
) -> None:
    coin = shop.shop.take().coin
    first, second = shop.shop.pay([coin]), shop.shop.pay([coin])
    async with world_of(services[kind], kind) as world:
        assert told(await world.endpoints.broadcast([request(first)])) == ["success"]
        assert told(await world.endpoints.broadcast([request(second)])) == ["refused network.double-spend"]


@pytest.mark.parametrize("name", [*KINDS, "old"])
async def test_one_that_is_refused_spoils_no_other(services: dict[str, Simulated], shop: Generator, name: str) -> None:
    """For its fee; by an older Teranode under HTTP 500."""
    kind = "teranode" if name == "old" else name
    some = requests(shop, kind)
    some.insert(len(some) // 2, request(poor(shop)))
    async with world_of(services[name], kind) as world:
        words = told(await world.endpoints.broadcast(some))
        assert words[len(some) // 2] == "refused network.fee"
        assert words.count("success") == len(some) - 1
        assert world.endpoints.standings()[0].state == "closed"


@pytest.mark.parametrize(
    ("kind", "limit"),
    [("arc", 15), ("arcade", 15), ("teranode", 15), ("whatsonchain", 100)],
)
async def test_a_poisoned_member_of_a_hundred_is_found_and_the_others_are_taken(
    services: dict[str, Simulated], shop: Generator, kind: str, limit: int
) -> None:
    """Each call that holds it is refused as a whole, as unreadable."""
    some = [request(payment(shop)) for _ in range(100)]
    services[kind].script(display(some[37].txid), "POISON")
    before = services[kind].stats()["requests"]
    async with world_of(services[kind], kind) as world:
        words = told(await world.endpoints.broadcast(some))
    assert words[37] == "refused network.malformed"
    assert words.count("success") == 99
    assert services[kind].stats()["requests"] - before <= limit
    assert has(services[kind], [each.txid for each in some]).count(True) == 99


# --- faults

FAULTS: dict[str, dict[str, str]] = {
    "down": dict.fromkeys(KINDS, "nobody"),
    "hang": dict.fromkeys(KINDS, "nobody"),
    "5xx": dict.fromkeys(KINDS, "nobody"),
    "429": dict.fromkeys(KINDS, "nobody"),
    "busy": dict.fromkeys(KINDS, "nobody"),
    "malformed": dict.fromkeys(KINDS, "nobody"),
    "lost-reply": dict.fromkeys(KINDS, "nobody"),
    "slow": dict.fromkeys(KINDS, "success"),
    "reject": dict.fromkeys(KINDS, "refused network.rejected"),
    "orphan": dict.fromkeys(KINDS, "waits network.orphan"),
    "wrong-txid": dict.fromkeys(("arc", "arcade"), "waits network.undecided")
    | dict.fromkeys(("teranode", "whatsonchain"), "success"),
    "reordered": dict.fromkeys(("arc", "teranode"), "success"),
    "partial": dict.fromkeys(("arc", "arcade", "teranode"), "success"),
}
"""What becomes of transactions that only this endpoint is asked for. Of Teranode's `OK` no txid can be wrong, and
WhatsOnChain's node says the second time that it has the transaction."""


ALONE = {("arcade", "reject"), ("arcade", "orphan")}
"""Seen by calls of one: a batch's numbers say that it was received, and no more."""


@pytest.mark.parametrize(("kind", "fault"), [(kind, fault) for fault, row in FAULTS.items() for kind in row])
async def test_what_a_fault_comes_to_and_that_it_passes(
    services: dict[str, Simulated], shop: Generator, kind: str, fault: str
) -> None:
    """Nothing is refused that the network did not refuse, nothing accepted that it does not have."""
    some, expected = requests(shop, kind)[:4], FAULTS[fault][kind]
    timeout_s = 0.2 if fault == "hang" else 2.0
    batch = 1 if (kind, fault) in ALONE else 100
    async with world_of(services[kind], kind, timeout_s=timeout_s, batch=batch) as world:
        services[kind].fault(fault, delay_ms=30)
        if expected == "nobody":
            with pytest.raises(NoEndpoint):
                await world.endpoints.broadcast(some)
            assert not await world.endpoints.probe()
        else:
            assert told(await world.endpoints.broadcast(some)) == [expected] * len(some)
        if expected == "success":
            assert has(services[kind], [each.txid for each in some]) == [True] * len(some)
        services[kind].fault("none")
        world.clock.pass_s(61)
        assert await world.endpoints.probe()
        assert told(await world.endpoints.broadcast(some)) == ["success"] * len(some)
    assert has(services[kind], [each.txid for each in some]) == [True] * len(some)


@pytest.mark.parametrize(("fault", "word"), [("reject", "refused"), ("orphan", "condition")])
async def test_what_arcade_finds_out_after_a_batch_was_received_is_told_when_asked(
    services: dict[str, Simulated], shop: Generator, fault: str, word: str
) -> None:
    """Received is what its numbers say, and what counts as accepted; the rest is the status stage's to follow."""
    one, two = request(payment(shop)), request(payment(shop))
    async with world_of(services["arcade"], "arcade") as world:
        services["arcade"].fault(fault)
        assert told(await world.endpoints.broadcast([one, two])) == ["success"] * 2
        assert {(reply.status, reply.network) for reply in world.counted} == {("RECEIVED", False)}
        found = await world.endpoints.look_up(one.txid)
        assert found is not None
        assert [each.kind for each in found.words] == [word]


@pytest.mark.parametrize("fault", ["429", "busy"])
@pytest.mark.parametrize("kind", KINDS)
async def test_who_asks_for_time_is_given_it(
    services: dict[str, Simulated], shop: Generator, kind: str, fault: str
) -> None:
    async with world_of(services[kind], kind) as world:
        services[kind].fault(fault, retry_after_s=30)
        one = request(payment(shop))
        with pytest.raises(NoEndpoint):
            await world.endpoints.broadcast([one])
        assert {reply.kind for reply in world.counted} == {"unavailable"}
        asked = services[kind].stats()["requests"]
        world.clock.pass_s(29)
        with pytest.raises(NoEndpoint):
            await world.endpoints.broadcast([one])
        assert services[kind].stats()["requests"] == asked
        services[kind].fault("none")
        world.clock.pass_s(2)
        assert told(await world.endpoints.broadcast([one])) == ["success"]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_key_is_shown_and_a_wrong_one_blames_nobody(
    chain: Chain, shop: Generator, tmp_path: Path, kind: str
) -> None:
    file = tmp_path / "key"
    file.write_text("wr0ng")
    one = request(payment(shop))
    with spawn(kind, "--token", "r1ght", chain=chain.folder) as service:
        async with world_of(service, kind, f";key-file={file}") as world:
            with pytest.raises(NoEndpoint):
                await world.endpoints.broadcast([one])
            assert {reply.kind for reply in world.counted} == {"config"}
            assert world.endpoints.standings()[0].state == "open"
            file.write_text("r1ght")
            world.clock.pass_s(61)
            with pytest.raises(NoEndpoint):  # with the key it had; the file is read when that is refused
                await world.endpoints.broadcast([one])
            world.clock.pass_s(61)
            assert told(await world.endpoints.broadcast([one])) == ["success"]


# --- every status and every code


async def word(world: World, made: Made, status: str | int, info: str = "as told") -> Reply:
    """What the endpoint says of one transaction that is to get this."""
    world.service.script(display(made.txid), status, info)
    one = request(made)
    (outcome,) = await world.endpoints.broadcast([one])
    world.service.script(display(made.txid), "none")
    return outcome.replies[one.txid][0][1]


ARC_STATUSES = [
    "UNKNOWN", "QUEUED", "RECEIVED", "STORED", "ANNOUNCED_TO_NETWORK", "REQUESTED_BY_NETWORK", "SENT_TO_NETWORK",
    "ACCEPTED_BY_NETWORK", "SEEN_IN_ORPHAN_MEMPOOL", "SEEN_ON_NETWORK", "DOUBLE_SPEND_ATTEMPTED", "REJECTED",
    "MINED_IN_STALE_BLOCK", "MINED",
]  # fmt: skip
ARCADE_STATUSES = [name for name in test_arcade.EXPECTED_STATUSES if name != "A_NAME_OF_TOMORROW"]


@pytest.mark.parametrize(
    ("kind", "status", "expected"),
    [("arc", name, test_arc.EXPECTED_STATUSES[name]) for name in ARC_STATUSES]
    + [("arcade", name, test_arcade.EXPECTED_STATUSES[name]) for name in ARCADE_STATUSES],
)
async def test_every_status_lands_in_its_class(
    services: dict[str, Simulated], shop: Generator, kind: str, status: str, expected: tuple[str, str, bool]
) -> None:
    """By the answer to the call, and by what is said when asked later."""
    made = payment(shop)
    async with world_of(services[kind], kind, attempts=1) as world:
        services[kind].script(display(made.txid), status, "as told")
        one = request(made)
        (outcome,) = await world.endpoints.broadcast([one])
        reply = outcome.replies[one.txid][0][1]
        assert (reply.kind, reply.code, reply.network, reply.status) == (*expected, status)
        found = await world.endpoints.look_up(made.txid)
        assert found is not None
        assert [(w.kind, w.code) for w in found.words] == ([] if status == "UNKNOWN" else [expected[:2]])


@pytest.mark.parametrize("kind", ["arc", "arcade"])
@pytest.mark.parametrize(("number", "expected"), test_arc.EXPECTED_NUMBERS.items())
async def test_every_number_lands_in_its_class(
    services: dict[str, Simulated], shop: Generator, kind: str, number: int, expected: tuple[str, str]
) -> None:
    """Of domain.md 4.2. Alone, and in a batch, of which the others are taken."""
    made, others = payment(shop), [request(payment(shop)) for _ in range(3)]
    async with world_of(services[kind], kind) as world:
        reply = await word(world, made, number)
        assert (reply.kind, reply.code, reply.status) == (*expected, str(number))
        services[kind].script(display(made.txid), number, "as told")
        outcomes = await world.endpoints.broadcast([*others, request(made)])
        ending = {"refused": "refused", "condition": "waits"}[expected[0]]
        assert told(outcomes) == ["success"] * 3 + [f"{ending} {expected[1]}"]


NODE_ERRORS = {"THRESHOLD_EXCEEDED", "SERVICE_UNAVAILABLE", "STORAGE_ERROR"}


@pytest.mark.parametrize("build", ["teranode", "old"])
@pytest.mark.parametrize(("error", "expected"), test_teranode.EXPECTED.items(), ids=lambda e: str(e[0]))
async def test_every_error_of_teranode_lands_in_its_class(
    services: dict[str, Simulated],
    shop: Generator,
    build: str,
    error: tuple[str, int],
    expected: tuple[str, str, bool],
) -> None:
    """Of domain.md 4.6. Alone, and in a batch, of which the others are taken; under either build's HTTP codes."""
    assert TERANODE_ERRORS[error[0]] == error[1]
    made, others = payment(shop), [request(payment(shop)) for _ in range(3)]
    async with world_of(services[build], "teranode") as world:
        reply = await word(world, made, error[0])
        assert (reply.kind, reply.code, reply.network, reply.status) == (*expected, error[0])
        services[build].script(display(made.txid), error[0], "as told")
        outcomes = await world.endpoints.broadcast([*others, request(made)])
        assert told(outcomes[:3]) == ["success"] * 3
        assert world.endpoints.standings()[0].state == "closed"


def test_errors_of_teranode_that_are_about_the_node_are_the_others() -> None:
    assert {name for name, _ in test_teranode.EXPECTED} == set(TERANODE_ERRORS) - NODE_ERRORS


@pytest.mark.parametrize("build", ["teranode", "old"])
@pytest.mark.parametrize("error", sorted(NODE_ERRORS))
async def test_an_error_about_the_node_refuses_nobody(
    services: dict[str, Simulated], shop: Generator, build: str, error: str
) -> None:
    async with world_of(services[build], "teranode") as world:
        reply = await word(world, payment(shop), error)
        assert reply.kind == "transport"


@pytest.mark.parametrize(
    ("status", "info", "kind", "code"),
    [
        ("txn-already-known", "", "accepted", ""),
        ("Missing inputs", "", "condition", "network.orphan"),
        ("mempool full", "", "condition", "network.undecided"),
        ("REJECTED", "apparently the moon", "refused", "network.rejected"),
        (400, "", "refused", "network.malformed"),
        (460, "", "condition", "network.orphan"),
        (461, "", "refused", "network.script"),
        (462, "", "refused", "network.rejected"),
        (463, "", "refused", "network.script"),
        (464, "", "refused", "network.rejected"),
        (465, "", "refused", "network.fee"),
        (466, "", "refused", "network.double-spend"),
        (471, "", "refused", "network.frozen"),
        (473, "", "refused", "network.fee"),
        (474, "", "refused", "network.rejected"),
        (476, "", "condition", "network.not-final"),
    ],
)
async def test_every_reason_of_whatsonchain_lands_in_its_class(
    services: dict[str, Simulated], shop: Generator, status: str | int, info: str, kind: str, code: str
) -> None:
    """A node's reasons for what ARC has numbers for."""
    async with world_of(services["whatsonchain"], "whatsonchain") as world:
        reply = await word(world, payment(shop), status, info or "as told")
        assert (reply.kind, reply.code) == (kind, code)


# --- policies, look-ups, several kinds together


@pytest.mark.parametrize("kind", ["arc", "arcade"])
async def test_its_policy_is_read_and_kept(chain: Chain, shop: Generator, kind: str) -> None:
    options = ("--fee-sat-per-kb", "500", "--max-tx-bytes", "1000")
    with spawn(kind, *options, chain=chain.folder) as service:
        async with world_of(service, kind) as world:
            await world.endpoints.read_policies()
            (standing,) = world.endpoints.standings()
            assert standing.policy == Policy(1000, 500_000, 500, 1000)
            (outcome,) = await world.endpoints.broadcast([request(poor(shop))])
            assert told([outcome]) == ["refused policy.fee"]
            assert service.transactions() == {}


@pytest.mark.parametrize("kind", ["teranode", "whatsonchain"])
async def test_without_a_policy_it_is_asked_for_everything(
    services: dict[str, Simulated], shop: Generator, kind: str
) -> None:
    async with world_of(services[kind], kind) as world:
        await world.endpoints.read_policies()
        assert world.endpoints.standings()[0].policy is None
        assert told(await world.endpoints.broadcast([request(poor(shop))])) == ["refused network.fee"]


@pytest.mark.parametrize("kind", ["arc", "arcade", "whatsonchain"])
async def test_where_a_transaction_stands(
    services: dict[str, Simulated], chain: Chain, shop: Generator, kind: str
) -> None:
    mined = chain.coin(4711)
    async with world_of(services[kind], kind) as world:
        unknown = await world.endpoints.look_up(bytes(32))
        found = await world.endpoints.look_up(mined.coin.txid)
        assert unknown is not None
        assert unknown.words == ()
        assert found is not None
        assert [(w.kind, w.status, w.network) for w in found.words] == [("accepted", "MINED", True)]
        assert [mined.coin.txid in path for path in found.paths] == ([] if kind == "whatsonchain" else [True])
        services[kind].fault("down")
        assert await world.endpoints.look_up(mined.coin.txid) is None


async def persistent(endpoints: Endpoints, some: Sequence[BroadcastRequest]) -> list[str]:
    """As the stage, which pauses while nobody answers."""
    for _ in range(50):
        try:
            return told(await endpoints.broadcast(some))
        except NoEndpoint:
            continue
    raise AssertionError("nobody answers for good")


async def test_all_kinds_at_once_while_each_is_sick_in_its_way(chain: Chain, shop: Generator, tmp_path: Path) -> None:
    """One network, four endpoints, of which at every moment some answer badly; nothing is lost and nothing invented."""
    commands = [(kind, "--network", str(tmp_path / "network")) for kind in KINDS]
    services = spawn_all(commands, chain=chain.folder)
    sick = {
        "arc": [("reordered", 1.0), ("partial", 0.5), ("wrong-txid", 0.3), ("5xx", 0.2)],
        "arcade": [("lost-reply", 0.3), ("partial", 0.3), ("malformed", 0.2)],
        "teranode": [("busy", 0.2), ("5xx", 0.3), ("reordered", 1.0)],
        "whatsonchain": [("down", 0.5), ("orphan", 0.2)],
    }
    good = [request(*family(shop, 1 + n % 3)) for n in range(60)]
    bad = [request(poor(shop)) for _ in range(60)]
    some = [each for pair in zip(good, bad, strict=True) for each in pair]
    try:
        for service, kind in zip(services, KINDS, strict=True):
            for mode, ratio in sick[kind]:
                service.fault(mode, ratio=ratio, retry_after_s=0)
        entries = tuple(f"{kind}={service.url}" for kind, service in zip(KINDS, services, strict=True))
        settings = BroadcastSettings(endpoints=entries, backoff_s=0.0, timeout_s=6.0, wait_for="", attempts=3, batch=10)
        clock = Clock()
        async with Transport(HttpSettings(breaker_faults=1000), clock=clock) as transport:
            endpoints = Endpoints(settings, transport)
            words = await persistent(endpoints, some)
            for _ in range(20):  # what waits comes again, as by the retry tiers
                waiting = [number for number, said in enumerate(words) if said.startswith("waits")]
                again = await persistent(endpoints, [some[number] for number in waiting])
                for number, said in zip(waiting, again, strict=True):
                    words[number] = said
            await endpoints.close()
        for service in services:
            service.fault("none")
        taken = [has(service, [each.txid for each in some]) for service in services]
    finally:
        for service in services:
            service.stop()
    there = [any(each) for each in zip(*taken, strict=True)]
    assert words[::2] == ["success"] * 60
    assert there[::2] == [True] * 60
    assert set(words[1::2]) <= {"refused network.fee", "waits network.undecided", "waits network.orphan"}
    assert there[1::2] == [False] * 60
