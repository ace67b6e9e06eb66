"""The stages by name: how each is put together from the settings."""

import asyncio
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agents.runtime.cluster import Cluster, look
from agents.runtime.outcomes import Router
from agents.runtime.partition import AtomicStage, Lanes
from agents.runtime.stage import Runner, Stage
from agents.runtime.trace import Tracer
from agents.runtime.worker import Runs, Worker, check_declared
from ops.running import run_dir
from ops.settings import Settings
from schemas.types import Context
from topics.registry import EVENTS, INGEST, JOURNAL, MEMBERS, OPERATIONS, STATE

if TYPE_CHECKING:
    from agents.replica import Replica

STAGES = ("parse", "verify", "apply", "coordinate", "broadcast", "status", "retry")
"""In the order a payload meets them."""


def make_stage(name: str, settings: Settings, cluster: Cluster) -> Any:
    """A stage, not started. Its module is imported here: each process holds one."""
    match name:
        case "parse":
            from agents.parse import Parse

            return Parse(settings.parse, settings.policy, cluster.id)
        case "verify":
            from agents.runtime.ancestors import Ancestors
            from agents.runtime.examining import Examiners
            from agents.verify import Verify

            ancestors = None
            if settings.policy.txid_only == "resolve":
                folder = Path(settings.worker.data_dir, "verify", "ancestors")
                partitions = cluster.partitions[OPERATIONS.name]
                ancestors = Ancestors("verify", settings.kafka, settings.topics, settings.policy, folder, partitions)
            return Verify(
                settings.policy,
                settings.trackers,
                settings.http,
                settings.sandbox,
                settings.headers,
                settings.worker.data_dir,
                ancestors,
                Examiners("verify", settings.apply, settings.sandbox.processes, settings.worker.fault_limit),
            )
        case "apply":
            from agents.apply import ApplyStage

            return ApplyStage(settings.apply, settings.worker.fault_limit)
        case "coordinate":
            from agents.coordinate import Coordinate

            return Coordinate(settings.coordinate)
        case "broadcast":
            from agents.broadcast import Broadcast

            return Broadcast(settings.broadcast, settings.http)
        case "status":
            from agents.status import Status

            return Status(
                settings.status,
                settings.broadcast,
                settings.http,
                settings.trackers,
                settings.headers,
                settings.worker.data_dir,
            )
        case "retry":
            from agents.parse import Parse
            from agents.retry import Retry
            from agents.runtime.places import Places

            partitions = cluster.partitions.get(INGEST.name, 0)
            ingest = Places(settings.kafka, INGEST.named(settings.topics.prefix), partitions)
            return Retry(Parse(settings.parse, settings.policy, cluster.id), ingest)
    raise ValueError(f"no stage {name!r}; there are {', '.join(STAGES)}")


def make_worker(name: str, settings: Settings) -> Worker:
    """The worker of a stage.

    Raises:
        agents.runtime.cluster.Unreachable: no broker answers.
        agents.runtime.worker.NotAsDeclared: a topic is missing or narrower than declared.
        agents.runtime.health.NeedsToken: the port is bound wide without a token.
    """
    cluster = asyncio.run(look(settings.kafka, settings.topics))
    return worker_of(make_stage(name, settings, cluster), settings, cluster)


def make_replica(contexts: Collection[Context], settings: Settings) -> "Standalone":
    """A replica of some contexts.

    Raises:
        agents.runtime.cluster.Unreachable: no broker answers.
        agents.runtime.worker.NotAsDeclared: a topic it reads is missing or narrower than declared.
        agents.runtime.health.NeedsToken: the port is bound wide without a token.
    """
    from agents.replica import Replica

    cluster = asyncio.run(look(settings.kafka, settings.topics))
    check_declared(cluster, settings.topics, (STATE, JOURNAL, OPERATIONS, MEMBERS, EVENTS))
    return Standalone(lambda: Replica(contexts, cluster, settings.kafka, settings.topics, settings.worker, run_dir()))


class Standalone:
    """A process without Faust."""

    def __init__(self, make: Callable[[], "Replica"]) -> None:
        self._make = make

    def run(self) -> None:
        """Until it is told to stop, or fails."""

        async def work() -> None:
            await self._make().run()

        asyncio.run(work())


def worker_of(stage: Any, settings: Settings, cluster: Cluster) -> Worker:
    """The worker of a stage that is made already. Raises as `make_worker`."""
    changelog = getattr(stage, "changelog", None)
    uses = (
        *stage.outputs,
        EVENTS,
        *((changelog,) if changelog else ()),
        *((MEMBERS,) if changelog and stage.form.shared else ()),
    )
    return Worker(
        stage.name,
        stage.inputs,
        uses,
        cluster,
        settings.kafka,
        settings.topics,
        settings.worker,
        restores=changelog is not None,
        looks_into=getattr(stage, "looks_into", ()),
        make=_driver(stage, settings, cluster),
        run_dir=run_dir(),
        codes=stage_codes(stage),
    )


def _driver(stage: Any, settings: Settings, cluster: Cluster) -> Callable[[Worker], tuple[Runs, Any, Any]]:
    def make(worker: Worker) -> tuple[Runs, Any, Any]:
        router = Router(stage.name, settings.topics.prefix, int(settings.retry.give_up_after_s * 1000))
        tracer = Tracer(stage.name, settings.trace)
        if hasattr(stage, "tell_to"):
            stage.tell_to(worker.desk.tell)
        if hasattr(stage, "changelog"):
            atomic: AtomicStage = stage
            lanes = Lanes(
                atomic,
                worker.desk,
                router,
                tracer,
                settings.kafka,
                settings.topics,
                settings.worker,
                cluster.partitions,
            )
            return lanes, stage.start, _stopping(stage, tracer)
        plain: Stage[Any] = stage
        runner = Runner(
            plain,
            worker.desk,
            router,
            tracer,
            batch_records=settings.worker.batch_records,
            fault_limit=settings.worker.fault_limit,
            due=getattr(stage, "due", None),
            beside=getattr(stage, "beside", None),
            lift=getattr(stage, "lift", None),
            routes=getattr(stage, "add_to", None),
        )
        if hasattr(stage, "wake_by"):
            stage.wake_by(worker.desk.board.changed.set)
        return runner, stage.start, _stopping(stage, tracer)

    return make


def _stopping(stage: Any, tracer: Tracer) -> Callable[[], Any]:
    async def stop() -> None:
        await stage.stop()
        tracer.close()

    return stop


def stage_codes(stage: Any) -> list[tuple[str, str]]:
    """Outcomes a stage can count, for series that begin at 0."""
    from pipeline.outcome import CODES

    found = [("ok", code) for code in stage.went_well]
    return found + [("world" if row.scope == "world" else row.kind, row.code) for row in CODES]
