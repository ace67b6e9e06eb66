"""`beefline resume STAGE`."""

import asyncio

import click

from ops.cli.options import fail, settings_options
from ops.cli.worker import STAGES
from ops.settings import Loaded


@click.command()
@click.argument("stage", type=click.Choice(STAGES))
@click.option(
    "--at", "address", metavar="URL", help="A worker's address; without it, the stage's workers on this machine."
)
@settings_options
def resume(stage: str, address: str | None, loaded: Loaded) -> None:
    """Let a halted stage go on, and contexts it holds suspended, once the cause is mended."""
    from agents.runtime.health import token
    from ops.running import running_workers

    here = [worker.http for worker in running_workers() if worker.stage == stage]
    found = [address] if address else here
    if not found:
        fail(f"no worker of {stage} runs on this machine; name one with --at URL", 1)
    for url in found:
        asyncio.run(_resume(url, token(loaded.settings.worker)))
        click.echo(f"{stage} at {url} goes on")


async def _resume(url: str, bearer: str | None) -> None:
    import aiohttp

    headers = {"Authorization": f"Bearer {bearer}"} if bearer else {}
    try:
        async with aiohttp.ClientSession() as session, session.post(f"{url}/resume", headers=headers) as response:
            response.raise_for_status()
    except aiohttp.ClientError as error:
        fail(f"{url}: {error}", 1)
