"""A supervisor to be killed: python -m tests.ops.supervise LOG_DIR. Its children are guarded, as workers are."""

import asyncio
import sys
from pathlib import Path

from ops.settings import SupervisorSettings
from ops.supervisor import Spec, Supervisor

GUARDED = """
import os, sys, time
from ops.guard import end_with_parent
end_with_parent(int(sys.argv[1]))
print(os.getpid(), flush=True)
time.sleep(600)
"""


async def main() -> None:
    """Until killed."""
    specs = [Spec(name, (sys.executable, "-c", GUARDED, "{pid}")) for name in ("one", "two")]
    supervisor = Supervisor(specs, SupervisorSettings(), Path(sys.argv[1]))
    supervisor.start()
    await supervisor.failed()


if __name__ == "__main__":
    asyncio.run(main())
