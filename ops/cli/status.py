"""`beefline status`."""

import asyncio
import sys
from typing import TYPE_CHECKING

import click

from ops.cli.options import settings_options
from ops.settings import Loaded

if TYPE_CHECKING:
    from ops.status import StageStatus

PIPED_WIDTH = 250
"""Columns where no terminal says how many it has: whoever reads it there wants whole names."""


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@settings_options
def status(as_json: bool, loaded: Loaded) -> None:
    """Each stage's process, group, health, lag and HTTP address; exit code 1 unless all are ready."""
    from agents.runtime.health import token
    from ops.running import local
    from ops.status import status as look

    settings = loaded.settings
    rows = asyncio.run(look(settings.kafka, settings.topics, token(settings.worker)))
    if as_json:
        import msgspec

        about = local() or {}
        answer = {
            "bootstrap": settings.kafka.bootstrap,
            "prefix": settings.topics.prefix,
            "stages": rows,
            "services": about.get("services", {}),
        }
        click.echo(msgspec.json.format(msgspec.json.encode(answer), indent=2).decode())
    else:
        _table(rows)
    sys.exit(0 if all(row.health == "ready" for row in rows) else 1)


def _table(rows: "list[StageStatus]") -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for column in ("stage", "health", "state", "lag", "pid", "group", "address"):
        table.add_column(column, justify="right" if column in ("lag", "pid") else "left")
    for row in rows:
        lag = "?" if row.lag is None else str(row.lag)
        state = f"{row.state}: {row.reason}" if row.reason else row.state
        table.add_row(row.stage, row.health, state, lag, str(row.pid or "-"), row.group, row.http or "-")
    Console(width=None if sys.stdout.isatty() else PIPED_WIDTH).print(table)
