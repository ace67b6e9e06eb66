"""Every metric: type, labels, meaning, how to read it. Added up per batch, never per record; no txid is a label."""

from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

REGISTRY = CollectorRegistry(auto_describe=False)

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 600)
_DEEP = (*_SECONDS, 3600, 86_400, 604_800)

READ: dict[str, str] = {}
"""How to read each metric: what the reference page says beside it."""


def _counter(name: str, says: str, labels: Iterable[str], read: str) -> Counter:
    READ[f"beefline_{name}_total"] = read
    return Counter(f"beefline_{name}", says, ("stage", *labels), registry=REGISTRY)


def _gauge(name: str, says: str, labels: Iterable[str], read: str) -> Gauge:
    READ[f"beefline_{name}"] = read
    return Gauge(f"beefline_{name}", says, ("stage", *labels), registry=REGISTRY)


def _histogram(name: str, says: str, buckets: tuple[float, ...], read: str) -> Histogram:
    READ[f"beefline_{name}"] = read
    return Histogram(f"beefline_{name}", says, ("stage",), buckets=buckets, registry=REGISTRY)


RECORDS_IN = _counter("records_in", "Records a stage finished.", (), "The stage's throughput.")
RECORDS_OUT = _counter(
    "records_out",
    "Records a stage wrote, by topic.",
    ("topic",),
    "What the stage makes of its input; compare with the next stage's input.",
)
OUTCOMES = _counter(
    "outcomes", "Records a stage finished, by kind and code.", ("kind", "code"),
    "Verdicts are the senders' traffic. Page on faults and on the age of the oldest condition, not on verdicts.",
)  # fmt: skip
COMMITS_FAILED = _counter(
    "commits_failed", "Offset commits the group refused.", (), "A few at each rebalance are normal."
)
PAUSES = _counter(
    "pauses", "Times a stage paused for the world, by code.", ("code",), "No tracker quorum, or no endpoint."
)
BATCH_SECONDS = _histogram(
    "batch_seconds",
    "Time from taking a batch to its acknowledgement.",
    _SECONDS,
    "What waits outside and what computes, together.",
)
BATCH_RECORDS = Histogram(
    "beefline_batch_records",
    "Records in a batch.",
    ("stage",),
    buckets=(1, 3, 10, 30, 100, 300, 1000),
    registry=REGISTRY,
)
READ["beefline_batch_records"] = "Ones only: idle. At the limit always: behind."
TOPIC_SECONDS = _histogram(
    "time_in_topic_seconds",
    "Age of the oldest record of each batch when it was taken.",
    _DEEP,
    "How far the stage is behind its input, in time.",
)
IN_FLIGHT = _gauge(
    "in_flight_records",
    "Records taken and not acknowledged.",
    (),
    "At `worker.max_in_flight`: the stage waits for something.",
)
IN_FLIGHT_BYTES = _gauge(
    "in_flight_bytes",
    "Bytes fetched and not acknowledged.",
    (),
    "Near `worker.max_in_flight_bytes`: memory bounds the stage.",
)
LAG = _gauge(
    "lag_records",
    "Records between the group's position and the end of the log, over this worker's partitions.",
    (),
    "What autoscaling follows.",
)
OLDEST_INPUT = _gauge(
    "oldest_input_age_seconds",
    "Age of the oldest input that was fetched and is not acknowledged.",
    (),
    "Rises by a second a second while the stage waits for the world; of retry, the age of what waits there.",
)
PARTITIONS = _gauge("partitions", "Input partitions this worker owns.", (), "0 on a spare.")
STATE = _gauge("state", "1 for the state the stage is in.", ("state",), "running, paused, halted, restoring.")
TRANSACTIONS = _counter(
    "transactions",
    "Kafka transactions committed.",
    (),
    "Of exactly-once stages; records_in over this is the batch size.",
)
TRANSACTION_SECONDS = _histogram(
    "transaction_seconds", "Time from begin to commit.", _SECONDS, "Of exactly-once stages."
)
RESTORE_SECONDS = _histogram(
    "restore_seconds", "Time to restore one partition.", _SECONDS, "Of exactly-once stages, at assignment."
)
TRACKER_DISAGREEMENTS = _counter(
    "tracker_disagreements",
    "Roots about which one chain tracker said yes and another no.",
    (),
    "Of verify. Rising for long: one of them lies, is broken or stands on another branch; the event names them.",
)
REORGANISATIONS = _counter(
    "chain_reorganisations",
    "Times a chain tracker replaced blocks, by tracker; `follower` is our own.",
    ("tracker",),
    "Of verify. All trackers together: the chain did. One alone and often: it is served by nodes that differ.",
)
SOURCES_PUT_ASIDE = _counter(
    "header_sources_put_aside",
    "Times a source told the header follower headers that break a rule.",
    ("source",),
    "Of verify. Honest services never do: find out what is wrong with it.",
)
FOLLOWER_HEIGHT = _gauge(
    "follower_height",
    "Height of the header follower's tip; one below the checkpoint while it has none.",
    (),
    "Of verify, with `trackers.follower` on. It stands still for an hour: no source has headers it takes.",
)
NAMED_ANCESTORS = _counter(
    "named_ancestors",
    "Ancestors named by their txid alone that were looked for, by answer.",
    ("answer",),
    "Of verify, with `policy.txid_only` on `resolve`. `unknown`: senders name what was never verified here, or retention "
    "took it. `not to be said`: the follower of `operations` is behind.",
)
NAMED_BEHIND = _gauge(
    "named_ancestors_behind_records",
    "Records of `operations` that the follower which finds named ancestors has not read.",
    (),
    "Of verify, with `policy.txid_only` on `resolve`. High after the first start; while it is, names wait.",
)

COPIES = _gauge(
    "copies",
    "Partitions of others whose state this worker holds a warm copy of, read to the end and compared.",
    (),
    "Of exactly-once stages. Over all workers: partitions times the copies wanted; less for long: one is being made.",
)
COPIES_MISSING = _gauge(
    "copies_missing",
    "Copies of each partition that the group is too small for.",
    (),
    "Of exactly-once stages. Above 0: start more workers, or a lost one takes its partitions' takeover time with it.",
)
JOURNAL_DIFFERS = _counter(
    "journal_differs",
    "Times a replica found its copy, or the journal itself, not to be what the other says.",
    (),
    "Of replicas. Once: a copy was made again. Again: it halts, and the journal or the changelog is at fault.",
)
SCRUBBED = _counter(
    "scrubbed_entries",
    "Entries of local stores that were looked through against their hashes and roots.",
    (),
    "Of exactly-once stages. Over the entries held: how often all of it was looked at.",
)
STORES_SPOILED = _counter(
    "stores_spoiled",
    "Local stores that were not what was written, and were made again.",
    (),
    "Of exactly-once stages. One by itself: a bit that flipped. Several on a machine: its disk or memory.",
)

JUDGING_SECONDS = _counter(
    "judging_seconds",
    "Time topic managers took, by overlay topic.",
    ("topic",),
    "Of apply, and of verify for managers that examine. Its rate is the share of a core a topic takes: near 1, its context is at its end.",
)
JUDGING_OVERRAN = _counter(
    "judging_overran",
    "Pieces of work in which a topic's manager took longer than `apply.judge_ms`.",
    ("topic",),
    "One by itself is the machine's; several in a row suspend the context.",
)
SUSPENDED = _gauge(
    "context_suspended",
    "1 while this worker holds a topic's context suspended.",
    ("topic",),
    "Page on it: the context's records wait until its manager is mended, or quick again.",
)

ENDPOINT_WORDS = _counter(
    "endpoint_words",
    "What broadcast endpoints said of transactions, by endpoint, kind and code.",
    ("endpoint", "kind", "code"),
    "Of broadcast. Its rate is the transactions sent a second; `accepted` over all of it is how an endpoint likes what is "
    "sent; `transport`, `config` and `unavailable` are no answers, and speak of the endpoint.",
)
ENDPOINT_UP = _gauge(
    "endpoint_up",
    "1 while a broadcast endpoint is called; 0 while its breaker is open, or it is paused.",
    ("endpoint",),
    "Of broadcast. All at 0: the stage pauses, and lag rises. One at 0 for long: its words are waited for before anything "
    "is refused, up to `broadcast.down_limit_s`.",
)
ENDPOINT_FEE = _gauge(
    "endpoint_fee_satoshis_per_kilobyte",
    "The fee a broadcast endpoint asks for, by the policy that was read last.",
    ("endpoint",),
    "Of broadcast. Absent where none is published, or none was read yet.",
)
DECIDED = _counter(
    "network_decided",
    "Transactions somebody asked for, when the network's word on them is known, or turns.",
    ("decided",),
    "Of status. `refused` over both is the share of what is sent in vain; a sudden one is a fee that changed, or an attack.",
)
FIRST_ACCEPTED_SECONDS = _histogram(
    "ingest_to_accepted_seconds",
    "Time from a payload's ingest record to the first acceptance by the network.",
    _DEEP,
    "Of status: what a sender waits for. It holds every hop and every queue.",
)
UNRESOLVED = _gauge(
    "unresolved_transactions",
    "Transactions that were broadcast and that the network has not decided.",
    (),
    "Of status. They wait in the retry tiers, or for a second look.",
)
UNRESOLVED_SECONDS = _gauge(
    "oldest_unresolved_seconds",
    "Age of the oldest of them, from its ingest record.",
    (),
    "Of status. Page on it when it passes what your senders can wait for.",
)
UNDECIDED = _gauge(
    "undecided_operations",
    "Operations over several contexts that are not decided.",
    (),
    "Of coordinate. `beefline operations list` says whom each waits for.",
)
UNDECIDED_SECONDS = _gauge(
    "oldest_undecided_seconds",
    "Age of the attempt that is undecided longest.",
    (),
    "Of coordinate. Over a minute: a context does not vote; its lag says why.",
)
RETRIED = _counter(
    "retried",
    "Records that were returned to their origin, by tier.",
    ("tier",),
    "Of retry. `10m` rising: something has not passed for over a minute; `beefline retry status` says what.",
)

STATES = ("running", "paused", "halted", "restoring")


def register(stage: str, topics: Iterable[str], codes: Iterable[tuple[str, str]]) -> None:
    """Make every series of a stage appear with 0, so that rates and alerts have a beginning."""
    counters = (RECORDS_IN, COMMITS_FAILED, TRANSACTIONS, SCRUBBED, STORES_SPOILED, JOURNAL_DIFFERS)
    for metric in (*counters, IN_FLIGHT, IN_FLIGHT_BYTES, LAG, OLDEST_INPUT, PARTITIONS, COPIES, COPIES_MISSING):
        metric.labels(stage)
    for histogram in (BATCH_SECONDS, BATCH_RECORDS, TOPIC_SECONDS, TRANSACTION_SECONDS, RESTORE_SECONDS):
        histogram.labels(stage)
    for topic in topics:
        RECORDS_OUT.labels(stage, topic)
    for kind, code in codes:
        if kind == "world":
            PAUSES.labels(stage, code)  # nothing is decided then
        else:
            OUTCOMES.labels(stage, kind, code)
    state(stage, "running")


def register_chain(stage: str, trackers: Iterable[str], sources: Iterable[str]) -> None:
    """The same for what a stage that asks about the chain counts; sources: of the header follower, if there is one."""
    TRACKER_DISAGREEMENTS.labels(stage)
    for tracker in trackers:
        REORGANISATIONS.labels(stage, tracker)
    for source in sources:
        SOURCES_PUT_ASIDE.labels(stage, source)


def register_endpoints(stage: str, endpoints: Iterable[str]) -> None:
    """The same for a stage that sends to broadcast endpoints."""
    for endpoint in endpoints:
        ENDPOINT_WORDS.labels(stage, endpoint, "accepted", "")
        ENDPOINT_UP.labels(stage, endpoint).set(1)


def register_network(stage: str) -> None:
    """The same for a stage that decides what became of transactions."""
    for decided in ("accepted", "refused"):
        DECIDED.labels(stage, decided)
    for metric in (FIRST_ACCEPTED_SECONDS, UNRESOLVED, UNRESOLVED_SECONDS):
        metric.labels(stage)


def register_undecided(stage: str) -> None:
    """The same for a stage that decides operations over several contexts."""
    for metric in (UNDECIDED, UNDECIDED_SECONDS):
        metric.labels(stage)


def register_tiers(stage: str, tiers: Iterable[str]) -> None:
    """The same for a stage that returns what waits."""
    for tier in tiers:
        RETRIED.labels(stage, tier)


ANSWERS = KNOWN, UNKNOWN, NOT_TO_BE_SAID = ("known", "unknown", "not to be said")
"""What a search for a named ancestor comes to."""


def register_named(stage: str) -> None:
    """The same for a stage that looks for ancestors named by their txid."""
    NAMED_BEHIND.labels(stage)
    for answer in ANSWERS:
        NAMED_ANCESTORS.labels(stage, answer)


def state(stage: str, name: str) -> None:
    """The stage is in this state, and in no other."""
    for each in STATES:
        STATE.labels(stage, each).set(1 if each == name else 0)


def count_outcomes(stage: str, outcomes: Mapping[tuple[str, str], int], outs: Mapping[str, int], records: int) -> None:
    """Add a batch."""
    RECORDS_IN.labels(stage).inc(records)
    for (kind, code), number in outcomes.items():
        OUTCOMES.labels(stage, kind, code).inc(number)
    for topic, number in outs.items():
        RECORDS_OUT.labels(stage, topic).inc(number)


def exposition() -> bytes:
    """The text Prometheus reads."""
    return generate_latest(REGISTRY)
