"""Settings that every stage shares. `ops/settings.py` gathers these tables with those of the stages."""

from typing import Annotated, Literal

from msgspec import Struct

from schemas.types import why

CALLBACK_PATH = "/callback"
"""Of a worker's HTTP port: where endpoints call back, who have a token of their own."""


class KafkaSettings(Struct, frozen=True):
    """How to reach the cluster."""

    bootstrap: Annotated[
        str, why("The local broker that `beefline broker start` starts; name your own in production.")
    ] = "127.0.0.1:9092"
    security_protocol: Annotated[
        Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"], why("A broker on loopback needs no more.")
    ] = "PLAINTEXT"
    sasl_mechanism: Annotated[
        Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"],
        why("Used with the SASL protocols; SCRAM never sends the password."),
    ] = "SCRAM-SHA-512"
    sasl_username: Annotated[str, why("Used with the SASL protocols.")] = ""
    sasl_password_file: Annotated[
        str, why("A file, so that the password stands in no command line, environment or log.")
    ] = ""
    ssl_ca_file: Annotated[str, why("Empty trusts the system's certificate authorities.")] = ""
    ssl_cert_file: Annotated[str, why("A client certificate, where brokers ask for one.")] = ""
    ssl_key_file: Annotated[str, why("The key of the client certificate.")] = ""
    ssl_check_hostname: Annotated[bool, why("A certificate for another host is another host's.")] = True


class TopicSettings(Struct, frozen=True):
    """The topics on the cluster. All members of an installation agree on these."""

    prefix: Annotated[
        str,
        why(
            "Groups and transactional ids carry it too: two prefixes on one cluster do not touch.",
            pattern=r"^[a-z0-9][a-z0-9._-]{0,40}$",
        ),
    ] = "beef."
    replication: Annotated[
        int, why("Copies of each partition: one may be lost while another is down for repair.", ge=1, le=7)
    ] = 3
    min_isr: Annotated[
        int,
        why(
            "Copies that must have a record before it is acknowledged: what is acknowledged survives a loss.",
            ge=1,
            le=7,
        ),
    ] = 2
    max_payload_bytes: Annotated[
        int, why("Covers deep ancestries; topics, producers and brokers are sized from it.", ge=1024, le=64 << 20)
    ] = 8 << 20


class WorkerSettings(Struct, frozen=True):
    """A worker process."""

    instance: Annotated[
        str, why("Static membership: set it only where the instance has a lasting name (a StatefulSet's pod).")
    ] = ""
    data_dir: Annotated[str, why("Local stores; a cache of the changelog, safe to lose.")] = ".beefline/data"
    http_host: Annotated[str, why("Loopback; a token is required when bound wider.")] = "127.0.0.1"
    http_port: Annotated[
        int,
        why(
            "0 chooses a free port, so that all stages run on one machine; `beefline status` tells it.", ge=0, le=65535
        ),
    ] = 0
    http_token_file: Annotated[str, why("Required when `http_host` is not loopback.")] = ""
    host: Annotated[
        str,
        why(
            "What fails together: copies of the state go to workers of other hosts first. Empty: the machine's name; on "
            "Kubernetes set the node's, or the zone's."
        ),
    ] = ""
    replication: Annotated[
        int,
        why(
            "Workers that hold each partition of the state: its owner, and copies that can take over at once; with "
            "two copies one may be lost while another is made again. A copy costs about what applying does.",
            ge=1,
            le=7,
        ),
    ] = 3
    fresh_records: Annotated[
        int,
        why(
            "Records of its changelog that a copy may be behind the furthest one and still be given the partition: two "
            "seconds to read. A worker whose copies are further behind follows first, and takes its share later.",
            ge=0,
        ),
    ] = 100_000
    advertised_url: Annotated[
        str,
        why(
            "Where other workers forward reads to; empty: the port as bound, or where that is every address, the one "
            "this machine has toward the broker."
        ),
    ] = ""
    max_in_flight: Annotated[int, why("Payloads in hand: how far one slow input may hold back the offset.", ge=1)] = (
        1000
    )
    max_in_flight_bytes: Annotated[int, why("Eight of the largest payloads; bounds a worker's memory.", ge=1 << 20)] = (
        64 << 20
    )
    batch_records: Annotated[
        int, why("Records computed at once; 500 of 2 kB are one MB, a good produce request.", ge=1)
    ] = 500
    commit_interval_s: Annotated[
        float, why("Records read again after a crash; a commit costs a request for all partitions.", gt=0)
    ] = 1.0
    session_timeout_s: Annotated[float, why("How long a dead worker's partitions wait for another.", ge=6, le=300)] = (
        10.0
    )
    heartbeat_interval_s: Annotated[float, why("A third of the session, and quick to notice a rebalance.", gt=0)] = 3.0
    transaction_timeout_s: Annotated[
        float, why("An open transaction of the dead stops every reader behind it for this long.", ge=1, le=60)
    ] = 5.0
    stuck_after_s: Annotated[
        float, why("Lag without progress for this long ends the process, to be started again.", gt=0)
    ] = 60.0
    stop_within_s: Annotated[
        float, why("SIGTERM finishes what is decided within this time and drops the rest unacknowledged.", gt=0)
    ] = 10.0
    any_from_differing: Annotated[
        bool,
        why(
            "Whether an `any` read is answered, marked `differs`, from a store that was found not to be what was "
            "written, while it is made again and no other worker answers. `strong` reads never are."
        ),
    ] = False
    scrub_share: Annotated[
        float,
        why(
            "Of a core, for looking through local stores: a million entries in a quarter of an hour. 0 looks at "
            "nothing that is not read.",
            ge=0,
            le=0.5,
        ),
    ] = 0.01
    crash_point: Annotated[
        str, why("For fault tests: a named place where the process ends as by kill -9, or stops; empty in service.")
    ] = ""
    fault_limit: Annotated[
        int, why("Faults in a row after which it is us, not the records: the stage halts.", ge=1)
    ] = 10
    pace_ms: Annotated[
        int,
        why(
            "Between fetches while few records come: taking them in groups saves every side a round each.", ge=0, le=500
        ),
    ] = 40
    transaction_pace_ms: Annotated[
        int,
        why(
            "From the end of a partition's transaction to the next while few records wait: small ones are dear.",
            ge=0,
            le=500,
        ),
    ] = 100


class TraceSettings(Struct, frozen=True):
    """Tracing of sampled payloads."""

    sample_ratio: Annotated[
        float, why("A traced hop costs 45 us; one payload in a hundred shows where time goes.", ge=0, le=1)
    ] = 0.01
    file: Annotated[str, why("Spans as JSON lines, for looking without a collector.")] = ""
    otlp_endpoint: Annotated[str, why("An OTLP/HTTP collector; empty sends none.")] = ""


class RetrySettings(Struct, frozen=True):
    """How long a condition is waited for."""

    give_up_after_s: Annotated[
        float, why("A day covers a long reorganisation or an endpoint's bad night; then the record is parked.", gt=0)
    ] = 86_400.0


class LogSettings(Struct, frozen=True):
    """Structured logs."""

    level: Annotated[
        Literal["debug", "info", "warning", "error"], why("Info tells starts, stops and rebalances, not records.")
    ] = "info"
    client_lines_per_s: Annotated[
        float, why("A broker outage of 16 s made the client libraries write 17,000 lines.", gt=0)
    ] = 2.0
