"""`beefline submit`: files of BEEF to the ingest topic, and what becomes of them."""

import asyncio
import logging
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from msgspec import Struct

from ops.cli.options import USAGE, fail, settings_options

if TYPE_CHECKING:
    from beefline.client import Client, RequestOutcome, Result, Submitted
    from beefline.encodings import Given
    from ops.settings import Loaded, Settings

AT_ONCE = 256
"""Payloads between being read and being confirmed: enough for full requests, few enough to hold in memory."""

ROWS = 40
"""More payloads than fit a screen are told as counts, and those that were not applied by name."""

INTERRUPTED = 130
"""As shells say it of a command that Ctrl-C ended."""

State = Literal["sent", "applied", "rejected", "parked", "waiting", "unsent"]


class Report(Struct, kw_only=True):
    """What became of one payload: a JSON line, or rows of the table."""

    request_id: str | None = None
    payload: str = ""  # the id that its sender gave it, else its file and line
    where: str  # "payloads.jsonl line 3"
    origin: dict[str, Any] | None = None  # topic, partition, offset
    txid: str | None = None
    state: State = "unsent"
    error: str | None = None
    decisions: "tuple[Result, ...]" = ()


class Strict(click.Command):
    """Exit code 2 says something else here; what is wrong with the command line is `USAGE`."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Read the command line."""
        try:
            return super().make_context(*args, **kwargs)
        except click.UsageError as error:
            error.exit_code = USAGE
            raise


@click.command(cls=Strict)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@click.option(
    "--topic",
    "--topics",
    "topics",
    multiple=True,
    metavar="TM_NAME",
    help="An overlay topic; wins over the file's own.",
)
@click.option("--all-or-nothing", is_flag=True, help="All contexts of a payload take it, or none does.")
@click.option("--request-id", metavar="ID", help="What results call the request; wins over the file's own ids.")
@click.option("--wait", is_flag=True, help="Wait for the outcome of every context.")
@click.option("--timeout", default=60.0, show_default=True, help="Seconds to wait for each.")
@click.option("--json", "as_json", is_flag=True, help="A JSON line a payload, as soon as it is known.")
@settings_options
def submit(
    files: tuple[Path, ...],
    topics: tuple[str, ...],
    all_or_nothing: bool,
    request_id: str | None,
    wait: bool,
    timeout: float,
    as_json: bool,
    loaded: "Loaded",
) -> None:
    """Send BEEFs.

    FILES hold bytes, hexadecimal, base64 or JSON lines ({"id", "beef", "topics", "baskets", "atomicity"}); `-` is
    standard input.

    \b
    Exit codes:
      0  all were applied (without --wait: sent)
      1  one was rejected
      2  one was parked, or its outcome did not come in time
      3  one could not be sent: unreadable, over the limit, no broker; or a wrong command line
    """
    from beefline.encodings import read_payloads

    if missing := [str(path) for path in files if str(path) != "-" and not path.is_file()]:
        fail(f"no such file: {missing[0]}")
    given = (payload for path in files for payload in _payloads(path, read_payloads))
    job = Job(topics or None, request_id, timeout if wait else None, as_json, all_or_nothing=all_or_nothing)
    try:
        reports = asyncio.run(_with_client(loaded.settings, job, given))
    except KeyboardInterrupt:
        fail("interrupted; what was sent stays sent", INTERRUPTED)
    if not as_json:
        _tell(reports, waited=wait)
    sys.exit(exit_code(reports))


def _payloads(path: Path, read: Any) -> Iterator[Any]:
    if str(path) == "-":
        yield from read(sys.stdin.buffer, "standard input")
        return
    with path.open("rb") as file:
        yield from read(file, str(path))


def exit_code(reports: Iterable[Report]) -> int:
    """As the command's help says; the worst counts: what could not be sent, then rejected, then unknown."""
    states = {report.state for report in reports}
    if not states or "unsent" in states:
        return USAGE
    return 1 if "rejected" in states else 2 if states & {"parked", "waiting"} else 0


def quiet() -> None:
    """No log lines of the Kafka client: what is wrong becomes a message of the command."""
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)


def client_of(settings: "Settings") -> "Client":
    """A client of the installation the settings name."""
    from agents.runtime.connection import client_options
    from beefline.client import Client

    quiet()
    try:
        options = client_options(settings.kafka)
    except OSError as error:
        fail(f"kafka settings: {error}")
    options["bootstrap"] = ",".join(options.pop("bootstrap_servers"))
    topics = settings.topics
    return Client(prefix=topics.prefix, max_payload_bytes=topics.max_payload_bytes, client_id="beefline", **options)


class Job:
    """Sends payloads, many at once, and follows each to its end.

    topics, request_id: for every payload; None leaves what its file says. all_or_nothing: likewise; False leaves it.
    timeout: seconds to wait for an outcome; None: do not.
    """

    def __init__(
        self,
        topics: Sequence[str] | None,
        request_id: str | None,
        timeout: float | None,
        as_json: bool,
        *,
        all_or_nothing: bool = False,
    ) -> None:
        self._topics = topics
        self._request_id = request_id
        self._timeout = timeout
        self._as_json = as_json
        self._all_or_nothing = all_or_nothing
        self._slots = asyncio.Semaphore(AT_ONCE)
        self.reports: list[Report] = []

    async def run(self, client: "Client", given: Iterator[Any]) -> None:
        """Until every payload is sent, and its outcome known where that is waited for."""
        from beefline.encodings import Unreadable

        with progress(self._timeout is not None) as step:
            async with asyncio.TaskGroup() as group:
                while True:
                    await self._slots.acquire()
                    # Standard input may be a pipe that is filled slowly: the loop goes on meanwhile.
                    payload = await asyncio.to_thread(next, given, None)
                    if payload is None:
                        break
                    if isinstance(payload, Unreadable):
                        self._slots.release()
                        self._finish(Report(where="", error=str(payload)))
                        continue
                    report = Report(where=payload.where)
                    self.reports.append(report)
                    step(total=1)
                    group.create_task(self._one(client, payload, report, step))

    async def _one(self, client: "Client", given: "Given", report: Report, step: Any) -> None:
        from aiokafka.errors import KafkaError

        from beefline.client import NoOutcome, TooLarge

        report.request_id = self._request_id or given.id
        report.payload = report.request_id or given.where.rpartition("/")[2]
        try:
            submitted = await client.submit(
                given.beef,
                topics=self._topics if self._topics is not None else given.topics,
                request_id=report.request_id,
                baskets=given.baskets,
                atomicity="all" if self._all_or_nothing else given.atomicity,
            )
            _sent(report, submitted)
        except (TooLarge, ValueError) as error:
            report.error = f"{given.where}: {error}; it was not sent"
        except KafkaError as error:
            report.error = f"{given.where}: not confirmed by the broker: {error or type(error).__name__}"
        finally:
            self._slots.release()
        if report.state == "sent" and self._timeout is not None:
            try:
                _decided(report, await client.outcome(submitted, self._timeout))
            except NoOutcome as late:
                _decided(report, late.outcome)
                report.error = str(late)
            except KafkaError as error:
                report.state = "waiting"
                report.error = f"results cannot be read: {error or type(error).__name__}"
        step(done=1)
        self._finish(report, known=True)

    def _finish(self, report: Report, *, known: bool = False) -> None:
        import msgspec

        if not known:
            self.reports.append(report)
        if self._as_json:
            click.echo(msgspec.json.encode(report).decode())
        elif report.state == "unsent":
            click.echo(f"beefline: {report.error}", err=True)


def _sent(report: Report, submitted: "Submitted") -> None:
    report.state = "sent"
    report.request_id = submitted.request_id
    report.origin = {"topic": submitted.topic, "partition": submitted.partition, "offset": submitted.offset}


def _decided(report: Report, outcome: "RequestOutcome") -> None:
    report.state = outcome.state
    report.txid = outcome.txid
    report.decisions = outcome.decisions


async def _with_client(settings: "Settings", job: Job, given: Iterator[Any]) -> list[Report]:
    from beefline.client import MissingTopic, Unreachable

    try:
        async with client_of(settings) as client:
            await job.run(client, given)
    except (Unreachable, MissingTopic) as error:
        fail(str(error.args[0]))
    return job.reports


class progress:  # noqa: N801 - used as a function is
    """A bar on a terminal, nothing elsewhere; what it gives is called with `total=` or `done=` to add."""

    def __init__(self, waits: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bar = Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("outcomes" if waits else "sent", total=0)
        self._total = 0

    def __enter__(self) -> Any:
        self._bar.start()
        return self._step

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def _step(self, total: int = 0, done: int = 0) -> None:
        self._total += total
        self._bar.update(self._task, total=self._total, advance=done)


# --- the table

COLOURS = {"applied": "green", "rejected": "red", "parked": "yellow", "waiting": "yellow"}

Row = tuple[str, str, str, str, str]


def _tell(reports: Sequence[Report], *, waited: bool) -> None:
    sent = [report for report in reports if report.state != "unsent"]
    shown = sent if len(sent) <= ROWS else [each for each in sent if each.state not in ("sent", "applied")][:ROWS]
    rows = [row for report in shown for row in _rows(report, waited=waited)]
    heading = ("outcome", "context", "payload", "txid", "what") if waited else ("", "", "payload", "", "record")
    for line in _aligned([heading, *rows]) if rows else ():
        click.echo(line)
    if len(sent) > 1:
        counts = Counter(report.state for report in sent)
        click.echo(", ".join(f"{count} {state}" for state, count in sorted(counts.items())))


def _rows(report: Report, *, waited: bool) -> Iterator[Row]:
    payload = report.payload
    if not waited:
        origin = report.origin or {}
        yield "", "", payload, "", f"{origin['topic']}/{origin['partition']}/{origin['offset']}"
        return
    txid = report.txid or "-"
    for decision in report.decisions:
        context = (decision.context or "all").removeprefix("topic:")
        yield decision.outcome, context, payload, txid, says(decision)
    if report.state == "waiting":
        yield "waiting", "", payload, txid, report.error or ""


def _aligned(rows: Sequence[Row]) -> Iterator[str]:
    """Columns as wide as they need to be; the last one, and so a line, as long as it is."""
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:4], widths, strict=True)]
        cells[0] = click.style(cells[0], fg=COLOURS.get(row[0]), bold=row is rows[0])
        yield "  ".join([cell for cell, width in zip(cells, widths, strict=True) if width] + [row[4]]).rstrip()


def says(result: "Result") -> str:
    """A result's particulars in words: what was admitted, or what is wrong and where."""
    if result.code:
        parts = [result.code, result.at and f"at {result.at}", result.message]
        return "  ".join(part for part in parts if part)
    if result.admittance is not None:
        admitted = result.admittance.outputs_to_admit
        what = f"admitted {_ranges(admitted)}" if admitted else "admitted nothing"
        removed = result.admittance.coins_removed
        removed_too = f", removed coins of inputs {_ranges(removed)}" if removed else ""
        return what + removed_too + ("  (a repeat)" if result.repeat else "  (a merge)" if result.merge else "")
    return f"by {result.endpoint}" if result.endpoint else ""


def _ranges(numbers: Sequence[int]) -> str:
    """`0-3, 7` for 0, 1, 2, 3, 7."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in runs)
