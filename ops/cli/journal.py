"""`beefline journal`: the atomic operations log, from its topic."""

import asyncio
import functools
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from ops.cli.options import USAGE, fail, moment, settings_options
from schemas.types import Txid, display, from_display, is_context

if TYPE_CHECKING:
    from ops.journal import Journals, Walked, Wanted
    from ops.settings import Loaded
    from pipeline.journal import Entry
    from schemas.external import ExportedEntry

F = TypeVar("F", bound=Callable[..., Any])


@click.group()
def journal() -> None:
    """The atomic operations log of each context: one entry for each change, chained by hashes."""


def wanted_options(command: F) -> F:
    """What narrows the entries down; the command gets them as `asked`, by name."""

    @click.option("--context", "contexts", multiple=True, metavar="CONTEXT", help="topic:tm_x; may be repeated.")
    @click.option("--txid", help="About this transaction.")
    @click.option("--request-id", help="Brought about by this request; read from the results.")
    @click.option("--since", metavar="WHEN", help="Not before: an age (10m, 2h, 1d) or a time (2026-01-31T12:00).")
    @click.option("--until", metavar="WHEN", help="Before: likewise.")
    @functools.wraps(command)
    def wrapped(
        *args: Any,
        contexts: tuple[str, ...],
        txid: str | None,
        request_id: str | None,
        since: str | None,
        until: str | None,
        **more: Any,
    ) -> Any:
        asked = {
            "contexts": contexts_of(contexts),
            "txid": _txid(txid) if txid is not None else None,
            "since_ms": _ms("--since", since),
            "until_ms": _ms("--until", until),
            "request_id": request_id,
        }
        return command(*args, asked=asked, **more)

    return wrapped  # type: ignore[return-value] # click's decorators keep the command's signature but for `asked`


@journal.command()
@click.option("-n", "--lines", "count", default=10, show_default=True, help="How many to begin with.")
@click.option("-f", "--follow", is_flag=True, help="Go on as entries come, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="A JSON line an entry, as `export` writes it.")
@wanted_options
@settings_options
def tail(count: int, follow: bool, as_json: bool, asked: dict[str, Any], loaded: "Loaded") -> None:
    """The last entries, oldest first (read-committed)."""
    if count < 0:
        fail("--lines: 0 or more")

    def say(entry: "Entry", value: bytes) -> None:
        click.echo(_json(entry, value) if as_json else _line(entry))

    async def run() -> None:
        async with opened(loaded, asked["contexts"]) as journals:
            wanted = await _wanted(journals, asked)
            for entry, value in await journals.last(count, wanted):
                say(entry, value)
            if follow:
                sys.stdout.flush()
                async for entry, value in journals.follow(wanted):
                    say(entry, value)
                    sys.stdout.flush()

    run_or_fail(run)


@journal.command()
@click.argument("context", required=False)
@click.argument("sequence", type=int, required=False)
@click.option("--txid", help="All entries about this transaction, in every context or in the one given.")
@click.option("--beef", "out", type=click.Path(path_type=Path, dir_okay=False), help="Write the BEEF it brought there.")
@click.option("--json", "as_json", is_flag=True, help="As `export` writes it.")
@settings_options
def show(
    context: str | None, sequence: int | None, txid: str | None, out: Path | None, as_json: bool, loaded: "Loaded"
) -> None:
    """One entry in full: `show topic:tm_x 17`; or all of a transaction: `show --txid TXID`. Exit code 1: none."""
    if (sequence is None) == (txid is None):
        fail("either CONTEXT and SEQUENCE, or --txid")
    from ops.journal import whole

    contexts = contexts_of((context,) if context else ())
    asked = {"contexts": contexts, "sequence": sequence, "txid": _txid(txid) if txid is not None else None}

    async def run() -> list[tuple["Entry", bytes]]:
        async with opened(loaded, contexts) as journals:
            return await journals.find(await _wanted(journals, asked))

    found: list[tuple[Entry, bytes]] = run_or_fail(run)
    if not found:
        fail("no such entry", 1)
    for entry, value in found:
        click.echo(_json(entry, value) if as_json else "\n".join(_whole(entry, value)))
    if out is not None:
        brought = [beef for _, value in found if (beef := whole(value).beef)]
        if not brought:
            fail("none of these entries brought a BEEF", 1)
        out.write_bytes(brought[0])


@journal.command()
@click.option("--context", "contexts", multiple=True, metavar="CONTEXT", help="topic:tm_x; may be repeated.")
@click.option("--against-state", is_flag=True, help="Compare with the heads on `state` too: shows what was cut off.")
@click.option("--json", "as_json", is_flag=True, help="A JSON line a context.")
@settings_options
def verify(contexts: tuple[str, ...], against_state: bool, as_json: bool, loaded: "Loaded") -> None:
    """Walk every journal from its first entry: chain, sequence and both roots, from the topic alone.

    Exit code 0: all are unbroken; 1: one is not.
    """
    asked = contexts_of(contexts)

    async def run() -> "list[Walked]":
        async with opened(loaded, asked) as journals:
            return await journals.verify(await journals.heads() if against_state else None)

    tell(run_or_fail(run), asked, as_json=as_json)


def tell(walked: "list[Walked]", asked: frozenset[str], *, as_json: bool, well: bool = True) -> NoReturn:
    """What was found of each context; exit code 1 when one is broken, or was asked for and is not there.

    well: whether nothing else is amiss.
    """
    import msgspec

    for one in walked:
        if as_json:
            click.echo(msgspec.json.encode(one).decode())
        else:
            good = click.style("broken", fg="red") if one.breaks else click.style("unbroken", fg="green")
            click.echo(f"{one.context}  {good}  {one.sequence:,} entries, {one.live:,} live  root {one.state_root}")
            for says in one.breaks[:10]:
                click.echo(f"  {says}")
            if len(one.breaks) > 10:
                click.echo(f"  and {len(one.breaks) - 10:,} more")
    missing = asked - {one.context for one in walked}
    if missing:
        fail(f"{min(missing)} has no journal", 1)
    sys.exit(not well or any(one.breaks for one in walked))


@journal.command()
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="A file, in place of standard output.")
@wanted_options
@settings_options
def export(out: Path | None, asked: dict[str, Any], loaded: "Loaded") -> None:
    """JSON lines, one an entry. All are walked as `verify` does: a broken journal ends it with exit code 1."""
    from msgspec import json

    encode = json.Encoder().encode

    def writer(into: IO[bytes]) -> "Callable[[ExportedEntry], object]":
        return lambda line: into.write(encode(line) + b"\n")

    async def run() -> int:
        async with opened(loaded, asked["contexts"]) as journals:
            wanted = await _wanted(journals, asked)
            if out is None:
                return await journals.export(wanted, writer(sys.stdout.buffer))
            with out.open("wb") as file:
                return await journals.export(wanted, writer(file))

    count = run_or_fail(run)
    sys.stdout.flush()
    click.echo(f"{count:,} entries", err=True)


# --- what the commands share


def contexts_of(texts: Sequence[str]) -> frozenset[str]:
    """Contexts somebody named; fails on one that is none."""
    for text in texts:
        if not is_context(text):
            fail(f"{text!r} is no context: topic:tm_x or owner:<identity key>")
    return frozenset(texts)


def _txid(text: str) -> Txid:
    try:
        return from_display(text)
    except ValueError as error:
        fail(f"--txid {text}: {error}")


def _ms(option: str, text: str | None) -> int | None:
    return None if text is None else int(moment(option, text).timestamp() * 1000)


async def _wanted(journals: "Journals", asked: dict[str, Any]) -> "Wanted":
    from ops.journal import Wanted

    rest = dict(asked)
    request_id = rest.pop("request_id", None)
    return Wanted(**rest, request=await journals.request(request_id) if request_id is not None else None)


@asynccontextmanager
async def opened(loaded: "Loaded", contexts: frozenset[str]) -> "AsyncIterator[Journals]":
    """A reader of journals."""
    from ops.journal import Journals

    async with Journals(loaded.settings, contexts) as journals:
        yield journals


T = TypeVar("T")


def _ended() -> NoReturn:
    sys.exit(0)  # the way to end --follow


def run_or_fail(work: Callable[[], Any], interrupted: Callable[[], NoReturn] = _ended) -> Any:
    """Run it; what is not as it must be ends in words. interrupted: what Ctrl-C comes to."""
    from agents.runtime.cluster import Unreachable
    from ops.journal import Broken
    from ops.reading import NotReadable

    try:
        return asyncio.run(work())
    except KeyboardInterrupt:
        interrupted()
    except Unreachable as error:
        fail(str(error), USAGE)
    except (Broken, NotReadable) as error:
        fail(str(error), 1)


def _json(entry: "Entry", value: bytes) -> str:
    import msgspec

    from pipeline.journal import exported

    return msgspec.json.encode(exported(entry, value)).decode()


def _line(entry: "Entry") -> str:
    from pipeline.journal import effects_of
    from pipeline.results import rfc3339

    effects = effects_of(entry.effects)
    when = rfc3339(entry.time_ms)[:19].replace("T", " ")
    moved = f"+{len(effects.added)} -{len(effects.removed)}"
    return (
        f"{when}  {entry.context:20} {entry.sequence:>8}  {entry.kind:10} {display(entry.txid)}  "
        f"{moved:>9}  {entry.state_root.hex()[:16]}"
    )


def _whole(entry: "Entry", value: bytes) -> list[str]:
    from ops.journal import named, whole
    from pipeline.journal import effects_of, hash_of
    from pipeline.results import rfc3339

    origin = entry.origin
    rows = [
        ("time", rfc3339(entry.time_ms)),
        ("txid", display(entry.txid)),
        ("operation", entry.operation),
        ("manager", entry.manager or "-"),
        ("origin", f"{origin.topic}-{origin.partition} at {origin.offset}" if origin is not None else "-"),
        ("beef", f"{len(whole(value).beef):,} bytes"),
        ("hash", hash_of(value).hex()),
        ("previous", entry.previous.hex()),
        ("state root", entry.state_root.hex()),
        ("store root", entry.store_root.hex()),
    ]
    lines = [f"{entry.context} {entry.sequence}  {entry.kind}", *(f"  {name:11} {what}" for name, what in rows)]
    effects = effects_of(entry.effects)
    for sign, pairs in (("-", effects.removed), ("+", effects.added)):
        for key, value_hash in pairs:
            kind, name = named(key)
            lines.append(f"  {sign} {kind:11} {name}  {value_hash.hex()[:16]}")
    return lines
