"""`beefline worker STAGE`."""

import click

from ops.cli.options import fail, settings_options
from ops.settings import Loaded

STAGES = ("parse", "verify", "apply", "broadcast", "retry")


@click.command()
@click.argument("stage", type=click.Choice(STAGES))
@click.option("--guarded", type=int, metavar="PID", help="End when this process, the parent, ends, however it ends.")
@settings_options
def worker(stage: str, guarded: int | None, loaded: Loaded) -> None:
    """Run one stage in this process, until SIGTERM or Ctrl-C."""
    from agents.runtime import logs
    from agents.runtime.cluster import Unreachable
    from agents.runtime.health import NeedsToken
    from agents.runtime.worker import NotAsDeclared
    from ops.guard import end_with_parent
    from ops.stages import make_worker
    from pipeline.overlay.manager import BadManager

    if guarded is not None:
        end_with_parent(guarded)
    logs.configure(stage, loaded.settings.log)
    try:
        ready = make_worker(stage, loaded.settings)
    except (Unreachable, NotAsDeclared, NeedsToken, BadManager, ValueError) as error:
        fail(f"worker {stage}: {error}", 1)
    ready.run()
