"""The topics on a cluster against their declarations; how clients reach it."""

import ssl
from pathlib import Path

import pytest

from agents.runtime.cluster import Cluster, Difference, compare
from agents.runtime.connection import client_options, faust_broker, faust_credentials
from agents.runtime.settings import KafkaSettings, TopicSettings
from topics.registry import INGEST, JOURNAL, OPERATIONS, PARSED, STATE, TOPICS, Topic

SETTINGS = TopicSettings(prefix="t.")


def as_declared(settings: TopicSettings = SETTINGS) -> Cluster:
    return Cluster(
        "cluster",
        {topic.name: topic.partitions for topic in TOPICS},
        {topic.name: topic.settings(settings.max_payload_bytes, settings.min_isr) for topic in TOPICS},
    )


def changed(topic: Topic, **config: str) -> list[Difference]:
    cluster = as_declared()
    cluster.configs[topic.name].update({name.replace("_", "."): value for name, value in config.items()})
    return compare(cluster, SETTINGS)


def test_what_is_as_declared_differs_in_nothing() -> None:
    assert compare(as_declared(), SETTINGS) == []


def test_a_topic_that_is_missing_or_narrower_is_fatal() -> None:
    cluster = as_declared()
    del cluster.partitions["ingest"]
    cluster.partitions["parsed"] = PARSED.partitions - 1
    assert compare(cluster, SETTINGS) == [
        Difference("t.ingest", "does not exist", True),
        Difference("t.parsed", "has 7 partitions, 8 are declared", True),
    ]
    assert compare(cluster, SETTINGS, [OPERATIONS]) == []  # a worker looks at what it uses


def test_wider_is_no_difference_where_only_order_by_key_is_at_stake() -> None:
    cluster = as_declared()
    cluster.partitions["parsed"] = 64
    assert compare(cluster, SETTINGS) == []


@pytest.mark.parametrize("topic", [OPERATIONS, JOURNAL, STATE])
def test_wider_is_fatal_where_a_number_is_a_contexts_home(topic: Topic) -> None:
    """A context would move to another number, away from its state and its journal."""
    cluster = as_declared()
    cluster.partitions[topic.name] = 64
    (found,) = compare(cluster, SETTINGS)
    assert (found.topic, found.fatal) == (f"t.{topic.name}", True)
    assert "64" in found.what
    assert "32" in found.what


@pytest.mark.parametrize(
    ("topic", "config", "what", "fatal"),
    [
        (INGEST, {"max_message_bytes": "1048576"}, "max.message.bytes is 1048576, at least 8912896 is declared", True),
        (INGEST, {"max_message_bytes": ""}, "max.message.bytes is unknown", True),
        (INGEST, {"message_timestamp_type": "CreateTime"}, "LogAppendTime is declared", True),
        (STATE, {"cleanup_policy": "delete"}, "cleanup.policy is delete, compact is declared", True),
        (STATE, {"cleanup_policy": "compact,delete"}, "cleanup.policy", True),
        (INGEST, {"retention_ms": "3600000"}, "retention.ms is 3600000, at least 691200000", False),
        (JOURNAL, {"retention_ms": "691200000"}, "at least -1 is declared", False),
        (INGEST, {"min_insync_replicas": "1"}, "min.insync.replicas is 1", False),
        (STATE, {"segment_bytes": "1073741824"}, "segment.bytes", False),
    ],
)
def test_what_a_difference_says(topic: Topic, config: dict[str, str], what: str, fatal: bool) -> None:
    (found,) = changed(topic, **config)
    assert (found.topic, found.fatal) == (topic.named("t."), fatal)
    assert what in found.what


@pytest.mark.parametrize(
    ("topic", "config"),
    [
        (INGEST, {"max_message_bytes": "99999999"}),
        (INGEST, {"retention_ms": "-1"}),
        (INGEST, {"min_insync_replicas": "3"}),
        (INGEST, {"unclean_leader_election_enable": "true"}),  # not ours to declare
        (STATE, {"delete_retention_ms": "9999999999"}),
    ],
)
def test_longer_and_larger_is_no_difference(topic: Topic, config: dict[str, str]) -> None:
    assert changed(topic, **config) == []


# --- connections


@pytest.fixture
def password_file(tmp_path: Path) -> str:
    path = tmp_path / "password"
    path.write_text("s3cret\n")
    return str(path)


@pytest.mark.setting("kafka.bootstrap")
def test_an_open_broker_needs_an_address_and_no_more() -> None:
    kafka = KafkaSettings(bootstrap="a:1,b:2")
    assert client_options(kafka) == {
        "bootstrap_servers": ["a:1", "b:2"], "security_protocol": "PLAINTEXT", "ssl_context": None,
    }  # fmt: skip
    assert faust_broker(kafka) == ["kafka://a:1", "kafka://b:2"]
    assert faust_credentials(kafka) is None


@pytest.mark.setting("kafka.security_protocol")
@pytest.mark.setting("kafka.sasl_mechanism")
@pytest.mark.setting("kafka.sasl_username")
@pytest.mark.setting("kafka.sasl_password_file")
@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
def test_a_guarded_broker_gets_name_and_password(protocol: str, password_file: str) -> None:
    kafka = KafkaSettings(
        security_protocol=protocol,  # type: ignore[arg-type]
        sasl_mechanism="SCRAM-SHA-256", sasl_username="me", sasl_password_file=password_file,
    )  # fmt: skip
    options = client_options(kafka)
    assert [options[f"sasl_{name}"] for name in ("mechanism", "plain_username", "plain_password")] == [
        "SCRAM-SHA-256", "me", "s3cret",
    ]  # fmt: skip
    assert (options["ssl_context"] is not None) is (protocol == "SASL_SSL")
    credentials = faust_credentials(kafka)
    assert (credentials.username, credentials.password) == ("me", "s3cret")


@pytest.mark.setting("kafka.ssl_check_hostname")
@pytest.mark.parametrize("check", [True, False])
def test_over_tls_the_brokers_certificate_is_checked(check: bool) -> None:
    options = client_options(KafkaSettings(security_protocol="SSL", ssl_check_hostname=check))
    context = options["ssl_context"]
    assert isinstance(context, ssl.SSLContext)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname is check
    assert "sasl_mechanism" not in options
    assert faust_credentials(KafkaSettings(security_protocol="SSL")) is not None


@pytest.mark.parametrize("name", ["ssl_ca_file", "ssl_cert_file", "sasl_password_file"])
def test_a_file_that_is_not_there_is_named(name: str, tmp_path: Path) -> None:
    kafka = KafkaSettings(security_protocol="SASL_SSL", **{name: str(tmp_path / "nowhere")})  # type: ignore[arg-type]
    with pytest.raises(OSError):
        client_options(kafka)
