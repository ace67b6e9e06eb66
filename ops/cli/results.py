"""`beefline results`: what became of requests, as the results topic says it."""

import asyncio
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from ops.cli.options import fail, moment, settings_options

if TYPE_CHECKING:
    from beefline.client import Result, Since
    from ops.settings import Loaded, Settings

COLOURS = {
    "applied": "green",
    "accepted": "green",
    "mined": "green",
    "buried": "green",
    "rejected": "red",
    "refused": "red",
    "evicted": "red",
    "parked": "yellow",
    "revised": "yellow",
}

Wanted = Callable[["Result"], bool]


@click.command()
@click.option("--follow", is_flag=True, help="Go on as results come, until Ctrl-C.")
@click.option("--json", "as_json", is_flag=True, help="A JSON line a result.")
@click.option("--txid", help="Only of this transaction.")
@click.option("--request-id", help="Only of this request.")
@click.option(
    "--since",
    metavar="WHEN",
    help="start, now, an age (10m, 2h, 1d) or a time (2026-01-31T12:00). Default: start; with --follow alone, now.",
)
@settings_options
def results(
    follow: bool, as_json: bool, txid: str | None, request_id: str | None, since: str | None, loaded: "Loaded"
) -> None:
    """Read outcomes (read-committed). Exit code 1 when a transaction or request was asked for and none was there."""
    asked = bool(txid or request_id)
    begin = _since(since or ("now" if follow and not asked else "start"))

    def wanted(result: "Result") -> bool:
        return (not txid or result.txid == txid.lower()) and (not request_id or request_id in result.request_ids)

    try:
        found = asyncio.run(_read(loaded.settings, begin, follow, wanted, as_json))
    except KeyboardInterrupt:
        return  # the way to end --follow
    if asked and not found:
        fail("no result of that", 1)


async def _read(settings: "Settings", since: "Since", follow: bool, wanted: Wanted, as_json: bool) -> int:
    import msgspec

    from beefline.client import MissingTopic, Unreachable
    from ops.cli.submit import client_of

    found = 0
    try:
        async with client_of(settings) as client:
            async for result in client.results(since=since, follow=follow):
                if wanted(result):
                    found += 1
                    line = msgspec.json.encode(result).decode() if as_json else _line(result)
                    click.echo(line)
                    if follow:
                        sys.stdout.flush()
    except (Unreachable, MissingTopic) as error:
        fail(str(error.args[0]), 1)
    return found


def _since(text: str) -> "Since":
    if text in ("start", "now"):
        return "start" if text == "start" else "now"
    return moment("--since", text, "start, now, ")


def _line(result: "Result") -> str:
    from ops.cli.submit import says

    outcome = click.style(f"{result.outcome:8}", fg=COLOURS.get(result.outcome))
    context = (result.context or "-").removeprefix("topic:")
    when = result.time[:19].replace("T", " ")
    what = says(result)
    ids = ",".join(result.request_ids)
    return f"{when}  {outcome}  {result.txid or '-':64}  {context:14}  {ids}  {what}".rstrip()
