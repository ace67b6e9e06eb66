"""What the instruments hand out: payloads with the verdict they must get; pools of them in files; four real ones.

`data/mainnet.json` holds four payloads of the main network and the block roots they claim, taken from the public test
data of ts-stack (each names its file and line). The blocks lie below the simulated chain's checkpoint.
"""

import functools
import importlib.resources
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from schemas.types import Root, Txid, display, from_display


class Expectation(Struct, frozen=True, array_like=True):
    """What a right verifier says of the payload alone; not whether its coins are spent elsewhere."""

    outcome: Literal["valid", "invalid", "indeterminate"]
    code: str | None = None  # a row of pipeline/outcome.py; None when valid
    form: Literal["any", "strict"] = "any"  # strict: only under that form; `lenient` mends the payload, and it is valid


VALID = Expectation("valid")


class Generated(Struct, frozen=True, array_like=True):
    """A payload whose verdict is known by construction."""

    id: str  # unique within its generator: "<seed>-<number>"
    kind: str  # a shape, or a kind of fault
    beef: bytes
    txid: Txid  # of the subject, or of what was to be the subject where the bytes cannot be read
    expect: Expectation = VALID
    topics: tuple[str, ...] = ("tm_anytx",)  # overlay topics it suits
    unmined: int = 1  # un-mined transactions, the subject among them
    rivals: tuple[Txid, ...] = ()  # subjects of other payloads that spend one of its coins

    def as_json(self) -> dict[str, Any]:
        """For JSON lines: bytes as hexadecimal, txids as people print them."""
        return {
            "id": self.id,
            "kind": self.kind,
            "beef": self.beef.hex(),
            "txid": display(self.txid),
            "expect": {"outcome": self.expect.outcome, "code": self.expect.code, "form": self.expect.form},
            "topics": list(self.topics),
            "rivals": [display(txid) for txid in self.rivals],
        }


MAGIC = b"BEEFPOOL1\n"


def write_pool(path: Path, payloads: Iterable[Generated]) -> int:
    """Write payloads one after the other: a length (u32) and MessagePack each. Returns how many."""
    encoder, count = msgspec.msgpack.Encoder(), 0
    written = path.with_name(path.name + ".new")
    with written.open("wb", buffering=1 << 20) as file:
        file.write(MAGIC)
        for count, payload in enumerate(payloads, 1):  # noqa: B007 (the last count is what is returned)
            record = encoder.encode(payload)
            file.write(len(record).to_bytes(4, "little") + record)
    written.replace(path)
    return count


def read_pool(path: Path) -> Iterator[Generated]:
    """The payloads of a pool, in order, a megabyte of it in memory.

    Raises:
        ValueError: the file is not a pool, or ends within a payload.
    """
    decode = msgspec.msgpack.Decoder(Generated).decode
    with path.open("rb", buffering=1 << 20) as file:
        if file.read(len(MAGIC)) != MAGIC:
            raise ValueError(f"{path} is not a pool of payloads")
        while prefix := file.read(4):
            size = int.from_bytes(prefix, "little")
            record = file.read(size)
            if len(prefix) < 4 or len(record) < size:
                raise ValueError(f"{path} ends within a payload")
            yield decode(record)


class MainnetPayload(Struct, frozen=True):
    """A real payload."""

    source: str
    txid: str  # display hex
    unmined: int
    beef: str  # hexadecimal


class Mainnet(Struct, frozen=True):
    """What `data/mainnet.json` holds."""

    note: str
    tip: int
    roots: dict[str, str]  # block height in decimal: root in display hex
    payloads: tuple[MainnetPayload, ...]

    def root_table(self) -> dict[int, Root]:
        """Root of each block the payloads are anchored in, wire order, by height."""
        return {int(height): from_display(root) for height, root in self.roots.items()}


@functools.cache
def mainnet_data() -> Mainnet:
    """The file, read once."""
    text = (importlib.resources.files("ops.instruments") / "data" / "mainnet.json").read_bytes()
    return msgspec.json.decode(text, type=Mainnet)


def mainnet() -> list[Generated]:
    """The real payloads. All are valid; one transaction comes twice, with its own proof and un-mined."""
    return [
        Generated(
            id=f"mainnet-{number}",
            kind="mainnet-proven" if payload.unmined == 0 else "mainnet",
            beef=bytes.fromhex(payload.beef),
            txid=from_display(payload.txid),
            unmined=payload.unmined,
        )
        for number, payload in enumerate(mainnet_data().payloads)
    ]
