"""Why an offset reset was refused, and how long that lasts.

Kafka resets the offsets of empty groups only. A member that stopped without leaving (one with a lasting name always
does, so that it keeps its partitions over a restart) counts until its session time-out has passed since its last
heartbeat. When that was, only the broker knows; the time-out stands in the group's record, in `__consumer_offsets`.
"""

import asyncio
import logging
import re
import struct
from typing import Any

from msgspec import Struct

OFFSETS_TOPIC = "__consumer_offsets"
GROUP_KEY = 2
"""Version that tells a group's record from a committed offset's (0, 1) in that topic."""

GROUP_VALUES = range(4)
"""Versions of the group's record that are read here; Kafka 4.1 writes 3. The ones after are encoded otherwise."""

READ_WITHIN_S = 15.0

REFUSED = re.compile(r"group '(?P<group>[^']+)' is inactive, but the current state is (?P<state>\w+)")


class Member(Struct, frozen=True):
    """A member of a group."""

    instance: str  # its lasting name, or ""
    client: str
    session_ms: int


def refusals(said: str) -> list[tuple[str, str]]:
    """The groups that Kafka would not reset, each with its state, from what the tool printed."""
    return [(match["group"], match["state"]) for match in REFUSED.finditer(said)]


def explain(group: str, state: str, members: list[Member] | str, default_s: float) -> str:
    """What to tell the operator in place of the refusal.

    members: as the group's record says; or why it could not be read, then `default_s` stands in for their time-out.
    """
    if members and not isinstance(members, str):
        seconds = max(member.session_ms for member in members) / 1000
        kept = ", ".join(
            f"{m.instance or m.client} {m.session_ms / 1000:g} s{' (lasting name)' if m.instance else ''}"
            for m in members
        )
    else:
        seconds = default_s
        kept = f"{default_s:g} s by default; this group's own could not be read: {members or 'it names no member'}"
    return (
        f"The offsets of group {group} were not reset: the group is {state}, and Kafka resets empty groups only.\n"
        f"still {seconds:g} s until the group is empty, at most, if its members have stopped: one that stopped without "
        f"leaving is kept for its session time-out after its last heartbeat ({kept}).\n"
        "A member that runs stays: stop it first, then try again."
    )


def partition_of(group: str, partitions: int) -> int:
    """Where a group's record is: the absolute value of Java's signed hash of the name, over UTF-16 units."""
    units = group.encode("utf-16-be")
    value = 0
    for at in range(0, len(units), 2):
        value = (31 * value + int.from_bytes(units[at : at + 2], "big")) & 0xFFFFFFFF
    signed = value - (1 << 32) if value >> 31 else value
    return 0 if signed == -(1 << 31) else abs(signed) % partitions


def group_of(key: bytes | None) -> str | None:
    """The group whose record this key is for; None for other records."""
    if key is None or len(key) < 4 or struct.unpack_from(">h", key)[0] != GROUP_KEY:
        return None
    (length,) = struct.unpack_from(">h", key, 2)
    return key[4 : 4 + length].decode()


def members_of(value: bytes) -> list[Member] | None:
    """The members in a group's record; None: of a version not read here."""
    (version,) = struct.unpack_from(">h", value)
    if version not in GROUP_VALUES:
        return None
    at = 2

    def number(form: str) -> int:
        nonlocal at
        (found,) = struct.unpack_from(form, value, at)
        at += struct.calcsize(form)
        return int(found)

    def data(form: str) -> bytes:
        nonlocal at
        length = max(number(form), 0)  # -1 is null
        at += length
        return value[at - length : at]

    data(">h")  # protocol type
    number(">i")  # generation
    data(">h")  # protocol
    data(">h")  # leader
    if version >= 2:
        number(">q")  # when the state began
    members = []
    for _ in range(number(">i")):
        data(">h")  # member id
        instance = data(">h").decode() if version >= 3 else ""
        client = data(">h").decode()
        data(">h")  # host
        if version >= 1:
            number(">i")  # rebalance time-out
        session_ms = number(">i")
        data(">i")  # subscription
        data(">i")  # assignment
        members.append(Member(instance, client, session_ms))
    return members


def read(bootstrap: str, groups: list[str]) -> dict[str, list[Member] | str]:
    """Each group's members, read from the broker's own topic; or why that failed.

    Only for brokers that ask for no password.
    """
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # the caller tells the reason
    return asyncio.run(_read_all(bootstrap, groups))


async def _read_all(bootstrap: str, groups: list[str]) -> dict[str, list[Member] | str]:
    from aiokafka.errors import KafkaError  # the client is needed in this one case

    found: dict[str, list[Member] | str] = dict.fromkeys(groups, f"not within {READ_WITHIN_S:g} s")
    try:
        async with asyncio.timeout(READ_WITHIN_S):
            partitions = await _partitions(bootstrap)
            for group in groups:
                found[group] = await _read(bootstrap, group, partitions)
    except (KafkaError, OSError) as error:
        return {group: f"{type(error).__name__}: {error}" if isinstance(known, str) else known
                for group, known in found.items()}  # fmt: skip
    except TimeoutError:
        return found
    return found


async def _partitions(bootstrap: str) -> int:
    from aiokafka.admin import AIOKafkaAdminClient

    client = AIOKafkaAdminClient(bootstrap_servers=bootstrap)
    try:
        await client.start()
        (found,) = await client.describe_topics([OFFSETS_TOPIC])
        return len(found["partitions"])
    finally:
        await client.close()


async def _read(bootstrap: str, group: str, partitions: int) -> list[Member] | str:
    from aiokafka import AIOKafkaConsumer, TopicPartition

    if not partitions:
        return f"no topic {OFFSETS_TOPIC}"
    place = TopicPartition(OFFSETS_TOPIC, partition_of(group, partitions))
    consumer: Any = AIOKafkaConsumer(
        bootstrap_servers=bootstrap, enable_auto_commit=False, auto_offset_reset="earliest"
    )
    members: list[Member] | None = None
    try:
        await consumer.start()
        consumer.assign([place])
        last = (await consumer.end_offsets([place]))[place]
        while await consumer.position(place) < last:
            for record in (await consumer.getmany(place, timeout_ms=200)).get(place, []):
                if group_of(record.key) == group:
                    members = members_of(record.value) if record.value else []
    finally:
        await consumer.stop()
    return "its record is not there, or of a version not read here" if members is None else members
