"""Settings: where they come from, which win, what is refused; and the effect of those that rules and topics heed."""

import asyncio
import sys
import time
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import pytest
from aiokafka.errors import KafkaError

from agents.parse import Parse
from agents.runtime.cluster import Unreachable, admin, compare, create, look
from agents.runtime.outbox import Outbox, TooLarge
from agents.runtime.records import Emit, Out, Refuse
from ops.instruments.chain import Chain
from ops.settings import PRESETS, BadSettings, Network, Settings, flags_of, knobs, load
from ops.supervisor import Spec, Supervisor
from pipeline.chain.answer import Answer, Tip
from pipeline.chain.headers import checkpoint_of, rules_of, standing
from pipeline.outcome import Condition, Verdict
from pipeline.parse import Payload, parse
from pipeline.policy import Policy
from pipeline.script.engine import STEPS_PER_MS, run_jobs
from pipeline.verify import Plan, Valid, plan, verify
from schemas import headers as h
from schemas.flow import PARSED as PARSED_SCHEMA
from tests import builders
from tests.builders import TIP, Bag, In, bag, by_script, chain, coinbase, funding, payment, push, spend
from tests.builders import Out as Output
from tests.conftest import Broker
from tests.ops.audit_world import Record
from topics.registry import BY_NAME, INGEST, TOPICS, largest_record

NOTHING: Mapping[str, str] = {}


def settings_of(*flags: str) -> Settings:
    """As a command with `--set` has them."""
    return load(flags=flags, environment=NOTHING).settings


# --- where values come from


def test_later_sources_win(tmp_path: Path) -> None:
    """Preset, local installation, file, environment, flags; each value remembers its own."""
    file = tmp_path / "beefline.toml"
    file.write_text('[topics]\nreplication = 2\nmin_isr = 2\n[log]\nlevel = "debug"\n')
    environment = {"BEEFLINE_LOG_LEVEL": "error", "BEEFLINE_RETRY_GIVE_UP_AFTER_S": "60", "HOME": "/"}
    loaded = load(
        config=file, network="dev", local=["kafka.bootstrap=127.0.0.1:1", "log.level=info"],
        flags=["retry.give_up_after_s=30"], environment=environment,
    )  # fmt: skip
    settings, origins = loaded.settings, loaded.origins
    assert (settings.topics.replication, origins["topics.replication"]) == (2, str(file))
    assert (settings.log.level, origins["log.level"]) == ("error", "environment BEEFLINE_LOG_LEVEL")
    assert (settings.retry.give_up_after_s, origins["retry.give_up_after_s"]) == (30.0, "flag")
    assert (settings.kafka.bootstrap, origins["kafka.bootstrap"]) == ("127.0.0.1:1", "local installation")
    assert load(network="dev", environment=NOTHING).origins["topics.replication"] == "network dev"
    assert "worker.http_port" not in origins


@pytest.mark.setting("headers.checkpoint")
@pytest.mark.setting("headers.easiest_bits")
@pytest.mark.parametrize(("network", "height", "easiest"), [("main", 556_767, 2**30), ("test", 1_188_697, 1)])
def test_each_network_has_its_checkpoint_and_its_floor(network: Network, height: int, easiest: int) -> None:
    """In difficulty, as nodes print it; the simulated chain's are the installation's matter."""
    headers = load(network=network, environment=NOTHING).settings.headers
    checkpoint, rules = checkpoint_of(headers.checkpoint), rules_of(headers.easiest_bits)
    assert checkpoint.height == height
    assert int.from_bytes(checkpoint.hash, "little") <= rules.easiest  # it has the work it asks of others
    assert round((0xFFFF << 208) / rules.easiest) == easiest


def test_the_simulated_chain_keeps_the_rules_of_its_network(tmp_path: Path) -> None:
    """What the installation names as checkpoint is where the headers of its services begin."""
    chain = Chain.open(tmp_path / "chain")
    settings = load(network="dev", local=[f"headers.checkpoint={chain.begins}"], environment=NOTHING).settings
    checkpoint, rules = checkpoint_of(settings.headers.checkpoint), rules_of(settings.headers.easiest_bits)
    headers = chain.headers()
    assert standing(b"".join(headers), checkpoint, rules) == len(headers) - 1


def test_file_and_network_may_be_named_in_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "b.toml"
    file.write_text('[topics]\nprefix = "x."\n')
    found = load(environment={"BEEFLINE_CONFIG": str(file), "BEEFLINE_NETWORK": "dev"}).settings
    assert (found.topics.prefix, found.topics.replication) == ("x.", 1)


@pytest.mark.parametrize(
    ("flags", "environment", "said"),
    [
        (["log.levle=info"], {}, r"log\.levle: no such setting \(flag\); do you mean log\.level\?"),
        ([], {"BEEFLINE_LOG_LEVLE": "info"}, r"BEEFLINE_LOG_LEVLE: no such setting .*do you mean log\.level\?"),
        (["log.level=loud"], {}, r"log\.level = 'loud' \(flag\): Invalid enum value"),
        (["worker.fault_limit=0"], {}, r"worker\.fault_limit = '0' \(flag\): Expected `int` >= 1"),
        ([], {"BEEFLINE_WORKER_FAULT_LIMIT": "many"}, r"environment BEEFLINE_WORKER_FAULT_LIMIT"),
        (["worker"], {}, "'worker': a flag is section.name=value"),
        (["topics.min_isr=3", "topics.replication=2"], {}, "min_isr is above topics.replication"),
        (["policy.max_payload_bytes=2048"], {}, "follows topics.max_payload_bytes"),
        (["topics.prefix=Beef"], {}, r"topics\.prefix = 'Beef'"),
        ([], {"BEEFLINE_NETWORK": "moon"}, "network 'moon': there are main, test, dev"),
    ],
)
def test_what_cannot_be_is_refused_by_name(flags: list[str], environment: dict[str, str], said: str) -> None:
    """The key, what is wrong, and where it was set."""
    with pytest.raises(BadSettings, match=said):
        load(flags=flags, environment=environment)


@pytest.mark.parametrize("text", ["not toml [", 'prefix = "x."\n', '[topics]\nprefx = "x."\n', "[log]\nlevel = 3\n"])
def test_a_bad_file_is_refused_by_name(text: str, tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(text)
    with pytest.raises(BadSettings, match=r"bad\.toml"):
        load(config=file, environment=NOTHING)
    with pytest.raises(BadSettings, match=r"none\.toml"):
        load(config=tmp_path / "none.toml", environment=NOTHING)


def test_lists_are_texts_joined_by_commas() -> None:
    assert settings_of("parse.default_topics= tm_a, tm_b,").parse.default_topics == ("tm_a", "tm_b")


def test_flags_of_a_child_give_it_the_same_settings(tmp_path: Path) -> None:
    """What a worker is started with: every value that is no default, whatever its type."""
    file = tmp_path / "b.toml"
    file.write_text('[apply]\ntopics = ["tm_a", "tm_b"]\n[kafka]\nssl_check_hostname = false\n')
    loaded = load(config=file, network="test", flags=["trace.sample_ratio=0.5"], environment=NOTHING)
    assert load(flags=flags_of(loaded), environment=NOTHING).settings == loaded.settings


def test_knobs_are_all_settings_with_a_type_and_a_variable() -> None:
    found = {knob.key: knob for knob in knobs()}
    for section in Settings.__struct_fields__:
        for name in type(getattr(Settings(), section)).__struct_fields__:
            knob = found.pop(f"{section}.{name}")
            assert knob.default == getattr(getattr(Settings(), section), name)
            assert knob.variable == f"BEEFLINE_{section}_{name}".upper()
            assert knob.type
    assert found == {}


def test_presets_name_settings_that_exist() -> None:
    for network in PRESETS:
        load(network=network, environment=NOTHING)


# --- topics


@pytest.mark.setting("kafka.bootstrap")
async def test_bootstrap_says_where_the_cluster_is(broker: Broker, prefix: str) -> None:
    """The first address may be down."""
    settings = settings_of(f"kafka.bootstrap=127.0.0.1:1,{broker.bootstrap}", f"topics.prefix={prefix}")
    assert (await look(settings.kafka, settings.topics)).id
    nowhere = settings_of("kafka.bootstrap=127.0.0.1:1")
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1"):
        await look(nowhere.kafka, nowhere.topics)


@pytest.mark.broker
@pytest.mark.setting("topics.replication")
@pytest.mark.setting("topics.min_isr")
async def test_replication_and_min_isr_are_the_topics(broker: Broker, prefix: str) -> None:
    """One broker can keep one copy; more are refused, and fewer in-sync copies than declared are told."""
    one = settings_of(
        f"kafka.bootstrap={broker.bootstrap}", f"topics.prefix={prefix}", "topics.replication=1", "topics.min_isr=1"
    )
    await create(one.kafka, one.topics)
    async with admin(one.kafka) as client:
        (described,) = await client.describe_topics([INGEST.named(prefix)])
    assert {len(partition["replicas"]) for partition in described["partitions"]} == {1}
    cluster = await look(one.kafka, one.topics)
    assert cluster.configs["ingest"]["min.insync.replicas"] == "1"
    assert compare(cluster, one.topics) == []
    two = settings_of(
        f"kafka.bootstrap={broker.bootstrap}", f"topics.prefix=two{prefix}", "topics.replication=2", "topics.min_isr=2"
    )
    with pytest.raises(KafkaError, match=r"[Rr]eplication"):
        await create(two.kafka, two.topics)
    wider = compare(cluster, settings_of(f"topics.prefix={prefix}", "topics.replication=3", "topics.min_isr=2").topics)
    assert {difference.what for difference in wider} == {"min.insync.replicas is 1, at least 2 is declared"}
    assert len(wider) == len(TOPICS)


@pytest.mark.setting("topics.max_payload_bytes")
@pytest.mark.setting("policy.max_payload_bytes")
def test_one_limit_for_payloads_sizes_topics_and_parser() -> None:
    """Set once: the parser refuses above it, topics and producers take records that hold it."""
    small, large = settings_of("topics.max_payload_bytes=1024"), settings_of()
    assert (small.policy.max_payload_bytes, large.policy.max_payload_bytes) == (1024, 8 << 20)
    at_limit, above = b"\x07" * 1024, b"\x07" * 1025
    assert code_of(parse(at_limit, small.policy)) == "malformed.magic"
    assert code_of(parse(above, small.policy)) == "malformed.too-large"
    assert code_of(parse(above, large.policy)) == "malformed.magic"
    outbox = Outbox(None, "", {}, small.topics.max_payload_bytes)
    assert largest_record(1024) < 1 << 20
    for name in ("ingest", "results"):
        topic = BY_NAME[name]
        outbox.check([Out(topic, b"", at_limit)])
        with pytest.raises(TooLarge):
            outbox.check([Out(topic, b"", bytes(topic.max_bytes(1024)))])


# --- parse


@pytest.mark.setting("parse.default_topics")
def test_default_topics_are_those_of_who_names_none() -> None:
    beef = payment().v1()

    def contexts(*flags: str, headers: tuple[tuple[str, bytes], ...] = ()) -> tuple[str, ...] | str:
        settings = settings_of(*flags)
        stage = Parse(settings.parse, settings.policy, "cluster")
        decision = stage.decide(Record("beef.ingest", 0, b"k", beef, list(headers)), None, 0)
        if isinstance(decision, Refuse):
            return decision.verdict.code
        assert isinstance(decision, Emit)
        return PARSED_SCHEMA.decode(decision.outs[0].value).asked.contexts

    assert contexts() == ("topic:tm_anytx",)
    assert contexts("parse.default_topics=tm_a,tm_b") == ("topic:tm_a", "topic:tm_b")
    assert contexts("parse.default_topics=tm_a", headers=((h.TOPICS, b'["tm_c"]'),)) == ("topic:tm_c",)
    assert contexts("parse.default_topics=") == "admission.no-context"


# --- policy


def code_of(said: object) -> str:
    return said.code if isinstance(said, Verdict | Condition) else ""


def judged(made: Bag | bytes, *flags: str, tip: Tip = TIP) -> str:
    """The code a payload gets, empty when it is valid, trackers saying yes to everything."""
    policy = settings_of(*flags).policy
    payload = parse(made if isinstance(made, bytes) else made.v1(), policy)
    if not isinstance(payload, Payload):
        return payload.code
    answers = dict.fromkeys(payload.roots, Answer.YES)
    planned = plan(payload, policy, tip)
    if isinstance(planned, Verdict):
        return planned.code
    results = {result.key: result for result in run_jobs(planned.jobs, policy.script_budget_ms * STEPS_PER_MS)}
    said = verify(payload, answers, results, tip, policy)
    assert isinstance(said, Valid | Verdict | Condition)
    return code_of(said)


def unlocked_by(locking: bytes, unlocking: bytes = b"", version: int = 1, height: int = 950_000) -> Bag:
    """A payload whose one script is given."""
    parent = funding(Output(1000, locking))
    child = spend([In(parent, unlock=by_script(unlocking))], [Output(900)], version=version)
    return bag(parent, child, proven=[parent], height=height)


@pytest.mark.setting("policy.form")
def test_form_decides_what_is_mended() -> None:
    """A repeated entry: honest senders write some."""
    made = payment()
    made.txs.insert(0, made.txs[0])
    assert judged(made) == ""
    assert judged(made, "policy.form=strict") == "structure.repeated"


@pytest.mark.setting("policy.max_transactions")
@pytest.mark.setting("policy.max_bumps")
@pytest.mark.setting("policy.max_depth")
@pytest.mark.setting("policy.max_inputs")
@pytest.mark.setting("policy.max_outputs")
@pytest.mark.parametrize(
    ("name", "made", "enough"),
    [
        ("max_transactions", chain(3), 4),
        ("max_depth", chain(3), 3),
        ("max_inputs", chain(3), 3),
        (
            "max_inputs",
            bag(two := funding(Output(9), Output(9)), spend([In(two, 0), In(two, 1)], [Output(18)]), proven=[two]),
            2,
        ),
        ("max_outputs", bag(many := funding(), spend([In(many)], [Output(10)] * 5), proven=[many]), 5),
        (
            "max_bumps",
            bag(one := funding(salt=1), two := funding(salt=2), spend([In(one), In(two)]), proven=[one, two]),
            2,
        ),
    ],
)
def test_limits_of_a_payload(name: str, made: Bag, enough: int) -> None:
    """Enough is taken, one less is refused."""
    assert judged(made, f"policy.{name}={enough}") == ""
    assert judged(made, f"policy.{name}={enough - 1}") == "policy.limits"


@pytest.mark.setting("policy.max_script_bytes")
def test_scripts_that_run_may_be_so_long() -> None:
    made = unlocked_by(push(b"\x07" * 100) + b"\x75\x51")
    assert judged(made, "policy.max_script_bytes=104") == ""
    assert judged(made, "policy.max_script_bytes=103") == "policy.limits"


@pytest.mark.setting("policy.script_budget_ms")
def test_scripts_may_cost_so_much() -> None:
    """Counted in steps: the same verdict on every machine."""
    work = unlocked_by(push(b"\x07" * 500) + b"\x76\xaa\x75" * 2000 + b"\x75\x51")
    assert judged(work) == ""
    assert judged(work, "policy.script_budget_ms=1") == "policy.script-budget"


@pytest.mark.setting("policy.script_memory_bytes")
def test_scripts_may_hold_so_much() -> None:
    """Doubling an element of a hundred bytes ten times makes 100 kB."""
    grows = unlocked_by(push(b"\x07" * 100) + b"\x76\x7e" * 10 + b"\x75\x51")
    assert judged(grows) == ""
    assert judged(grows, "policy.script_memory_bytes=50000") == "policy.script-budget"


@pytest.mark.setting("policy.inline_signatures")
def test_many_signatures_go_to_the_sandbox() -> None:
    """One signature is checked in the stage; where none may be, it is a job. The answer is the same."""
    payload = parse(payment().v1(), Policy())
    assert isinstance(payload, Payload)
    for flag, jobs in (("policy.inline_signatures=1", 0), ("policy.inline_signatures=0", 1)):
        planned = plan(payload, settings_of(flag).policy, TIP)
        assert isinstance(planned, Plan)
        assert len(planned.jobs) == jobs
        assert judged(payment(), flag) == ""


@pytest.mark.setting("policy.fee_sat_per_kb")
@pytest.mark.setting("policy.fee_rule")
def test_fees_have_a_floor_where_one_is_set() -> None:
    """A satoshi for 190 bytes. A child that pays for its parent is enough, unless each must pay."""
    pays_one = payment()
    assert judged(pays_one) == ""
    assert judged(pays_one, "policy.fee_sat_per_kb=5") == ""
    assert judged(pays_one, "policy.fee_sat_per_kb=50") == "policy.fee"
    first = funding(Output(10_000))
    free = spend([In(first)], [Output(10_000)])
    generous = spend([In(free)], [Output(9_000)])
    family = bag(first, free, generous, proven=[first])
    assert judged(family, "policy.fee_sat_per_kb=50") == ""
    assert judged(family, "policy.fee_sat_per_kb=50", "policy.fee_rule=each") == "policy.fee"


P2SH_OF_FALSE = b"\xa9\x14" + builders.hash160(b"\x00") + b"\x87"


@pytest.mark.setting("policy.genesis_height")
def test_coins_older_than_genesis_follow_the_rules_of_their_day() -> None:
    """Pay to script hash is one: the script that was hashed runs only for coins made before."""
    made = unlocked_by(P2SH_OF_FALSE, push(b"\x00"), height=950_000)
    assert judged(made) == ""
    assert judged(made, "policy.genesis_height=950001") == "script.false"


@pytest.mark.setting("policy.chronicle_height")
def test_scripts_are_relaxed_from_chronicle_on() -> None:
    """An unlocking script that computes, in a transaction of version 2: taken when the next block is Chronicle's."""
    made = unlocked_by(b"\x52\x87", b"\x51\x51\x93", version=2)
    assert judged(made) == ""
    assert judged(made, f"policy.chronicle_height={TIP.height + 2}") == "script.malformed"


@pytest.mark.setting("policy.coinbase_maturity")
def test_new_coins_ripen() -> None:
    """Ten blocks deep: too young for the network, ripe where ten are enough."""
    parent = coinbase(TIP.height - 9)
    child = spend([In(parent)], [Output(4_999_999_999)])
    made = bag(parent, child, proven=[parent], height=TIP.height - 9)
    # A coinbase is the first leaf of its block.
    made.proofs[parent.txid] = builders.path(parent.txid, TIP.height - 9, 12, offset=0)
    assert judged(made) == "anchor.immature"
    assert judged(made, "policy.coinbase_maturity=10") == ""


# --- supervisor


async def waits_of(count: int, *flags: str) -> list[float]:
    """Seconds from one start to the next of a child that ends at once, so many times."""
    supervisor = Supervisor([Spec("child", (sys.executable, "-S", "-c", ""))], settings_of(*flags).supervisor)
    supervisor.start()
    child = supervisor.child("child")
    found: list[float] = []
    try:
        async with asyncio.timeout(30):
            while len(found) <= count:
                await child.started.wait()
                child.started.clear()
                found.append(time.monotonic())
    finally:
        await supervisor.stop()
    return [later - earlier for earlier, later in pairwise(found)]


DOUBLED = sum(0.05 * 2**n for n in range(8))
"""Seconds that eight waits take when each is twice the one before: 12.75. Starting a child takes a tenth of one."""


@pytest.mark.setting("supervisor.backoff_s")
@pytest.mark.setting("supervisor.backoff_max_s")
async def test_a_child_that_ends_is_started_again_after_waits_that_grow_to_a_limit() -> None:
    waits = await waits_of(8, "supervisor.backoff_s=0.05", "supervisor.backoff_max_s=0.15")
    assert all(wait >= least for wait, least in zip(waits, (0.05, 0.1, *[0.15] * 6), strict=True))
    assert sum(waits) < DOUBLED


@pytest.mark.setting("supervisor.healthy_after_s")
async def test_a_child_that_ran_long_enough_begins_with_the_first_wait() -> None:
    """Whoever ran for a moment is healthy here: the wait never grows."""
    flags = ("supervisor.backoff_s=0.05", "supervisor.backoff_max_s=60", "supervisor.healthy_after_s=0.0001")
    waits = await waits_of(8, *flags)
    assert all(wait >= 0.05 for wait in waits)
    assert sum(waits) < DOUBLED
