"""The client on a real broker, with a pretended pipeline behind it."""

import asyncio
import gc
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from aiokafka import AIOKafkaProducer

from beefline.client import HEADROOM, Client, MissingTopic, NoOutcome, Result, Since, TooLarge, Unreachable
from beefline.outcomes import Watch
from tests.clients.pretend import PAYLOAD, Place, by_word, eventually, header, result

pytestmark = pytest.mark.broker

A, B = "tm_a", "tm_b"


async def known(watch: Watch) -> bool:
    """Whether anything has come about a request."""
    return bool(watch.results)


def client_of(place: Place) -> Client:
    return Client(place.bootstrap, prefix=place.prefix, max_payload_bytes=PAYLOAD)


async def test_the_record_carries_the_bytes_and_the_request_in_its_headers(place: Place) -> None:
    async with client_of(place) as client:
        submitted = await client.submit(
            b"\x01\x00\xbe\xef",
            topics=[A, B],
            request_id="order 7",
            off_chain_values=b"\0\xff",
            atomicity="all",
            traceparent="00-ab-cd-01",
        )
    (record,) = await place.ingested(1)
    assert (record.value, record.key) == (b"\x01\x00\xbe\xef", b"order 7")
    assert dict(record.headers) == {
        "request-id": b"order 7",
        "topics": b'["tm_a", "tm_b"]',
        "off-chain-values": b"\0\xff",
        "atomicity": b"all",
        "traceparent": b"00-ab-cd-01",
    }
    assert submitted.request_id == "order 7"
    assert (submitted.topic, submitted.partition, submitted.offset) == (record.topic, record.partition, record.offset)


async def test_who_names_nothing_leaves_the_topics_to_the_installation_and_gets_an_id(place: Place) -> None:
    async with client_of(place) as client:
        submitted = await client.submit(b"applied")
        other = await client.submit(b"applied")
    records = await place.ingested(2)
    assert {tuple(name for name, _ in record.headers) for record in records} == {("request-id",)}
    assert {header(record, "request-id") for record in records} == {submitted.request_id, other.request_id}


async def test_an_atomicity_that_is_none_is_not_sent(place: Place) -> None:
    async with client_of(place) as client:
        with pytest.raises(ValueError, match="`each` or `all`, not 'both'"):
            await client.submit(b"applied", atomicity="both")  # type: ignore[arg-type]
        await client.submit(b"rejected")
    assert [record.value for record in await place.ingested(1)] == [b"rejected"]


async def test_topics_may_be_an_empty_list(place: Place) -> None:
    """The pipeline says what it thinks of that; it is not the same as naming none."""
    async with client_of(place) as client:
        await client.submit(b"applied", topics=[])
    (record,) = await place.ingested(1)
    assert header(record, "topics") == "[]"


async def test_a_payload_over_the_limit_is_not_sent_and_the_limit_is_named(place: Place) -> None:
    async with client_of(place) as client:
        with pytest.raises(TooLarge, match=f"has {PAYLOAD + 1} bytes; at most {PAYLOAD} are taken"):
            await client.submit(bytes(PAYLOAD + 1))
        with pytest.raises(TooLarge, match="off-chain part"):
            await client.submit(b"applied", off_chain_values=bytes(HEADROOM))
        exact = await client.submit(bytes(PAYLOAD), off_chain_values=bytes(HEADROOM // 2))
    records = await place.ingested(1)
    assert [(record.partition, record.offset) for record in records] == [(exact.partition, exact.offset)]
    assert exact.offset == 0


async def test_a_broker_that_takes_less_than_the_client_thinks_says_so(place: Place) -> None:
    async with Client(place.bootstrap, prefix=place.prefix, max_payload_bytes=4 * PAYLOAD) as client:
        with pytest.raises(TooLarge, match="more than the topic takes"):
            await client.submit(bytes(3 * PAYLOAD))


@pytest.mark.parametrize(("arguments", "error"), [({"request_id": "x" * 201}, ValueError), ({"topics": A}, TypeError)])
async def test_arguments_that_mean_nothing_are_refused_before_sending(
    place: Place, arguments: dict[str, str], error: type[Exception]
) -> None:
    async with client_of(place) as client:
        with pytest.raises(error):
            await client.submit(b"applied", **arguments)  # type: ignore[arg-type]
        first = await client.submit(b"applied", request_id="x" * 200)
    assert first.offset == 0


async def test_it_waits_until_every_context_has_decided(place: Place) -> None:
    async with place.pipeline(by_word), client_of(place) as client:
        outcome = await client.submit_and_wait(b"applied", topics=[B, A], timeout=30)
        assert outcome.state == "applied"
        assert [decision.context for decision in outcome.decisions] == ["topic:tm_a", "topic:tm_b"]
        assert outcome.txid == "ab" * 32
        assert outcome.decisions[0].admittance is not None
        assert (await client.network(outcome.submitted, timeout=30)).endpoint == "arc@example"


async def test_one_decision_stands_for_all_contexts_when_none_was_reached(place: Place) -> None:
    async with place.pipeline(by_word), client_of(place) as client:
        outcome = await client.submit_and_wait(b"rejected", topics=[A, B], timeout=30)
        assert (outcome.state, outcome.code, outcome.message) == ("rejected", "script.false", "a signature fits no key")
        assert [decision.context for decision in outcome.decisions] == [None]


async def test_many_at_once_each_get_their_own_outcome(place: Place) -> None:
    words = ["applied", "rejected", "parked"] * 20
    async with place.pipeline(by_word), client_of(place) as client:
        outcomes = await asyncio.gather(*(client.submit_and_wait(word.encode(), timeout=60) for word in words))
    assert [outcome.state for outcome in outcomes] == words


async def test_requests_of_one_id_are_told_apart_by_their_records(place: Place) -> None:
    async with place.pipeline(by_word), client_of(place) as client:
        first = await client.submit(b"applied", request_id="same")
        second = await client.submit(b"rejected", request_id="same")
        assert (await client.outcome(second, 30)).state == "rejected"
        assert (await client.outcome(first, 30)).state == "applied"


async def test_when_time_is_up_it_says_what_is_known_and_may_be_asked_again(place: Place) -> None:
    async with client_of(place) as client:
        submitted = await client.submit(b"applied", topics=[A, B])
        (record,) = await place.ingested(1)
        first = result(record, "applied", "topic:tm_a")
        await place.say(first)
        waiting = asyncio.ensure_future(client.outcome(submitted, 30))
        await eventually(lambda: known(submitted.watch))
        with pytest.raises(NoOutcome, match=r"within 0 s \(1 of 2 decided\)") as late:
            await client.outcome(submitted, 0)
        assert late.value.outcome.decisions == (first,)
        assert late.value.outcome.state == "waiting"
        await place.say(result(record, "applied", "topic:tm_b"))
        assert (await waiting).state == "applied"


async def test_what_was_aborted_never_happened(place: Place) -> None:
    async with client_of(place) as client:
        submitted = await client.submit(b"applied")
        (record,) = await place.ingested(1)
        await place.say(result(record, "rejected", "topic:tm_anytx", revision=9), aborted=True)
        await place.say(result(record, "applied", "topic:tm_anytx"))
        assert (await client.outcome(submitted, 30)).state == "applied"
        found = [each async for each in client.results(since="start", follow=False)]
        assert [each.outcome for each in found] == ["applied"]


async def test_a_decision_read_before_the_confirmation_is_not_missed(place: Place) -> None:
    """The result of a quick pipeline may overtake the producer's own answer."""
    async with client_of(place) as client:
        held = asyncio.Event()
        send = client._producer.send_and_wait

        async def slow(*arguments: object, **more: object) -> object:
            written = await send(*arguments, **more)
            await held.wait()
            return written

        client._producer.send_and_wait = slow
        client._follow_results()
        sending = asyncio.ensure_future(client.submit(b"applied", request_id="early"))
        (record,) = await place.ingested(1)
        await place.say(result(record, "applied", "topic:tm_anytx"))
        await eventually(lambda: known(client._watches["early"]))
        held.set()
        assert (await client.outcome(await sending, 0)).state == "applied"


async def test_results_of_a_submission_nobody_holds_are_forgotten(place: Place) -> None:
    async with client_of(place) as client:
        kept = await client.submit(b"applied", request_id="kept")
        await client.submit(b"applied", request_id="dropped")
        gc.collect()
        assert list(client._watches) == ["kept"]
        assert kept.request_id == "kept"


async def test_a_submission_of_another_client_is_refused(place: Place) -> None:
    async with client_of(place) as client, client_of(place) as other:
        with pytest.raises(ValueError, match="another client"):
            await client.outcome(await other.submit(b"applied"))


async def test_results_keeps_the_highest_revision_of_each_id(place: Place) -> None:
    async with client_of(place) as client:
        await client.submit(b"applied")
        (record,) = await place.ingested(1)
        at = [result(record, "applied", "topic:tm_anytx", revision=revision) for revision in (1, 3, 2, 3, 4)]
        await place.say(*at)
        found = [each.revision async for each in client.results(since="start", follow=False)]
    assert found == [1, 3, 4]


async def test_results_begin_where_they_are_asked_to(place: Place) -> None:
    async with client_of(place) as client:
        await client.submit(b"applied")
        (record,) = await place.ingested(1)
        noon = datetime(2026, 11, 22, 12, tzinfo=UTC)
        for minutes, context in enumerate(("topic:tm_a", "topic:tm_b", "topic:tm_c")):
            at_ms = int((noon + timedelta(minutes=minutes)).timestamp() * 1000)
            await place.say(result(record, "applied", context), at_ms=at_ms)

        async def contexts(since: Since) -> list[str | None]:
            return [each.context async for each in client.results(since=since, follow=False)]

        assert await contexts("start") == ["topic:tm_a", "topic:tm_b", "topic:tm_c"]
        assert await contexts(noon + timedelta(minutes=1)) == ["topic:tm_b", "topic:tm_c"]
        assert await contexts(noon + timedelta(minutes=1, seconds=1)) == ["topic:tm_c"]
        assert await contexts(noon + timedelta(days=1)) == []
        assert await contexts("now") == []


async def test_following_gives_results_as_they_come(place: Place) -> None:
    async with client_of(place) as client:
        await client.submit(b"applied")
        (record,) = await place.ingested(1)
        async with asyncio.timeout(30):
            await place.say(result(record, "applied", "topic:tm_a"))
            following = client.results(since="start")
            assert (await anext(following)).context == "topic:tm_a"
            await place.say(result(record, "applied", "topic:tm_b"))
            assert (await anext(following)).context == "topic:tm_b"
            await following.aclose()


async def test_a_record_that_is_no_result_stops_nobody(place: Place) -> None:
    async with client_of(place) as client:
        submitted = await client.submit(b"applied")
        (record,) = await place.ingested(1)
        async with AIOKafkaProducer(bootstrap_servers=place.bootstrap) as producer:
            for value in (b"\xff", b"{}", msgspec.json.encode({"request_ids": [submitted.request_id]})):
                await producer.send_and_wait(client.results_topic, value)
        await place.say(result(record, "applied", "topic:tm_anytx"))
        assert (await client.outcome(submitted, 30)).state == "applied"
        found: list[Result] = [each async for each in client.results(since="start", follow=False)]
        assert len(found) == 1


async def test_no_broker_is_said_in_words() -> None:
    client = Client("127.0.0.1:1")
    with pytest.raises(Unreachable, match=r"no Kafka broker answers at 127\.0\.0\.1:1"):
        await client.start()


async def test_a_wrong_prefix_is_said_in_words(place: Place) -> None:
    with pytest.raises(MissingTopic, match=r"there is no topic nowhere\.ingest"):
        await Client(place.bootstrap, prefix="nowhere.").start()


async def test_a_client_that_was_not_started_says_how() -> None:
    with pytest.raises(RuntimeError, match="async with"):
        await Client("127.0.0.1:1").submit(b"applied")
