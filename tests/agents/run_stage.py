"""Runs a stage of `odd_stages` as a worker process: python -m tests.agents.run_stage NAME [--arg X] key=value …"""

import asyncio
import os
import sys

from agents.runtime import logs
from agents.runtime.cluster import look
from ops.guard import end_with_parent
from ops.settings import load
from ops.stages import worker_of
from tests.agents.odd_stages import STAGES


def main() -> None:
    """Until SIGTERM."""
    name, parent, argument, *flags = sys.argv[1:]
    end_with_parent(int(parent))
    settings = load(network="dev", flags=flags, environment={}).settings
    logs.configure(name, settings.log)
    cluster = asyncio.run(look(settings.kafka, settings.topics))
    stage = STAGES[name](argument) if argument else STAGES[name]()
    worker_of(stage, settings, cluster).run()
    os._exit(0)


if __name__ == "__main__":
    main()
