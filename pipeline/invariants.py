"""The promises: an ID and a sentence each. The line that keeps one and the test that holds us to it cite its ID."""

from msgspec import Struct


class Invariant(Struct, frozen=True):
    """A promise, and where it is kept."""

    id: str
    says: str
    kept_by: str


INVARIANTS: tuple[Invariant, ...] = (
    Invariant("ACK-1", "An input is acknowledged only after the broker acknowledged everything written for it.", "agents/runtime/stage.py"),
    Invariant("ACK-2", "Inputs of a partition finish in any order and are acknowledged in order.", "agents/runtime/ledger.py"),
    Invariant("ACK-3", "An idle stage's committed position is the end of its input, transaction markers included.", "agents/runtime/transport.py"),
    Invariant("ACK-4", "A position below the start of the log halts the stage; it never jumps.", "agents/runtime/transport.py"),
    Invariant("ASSIGN-1", "One member owns the same partition number of all topics a stage reads.", "agents/runtime/assignor.py"),
    Invariant("FAULT-1", "A record that makes a stage raise costs that record alone.", "agents/runtime/stage.py"),
    Invariant("FAULT-2", "A record that kills its process is found and costs that record alone.", "agents/runtime/suspects.py"),
    Invariant("SIZE-1", "A record over its topic's limit is dead-lettered, and its partition goes on.", "agents/runtime/outbox.py"),
    Invariant("RETRY-1", "A condition is tried again until `retry.give_up_after_s`, then parked; nothing is dropped.", "pipeline/retry.py"),
    Invariant("TXN-1", "All that a batch of an exactly-once stage emits stands in one Kafka transaction.", "agents/runtime/partition.py"),
    Invariant("TXN-2", "The applied offset in the changelog, not the consumer group, says where an exactly-once stage goes on.", "agents/runtime/partition.py"),
    Invariant("TXN-3", "A predecessor is fenced before the first read of its partition.", "agents/runtime/partition.py"),
    Invariant("TXN-4", "Any error from begin to commit ends the process.", "agents/runtime/partition.py"),
    Invariant("TXN-5", "Work that one transaction cannot hold goes on before the next input of its context, whatever crashes.", "agents/runtime/partition.py"),
    Invariant("STORE-1", "The local store is a cache: behind is caught up, different is rebuilt.", "agents/runtime/partition.py"),
    Invariant("STORE-2", "A stored value is checked against its hash when it is read.", "pipeline/state.py"),
    Invariant("STORE-3", "A local store that is not what was written is found by looking through it, and made again.", "agents/runtime/scrubber.py"),
    Invariant("COPY-1", "A partition goes to a worker with a fresh copy of its state, where there is one; others keep copies.", "agents/runtime/placement.py"),
    Invariant("COPY-2", "A copy compares its roots at the end of each batch; one that differs answers nothing, and is made again.", "agents/runtime/copies.py"),
    Invariant("COPY-3", "A replica computes every entry of its journal anew, and answers only while its copy has the roots of the entry it stands at.", "agents/replica.py"),
    Invariant("APPLY-1", "A (txid, context) is applied at most once, whatever Kafka delivers.", "pipeline/apply.py"),
    Invariant("APPLY-2", "An outpoint has one live spender in a context.", "pipeline/apply.py"),
    Invariant("APPLY-3", "The state of a context follows from the set it knows: what comes late has judged again whom it concerns.", "pipeline/judge.py"),
    Invariant("APPLY-4", "What left with a refused transaction comes back with it when the network takes it after all.", "pipeline/evict.py"),
    Invariant("ATOMIC-1", "An operation over several contexts is shown in all of them or in none: none shows it before it is decided, and it is decided once.", "pipeline/prepare.py"),
    Invariant("ATOMIC-2", "Every operation over several contexts comes to an end: no ring of waits, and no context that fails, keeps others' locks for ever.", "pipeline/coordinate.py"),
    Invariant("TOPIC-1", "A topic manager that raises, answers what none may, overruns or ends its process costs that record: it is never \"nothing admitted\".", "pipeline/overlay/manager.py"),
    Invariant("TOPIC-2", "What a manager examined follows from the transaction and the manager's version alone: whoever judges, and whenever, has the same facts.", "pipeline/overlay/manager.py"),
    Invariant("TOPIC-3", "A context whose manager takes too long or fails again and again waits, and it alone; its records come back as long as that lasts, and none is given up for it.", "agents/runtime/standing.py"),
    Invariant("BASKET-1", "In an owner's context a (txid, instruction) is followed once; a further instruction is a merge, and makes no change of what is change.", "pipeline/baskets.py"),
    Invariant("BASKET-2", "A basket's outputs, tags, fields and tallies follow from the coins of its context, at every entry of its journal.", "pipeline/listing.py"),
    Invariant("RESERVE-1", "An output is held by one reservation at most, and only while nothing known spends it: at every entry of the journal what is spent, free and held makes up what there is. Who spends it names who holds it, or is in a block.", "pipeline/reservations.py"),
    Invariant("RESERVE-2", "Every lease ends, by itself and in the journal, before anything else is decided in its context; a request takes effect once.", "pipeline/reservations.py"),
    Invariant("TOKEN-1", "Tokens of `tm_tokendemo` come out of their mint or out of coins of the topic, each counted once, and none is lost on the way.", "pipeline/overlay/builtin/tokendemo.py"),
    Invariant("JOURNAL-1", "A context's journal has sequences 1, 2, 3, …, each entry naming the hash of the one before.", "pipeline/contextual.py"),
    Invariant("READ-1", "A read names the sequence and roots it is of; a strong one is no older than what was committed when it came.", "agents/runtime/reads.py"),
    Invariant("RESULT-1", "One decision stands for each ingest record and context; its id follows from the coordinate.", "pipeline/results.py"),
    Invariant("FORM-1", "No bytes make the parser raise anything but its own verdict.", "pipeline/parse.py"),
    Invariant("SPEND-1", "No outpoint is spent twice within a payload.", "pipeline/verify.py"),
    Invariant("VALUE-1", "No un-mined transaction makes more than it spends.", "pipeline/verify.py"),
    Invariant("SCRIPT-1", "Every input of every un-mined transaction satisfies its parent's real script and value.", "pipeline/verify.py"),
    Invariant("ANCHOR-1", "Every proven ancestor's root was confirmed by a quorum of chain trackers.", "pipeline/verify.py"),
    Invariant("ANCHOR-2", "A transaction is mined when trackers vouch for a path of its own, and only as long as they do.", "pipeline/network.py"),
    Invariant("NAMED-1", "What is remembered of a named ancestor supplies bytes, never trust: completed, the payload is judged like any other.", "pipeline/verify.py"),
    Invariant("QUORUM-1", "Two equal definite answers of three decide.", "pipeline/chain/quorum.py"),
    Invariant("QUORUM-2", "Unknown is never no, and is never cached.", "pipeline/chain/quorum.py"),
    Invariant("CAST-1", "Ancestors are sent before their descendants.", "pipeline/broadcast.py"),
    Invariant("CAST-2", "One endpoint's acceptance is success; a fault of ours never fails a transaction.", "pipeline/broadcast.py"),
    Invariant("STATUS-1", "One acceptance by the network is success, whatever else is said and in whichever order it is heard.", "pipeline/network.py"),
    Invariant("STATUS-2", "A transaction is refused when nobody who counts thinks otherwise, and a second look finds no acceptance.", "pipeline/network.py"),
    Invariant("STATUS-3", "Of two that spend the same, the one in a block is right everywhere, as long as its block stands.", "pipeline/network.py"),
    Invariant("STATUS-4", "What the network accepted is handed on, also when broadcast had given it up.", "pipeline/network.py"),
    Invariant("PROC-1", "Children end when their parent does, however it ends.", "ops/supervisor.py"),
)  # fmt: skip

BY_ID = {invariant.id: invariant for invariant in INVARIANTS}
