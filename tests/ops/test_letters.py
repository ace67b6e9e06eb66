"""Dead letters on a real broker: found by what they say, exported, and sent back to where they came from."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from ops.cli.letters import letters
from ops.letters import letter_of
from schemas import headers as h
from schemas.external import EVENT, RESULT
from schemas.flow import OPERATION, POINTER
from schemas.types import display
from tests.agents.harness import Bench
from tests.agents.test_reads_on_broker import ALL, ready
from tests.conftest import Broker
from tests.fakes import Record, apply_of, coin_of_others, made_tx, verified
from tests.profiles import CHEAP
from topics.registry import DEAD_LETTERS, EVENTS, INGEST, JOURNAL, RESULTS, RETRY_10S

pytestmark = pytest.mark.broker


@pytest.fixture
async def bench(broker: Broker, prefix: str, tmp_path: Path) -> AsyncIterator[Bench]:
    async with Bench(broker.bootstrap, prefix, tmp_path) as bench:
        yield bench


def cause(kind: str, code: str, stage: str, origin: str, partition: int = 0, offset: int = 0) -> h.Pairs:
    return h.to_pairs(
        h.DeadLetterHeaders(
            class_=kind, code=code, message="why", stage=stage, origin_topic=origin, origin_partition=partition,
            origin_offset=offset, failed_at=1,
        )
    )  # fmt: skip


async def lay(bench: Bench, key: bytes | None, value: bytes, headers: Sequence[tuple[str, bytes]]) -> None:
    await bench.send(DEAD_LETTERS, [value], [key], headers=list(headers))


async def said(bench: Bench, *arguments: str) -> Result:
    flags = [each for flag in bench.flags() for each in ("--set", flag)]
    return await asyncio.to_thread(CliRunner().invoke, letters, [*arguments, *flags])


TXS = [made_tx([coin_of_others(number)], 2, number) for number in range(3)]


async def test_letters_are_found_by_what_they_say(bench: Bench) -> None:
    for number, tx in enumerate(TXS):
        value = OPERATION.encode(apply_of(verified(tx, offset=number)))
        kind, code = (
            ("exhausted", "conflict.undecided"),
            ("fault", "internal.fault"),
            ("verdict", "conflict.evicted"),
        )[number]
        await lay(bench, f"topic:{ALL}".encode(), value, [OPERATION.header, *cause(kind, code, "apply", "operations")])
    await lay(bench, TXS[0].txid, b"\xc1", cause("verdict", "network.fee", "broadcast", "broadcast"))
    await lay(bench, None, b"", [("class", b"\xff"), ("code", b"")])  # anybody's

    async def listed(*arguments: str) -> list[dict[str, Any]]:
        done = await said(bench, "list", "--json", *arguments)
        assert done.exit_code == 0, done.output
        return [json.loads(line) for line in done.output.splitlines()]

    assert len(await listed()) == 5
    assert [each["kind"] for each in await listed("--code", "conflict")] == ["exhausted", "verdict"]
    assert [each["code"] for each in await listed("--code", "conflict.evicted")] == ["conflict.evicted"]
    assert len(await listed("--kind", "verdict")) == 2
    assert {each["stage"] for each in await listed("--stage", "broadcast")} == {"broadcast"}
    both = await listed("--txid", display(TXS[0].txid))
    assert [each["origin"] for each in both] == ["operations/0/0", "broadcast/0/0"]
    assert await listed("--since", "1h") == await listed()
    assert await listed("--until", "1h") == []
    assert len(await listed("--last", "2")) == 2
    counted = (await said(bench, "stats")).output.splitlines()
    assert len(counted) == 5
    assert all(line.split()[0] == "1" for line in counted)
    place = both[1]["place"]
    shown = await said(bench, "show", place, "--out", str(bench.home / "value"))
    assert "network.fee" in shown.output
    assert (bench.home / "value").read_bytes() == b"\xc1"
    assert (await said(bench, "show", "0/99")).exit_code == 1
    done = await said(bench, "export", "--out", str(bench.home / "all"))
    assert "5 dead letters" in done.output
    lines = [json.loads(line) for line in (bench.home / "all").read_text().splitlines()]
    assert base64.b64decode(lines[-2]["value"]) == b"\xc1"


async def test_a_replay_is_decided_and_a_second_one_is_a_repeat(bench: Bench) -> None:
    """Its identity is the ingest record's; an event says who and why; nothing is removed."""
    await ready(bench.worker("apply"))
    value = OPERATION.encode(apply_of(verified(TXS[0], offset=7)))
    headers = [OPERATION.header, *cause("exhausted", "conflict.undecided", "apply", "operations")]
    await lay(bench, f"topic:{ALL}".encode(), value, headers)
    dry = await said(bench, "replay", "--why", "mended", "--dry-run")
    assert "1 would be sent, 0 not" in dry.output
    assert await bench.read(EVENTS) == []
    for times in (1, 2):
        done = await said(bench, "replay", "--why", "mended", "--who", "me", "--kind", "exhausted")
        assert done.exit_code == 0, done.output
        assert "1 sent, 0 not" in done.output
        await bench.wait_for(RESULTS, times)
    results = [RESULT.decode(record.value) for record in await bench.read(RESULTS)]
    assert {(result.outcome, result.id, result.sequence) for result in results} == {("applied", results[0].id, 1)}
    assert len(await bench.read(JOURNAL)) == 1
    assert len(await bench.read(DEAD_LETTERS)) == 1
    events = [EVENT.decode(record.value) for record in await bench.read(EVENTS)]
    assert [(event.kind, event.details["who"], event.details["why"]) for event in events] == [
        ("dead-letters-replayed", "me", "mended")
    ] * 2


async def test_what_was_refused_at_ingest_is_heard_again_where_it_stands(bench: Bench) -> None:
    await bench.send(INGEST, [b"payload"], [b"k"])
    (record,) = await bench.read(INGEST)
    await lay(
        bench, b"k", b"payload", cause("fault", "internal.fault", "parse", "ingest", record.partition, record.offset)
    )
    await lay(bench, b"k", b"gone", cause("fault", "internal.fault", "parse", "ingest", record.partition, 5))
    await lay(bench, b"k", b"odd", cause("fault", "internal.fault", "parse", "journal"))
    await lay(
        bench, b"k", b"payload", cause("verdict", "malformed.magic", "parse", "ingest", record.partition, record.offset)
    )
    done = await said(bench, "replay", "--why", "mended", "--rate", "1000")
    assert done.exit_code == 1
    assert "1 sent, 3 not" in done.output
    for reason in ("`ingest` no longer has it", "nothing returns to 'journal'", "a verdict is final"):
        assert reason in done.output
    (waiting,) = await bench.read(RETRY_10S)
    origin = POINTER.decode(waiting.value, waiting.headers).origin
    assert (origin.topic, origin.partition, origin.offset, origin.timestamp_ms) == (
        INGEST.named(bench.prefix), record.partition, record.offset, record.timestamp,
    )  # fmt: skip
    assert "2 sent, 2 not" in (await said(bench, "replay", "--why", "again", "--even-verdicts")).output


@settings(CHEAP)
@given(
    st.lists(st.tuples(st.sampled_from([*h.DEAD_LETTER_NAMES, "x"]), st.binary(max_size=40)), max_size=9),
    st.none() | st.binary(max_size=40),
    st.none() | st.binary(max_size=60),
)
def test_no_letter_makes_the_reader_raise(
    headers: list[tuple[str, bytes]], key: bytes | None, value: bytes | None
) -> None:
    letter = letter_of(Record("beef.dead-letters", 1, 2, key, value, headers=headers))
    assert letter.place == "1/2"
