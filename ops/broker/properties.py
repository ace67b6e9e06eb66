"""What our local brokers are told: one table, for the jars (a properties file) and the container (environment)."""

from collections.abc import Callable, Iterable, Mapping

from msgspec import Struct

from topics.registry import largest_record

MIB = 1 << 20

HEAP_MB = {1: 768, 3: 512}
"""Heap of a broker by the number of nodes. One grew to 1.0 GB resident under full load with 768, three to 0.7 GB each
with 512, on a machine of two cores."""

COMPILER = ("-XX:TieredStopAtLevel=1",)
"""Flags of the Java compiler: the first tier alone. The second is worth its price to a broker that runs for hours; ours
run for minutes and share the machine. It takes a fifth of a core for the first half minute under load, and 5.6 s of
processor time to be ready in place of 3.5. Figures: docs/decisions/runtime.md."""

REQUEST_FLOOR = 200 * MIB
"""Bytes: a produce request takes one batch for each partition of a topic, so several of the largest records at once."""

FLUSHED = 64 * MIB
"""Bytes of a log segment: what a broker that was killed reads again, for each partition written to."""


class Shape(Struct, frozen=True):
    """What the values depend on."""

    nodes: int  # 1 or 3; each is broker and controller
    payload: int  # bytes of the largest payload, as in `topics.max_payload_bytes`

    @property
    def min_isr(self) -> int:
        """Copies that must have a record before it is acknowledged."""
        return 2 if self.nodes >= 3 else 1

    @property
    def record(self) -> int:
        """Bytes of the largest record of any topic."""
        return largest_record(self.payload)


class Property(Struct, frozen=True):
    """A line of the broker's configuration."""

    name: str
    value: Callable[[Shape], int | str]
    why: str


PROPERTIES: tuple[Property, ...] = (
    Property("process.roles", lambda _: "broker,controller", "Three processes rather than six make a cluster."),
    Property("controller.listener.names", lambda _: "CONTROLLER", "KRaft's own listener, apart from clients'."),
    Property("auto.create.topics.enable", lambda _: "false", "Topics are declared in topics/ and made by us."),
    Property("num.partitions", lambda _: 4, "For topics people make by hand."),
    Property("default.replication.factor", lambda s: s.nodes, "A copy on each node: one may be lost."),
    Property("min.insync.replicas", lambda s: s.min_isr, "What is acknowledged survives the loss of one of three."),
    Property("message.max.bytes", lambda s: s.record, "The largest record any topic takes."),
    Property("replica.fetch.max.bytes", lambda s: s.record, "A copy must be able to fetch it."),
    Property("replica.fetch.response.max.bytes", lambda s: s.record, "As above, for a whole answer."),
    Property("socket.request.max.bytes", lambda s: max(REQUEST_FLOOR, s.record + MIB), "Several such in one request."),
    Property("log.segment.bytes", lambda s: max(FLUSHED, s.record), "Little to read again after a kill."),
    Property("log.cleaner.dedupe.buffer.size", lambda _: 32 * MIB, "128 MiB by default: a quarter of a small heap."),
    Property(
        "log.cleaner.io.max.bytes.per.second", lambda _: 8 * MIB,
        "Unbounded by default: compacting a segment took most of a core for two seconds, beside everything else.",
    ),
    Property("offsets.topic.num.partitions", lambda _: 4, "50 by default: time to start, for a dozen groups."),
    Property("offsets.topic.replication.factor", lambda s: s.nodes, "A copy on each node."),
    Property("transaction.state.log.num.partitions", lambda _: 8, "50 by default: time to start."),
    Property("transaction.state.log.replication.factor", lambda s: s.nodes, "A copy on each node."),
    Property("transaction.state.log.min.isr", lambda s: s.min_isr, "As `min.insync.replicas`."),
    Property("share.coordinator.state.topic.num.partitions", lambda _: 4, "Share groups are not used here."),
    Property("share.coordinator.state.topic.replication.factor", lambda s: s.nodes, "A copy on each node."),
    Property("share.coordinator.state.topic.min.isr", lambda s: s.min_isr, "As `min.insync.replicas`."),
    Property(
        "transaction.abort.timed.out.transaction.cleanup.interval.ms", lambda _: 1000,
        "10 s by default, on top of a dead producer's time-out, during which readers behind it stand still.",
    ),
    Property("group.initial.rebalance.delay.ms", lambda _: 0, "3 s by default, for each first member of a group."),
    Property("group.min.session.timeout.ms", lambda _: 6000, "Fault tests use sessions as short as this."),
    Property(
        "broker.session.timeout.ms", lambda _: 4000,
        "9 s by default: how long the partitions of a killed node wait for another leader, and it for its return.",
    ),
    Property("broker.heartbeat.interval.ms", lambda _: 500, "Eight in a session: a busy machine misses some."),
    Property("num.network.threads", lambda _: 2, "Sized for two cores."),
    Property("num.io.threads", lambda _: 4, "8 by default; sized for two cores."),
    Property("num.recovery.threads.per.data.dir", lambda _: 2, "After a kill, logs are read on both cores."),
)  # fmt: skip


def common(shape: Shape) -> dict[str, str]:
    """What every node of a cluster of this shape is told."""
    return {row.name: str(row.value(shape)) for row in PROPERTIES}


def text(values: Mapping[str, str]) -> str:
    """A Java properties file: ASCII, so that a path in any script is read back as it is."""
    return "".join(f"{name}={_escaped(value)}\n" for name, value in values.items())


def _escaped(value: str) -> str:
    doubled = value.replace("\\", "\\\\")
    units = doubled.encode("utf-16-be")
    codes = (int.from_bytes(units[at : at + 2], "big") for at in range(0, len(units), 2))
    return "".join(chr(code) if 0x20 <= code < 0x7F else f"\\u{code:04x}" for code in codes)


def environment(values: Mapping[str, str]) -> dict[str, str]:
    """The same for Kafka's container, which takes `a.b` from the variable `KAFKA_A_B`."""
    return {"KAFKA_" + name.replace(".", "_").upper(): value for name, value in values.items()}


def voters(addresses: Iterable[tuple[int, str]]) -> dict[str, str]:
    """The controllers of the cluster, as (node id, host:port)."""
    return {"controller.quorum.voters": ",".join(f"{node}@{address}" for node, address in addresses)}
