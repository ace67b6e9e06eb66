"""A worker's HTTP port: who may ask, what it answers, and metrics that begin at 0."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from agents import metrics
from agents.runtime.health import NeedsToken, Port, token
from agents.runtime.settings import WorkerSettings
from agents.runtime.standing import Limits, Standing
from ops.stages import STAGES
from pipeline.outcome import CODES


class Watched:
    """A worker's answers."""

    def __init__(self) -> None:
        self.lives = True
        self.is_ready = True
        self.resumed = 0

    def alive(self) -> bool:
        return self.lives

    def ready(self) -> tuple[bool, dict[str, object]]:
        return self.is_ready, {"state": "running" if self.is_ready else "halted", "lag": 3}

    def resume(self) -> None:
        self.resumed += 1


@asynccontextmanager
async def served(settings: WorkerSettings) -> AsyncIterator[tuple[Watched, str, aiohttp.ClientSession]]:
    watched = Watched()
    port = Port(watched, settings)
    await port.start()
    try:
        async with aiohttp.ClientSession() as session:
            yield watched, port.url, session
    finally:
        await port.stop()


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("s3cret\n")
    return path


# --- who may ask


@pytest.mark.setting("worker.http_host")
@pytest.mark.setting("worker.http_token_file")
@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "192.168.1.1", "worker.example", ""])
def test_bound_beyond_loopback_a_token_is_needed(host: str, secret: Path) -> None:
    with pytest.raises(NeedsToken, match="http_token_file"):
        token(WorkerSettings(http_host=host))
    assert token(WorkerSettings(http_host=host, http_token_file=str(secret))) == "s3cret"


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_on_loopback_none_is_needed(host: str, secret: Path) -> None:
    assert token(WorkerSettings(http_host=host)) is None
    assert token(WorkerSettings(http_host=host, http_token_file=str(secret))) == "s3cret"


def test_a_token_that_cannot_be_read_or_is_empty_is_no_token(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="nowhere"):
        token(WorkerSettings(http_token_file=str(tmp_path / "nowhere")))
    (tmp_path / "empty").write_text(" \n")
    with pytest.raises(NeedsToken, match="empty"):
        token(WorkerSettings(http_token_file=str(tmp_path / "empty")))


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
async def test_what_is_protected_asks_for_the_token(host: str, secret: Path) -> None:
    async with served(WorkerSettings(http_host=host, http_token_file=str(secret))) as (watched, url, session):
        for wrong in ({}, {"Authorization": "Bearer other"}, {"Authorization": "s3cret"}, {"Authorization": "Bearer "}):
            for method, path in (("GET", "/metrics"), ("POST", "/resume"), ("GET", "/nowhere")):
                async with session.request(method, url + path, headers=wrong) as response:
                    assert (response.status, path) == (401, path)
        assert watched.resumed == 0
        right = {"Authorization": "Bearer s3cret"}
        async with session.get(f"{url}/metrics", headers=right) as response:
            assert response.status == 200
        async with session.post(f"{url}/resume", headers=right) as response:
            assert response.status == 200
        assert watched.resumed == 1


async def test_probes_of_an_orchestrator_carry_no_token(secret: Path) -> None:
    async with served(WorkerSettings(http_token_file=str(secret))) as (_, url, session):
        for path in ("/livez", "/readyz"):
            async with session.get(url + path) as response:
                assert response.status == 200


async def test_a_token_of_strange_bytes_is_a_wrong_one(secret: Path) -> None:
    """No client library sends it; a scanner does."""
    async with served(WorkerSettings(http_token_file=str(secret))) as (_, url, _):
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=5) as raw:
            raw.sendall(
                b"GET /metrics HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff\xfe\r\nConnection: close\r\n\r\n"
            )
            answer = await asyncio.to_thread(raw.recv, 100)
        assert answer.startswith(b"HTTP/1.1 401")


# --- what it answers


@pytest.mark.parametrize(("path", "attribute"), [("/livez", "lives"), ("/readyz", "is_ready")])
async def test_down_is_503_and_up_is_200(path: str, attribute: str) -> None:
    async with served(WorkerSettings()) as (watched, url, session):
        for up, status in ((True, 200), (False, 503), (True, 200)):
            setattr(watched, attribute, up)
            async with session.get(url + path) as response:
                assert response.status == status
                said = await response.json()
            assert said["alive" if path == "/livez" else "ready"] is up
            if path == "/readyz":
                assert (said["lag"], said["state"]) == (3, "running" if up else "halted")


async def test_only_a_post_resumes() -> None:
    async with served(WorkerSettings()) as (watched, url, session):
        async with session.get(f"{url}/resume") as response:
            assert response.status == 405
        assert watched.resumed == 0
        async with session.post(f"{url}/resume") as response:
            assert await response.json() == {"resumed": True}
        assert watched.resumed == 1


@pytest.mark.setting("worker.http_port")
async def test_a_port_of_0_is_a_free_one_and_a_taken_one_is_an_error() -> None:
    async with served(WorkerSettings()) as (_, url, _):
        taken = int(url.rsplit(":", 1)[1])
        assert taken > 0
        with pytest.raises(OSError, match=str(taken)):
            await Port(Watched(), WorkerSettings(http_port=taken)).start()


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
async def test_an_address_of_ipv6_makes_a_url() -> None:
    async with served(WorkerSettings(http_host="::1")) as (_, url, session):
        assert url.startswith("http://[::1]:")
        async with session.get(f"{url}/livez") as response:
            assert response.status == 200


# --- metrics


def test_every_series_of_a_stage_begins_at_0() -> None:
    """So that rates and alerts have a beginning, and no series names a transaction."""
    codes = [("ok", ""), *(("world" if row.scope == "world" else row.kind, row.code) for row in CODES)]
    for stage in STAGES:
        metrics.register(f"new-{stage}", ("results", "dead-letters"), codes)
    metrics.register_chain("new-verify", ("one", "follower"), ("one",))
    metrics.register_named("new-verify")
    metrics.register_endpoints("new-broadcast", ["arc@a"])
    metrics.register_network("new-status")
    metrics.register_undecided("new-coordinate")
    metrics.register_tiers("new-retry", ["10s", "1m"])
    Standing("new-apply", "tm_x", Limits(1.0, 3, 3, 1.0))
    found = {family.name: family.samples for family in text_string_to_metric_families(metrics.exposition().decode())}
    expected = {name.removesuffix("_total") for name in metrics.READ}
    assert expected <= set(found)
    of_the_chain = {
        "beefline_tracker_disagreements",
        "beefline_chain_reorganisations",
        "beefline_header_sources_put_aside",
        "beefline_named_ancestors",
        "beefline_named_ancestors_behind_records",
    }
    of_topics = {"beefline_judging_seconds", "beefline_judging_overran", "beefline_context_suspended"}
    of_one = {
        **dict.fromkeys(of_the_chain, "verify"),
        **dict.fromkeys(of_topics, "apply"),
        "beefline_endpoint_words": "broadcast",
        "beefline_network_decided": "status",
        "beefline_ingest_to_accepted_seconds": "status",
        "beefline_unresolved_transactions": "status",
        "beefline_oldest_unresolved_seconds": "status",
        "beefline_undecided_operations": "coordinate",
        "beefline_oldest_undecided_seconds": "coordinate",
        "beefline_retried": "retry",
    }
    # What nobody has told yet is not 0: a height begins when the follower has read its file, a fee when it is read. An
    # endpoint counts as up until it is found not to be.
    begins_later = {"beefline_follower_height", "beefline_endpoint_fee_satoshis_per_kilobyte", "beefline_endpoint_up"}
    for name in expected - {"beefline_state"} - begins_later:
        for stage in (of_one[name],) if name in of_one else STAGES:
            mine = [each for each in found[name] if each.labels["stage"] == f"new-{stage}"]
            assert mine, f"{name} has no series of {stage}"
            assert {each.value for each in mine if not each.name.endswith("_created")} == {0}
    labels = {label for samples in found.values() for each in samples for label in each.labels}
    assert labels <= {
        "stage",
        "topic",
        "kind",
        "code",
        "state",
        "tracker",
        "source",
        "answer",
        "le",
        "endpoint",
        "decided",
        "tier",
    }
    outcomes = {each.labels["code"] for each in found["beefline_outcomes"] if each.labels["stage"] == "new-parse"}
    assert outcomes == {code for kind, code in codes if kind != "world"}
    waits = {each.labels["code"] for each in found["beefline_pauses"] if each.labels["stage"] == "new-verify"}
    assert waits == {row.code for row in CODES if row.scope == "world"}


def test_a_stage_is_in_one_state() -> None:
    for state in metrics.STATES:
        metrics.state("stateful", state)
        text = metrics.exposition().decode()
        ones = [name for name in metrics.STATES if f'beefline_state{{stage="stateful",state="{name}"}} 1.0' in text]
        assert ones == [state]


def test_a_batch_adds_up() -> None:
    for _ in range(2):
        metrics.count_outcomes("adding", {("ok", ""): 3, ("verdict", "script.false"): 1}, {"results": 5}, 4)
    text = metrics.exposition().decode()
    assert 'beefline_records_in_total{stage="adding"} 8.0' in text
    assert 'beefline_outcomes_total{code="script.false",kind="verdict",stage="adding"} 2.0' in text
    assert 'beefline_records_out_total{stage="adding",topic="results"} 10.0' in text


def test_every_metric_says_how_to_read_it() -> None:
    families = {family.name: family for family in metrics.REGISTRY.collect()}
    named = {name.removesuffix("_total") for name in metrics.READ}
    assert named == set(families)
    assert all(families[name].documentation for name in named)
    assert all(metrics.READ.values())
