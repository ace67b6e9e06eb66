"""Make the kept corpus anew: python -m tests.fuzz.keep parse|verify [FOLDER ...], of what is kept and what was found.

libFuzzer's merge takes an input only where it reaches code that none before it does. Seeds come first and are not kept:
tests make them each time.
"""

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.fuzz.kept import corpus, keep, kept, seeds, write

MOST_BYTES = 140_000
"""Of a target's inputs. In hexadecimal, two corpora of this size stay below 600 kB."""


def merge(name: str, folders: list[Path]) -> list[bytes]:
    """The inputs that reach what the seeds do not, shortest first."""
    with TemporaryDirectory() as made:
        before, out = Path(made, "kept"), Path(made, "out")
        write(before, kept(name))
        write(out, seeds())
        known = {path.name for path in out.iterdir()}
        command = [sys.executable, "-m", "tests.fuzz.target", name, str(out), str(before), *map(str, folders)]
        # How often a line runs is no reason to keep an input: it would be thousands of them.
        subprocess.run([*command, "-merge=1", "-use_counters=0"], check=True)
        found = [path.read_bytes() for path in out.iterdir() if path.name not in known]
    return sorted(found, key=len)


def main() -> None:
    """Merge, and write the corpus of one target."""
    name, *folders = sys.argv[1:]
    found = merge(name, [Path(folder) for folder in folders])
    while sum(map(len, found)) > MOST_BYTES:
        found.pop()
    keep(name, found)
    print(f"{corpus(name)}: {len(found)} inputs, {sum(map(len, found))} bytes")


if __name__ == "__main__":
    main()
