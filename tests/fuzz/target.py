"""Fuzzing of the door for hostile bytes: python -m tests.fuzz.target parse|verify CORPUS [libFuzzer options].

CORPUS is a folder, which the kept corpus and the seeds are added to; or a file, to try one input again.

An input fails when a check does (`checks.py`), or when it costs too much time or memory in a plain interpreter
(`bare.py`). atheris is bound to its platform and has a lock of its own (`make test` installs it where it can).
"""

import gc
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import atheris

with atheris.instrument_imports(include=["pipeline"]):
    from tests.fuzz.checks import CHECKS, limit_s

from tests.fuzz.bare import Bare
from tests.fuzz.kept import FOLDER, kept, seeds, write
from tests.fuzz.mutate import mutated

RSS_MB = 128
"""About twice the 56 MB that a run of eight minutes takes."""
ADDRESS_SPACE = 256 << 20
"""About three times what a run takes. One allocation by what a payload says of itself fails here, as -malloc_limit_mb
would have it: libFuzzer has no hook in the allocator of a plain interpreter."""
HANG_S = 20
"""Of a clock on a wall, instrumented and with others on the machine: a loop that has no end."""

SAMPLE = 50
"""One input in so many is measured, however it looks."""
WARM = 2_000
"""Inputs after which nothing of ours may grow any more."""
MORE_BLOCKS = 20_000
MORE_RSS = 16 << 20
"""Growth since then: Python objects here, resident bytes in the plain process, where the fuzzer's own memory is not."""


class Watch:
    """One target with its limits."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.check = CHECKS[name]
        self.bare: Bare | None = None
        self.inputs = 0
        self.most = 0  # resident memory so far, kB
        self.warm_blocks = self.warm_rss = 0

    def __call__(self, data: bytes) -> None:
        """Raises AssertionError: something is wrong with this input, or since the first ones."""
        began = time.process_time()
        self.check(data)
        took = time.process_time() - began
        self.inputs += 1
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        grew, self.most = most - self.most, most
        if took > limit_s(len(data)) or grew > 1024 or self.inputs % SAMPLE == 0:
            self._measure(data)
        if self.inputs % WARM == 0:
            self._look_for_leaks()

    def _measure(self, data: bytes) -> None:
        self.bare = self.bare or Bare()
        cost = self.bare.measure(self.name, data)
        assert not cost.fault(len(data)), cost.fault(len(data))
        if self.inputs >= WARM:
            self.warm_rss = self.warm_rss or cost.rss
            more = cost.rss - self.warm_rss
            assert more < MORE_RSS, f"the plain process grew by {more >> 20} MB since input {WARM}"

    def _look_for_leaks(self) -> None:
        gc.collect()
        blocks = sys.getallocatedblocks()
        self.warm_blocks = self.warm_blocks or blocks
        more = blocks - self.warm_blocks
        assert more < MORE_BLOCKS, f"{more} more blocks of memory than after input {WARM}"


def by_structure(data: bytes, most: int, seed: int) -> bytes:
    """libFuzzer's custom mutator: by the parts of a payload, else by bytes."""
    blind: Callable[[bytes, int], bytes] = atheris.Mutate
    return mutated(data, most, Random(seed), blind)


def main() -> None:
    """Run libFuzzer on one target."""
    name, folder, *options = sys.argv[1:]
    if not Path(folder).is_file() and not any(option.startswith("-merge") for option in options):
        write(Path(folder), [*seeds(), *kept(name)])
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE, ADDRESS_SPACE))
    # libFuzzer starts itself again by this line when it merges.
    again = f"{sys.executable} -m tests.fuzz.target {name}"
    limits = [f"-rss_limit_mb={RSS_MB}", f"-timeout={HANG_S}", "-max_len=20000", f"-dict={FOLDER / 'words.dict'}"]
    atheris.Setup([again, folder, *limits, *options], Watch(name), custom_mutator=by_structure)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
