"""`beefline load`: payloads at a given rate, and how long their outcomes take."""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ops.cli.options import fail, settings_options
from ops.cli.submit import INTERRUPTED, Strict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ops.instruments.load import Latency, Load, LoadReport
    from ops.instruments.payloads import Generated
    from ops.settings import Loaded, Settings

SECONDS = 10.0


@click.command(cls=Strict)
@click.option("--rate", required=True, type=click.FloatRange(0, min_open=True), help="Payloads a second.")
@click.option("--seconds", type=click.FloatRange(0, min_open=True), help="Default: 10, or as long as the pool lasts.")
@click.option(
    "--pool",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Payloads of `beefline generate --format binary`, each sent once.",
)
@click.option(
    "--kind", "kinds", multiple=True, help="Made for this run, in turn; `beefline generate --kinds` lists them."
)
@click.option("--size", type=int, help="Of the kind, as `beefline generate` takes it.")
@click.option("--topic", "--topics", "topics", multiple=True, metavar="TM_NAME", help="An overlay topic for all.")
@click.option("--drain", default=30.0, show_default=True, help="Seconds to wait, at most, for outcomes after the last.")
@click.option(
    "--chain", type=click.Path(path_type=Path, file_okay=False), help="Folder of the simulated chain to take coins of."
)
@click.option("--json", "as_json", is_flag=True, help="The report as JSON.")
@settings_options
def load(
    rate: float,
    seconds: float | None,
    pool: Path | None,
    kinds: tuple[str, ...],
    size: int | None,
    topics: tuple[str, ...],
    drain: float,
    chain: Path | None,
    as_json: bool,
    loaded: "Loaded",
) -> None:
    """Open-loop load at a given rate.

    Payloads go out when they are due, whatever the answers do; latency counts from then, to the `applied` result (of
    the last context, where there are several) and to the network's `accepted`.

    \b
    Exit codes: 0, or 1 when a payload was not taken by the broker or was not decided in time.
    """
    import msgspec
    from aiokafka.errors import KafkaError

    from ops.cli.submit import quiet
    from ops.instruments.generate import kind_names

    if pool and (kinds or size or chain):
        fail("--pool holds payloads already: no --kind, --size or --chain beside it")
    if unknown := [kind for kind in kinds if kind not in kind_names()]:
        fail(f"no kind {unknown[0]!r}; `beefline generate --kinds` lists them")
    if pool is None and seconds is None:
        seconds = SECONDS
    quiet()
    payloads = _pool(pool) if pool else _fresh(round(rate * (seconds or SECONDS)), kinds or ("p2pkh",), size, chain)
    try:
        report = asyncio.run(_run(loaded.settings, payloads, rate, seconds, topics or None, drain))
    except KeyboardInterrupt:
        fail("interrupted", INTERRUPTED)
    except KafkaError as error:
        fail(f"{loaded.settings.kafka.bootstrap}: {error or type(error).__name__}", 1)
    click.echo(msgspec.json.encode(report).decode() if as_json else _words(report))
    sys.exit(1 if report.failed or report.undecided else 0)


def _pool(path: Path) -> "Iterable[Generated]":
    from ops.instruments.payloads import read_pool

    payloads = read_pool(path)
    try:
        first = next(payloads, None)
    except ValueError as error:
        fail(str(error))
    if first is None:
        fail(f"{path} is empty")
    from itertools import chain

    return chain([first], payloads)


def _fresh(count: int, kinds: tuple[str, ...], size: int | None, chain: Path | None) -> "Iterable[Generated]":
    from ops.instruments.chain import Chain
    from ops.instruments.load import fresh

    click.echo(f"making {count:,} payloads", err=True)
    return fresh(count, kinds, Chain.open(chain), size)


async def _run(
    settings: "Settings",
    payloads: "Iterable[Generated]",
    rate: float,
    seconds: float | None,
    topics: tuple[str, ...] | None,
    drain: float,
) -> "LoadReport":
    from rich.console import Console

    from ops.instruments.load import run_load

    console = Console(stderr=True)
    if not console.is_terminal:
        return await run_load(settings, payloads, rate, seconds, topics=topics, drain_s=drain)
    with console.status("connecting") as line:

        def tell(load: "Load") -> None:
            line.update(f"{load.due:,} sent, {load.due - load.decided:,} of them undecided")

        return await run_load(settings, payloads, rate, seconds, topics=topics, drain_s=drain, tell=tell)


def _words(report: "LoadReport") -> str:
    outcomes = ", ".join(f"{count:,} {name}" for name, count in report.outcomes.items()) or "none"
    late = report.late_ms
    speed = f"{report.sent_rate:,.1f} a second of {report.rate:,g} asked"
    lines = [
        f"sent       {report.sent:,} in {report.seconds:.1f} s: {speed}"
        + (f"; at most {late.max:,.0f} ms late (p99 {late.p99:,.0f} ms)" if late else ""),
        f"outcomes   {outcomes}" + (f" ({report.repeats:,} repeats)" if report.repeats else ""),
        f"applied    {_latency(report.applied_ms)}",
        f"accepted   {_latency(report.accepted_ms)}",
        f"the load itself used {report.cpu_cores:.2f} cores while it sent",
    ]
    if report.failed:
        lines.append(f"not taken by the broker: {report.failed:,}")
    if report.undecided:
        lines.append(f"without a decision: {report.undecided:,}")
    return "\n".join(lines)


def _latency(found: "Latency | None") -> str:
    if found is None:
        return "-"
    return f"p50 {found.p50:,.0f} ms   p95 {found.p95:,.0f} ms   p99 {found.p99:,.0f} ms   max {found.max:,.0f} ms"
