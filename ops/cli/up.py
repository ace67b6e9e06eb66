"""`beefline up`."""

import asyncio
import signal

import click

from ops.cli.options import fail, settings_options
from ops.cli.worker import STAGES
from ops.settings import Loaded


@click.command()
@click.argument("stages", nargs=-1, type=click.Choice(STAGES))
@click.option("--dev", is_flag=True, help="Broker, topics and simulated network too, until Ctrl-C.")
@click.option("--workers", default=1, show_default=True, type=click.IntRange(1), help="Processes for each stage.")
@click.option("--health-port", default=0, type=click.IntRange(0, 65535), help="One health answer for all, on loopback.")
@settings_options
def up(stages: tuple[str, ...], dev: bool, workers: int, health_port: int, loaded: Loaded) -> None:
    """Run stages, one process each, supervised: all of them, or those named."""
    chosen = stages or STAGES
    asyncio.run(_dev(chosen, workers, loaded) if dev else _supervise(chosen, workers, health_port, loaded))


def _stop_event() -> asyncio.Event:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for each in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(each, stop.set)
    return stop


async def _supervise(stages: tuple[str, ...], workers: int, health_port: int, loaded: Loaded) -> None:
    from agents.runtime import logs
    from ops.health import serve_health
    from ops.settings import flags_of
    from ops.supervisor import Supervisor, worker_spec

    logs.configure("up", loaded.settings.log)
    stop = _stop_event()
    flags = flags_of(loaded)
    specs = [worker_spec(stage, flags, n) for stage in stages for n in range(workers)]
    supervisor = Supervisor(specs, loaded.settings.supervisor)
    supervisor.start()
    runner = await serve_health(supervisor, health_port)
    failed = asyncio.ensure_future(supervisor.failed())
    click.echo(f"{len(specs)} workers; health of all at {runner.url}/readyz", err=True)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((stopping, failed), return_when=asyncio.FIRST_COMPLETED)
        if failed.done():
            failed.result()
    finally:
        stopping.cancel()
        await supervisor.stop()
        await runner.stop()


async def _dev(stages: tuple[str, ...], workers: int, loaded: Loaded) -> None:
    from ops.broker import BrokerError
    from ops.installation import Installation, NotReady
    from ops.settings import flags_of

    stop = _stop_event()
    flags = [
        flag for flag in flags_of(loaded) if not loaded.origins[flag.split("=")[0]].startswith(("network", "local"))
    ]
    installation = Installation(
        flags=flags, stages=stages, workers=workers, say=lambda what: click.echo(f"starting: {what}")
    )
    starting = asyncio.ensure_future(installation.start())
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((starting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            return
        starting.result()
        _greet(installation)
        await stopping
        click.echo("stopping")
    except (BrokerError, NotReady) as error:
        fail(str(error), 1)
    finally:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        await installation.stop()


def _greet(installation: object) -> None:
    from ops.installation import Installation

    assert isinstance(installation, Installation)
    assert installation.loaded is not None
    assert installation.services is not None
    settings = installation.loaded.settings
    click.echo(f"broker      {settings.kafka.bootstrap} (topics {settings.topics.prefix}*)")
    for url in installation.services.arcs:
        click.echo(f"arc         {url}")
    for dialect, url in installation.services.headers:
        click.echo(f"headers     {url} ({dialect})")
    click.echo("\nup. Try, in another terminal:\n")
    click.echo("  beefline generate --count 3 | beefline submit --wait -")
    click.echo("  beefline results --follow")
    click.echo("  beefline kafka consumer-groups --describe --all-groups\n\nCtrl-C ends it.")
