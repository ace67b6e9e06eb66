"""The declarations: consistent with each other, and with the stages that write and read the topics."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from agents.apply import ApplyStage
from agents.broadcast import Broadcast
from agents.coordinate import Coordinate
from agents.parse import Parse
from agents.retry import Retry
from agents.status import Status
from agents.verify import Verify
from ops.stages import STAGES
from pipeline.retry import TIER_MS
from topics import registry
from topics.registry import (
    BROADCAST,
    BY_NAME,
    DEAD_LETTERS,
    EVENTS,
    INGEST,
    JOURNAL,
    MEMBERS,
    OPERATIONS,
    PARSED,
    RESULTS,
    RETRY_1M,
    RETRY_10M,
    RETRY_10S,
    SET_A,
    STATE,
    TIERS,
    TOPICS,
    TRANSACTIONS,
    Topic,
)

PAYLOAD = 8 << 20

CLASSES: dict[str, Any] = {
    "parse": Parse,
    "verify": Verify,
    "apply": ApplyStage,
    "coordinate": Coordinate,
    "broadcast": Broadcast,
    "status": Status,
    "retry": Retry,
}


def outputs_of(stage: Any) -> Iterator[Topic]:
    """What a stage writes, its changelog included; who answers from its state says where."""
    yield from stage.outputs
    if changelog := getattr(stage, "changelog", None):
        yield changelog
        if stage.form.shared:
            yield MEMBERS


def test_there_is_a_class_for_each_stage() -> None:
    assert tuple(CLASSES) == STAGES
    assert [stage.name for stage in CLASSES.values()] == list(STAGES)


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_writers_and_readers_are_the_stages_that_do(topic: Topic) -> None:
    """`all` covers every stage; otherwise the lists agree, in both directions."""
    writers = {name for name, stage in CLASSES.items() if topic in outputs_of(stage)}
    readers = {name for name, stage in CLASSES.items() if topic in stage.inputs or topic is stage_changelog(stage)}
    if "all" not in topic.writers:
        assert {name for name in topic.writers if name in CLASSES} == writers
    assert {name for name in topic.readers if name in CLASSES} == readers


def stage_changelog(stage: Any) -> Topic | None:
    changelog: Topic | None = getattr(stage, "changelog", None)
    return changelog


def test_names_are_unique_and_kafka_takes_them() -> None:
    assert len(BY_NAME) == len(TOPICS)
    for topic in TOPICS:
        assert re.fullmatch(r"[a-z0-9.-]{1,40}", topic.name)
        assert topic.named("beef.") == f"beef.{topic.name}"


def test_a_contexts_topics_share_one_number() -> None:
    """Set A: a context's input, journal and state have the same partition number, so they are equally wide."""
    assert {topic.name for topic in TOPICS if topic.partitions == SET_A} == {"operations", "journal", "state"}


def test_every_record_that_is_passed_on_fits_the_next_topic() -> None:
    """Retry tiers and dead letters take a record of any topic, with its cause beside it."""
    largest = max(topic.max_bytes(PAYLOAD) for topic in (INGEST, PARSED, OPERATIONS, BROADCAST))
    for topic in (RETRY_10S, RETRY_1M, RETRY_10M, DEAD_LETTERS):
        assert topic.max_bytes(PAYLOAD) > largest
    assert TRANSACTIONS.max_bytes(PAYLOAD) >= BROADCAST.max_bytes(PAYLOAD)
    assert registry.largest_record(PAYLOAD) == max(topic.max_bytes(PAYLOAD) for topic in TOPICS)


@pytest.mark.parametrize("payload", [1024, PAYLOAD, 64 << 20])
def test_sizes_grow_with_the_payload(payload: int) -> None:
    """By each topic's factor, and headroom that does not."""
    assert INGEST.max_bytes(payload) == payload + registry.HEADROOM
    assert JOURNAL.max_bytes(payload) == 5 * payload + registry.HEADROOM
    assert EVENTS.max_bytes(payload) == registry.HEADROOM


def test_ingest_outlasts_whatever_is_made_of_it() -> None:
    """What waits can be fed again from there."""
    kept = [topic.retention_h for topic in TOPICS if topic not in (INGEST, DEAD_LETTERS)]
    assert INGEST.retention_h is not None
    assert all(INGEST.retention_h > hours for hours in kept if hours is not None)
    assert INGEST.broker_time  # a sender's clock says nothing of how long a record was here


def test_the_truth_is_kept_and_its_changelog_compacted() -> None:
    assert (JOURNAL.cleanup, JOURNAL.retention_h) == ("delete", None)
    assert STATE.cleanup == "compact"
    settings = STATE.settings(PAYLOAD, min_isr=2)
    assert settings["cleanup.policy"] == "compact"
    assert settings["retention.ms"] == "-1"
    assert int(settings["delete.retention.ms"]) == 7 * 24 * 3_600_000  # a copy away for less sees deletions
    assert settings["min.insync.replicas"] == "2"


def test_settings_are_what_the_broker_calls_them() -> None:
    assert INGEST.settings(1 << 20, min_isr=1) == {
        "cleanup.policy": "delete",
        "retention.ms": str(8 * 24 * 3_600_000),
        "max.message.bytes": str((1 << 20) + registry.HEADROOM),
        "message.timestamp.type": "LogAppendTime",
        "min.insync.replicas": "1",
    }


def test_tiers_are_those_of_the_rule() -> None:
    """`pipeline.retry` counts tiers, `topics` names them."""
    assert tuple(TIERS.values()) == TIER_MS
    assert [BY_NAME[name] for name in TIERS] == [RETRY_10S, RETRY_1M, RETRY_10M]


def test_groups_and_transactional_ids_carry_the_prefix() -> None:
    assert registry.group("beef.", "parse") == "beef.beefline-parse"
    assert registry.transactional_id("beef.", "apply", 1, 7) == "beef.apply-g1-7"


def test_external_topics_can_be_read_by_any_client() -> None:
    """JSON, or the field's own binary formats; MessagePack stays inside."""
    external = {topic.name for topic in TOPICS if topic.external}
    assert external == {"ingest", "requests", "transactions", "results", "answers", "events"}
    assert {topic.schema.wire for topic in TOPICS if topic.external} == {"raw", "json"}
    assert RESULTS.schema.wire == "json"


def test_every_declaration_gives_its_reasons() -> None:
    for topic in TOPICS:
        for text in (topic.says, topic.partitions_why, topic.retention_why, topic.growth_why):
            assert text.endswith(".")
        assert topic.writers
        assert topic.readers
