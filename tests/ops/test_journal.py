"""`beefline journal` on a broker: followed, shown, verified and exported; what was altered is said."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result

from ops.cli.journal import journal as command
from ops.journal import Broken, _entry, named
from pipeline import listing, state
from pipeline.journal import read as read_entry
from schemas.external import ExportedEntry
from schemas.journal import JOURNAL as SCHEMA
from schemas.journal import Effects, JournalEntry
from schemas.types import display
from tests.conftest import Broker
from tests.ops.audit_cluster import Cluster, on_broker
from tests.ops.audit_world import Record, World
from topics.registry import JOURNAL, RESULTS

ANYTX, OTHER = "topic:tm_anytx", "topic:tm_other"
FATES = ("accepted", "refused", "accepted")


@pytest.fixture
async def cluster(broker: Broker, prefix: str) -> AsyncIterator[Cluster]:
    async with on_broker(broker, prefix) as made:
        yield made


@pytest.fixture
async def world(cluster: Cluster) -> World:
    """Made, and not yet written."""
    return await cluster.world(FATES)


async def run(cluster: Cluster, *arguments: str) -> Result:
    flags = ["--set", f"kafka.bootstrap={cluster.settings.kafka.bootstrap}", "--set", f"topics.prefix={cluster.prefix}"]
    return await asyncio.to_thread(CliRunner().invoke, command, [*arguments, *flags])


def lines(result: Result) -> list[dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def by_place(result: Result) -> list[dict[str, Any]]:
    """Lines by context and sequence: contexts of several partitions come as they are read."""
    return sorted(lines(result), key=lambda line: (line["context"], line["sequence"]))


def entries(world: World, context: str | None = None) -> list[Any]:
    found = [SCHEMA.decode(record.value) for record in world.of(JOURNAL)]
    return [entry for entry in found if context in (None, entry.context)]


@pytest.mark.broker
@pytest.mark.invariant("JOURNAL-1")
async def test_an_export_replays_to_the_roots_it_names(cluster: Cluster, world: World) -> None:
    """From its lines alone: chain, and effects."""
    await cluster.write(world)
    exported = [msgspec.convert(line, ExportedEntry) for line in lines(await run(cluster, "export"))]
    assert len(exported) == len(entries(world))
    assert {line.kind for line in exported} == {"apply", "evict"}
    for context in (ANYTX, OTHER):
        live, previous = state.Live(), bytes(32).hex()
        ours = [line for line in exported if line.context == context]
        assert [line.sequence for line in ours] == list(range(1, len(ours) + 1))
        for line, entry in zip(ours, entries(world, context), strict=True):
            assert line.previous == previous
            previous = line.hash
            pairs = [
                tuple((bytes.fromhex(each.key), bytes.fromhex(each.hash)) for each in some)
                for some in (line.effects.added, line.effects.removed)
            ]
            live = state.summed(live, type(entry.effects)(*pairs))
            assert (live.state_root.hex(), live.store_root.hex()) == (line.state_root, line.store_root)
            assert (line.txid, line.operation) == (display(entry.txid), entry.operation)
            assert (line.manager is not None, line.origin is not None) == (line.kind == "apply",) * 2


@pytest.mark.broker
async def test_entries_are_found_by_what_is_asked(cluster: Cluster, world: World) -> None:
    await cluster.write(world)
    everything = by_place(await run(cluster, "export"))
    of_txid = by_place(await run(cluster, "export", "--txid", display(world.txids[1])))
    assert [line["kind"] for line in of_txid] == ["apply", "evict"] * 2
    of_context = by_place(await run(cluster, "export", "--context", OTHER))
    assert of_context == [line for line in everything if line["context"] == OTHER]
    both = by_place(await run(cluster, "export", "--context", OTHER, "--txid", display(world.txids[1])))
    assert both == [line for line in of_txid if line["context"] == OTHER]
    # Entries name no request: `results` says which are of one.
    ids = {json.loads(r.value or b"")["request_ids"][0]: r for r in world.of(RESULTS)}
    assert len(ids) == len(FATES)
    request = next(iter(ids))
    origin = json.loads(ids[request].value or b"")["origin"]
    of_request = by_place(await run(cluster, "export", "--request-id", request))
    assert {json.dumps(line["origin"]) for line in of_request if line["origin"]} == {json.dumps(origin)}
    assert by_place(await run(cluster, "export", "--request-id", "nobody's")) == []
    assert by_place(await run(cluster, "export", "--until", "1h")) == []
    assert by_place(await run(cluster, "export", "--since", "1h")) == everything
    assert by_place(await run(cluster, "export", "--since", "1h", "--until", "2100-01-01T00:00")) == everything


@pytest.mark.broker
async def test_the_tail_is_the_last_by_time_and_goes_on(cluster: Cluster, world: World) -> None:
    for number, record in enumerate(world.of(JOURNAL)):  # made within one millisecond; a tail does not walk
        entry = SCHEMA.decode(record.value)
        record.value = SCHEMA.encode(msgspec.structs.replace(entry, time_ms=entry.time_ms + number * 7))
    await cluster.write(world)
    everything = [(entry.context, entry.sequence) for entry in entries(world)]

    async def tail(*flags: str) -> list[tuple[str, int]]:
        return [(line["context"], line["sequence"]) for line in lines(await run(cluster, "tail", "--json", *flags))]

    assert await tail("-n", "3") == everything[-3:]
    assert await tail("-n", "1000") == everything
    assert (
        await tail("-n", "2", "--txid", display(world.txids[0]))
        == [(entry.context, entry.sequence) for entry in entries(world) if entry.txid == world.txids[0]][-2:]
    )
    assert await tail("-n", "0") == []
    text = await run(cluster, "tail", "-n", "1000", "--context", OTHER)
    assert len(text.stdout.splitlines()) == len(entries(world, OTHER))
    assert all(OTHER in line for line in text.stdout.splitlines())
    follower = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ops.cli.main", "journal", "tail", "-n", "2", "--follow", "--json",
        "--set", f"kafka.bootstrap={cluster.settings.kafka.bootstrap}", "--set", f"topics.prefix={cluster.prefix}",
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert follower.stdout is not None
    try:
        first = [json.loads(await follower.stdout.readline()) for _ in range(2)]
        assert [(line["context"], line["sequence"]) for line in first] == everything[-2:]
        last = world.of(JOURNAL)[-1]
        await cluster._write(last)
        async with asyncio.timeout(20):
            came = json.loads(await follower.stdout.readline())
        assert came["sequence"] == SCHEMA.decode(last.value).sequence
    finally:
        follower.terminate()
        await follower.wait()


@pytest.mark.broker
async def test_an_entry_is_shown_in_full_and_what_it_brought_is_written(
    cluster: Cluster, world: World, tmp_path: Path
) -> None:
    await cluster.write(world)
    entry = next(entry for entry in entries(world, OTHER) if entry.kind == "apply")
    out = tmp_path / "x.beef"
    shown = await run(cluster, "show", OTHER, str(entry.sequence), "--beef", str(out))
    assert shown.exit_code == 0, shown.output
    assert out.read_bytes() == entry.beef
    for said in (display(entry.txid), entry.state_root.hex(), entry.store_root.hex(), "tm_other/1", "+ coin"):
        assert said in shown.stdout
    assert [line["sequence"] for line in lines(await run(cluster, "show", OTHER, "1", "--json"))] == [1]
    of_txid = lines(await run(cluster, "show", "--txid", display(world.txids[1]), "--json"))
    assert [(line["context"], line["kind"]) for line in of_txid] == [
        (context, kind) for context in (ANYTX, OTHER) for kind in ("apply", "evict")
    ]
    assert (await run(cluster, "show", OTHER, "999")).exit_code == 1
    assert (await run(cluster, "show", OTHER)).exit_code == 3
    assert (await run(cluster, "show", "tm_other", "1")).exit_code == 3
    assert (await run(cluster, "show", "--txid", "zz")).exit_code == 3


@pytest.mark.broker
@pytest.mark.invariant("JOURNAL-1")
async def test_unbroken_journals_are_said_to_be(cluster: Cluster, world: World) -> None:
    await cluster.write(world)
    for flags in ((), ("--against-state",)):
        walked = lines(await run(cluster, "verify", "--json", *flags))
        assert [(one["context"], one["breaks"]) for one in walked] == [(ANYTX, []), (OTHER, [])]
        assert [one["sequence"] for one in walked] == [len(entries(world, context)) for context in (ANYTX, OTHER)]
    text = await run(cluster, "verify", "--context", OTHER)
    assert (text.exit_code, len(text.stdout.splitlines())) == (0, 1)
    assert "unbroken" in text.stdout
    nobody = await run(cluster, "verify", "--context", "topic:tm_nobody")
    assert (nobody.exit_code, "topic:tm_nobody has no journal" in nobody.output) == (1, True)


def altered(world: World, at: int) -> None:
    """An entry of `OTHER`, counted from the first, or from the end."""
    record = world.of(JOURNAL, lambda record: read_entry(record.value or b"").context == OTHER)[at]
    entry = SCHEMA.decode(record.value)
    record.value = SCHEMA.encode(msgspec.structs.replace(entry, time_ms=entry.time_ms + 1))


@pytest.mark.broker
@pytest.mark.invariant("JOURNAL-1")
async def test_an_altered_entry_is_found_and_nothing_is_exported_behind_it(cluster: Cluster, world: World) -> None:
    altered(world, 1)
    await cluster.write(world)
    walked = {one["context"]: one["breaks"] for one in _told(await run(cluster, "verify", "--json"), 1)}
    assert walked == {ANYTX: [], OTHER: [f"{OTHER} 3 does not name the hash of 2"]}
    export = await run(cluster, "export", "--context", OTHER)
    assert export.exit_code == 1
    assert f"{OTHER} 3 does not name the hash of 2" in export.stderr
    assert [json.loads(line)["sequence"] for line in export.stdout.splitlines()] == [1, 2]
    assert lines(await run(cluster, "export", "--context", ANYTX))  # which is another matter


@pytest.mark.broker
@pytest.mark.invariant("JOURNAL-1")
@pytest.mark.parametrize("how", ["altered", "cut off"])
async def test_the_last_entry_is_vouched_for_by_the_state(cluster: Cluster, world: World, how: str) -> None:
    """No entry names its hash yet: the topic alone cannot tell."""
    last = len(entries(world, OTHER))
    if how == "altered":
        altered(world, -1)
        said = f"{OTHER} {last} is not the entry its state stands at"
    else:
        world.drop(JOURNAL, lambda r: (e := SCHEMA.decode(r.value)).context == OTHER and e.sequence == last)
        said = f"{OTHER} ends at {last - 1}, and its state stands at {last}"
    await cluster.write(world)
    assert _told(await run(cluster, "verify", "--json"), 0)
    walked = {
        one["context"]: one["breaks"] for one in _told(await run(cluster, "verify", "--json", "--against-state"), 1)
    }
    assert walked == {ANYTX: [], OTHER: [said]}


@pytest.mark.broker
async def test_what_is_no_entry_is_said(cluster: Cluster, world: World) -> None:
    record = world.of(JOURNAL, lambda record: read_entry(record.value or b"").context == OTHER)[1]
    record.value = b"\x93no entry"
    await cluster.write(world)
    (told,) = [one for one in _told(await run(cluster, "verify", "--json"), 1) if one["context"] == OTHER]
    assert told["breaks"][0].startswith(f"journal/{record.partition}/{record.offset} is no entry: ")
    assert told["breaks"][1:] == [f"{OTHER} 3 comes after 1"]
    for asked in (("tail",), ("show", OTHER, "1"), ("export",)):
        done = await run(cluster, *asked)
        assert (done.exit_code, "is no entry" in done.output) == (1, True)


def _told(result: Result, code: int) -> list[dict[str, Any]]:
    assert result.exit_code == code, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_every_kind_of_state_entry_has_a_name() -> None:
    """As `show` says it: what may stand in effects, and so in a root."""
    kinds = {
        value[0]
        for name, value in vars(state).items()
        if name.isupper() and isinstance(value, bytes) and len(value) == 1
    }
    for kind in kinds - set(state.INDEX):
        name, rest = named(b"topic:tm_x\0" + bytes([kind]) + bytes(range(36)))
        assert not name.endswith("?")
        assert rest


def test_entries_of_tags_and_fields_are_told_apart() -> None:
    """As `show` says them: a tag is a name, a field's value is bytes."""
    point = bytes(32) + b"\7\0\0\0"
    for group, says in (
        (listing.key("coins"), "'coins'"),
        (listing.key("coins", "red"), "'coins' with 'red'"),
        (listing.field_key("coins", 3, b"red"), "'coins' with 726564 in field 3"),
        (listing.field_key("coins", 3, b""), "'coins' with nothing in field 3"),
    ):
        assert named(b"owner:x\0" + state.TALLY + group) == ("tally", says)
        assert named(b"owner:x\0" + state.LISTED + group + point) == ("listed", f"{'00' * 32}.7 in {says}")


def test_it_says_when_no_broker_answers() -> None:
    done = CliRunner().invoke(command, ["verify", "--set", "kafka.bootstrap=127.0.0.1:1"])
    assert (done.exit_code, "no Kafka broker answers" in done.output) == (3, True)


def test_an_entry_whose_effects_cannot_be_read_is_said() -> None:
    """By who shows it; who walks says so of the chain."""
    whole = SCHEMA.encode(JournalEntry(ANYTX, 1, bytes(32), "o", "apply", bytes(32), Effects(), b"", b"", "", None, 1))
    broken = msgspec.msgpack.encode([*msgspec.msgpack.decode(whole)[:6], "none", *msgspec.msgpack.decode(whole)[7:]])
    record = Record("j.journal", 3, ANYTX.encode(), broken, offset=7)
    assert _entry(record).sequence == 1
    with pytest.raises(Broken, match=r"journal/3/7 is no entry"):
        _entry(record, effects=True)
