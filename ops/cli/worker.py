"""`beefline worker STAGE`."""

import click

from ops.cli.journal import contexts_of
from ops.cli.options import fail, settings_options
from ops.settings import Loaded

STAGES = ("parse", "verify", "apply", "coordinate", "broadcast", "status", "retry")
REPLICA = "replica"


@click.command()
@click.argument("stage", type=click.Choice((*STAGES, REPLICA)))
@click.option("--guarded", type=int, metavar="PID", help="End when this process, the parent, ends, however it ends.")
@click.option(
    "--contexts",
    multiple=True,
    metavar="CONTEXT[,…]",
    help="Of a replica: contexts to hold a copy of, like topic:tm_x; whole partitions come with them. May be repeated.",
)
@settings_options
def worker(stage: str, guarded: int | None, contexts: tuple[str, ...], loaded: Loaded) -> None:
    """Run one stage in this process, until SIGTERM or Ctrl-C.

    A `replica` is in no group: it follows changelog and journal of chosen contexts, and answers reads.
    """
    from agents.runtime import logs
    from agents.runtime.cluster import Unreachable
    from agents.runtime.health import NeedsToken
    from agents.runtime.worker import NotAsDeclared
    from ops.guard import end_with_parent
    from ops.stages import make_replica, make_worker
    from pipeline.overlay.manager import BadManager

    if guarded is not None:
        end_with_parent(guarded)
    logs.configure(stage, loaded.settings.log)
    names = contexts_of([name for part in contexts for name in part.split(",")])
    if (stage == REPLICA) != bool(names):
        fail("--contexts names what a replica holds" if names else "a replica needs --contexts")
    try:
        ready = make_replica(names, loaded.settings) if names else make_worker(stage, loaded.settings)
    except (Unreachable, NotAsDeclared, NeedsToken, BadManager, ValueError) as error:
        fail(f"worker {stage}: {error}", 1)
    ready.run()
