"""Writes headers until killed: python -m tests.agents.header_writer FOLDER PARENT. Says `writing` once it does."""

import itertools
import random
import sys
from pathlib import Path

from agents.runtime.header_file import HeaderFile
from ops.guard import end_with_parent
from ops.instruments.chain import CHECKPOINT, TARGET, BareChain
from pipeline.chain.headers import Rules, checkpoint_of

BLOCKS = 300
DEPTH = 6


def main() -> None:
    """Append the chain in pieces, replace its end, put it back, and so on."""
    folder, parent = sys.argv[1:]
    end_with_parent(int(parent))
    chain = BareChain(BLOCKS)
    headers = [chain.header(CHECKPOINT + place) for place in range(BLOCKS)]
    branch = chain.branch(DEPTH)
    file = HeaderFile.open(Path(folder), checkpoint_of(chain.begins), Rules(TARGET))
    print("writing", flush=True)
    for turn in itertools.count():
        while file.tip < chain.tip:
            place = file.tip + 1 - CHECKPOINT
            file.write(file.tip + 1, b"".join(headers[place : place + random.randint(1, 40)]))
        file.write(chain.tip - DEPTH + 1, b"".join(branch))
        # Back to the chain: from the fork on, or from far below.
        first = CHECKPOINT + (BLOCKS - DEPTH if turn % 2 else 1)
        file.write(first, b"".join(headers[first - CHECKPOINT :][: random.randint(1, BLOCKS)]))


if __name__ == "__main__":
    main()
