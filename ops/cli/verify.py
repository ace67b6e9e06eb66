"""`beefline verify`: the verifier by itself, for files and for batches."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ops.cli.inspect import payloads_of
from ops.cli.options import fail, settings_options
from ops.cli.submit import Strict

if TYPE_CHECKING:
    from agents.verifier import Outcome
    from ops.settings import Loaded
    from pipeline.policy import Policy

EXITS = {"valid": 0, "invalid": 1, "indeterminate": 2}
WORST = ("valid", "indeterminate", "invalid")
"""Of several payloads the worst says the exit code: what is invalid stays so."""


@click.command(cls=Strict)
@click.argument("files", nargs=-1, type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@click.option(
    "--headers",
    type=click.Path(path_type=Path, dir_okay=False),
    help='The chain as JSON: {"tip": height, "median_time_past": seconds, "roots": {"height": "display hex"}}.',
)
@click.option(
    "--tracker",
    "services",
    multiple=True,
    metavar="URL",
    help="A header service, as URL or dialect=URL: bhs, chaintracks, chaintracks-v1, woc. Two equal answers decide.",
)
@click.option("--policy", "form", type=click.Choice(["strict", "lenient"]), help="In place of the setting policy.form.")
@click.option(
    "--batch", is_flag=True, help='JSON lines in, {"id": …, "beef": "hex"}; JSON lines out, in the same order.'
)
@click.option("--jobs", type=click.IntRange(1), help="Processes of a batch: as many as cores unless given.")
@click.option("--json", "as_json", is_flag=True, help="A JSON line a payload. A batch writes these anyway.")
@settings_options
def verify(
    files: tuple[Path, ...],
    headers: Path | None,
    services: tuple[str, ...],
    form: Any,
    batch: bool,
    jobs: int | None,
    as_json: bool,
    loaded: "Loaded",
) -> None:
    """Whether payloads are valid, and why not.

    FILE holds bytes, hexadecimal, base64 or JSON lines; `-` is standard input, which a batch reads unless files are
    named. Header services are those of the settings where neither --headers nor --tracker is given.

    \b
    Exit codes: 0 valid, 1 invalid, 2 indeterminate: it may become either. Of several payloads the worst counts.
    A batch that answered every line exits with 0: the lines tell.
    """
    from msgspec.structs import replace

    if headers is not None and services:
        fail("--headers and --tracker exclude each other: one of them knows the chain")
    if not files and not batch:
        fail("name a file, or - for standard input")
    if jobs is not None and not batch:
        fail("--jobs is for --batch")
    named = services or (() if headers else loaded.settings.trackers.trackers)
    if headers is None and not named:
        fail("who knows the chain? Give --headers FILE or --tracker URL, or set trackers.trackers")
    policy = loaded.settings.policy
    policy = replace(policy, form=form) if form else policy
    if batch:
        _batch(files, _read(headers), named, policy, jobs or os.cpu_count() or 1)
        return
    sys.exit(_files(files, _read(headers), named, policy, as_json))


def _read(headers: Path | None) -> bytes:
    """The text of the table, checked."""
    from pipeline.chain.table import BadTableError, read_table

    if headers is None:
        return b""
    try:
        text = headers.read_bytes()
        read_table(text)
    except OSError as error:
        fail(f"{headers}: {error.strerror}")
    except BadTableError as error:
        fail(f"{headers}: {error}")
    return text


def _files(files: tuple[Path, ...], headers: bytes, named: tuple[str, ...], policy: "Policy", as_json: bool) -> int:
    from contextlib import ExitStack

    import msgspec

    from agents.verifier import Tracker, Verifier
    from pipeline.chain.table import read_table

    for file in files:
        if str(file) != "-" and not file.is_file():
            fail(f"no such file: {file}")
    said = []
    with ExitStack() as opened:
        tracker: Tracker = read_table(headers) if headers else _services(opened, named)
        verifier = opened.enter_context(Verifier(policy))
        for file in files:
            for where, beef in payloads_of(file):
                outcome = verifier.verify(beef, tracker)
                said.append(outcome.outcome)
                if as_json:
                    fields = msgspec.structs.asdict(outcome)
                    click.echo(msgspec.json.encode({"file": where, **fields}).decode())
                else:
                    _tell(where, outcome)
    return EXITS[max(said, key=WORST.index)]


def _services(opened: Any, named: tuple[str, ...]) -> Any:
    from agents.services import Services

    try:
        return opened.enter_context(Services(named))
    except (OSError, ValueError) as error:
        fail(str(error))


COLOURS = {"valid": "green", "invalid": "red", "indeterminate": "yellow"}


def _tell(where: str, outcome: "Outcome") -> None:
    from pipeline.outcome import BY_CODE

    click.echo(f"{where}: " + click.style(outcome.outcome, fg=COLOURS[outcome.outcome], bold=True))
    if outcome.txid:
        size = f", {outcome.unmined} un-mined" if outcome.unmined is not None else ""
        fee = f", fee {outcome.fee_sat:,} sat" if outcome.fee_sat is not None else ""
        click.echo(f"  subject {outcome.txid}{size}{fee}")
    if outcome.code:
        row = BY_CODE[outcome.code]
        place = f" at {outcome.at}" if outcome.at else ""
        click.echo(f"  {outcome.code}{place}: {row.meaning}")
        if outcome.message and outcome.message != row.meaning:
            click.echo(f"  {outcome.message}")
        click.echo(f"  what to do: {row.do}")


def _batch(files: tuple[Path, ...], headers: bytes, named: tuple[str, ...], policy: "Policy", jobs: int) -> None:
    from contextlib import ExitStack

    from ops.batch import Batch
    from ops.batch_worker import Order

    if named and not headers:
        with ExitStack() as opened:  # what is wrong with them is said here, once
            _services(opened, named)
    order = Order(policy, headers, () if headers else tuple(named))
    sink = sys.stdout.buffer

    def write(line: bytes) -> None:
        sink.write(line)
        sink.flush()

    try:
        for file in files or (Path("-"),):
            if str(file) == "-":
                Batch(order, jobs, write).run(sys.stdin.buffer)
                continue
            if not file.is_file():
                fail(f"no such file: {file}")
            with file.open("rb") as stream:
                Batch(order, jobs, write).run(stream)
    except BrokenPipeError:  # nobody reads any more, which is theirs to decide
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
