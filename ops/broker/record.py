"""What a home knows of its broker, kept in one small file so that any command finds it again."""

import base64
import contextlib
import fcntl
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from ops.broker.processes import Process
from ops.broker.trouble import BrokerError

KAFKA_VERSION = "4.1.2"

Mode = Literal["address", "docker", "jars"]
"""How the broker runs: somewhere else, in containers, or from Kafka's jars as processes of this machine."""


LOOPBACK = "127.0.0.1"


class Secure(Struct, frozen=True):
    """A listener that asks for a name and a password, over TLS. Files are readable by their owner alone."""

    bootstrap: str
    ca_file: str  # PEM
    user: str
    password_file: str
    mechanisms: tuple[str, ...] = ("SCRAM-SHA-512", "PLAIN")
    protocol: str = "SASL_SSL"


class Member(Struct, kw_only=True):
    """A node of the cluster: broker and controller."""

    id: int
    port: int  # of clients, on loopback; kept from start to start where it can be
    controller_port: int = 0
    secure_port: int = 0
    process: Process | None = None  # of a node that runs from the jars, or last ran


class Record(Struct, kw_only=True):
    """A home's broker."""

    mode: Mode
    bootstrap: str
    members: list[Member] = []
    payload: int = 0  # bytes of the largest payload it is sized for
    guarded: bool = False
    protocol: str = "PLAINTEXT"  # of an address
    ca_file: str = ""  # of an address
    secure: Secure | None = None
    version: str = ""


def load(folder: Path) -> Record | None:
    """The record of this folder, or None.

    Raises:
        BrokerError: it is not readable.
    """
    file = folder / "record.json"
    try:
        return msgspec.json.decode(file.read_bytes(), type=Record)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise BrokerError(f"{file} is damaged ({error}). If no broker runs there, delete that file.") from error


def save(folder: Path, record: Record) -> None:
    """Keep the record; a reader sees the old one or the new one, whole."""
    fresh = folder / "record.json.new"
    fresh.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2))
    fresh.replace(folder / "record.json")


def forget(folder: Path) -> None:
    """Remove the record."""
    (folder / "record.json").unlink(missing_ok=True)


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One command at a time changes what is in this folder. The lock goes with the process that holds it."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def layout(folder: Path, nodes: int, variant: str = "") -> Path:
    """Where clusters of this shape keep what is theirs: a cluster's data knows its nodes, so each shape has its own."""
    return folder / "-".join(filter(None, (f"{nodes}-node{'s' if nodes > 1 else ''}", variant)))


def cluster_id(place: Path) -> str:
    """The id of the cluster that lives there, with which an ingest coordinate starts: made once, lost with the data."""
    file = place / "cluster-id"
    if not file.exists():
        made = "-"
        while made.startswith("-"):  # Kafka's tools would take it for an option
            made = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        place.mkdir(parents=True, exist_ok=True)
        file.write_text(made)
    return file.read_text()
