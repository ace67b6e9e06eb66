"""`beefline dead-letters`: what was given up, and sending it back."""

import functools
import getpass
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NoReturn, TypeVar

import click

from ops.cli.journal import run_or_fail
from ops.cli.options import fail, moment, settings_options

if TYPE_CHECKING:
    from ops.letters import Letter, Wanted
    from ops.settings import Loaded

F = TypeVar("F", bound=Callable[..., Any])

RATE = 50.0
"""A replay's records a second, unless told otherwise: a tenth of what a small installation takes beside its own."""


STOPPED = 130
"""Exit code of a replay that was interrupted, as shells have it."""


@click.group("dead-letters")
def letters() -> None:
    """Records that were given up, as they were, with the cause. Nothing is ever removed by a command."""


def wanted_options(command: F) -> F:
    """What narrows them down; the command gets it as `wanted`."""

    @click.option("--code", default="", help="Of this code, or of this class of codes: network.fee, network.")
    @click.option("--kind", type=click.Choice(["verdict", "exhausted", "fault"]), help="Of this kind.")
    @click.option("--stage", default="", help="Given up by this stage.")
    @click.option("--txid", default="", help="About this transaction.")
    @click.option("--since", metavar="WHEN", help="Not before: an age (10m, 2h, 1d) or a time (2026-01-31T12:00).")
    @click.option("--until", metavar="WHEN", help="Before: likewise.")
    @functools.wraps(command)
    def wrapped(
        *args: Any, code: str, kind: str | None, stage: str, txid: str, since: Any, until: Any, **more: Any
    ) -> Any:
        from ops.letters import Wanted

        wanted = Wanted(
            code=code,
            kind=kind or "",
            stage=stage,
            txid=txid.lower(),
            since_ms=None if since is None else int(moment("--since", since).timestamp() * 1000),
            until_ms=None if until is None else int(moment("--until", until).timestamp() * 1000),
        )
        return command(*args, wanted=wanted, **more)

    return wrapped  # type: ignore[return-value] # click's decorators keep the command's signature but for `wanted`


@letters.command("list")
@click.option("-n", "--last", default=20, show_default=True, type=click.IntRange(1), help="How many, the newest.")
@click.option("--json", "as_json", is_flag=True, help="As `export` writes them.")
@wanted_options
@settings_options
def listing(last: int, as_json: bool, wanted: "Wanted", loaded: "Loaded") -> None:
    """The newest, oldest first."""
    from ops.letters import exported

    for letter in _found(loaded, wanted, values=as_json)[-last:]:
        click.echo(exported(letter).decode() if as_json else _line(letter))


@letters.command()
@click.argument("place", metavar="PARTITION/OFFSET")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Write its value there.")
@settings_options
def show(place: str, out: Path | None, loaded: "Loaded") -> None:
    """One in full. Exit code 1: there is none."""
    from ops.letters import Wanted

    found = _found(loaded, Wanted(place=place))
    if not found:
        fail(f"no dead letter at {place}", 1)
    (letter,) = found
    click.echo(_line(letter))
    for name, what in (
        ("message", letter.message),
        ("origin", letter.origin),
        ("txid", letter.txid or "-"),
        ("key", (letter.key or b"").hex() or "-"),
        ("value", f"{len(letter.value):,} bytes"),
    ):
        click.echo(f"  {name:9} {what}")
    for name, value in letter.headers:
        click.echo(f"  header    {name}: {value[:200]!r}")
    if out is not None:
        out.write_bytes(letter.value)


@letters.command()
@wanted_options
@settings_options
def stats(wanted: "Wanted", loaded: "Loaded") -> None:
    """How many, by kind, code and stage."""
    from ops.letters import counts

    for (kind, code, stage), count in counts(_found(loaded, wanted, values=False)).items():
        click.echo(f"{count:>9,}  {kind:10} {code:32} {stage}")


@letters.command()
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="A file, in place of standard output.")
@wanted_options
@settings_options
def export(out: Path | None, wanted: "Wanted", loaded: "Loaded") -> None:
    """JSON lines, one a letter; key and value in base64."""
    from ops.letters import exported

    found = _found(loaded, wanted)

    def write(into: IO[bytes]) -> None:
        into.writelines(exported(letter) + b"\n" for letter in found)

    if out is None:
        write(sys.stdout.buffer)
        sys.stdout.flush()
    else:
        with out.open("wb") as file:
            write(file)
    click.echo(f"{len(found):,} dead letters", err=True)


@letters.command()
@click.option("--why", required=True, help="What was mended; stands in the event.")
@click.option("--who", help="Who does it; your user's name unless given.")
@click.option("--rate", default=RATE, show_default=True, type=click.FloatRange(0.1), help="Records a second.")
@click.option("--limit", type=click.IntRange(1), help="At most so many, the oldest.")
@click.option("--even-verdicts", is_flag=True, help="Also what was refused for good: it is judged again.")
@click.option("--dry-run", is_flag=True, help="Say what would be done.")
@wanted_options
@settings_options
def replay(
    why: str,
    who: str | None,
    rate: float,
    limit: int | None,
    even_verdicts: bool,
    dry_run: bool,
    wanted: "Wanted",
    loaded: "Loaded",
) -> None:
    """Send letters to where they came from; a second time is a repeat. Exit code 1: one was not sent."""
    from ops.letters import replay as send_back

    found = _found(loaded, wanted)[:limit]

    async def run(step: Callable[[], None]) -> Any:
        return await send_back(
            loaded.settings, found, who=who or getpass.getuser(), why=why, rate=rate, even_verdicts=even_verdicts,
            dry_run=dry_run, step=step,
        )  # fmt: skip

    with click.progressbar(length=len(found), label="replayed", file=sys.stderr) as bar:

        def interrupted() -> NoReturn:
            fail(f"stopped at {bar.pos:,} of {len(found):,}: run it again, what was sent is then a repeat", STOPPED)

        done = run_or_fail(lambda: run(lambda: bar.update(1)), interrupted)
    for place, reason in done.refused[:20]:
        click.echo(f"{place}  not sent: {reason}")
    if len(done.refused) > 20:
        click.echo(f"and {len(done.refused) - 20:,} more")
    click.echo(f"{done.sent:,} {'would be sent' if dry_run else 'sent'}, {len(done.refused):,} not")
    sys.exit(1 if done.refused else 0)


def _found(loaded: "Loaded", wanted: "Wanted", *, values: bool = True) -> "list[Letter]":
    from ops.letters import find

    found: list[Letter] = run_or_fail(lambda: find(loaded.settings, wanted, values=values))
    return found


def _line(letter: "Letter") -> str:
    from pipeline.results import rfc3339

    when = rfc3339(letter.time_ms)[:19].replace("T", " ")
    about = letter.txid or letter.origin
    return f"{when}  {letter.place:>10}  {letter.kind:10} {letter.code:28} {letter.stage:10} {about}"
