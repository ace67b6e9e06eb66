"""What a broker that is to be started will be: its nodes and their ports."""

import random
import socket
from collections.abc import Sequence
from pathlib import Path

from msgspec import Struct

from ops.broker import tls
from ops.broker.record import KAFKA_VERSION, LOOPBACK, Member, Mode, Record, layout
from ops.broker.trouble import BrokerError

USUAL_PORT = 9092
"""The default of `kafka.bootstrap`: taken when it is free, so that nothing has to be set."""

PORTS = range(20_000, 30_000)
"""Others are chosen here: below those that the system gives to outgoing connections, one of which might otherwise take
a broker's port while it is down, or connect to itself there."""

PORTS_TRIED = 100


class Wish(Struct, frozen=True, kw_only=True):
    """What a caller of `start` asks for."""

    nodes: int = 1
    payload: int  # bytes of the largest payload
    guarded: bool = False
    sasl_ssl: bool = False


def plan(folder: Path, mode: Mode, wish: Wish, last: Record | None) -> Record:
    """The record of a broker that is not started yet, on free ports: those it had last, where they are free.

    A guarded broker belongs to the process that starts it, so it leaves the usual port to the one that stays.
    """
    had = {member.id: member for member in last.members} if last and last.mode == mode else {}
    ids = range(1, wish.nodes + 1)
    usual = Member(id=1, port=0 if wish.guarded else USUAL_PORT)
    before = [had.get(node) or (usual if node == 1 else Member(id=node, port=0)) for node in ids]
    count = len(before)
    ports = take_ports(
        [member.port for member in before]
        + [member.controller_port for member in before]
        + [member.secure_port if wish.sasl_ssl else 0 for member in before]
    )
    members = [
        Member(
            id=node,
            port=ports[at],
            controller_port=ports[count + at],
            secure_port=ports[2 * count + at] if wish.sasl_ssl else 0,
        )
        for at, node in enumerate(ids)
    ]
    record = Record(
        mode=mode,
        bootstrap=",".join(f"{LOOPBACK}:{member.port}" for member in members),
        members=members,
        payload=wish.payload,
        guarded=wish.guarded,
        version=KAFKA_VERSION,
    )
    if wish.sasl_ssl:
        at = ",".join(f"{LOOPBACK}:{member.secure_port}" for member in members)
        record.secure = tls.secure(layout(folder, wish.nodes, "secure") / "tls", at)
    return record


def take_ports(wanted: Sequence[int]) -> list[int]:
    """A free port of loopback for each entry: the wanted one if it is free, else (or for 0) any of PORTS.

    Raises:
        BrokerError: none was found.
    """
    taken: list[int] = []
    for port in wanted:
        others = random.sample(PORTS, PORTS_TRIED)
        found = next((p for p in (port, *others) if p and p not in taken and _is_free(p)), None)
        if found is None:
            raise BrokerError(f"No free port was found between {PORTS.start} and {PORTS.stop} on {LOOPBACK}.")
        taken.append(found)
    return taken


def _is_free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as asked:
        asked.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Kafka does: what lingers is no obstacle
        try:
            asked.bind((LOOPBACK, port))
        except OSError:
            return False
    return True
