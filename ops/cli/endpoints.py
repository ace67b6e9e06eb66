"""`beefline endpoints`."""

import asyncio
import sys
from typing import TYPE_CHECKING

import click

from ops.cli.options import fail, settings_options

if TYPE_CHECKING:
    from agents.runtime.endpoints import Standing
    from ops.settings import Loaded


@click.command()
@click.option("--json", "as_json", is_flag=True, help="A JSON object an endpoint.")
@settings_options
def endpoints(as_json: bool, loaded: "Loaded") -> None:
    """Ask the broadcast endpoints of the settings whether they are up, and what they take. Exit code 1: none is."""
    import msgspec

    try:
        found = asyncio.run(_ask(loaded))
    except (ValueError, OSError) as error:
        fail(str(error))
    for standing, up in found:
        if as_json:
            click.echo(msgspec.json.encode({"up": up, **msgspec.to_builtins(standing)}).decode())
        else:
            click.echo(_line(standing, up=up))
    sys.exit(0 if any(up for _, up in found) else 1)


async def _ask(loaded: "Loaded") -> "list[tuple[Standing, bool]]":
    from agents.runtime.endpoints import Endpoints
    from agents.runtime.http import Transport

    async with Transport(loaded.settings.http) as transport:
        asked = Endpoints(loaded.settings.broadcast, transport)
        try:
            up = await asked.up()
            await asked.read_policies()
            return [(standing, standing.name in up) for standing in asked.standings()]
        finally:
            await asked.close()


def _line(standing: "Standing", *, up: bool) -> str:
    from pipeline.broadcasters.policy import told

    takes = "publishes no policy"
    if standing.policy is not None:
        takes = told(standing.policy)
    elif standing.publishes:
        takes = f"its policy cannot be read: {standing.policy_fault}"
    state = "up  " if up else "down"
    return f"{state}  priority {standing.priority}  {standing.name}  {takes}"
