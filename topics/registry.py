"""Every Kafka topic of an installation.

Creating, checking, the reference page and the AsyncAPI document are made from these declarations. Names here are
logical; `Topic.named` adds the installation's prefix.
"""

from typing import Literal

from msgspec import Struct

from schemas import external, flow, journal, members, network, operations, reservations, state
from schemas.wire import Schema

SET_A = 32
"""Partitions of the topics that share one number a context. Widening moves contexts, so begin wide: four for each
apply worker at the planned eight."""

FLOW = 8
"""Partitions of the topics between stages: four workers a stage at two partitions each."""

FEW = 3
"""Partitions of topics that people read: one consumer can follow them, and order by key still spreads."""

WEEK = 168
"""Hours: the longest outage we promise to replay."""

CHANGELOG: tuple[tuple[str, str], ...] = (
    ("delete.retention.ms", str(WEEK * 3_600_000)),  # a copy that was away shorter still sees deletions
    ("segment.ms", "3600000"),
    ("min.cleanable.dirty.ratio", "0.1"),  # a restore reads little that is out of date
)
"""Configuration of topics that state is restored from."""

HEADROOM = 512 * 1024
"""Bytes beyond the payload: the record's other fields (32 contexts, names, ids), headers and the batch's frame."""


class Topic(Struct, frozen=True, kw_only=True):
    """One Kafka topic."""

    name: str
    says: str
    key: str  # what the key means
    schema: Schema  # type: ignore[type-arg]
    partitions: int
    partitions_why: str
    cleanup: Literal["delete", "compact"] = "delete"
    retention_h: int | None = WEEK  # None keeps for ever
    retention_why: str = "The longest outage we promise to replay."
    growth: float = 1.0  # largest record: growth x payload limit + HEADROOM
    growth_why: str = "Holds the payload once."
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    external: bool = False
    broker_time: bool = False  # LogAppendTime
    segment_bytes: int = 0  # 0: the broker's own; a segment always takes the largest record
    config: tuple[tuple[str, str], ...] = ()

    def named(self, prefix: str) -> str:
        """The topic's name on a cluster."""
        return prefix + self.name

    def max_bytes(self, payload: int) -> int:
        """Largest record (bytes) when payloads may hold `payload` bytes."""
        return int(self.growth * payload) + HEADROOM

    def settings(self, payload: int, min_isr: int) -> dict[str, str]:
        """The broker's configuration of the topic."""
        return {
            "cleanup.policy": self.cleanup,
            "retention.ms": str(self.retention_h * 3_600_000 if self.retention_h is not None else -1),
            "max.message.bytes": str(self.max_bytes(payload)),
            "message.timestamp.type": "LogAppendTime" if self.broker_time else "CreateTime",
            "min.insync.replicas": str(min_isr),
            **dict(self.config),
            **(
                {"segment.bytes": str(max(self.segment_bytes, 2 * self.max_bytes(payload)))}
                if self.segment_bytes
                else {}
            ),
        }


INGEST = Topic(
    name="ingest",
    says="BEEF from applications. The request stands in the headers.",
    key="free; the request id by custom",
    schema=flow.BEEF,
    partitions=FLOW,
    partitions_why="As many as parse workers may ever share.",
    broker_time=True,
    retention_h=WEEK + 24,
    retention_why="A day longer than whatever is made from it, so that what waits can be fed again from here.",
    writers=("anyone",),
    readers=("parse",),
    external=True,
)
REQUESTS = Topic(
    name="requests",
    says="What is asked of owners' outputs: to reserve, to extend, to release.",
    key="owner: requests of one owner are heard in the order of their partition",
    schema=reservations.OWNER_REQUEST,
    partitions=FLOW,
    partitions_why="As INGEST: parse reads both.",
    broker_time=True,
    retention_why="As what is made from it. What waited for longer than half an hour is refused.",
    growth=0.0,
    growth_why="Holds no payload; a thousand outpoints at most.",
    writers=("anyone",),
    readers=("parse",),
    external=True,
)
PARSED = Topic(
    name="parsed",
    says="Well-formed payloads in canonical form, with what their senders asked for.",
    key="subject txid, wire order",
    schema=flow.PARSED,
    partitions=FLOW,
    partitions_why="As many as verify workers may ever share.",
    growth=1.125,
    growth_why="The canonical payload is never longer than the one received; off-chain values come along.",
    writers=("parse", "retry"),
    readers=("verify",),
)
OPERATIONS = Topic(
    name="operations",
    says="Everything a context is asked to do, in one order.",
    key="context",
    schema=flow.OPERATION,
    partitions=SET_A,
    partitions_why="Set A: one number a context for input, journal and state.",
    growth=4.0,
    growth_why="The payload, the subject alone, and Extended Format of its un-mined transactions (at most 2.1 payloads).",
    writers=("parse", "verify", "apply", "coordinate", "status", "retry"),
    readers=("apply",),
)
VOTES = Topic(
    name="votes",
    says="What contexts and the coordinator's clock say of operations over several contexts.",
    key="operation, 16 bytes",
    schema=operations.VOTE,
    partitions=FEW,
    partitions_why="Each makes transactions of its own, which are dear; one decides thousands of operations a second.",
    growth=0.0,
    growth_why="Holds no payload.",
    writers=("apply", "coordinate"),
    readers=("coordinate",),
)
DECISIONS = Topic(
    name="decisions",
    says="Where each operation over several contexts stands; the changelog of coordinate. A batch ends with its applied "
    "offset, under a key of its own.",
    key="operation, 16 bytes",
    schema=operations.DECISION,
    partitions=FEW,
    partitions_why="As VOTES, from which it is written.",
    cleanup="compact",
    retention_h=None,
    retention_why="Compacted: the coordinator itself removes what is older than `ingest`.",
    growth=0.0,
    growth_why="Holds no payload.",
    writers=("coordinate",),
    readers=("coordinate", "operators"),
    segment_bytes=64 << 20,
    config=CHANGELOG,
)
JOURNAL = Topic(
    name="journal",
    says="The atomic operations log: one entry for each change of a context.",
    key="context",
    schema=journal.JOURNAL,
    partitions=SET_A,
    partitions_why="Set A.",
    retention_h=None,
    retention_why="It is the truth: replaying it gives the state and both roots.",
    growth=5.0,
    growth_why="The payload once, and an effect (96 bytes) for each of the outputs that `policy.max_outputs` allows.",
    writers=("apply",),
    readers=("audit",),
)
STATE = Topic(
    name="state",
    says="Changelog of the apply state. A batch ends with its applied offset.",
    key="context, then entry",
    schema=state.STATE,
    partitions=SET_A,
    partitions_why="Set A.",
    cleanup="compact",
    retention_h=None,
    retention_why="Compacted: the newest value of each key stays.",
    growth=5.0,
    growth_why="One transaction's entry: its bytes and its consumed coins.",
    writers=("apply",),
    readers=("apply",),
    segment_bytes=64 << 20,  # small: compaction passes over closed segments only
    config=CHANGELOG,
)
MEMBERS = Topic(
    name="members",
    says="Workers that answer reads: which partitions of the state each holds, and where.",
    key="worker",
    schema=members.MEMBER,
    partitions=1,
    partitions_why="A few small records, read as a whole.",
    cleanup="compact",
    retention_h=None,
    retention_why="Compacted: the newest word of each worker stays.",
    growth=0.0,
    growth_why="Holds no payload.",
    writers=("apply",),
    readers=("all",),
    segment_bytes=1 << 20,
    config=(("segment.ms", "3600000"), ("delete.retention.ms", "86400000")),
)
BROADCAST = Topic(
    name="broadcast",
    says="Applied transactions with their un-mined ancestors in Extended Format, for the network.",
    key="txid, wire order",
    schema=flow.BROADCAST_REQUEST,
    partitions=FLOW,
    partitions_why="As many as broadcast workers may ever share. A request is whole, so families need no order.",
    growth=2.5,
    growth_why="Extended Format repeats each spent output once: at most 2.1 payloads.",
    writers=("apply", "retry"),
    readers=("broadcast",),
)
TRANSACTIONS = Topic(
    name="transactions",
    says="Each transaction the network accepted, in Extended Format.",
    key="txid, wire order",
    schema=flow.EF_TX,
    partitions=FLOW,
    partitions_why="As BROADCAST, from which it is written.",
    growth=2.5,
    growth_why="One of the transactions of a broadcast request.",
    writers=("broadcast", "status"),
    readers=("anyone",),
    external=True,
)
NETWORK_NEWS = Topic(
    name="network-news",
    says="What endpoints and contexts said about a transaction, and whom it concerns.",
    key="txid, wire order",
    schema=network.NEWS,
    partitions=FLOW,
    partitions_why="As many as status workers may ever share; equal to its changelog's.",
    growth=2.5,
    growth_why="Of what nobody accepted yet, one of the transactions of a broadcast request.",
    writers=("apply", "broadcast", "status"),
    readers=("status",),
)
NETWORK_STATUS = Topic(
    name="network-status",
    says="Where each transaction stands with the network; the changelog of status. A batch ends with its applied offset, "
    "under a key that is no txid.",
    key="txid, wire order",
    schema=network.NETWORK_STATUS,
    partitions=FLOW,
    partitions_why="As NETWORK_NEWS, from which it is written.",
    cleanup="compact",
    retention_h=None,
    retention_why="Compacted: where a transaction stands now stays.",
    growth=2.5,
    growth_why="Holds a transaction that nobody accepted, until somebody does.",
    writers=("status",),
    readers=("status", "anyone"),
    segment_bytes=64 << 20,
    config=CHANGELOG,
)
RESULTS = Topic(
    name="results",
    says="What became of each request.",
    key="txid in display hex, or the ingest coordinate where there is none",
    schema=external.RESULT,
    partitions=FEW,
    partitions_why="One reader can follow all of them, and what concerns one txid keeps its order.",
    growth=1.0,
    growth_why="An admittance may name every output of a payload.",
    writers=("parse", "verify", "apply", "broadcast", "status", "retry"),
    readers=("anyone",),
    external=True,
)
ANSWERS = Topic(
    name="answers",
    says="What became of each request, and of reservations that hold less than before.",
    key="request id, or the coordinate of the request where it has none",
    schema=reservations.OWNER_ANSWER,
    partitions=FEW,
    partitions_why="One reader can follow all of them, and what concerns one request keeps its order.",
    growth=0.0,
    growth_why="Holds no payload; a thousand outpoints at most.",
    writers=("parse", "apply"),
    readers=("anyone",),
    external=True,
)
EVENTS = Topic(
    name="events",
    says="Operational events.",
    key="the subject of the event",
    schema=external.EVENT,
    partitions=1,
    partitions_why="Few, and read in order.",
    growth=0.0,
    growth_why="Events hold no payload.",
    writers=("all",),
    readers=("anyone",),
    external=True,
)


def _tier(name: str, delay: str) -> Topic:
    return Topic(
        name=name,
        says=f"Records that met a condition, until {delay} have passed; pointers to payloads that are to be heard again.",
        key="as the origin",
        schema=flow.ANY,
        partitions=FEW,
        partitions_why="A tier is read in order of time; few records wait.",
        growth=5.0,
        growth_why="Takes a record of any topic.",
        writers=("all",),
        readers=("retry",),
    )


RETRY_10S = _tier("retry.10s", "10 seconds")
RETRY_1M = _tier("retry.1m", "1 minute")
RETRY_10M = _tier("retry.10m", "10 minutes")
DEAD_LETTERS = Topic(
    name="dead-letters",
    says="Records that were given up, as they were, with the cause in the headers.",
    key="as the origin",
    schema=flow.ANY,
    partitions=FEW,
    partitions_why="People read them.",
    retention_h=30 * 24,
    retention_why="A month: longer than a fault takes to be found, mended and replayed.",
    growth=5.0,
    growth_why="Takes a record of any topic.",
    writers=("all",),
    readers=("operators",),
)

TOPICS: tuple[Topic, ...] = (
    INGEST, REQUESTS, PARSED, OPERATIONS, VOTES, DECISIONS, JOURNAL, STATE, MEMBERS, BROADCAST, TRANSACTIONS,
    NETWORK_NEWS, NETWORK_STATUS, RESULTS, ANSWERS, EVENTS,
    RETRY_10S, RETRY_1M, RETRY_10M, DEAD_LETTERS,
)  # fmt: skip

BY_NAME = {topic.name: topic for topic in TOPICS}

TIERS: dict[str, int] = {RETRY_10S.name: 10_000, RETRY_1M.name: 60_000, RETRY_10M.name: 600_000}
"""Delay of each retry tier, milliseconds."""


def largest_record(payload: int) -> int:
    """Bytes of the largest record any topic takes: what brokers, producers and consumers must allow."""
    return max(topic.max_bytes(payload) for topic in TOPICS)


def group(prefix: str, stage: str) -> str:
    """Consumer group of a stage."""
    return f"{prefix}beefline-{stage}"


def transactional_id(prefix: str, stage: str, generation: int, partition: int) -> str:
    """Of the producer that alone may write for this partition of an exactly-once stage."""
    return f"{prefix}{stage}-g{generation}-{partition}"
