"""A package with a topic manager, its tests and a payload to try: what `beefline new-topic` writes."""

import hashlib
import importlib.resources
import keyword
from pathlib import Path
from string import Template

from msgspec import Struct

from ops.instruments.chain import Chain
from ops.instruments.wire import push
from ops.instruments.workshop import Bag, Workshop
from pipeline.overlay.manager import CONTRACT
from schemas.types import is_topic_name

SEED = 95
FIRST_COIN, COINS = 114_100, 1_000
"""Coins of the last lane that the payloads to try of `examples/payloads` leave: a topic takes one, by its name."""

TAKEN = frozenset({"Admittance", "Case", "Output", "Spend", "Subject"})
"""Names that the templates import."""

FILES = {
    "pyproject.toml.template": "pyproject.toml",
    "README.md.template": "README.md",
    "manager.py.template": "{module}.py",
    "test_manager.py.template": "test_{module}.py",
}
"""What stands in `ops/topic_template`, and what it becomes."""


class NewTopic(Struct, frozen=True):
    """The names in a package."""

    name: str  # lower-case words joined by _
    topic: str
    module: str
    distribution: str
    class_name: str
    coin: int  # of the simulated chain, which the payload spends


def named(name: str) -> NewTopic:
    """What follows from a topic's name, with `tm_` or without.

    Raises:
        ValueError: the topic would have no name by BRC-87.
    """
    name = name.removeprefix("tm_")
    topic = f"tm_{name}"
    if not is_topic_name(topic):
        raise ValueError(f"{topic!r} is no overlay topic name: lower-case words joined by _, 50 bytes at most (BRC-87)")
    words = name.split("_")
    class_name = "".join(map(str.capitalize, words))
    if class_name in TAKEN or keyword.iskeyword(class_name):
        class_name += "Topic"
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return NewTopic(
        name=name,
        topic=topic,
        module=f"beefline_{name}",
        distribution="-".join(["beefline", *words]),
        class_name=class_name,
        coin=FIRST_COIN + number % COINS,
    )


def payload(new: NewTopic, chain: Chain) -> bytes:
    """A BEEF with an output that the topic admits, and change behind it."""
    shop = Workshop(chain, SEED, first=new.coin)
    mined = shop.take()
    marked = b"\x00\x6a" + push(new.name.encode()) + push(b"hello")
    return shop.frame(Bag([mined], [shop.pay([mined.coin], [(0, marked)])]))


def files(new: NewTopic, chain: Chain) -> dict[str, str]:
    """The package: text by file name."""
    words = {
        "name": new.name, "topic": new.topic, "module": new.module, "distribution": new.distribution,
        "Class": new.class_name, "coin": f"{new.coin:,}", "contract": str(CONTRACT),
    }  # fmt: skip
    folder = importlib.resources.files("ops") / "topic_template"
    made = {
        target.format(module=new.module): Template((folder / source).read_text(encoding="utf-8")).substitute(words)
        for source, target in FILES.items()
    }
    return made | {"example.beef": payload(new, chain).hex() + "\n"}


def write(new: NewTopic, folder: Path, chain: Chain) -> list[Path]:
    """Write the package into a folder, which is made where there is none. Returns what was written.

    Raises:
        FileExistsError: one of its files is there; nothing was written.
    """
    made = {folder / name: text for name, text in files(new, chain).items()}
    if there := [path for path in made if path.exists()]:
        raise FileExistsError(f"{there[0]} exists")
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in made.items():
        path.write_text(text, encoding="utf-8")
    return list(made)
