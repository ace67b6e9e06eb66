"""What the fuzzer begins with: payloads that tests make, and what it once found.

`corpus-parse.hex` and `corpus-verify.hex` hold an input a line, in hexadecimal, shortest first: those that take the
code somewhere the seeds do not. `python -m tests.fuzz.keep` writes them.
"""

import json
from collections.abc import Iterable
from hashlib import sha1
from pathlib import Path

from ops.instruments.payloads import mainnet
from tests.builders import In, Out, bag, funding, spend
from tests.families import DEFECTS, HARMLESS, SHAPES, family
from tests.fuzz.mutate import OPENED

FOLDER = Path(__file__).parent
VECTORS = FOLDER.parent / "vectors"


def seeds() -> list[bytes]:
    """Small payloads: real ones, the published synthetic ones, families sound and not, and a script of each kind."""
    found = [payload.beef for payload in mainnet()]
    for path in sorted((VECTORS / "universal").glob("*.json")):
        text = json.loads(path.read_text(encoding="utf-8"))
        found += [bytes.fromhex(text[key]) for key in ("beef_hex", "beef_v2_hex", "atomic_beef_hex") if key in text]
    families = [family(0, shape=shape) for shape in SHAPES]
    families += [family(0, defect) for defect in DEFECTS]
    families += [family(0, harmless=[name]) for name in HARMLESS]
    for number, made in enumerate(families):
        framed = list(made.framed.values())
        found.append(framed[number % len(framed)])
    for lock, unlock in OPENED:
        parent = funding(Out(1000, lock))
        for height in (600_000, 700_000, 950_000):  # before Genesis, before Chronicle, after it
            child = spend([In(parent, 0, lambda _, unlock=unlock: unlock)], [Out(999)])  # type: ignore[misc]
            found.append(bag(parent, child, proven=[parent], height=height, levels=2).v2())
    return list(dict.fromkeys(found))


def kept(name: str) -> list[bytes]:
    """The corpus of target `name`."""
    lines = corpus(name).read_text(encoding="ascii").splitlines()
    return [bytes.fromhex(line) for line in lines]


def keep(name: str, inputs: Iterable[bytes]) -> None:
    """Write the corpus of target `name`."""
    ordered = sorted(set(inputs), key=lambda data: (len(data), data))
    corpus(name).write_text("".join(f"{data.hex()}\n" for data in ordered), encoding="ascii")


def corpus(name: str) -> Path:
    """Where the corpus of target `name` stands."""
    return FOLDER / f"corpus-{name}.hex"


def write(folder: Path, inputs: Iterable[bytes]) -> None:
    """A file an input, as libFuzzer wants them and names them."""
    folder.mkdir(parents=True, exist_ok=True)
    for data in inputs:
        (folder / sha1(data, usedforsecurity=False).hexdigest()).write_bytes(data)
