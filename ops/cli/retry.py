"""`beefline retry`: what waits in the retry tiers, and returning it at once."""

import asyncio
import getpass
import time
from typing import TYPE_CHECKING

import click

from ops.cli.journal import run_or_fail
from ops.cli.options import fail, settings_options

if TYPE_CHECKING:
    from ops.settings import Loaded
    from ops.waiting import Tier

TIERS = ("10s", "1m", "10m")


@click.group()
def retry() -> None:
    """Records that met a condition and wait in the retry tiers, to return to their origin when they are due."""


@retry.command()
@click.option("--json", "as_json", is_flag=True, help="A JSON object a tier.")
@settings_options
def status(as_json: bool, loaded: "Loaded") -> None:
    """How many wait in each tier, since when, until when, and for what."""
    import msgspec

    now_ms = int(time.time() * 1000)
    for tier in _tiers(loaded):
        if as_json:
            of = [{"origin": origin, "code": code, "waits": n} for (origin, code), n in sorted(tier.of.items())]
            fields = {"tier": tier.name, "waits": tier.waits, "since_ms": tier.since_ms, "next_ms": tier.next_ms}
            click.echo(msgspec.json.encode({**fields, "last_ms": tier.last_ms, "of": of}).decode())
            continue
        line = f"{tier.name:>4} {tier.waits:>9,} wait"
        if tier.since_ms is not None and tier.next_ms is not None and tier.last_ms is not None:
            due = " to ".join(dict.fromkeys((_in(tier.next_ms - now_ms), _in(tier.last_ms - now_ms))))
            line += f"  the oldest for {_span((now_ms - tier.since_ms) / 1000)}, due {due}"
        click.echo(line)
        for (origin, code), count in sorted(tier.of.items(), key=lambda each: (-each[1], each[0])):
            click.echo(f"{'':5}{count:>9,} {origin:12} {code}")


@retry.command()
@click.option("--why", required=True, help="What was mended; stands in the event.")
@click.option("--who", help="Who does it; your user's name unless given.")
@click.option("--tier", "tiers", type=click.Choice(TIERS), multiple=True, help="Of this tier; of all unless given.")
@click.option("--at", "address", metavar="URL", help="A worker's address; without it, the stage's on this machine.")
@click.option("--dry-run", is_flag=True, help="Say what would return.")
@settings_options
def now(
    why: str, who: str | None, tiers: tuple[str, ...], address: str | None, dry_run: bool, loaded: "Loaded"
) -> None:
    """Have what stands in the tiers by now returned at once, by the workers of the stage.

    It counts as any return: what still meets its condition waits again, in the next tier. A worker that ends forgets
    what it was told, and nothing else: run it again.
    """
    from ops.running import running_workers

    waits = sum(tier.waits for tier in _tiers(loaded) if not tiers or tier.name in tiers)
    if dry_run:
        click.echo(f"{waits:,} would return")
        return
    found = [address] if address else [worker.http for worker in running_workers() if worker.stage == "retry"]
    if not found:
        fail("no worker of retry runs on this machine; name one with --at URL", 1)
    for url in found:
        asyncio.run(_tell(url, loaded, {"who": who or getpass.getuser(), "why": why, "tiers": list(tiers)}))
    click.echo(f"{waits:,} return now")


async def _tell(url: str, loaded: "Loaded", what: dict[str, object]) -> None:
    import aiohttp

    from agents.runtime.health import token

    bearer = token(loaded.settings.worker)
    headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{url}/retry-now", headers=headers, json=what) as response,
        ):
            response.raise_for_status()
    except aiohttp.ClientError as error:
        fail(f"{url}: {error}", 1)


def _tiers(loaded: "Loaded") -> "list[Tier]":
    from ops.waiting import tiers

    found: list[Tier] = run_or_fail(lambda: tiers(loaded.settings))
    return found


def _in(ms: int) -> str:
    return "now" if ms <= 0 else f"in {_span(ms / 1000)}"


def _span(seconds: float) -> str:
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0, seconds):.0f} s"
