"""Verdicts and conditions, and the one table of codes.

A verdict is about the payload and final; a condition may pass. Both are returned. A fault is ours and is raised.
"""

from typing import Literal

from msgspec import Struct

Kind = Literal["verdict", "condition", "fault"]
Scope = Literal["record", "context", "world"]


class Code(Struct, frozen=True):
    """A row of the table: what happened, and what the sender can do."""

    code: str
    kind: Kind
    meaning: str
    do: str
    arc: int | None = None  # the matching ARC error number, where there is one
    scope: Scope = "record"  # of a condition: one record waits, a context's records wait, or the stage pauses


class Verdict(Struct, frozen=True):
    """Final for these bytes under this policy and chain: asking again cannot help the sender."""

    code: str  # a row of CODES
    message: str = ""
    at: str = ""  # where in the payload: "tx 3 input 0", "byte 217"


class Condition(Struct, frozen=True):
    """May pass: the record is tried again later."""

    code: str
    message: str = ""
    at: str = ""


def _verdict(code: str, meaning: str, do: str, arc: int | None = None) -> Code:
    return Code(code, "verdict", meaning, do, arc)


def _condition(code: str, meaning: str, do: str, arc: int | None = None, scope: Scope = "record") -> Code:
    return Code(code, "condition", meaning, do, arc, scope)


def _fault(code: str, meaning: str) -> Code:
    return Code(code, "fault", meaning, "Nothing: the operator is told, and replays the dead letter once it is mended.")


_REBUILD = "Build the payload again; its bytes are not what the format says."
_RESIGN = "Build and sign the transaction again."
_WAIT = "Nothing: it is tried again."

CODES: tuple[Code, ...] = (
    # --- the bytes
    _verdict("malformed.empty", "The record has no bytes.", "Put the BEEF into the record's value.", 400),
    _verdict("malformed.too-large", "The payload is larger than this installation takes.", "Send less at once; the limit stands in the message.", 474),
    _verdict("malformed.compression", "A compressed batch of records cannot be read, or holds more than a worker unpacks.", "Send smaller batches, or uncompressed.", 400),
    _verdict("malformed.magic", "The bytes begin like no BEEF.", "Send BEEF V1, V2 or Atomic, as bytes and not as hex or JSON.", 468),
    _verdict("malformed.truncated", "The bytes end before the payload does.", _REBUILD, 468),
    _verdict("malformed.trailing-bytes", "Bytes follow the end of the payload.", _REBUILD, 468),
    _verdict("malformed.varint", "A number is not written in its shortest form.", _REBUILD, 468),
    _verdict("malformed.count", "A count promises more than the bytes can hold.", _REBUILD, 468),
    _verdict("malformed.format-byte", "A transaction's format byte is not one the version knows.", _REBUILD, 468),
    _verdict("malformed.line", "A line of a batch is not JSON with a hexadecimal `beef`.", "Send `{\"id\": …, \"beef\": \"hex\"}` a line.", 400),
    _verdict("malformed.headers", "A record header does not hold what it should.", "Correct the header named in the message.", 400),
    _verdict("malformed.baskets", "The `baskets` header is not what BRC-100 allows: the message says where.", "Correct the header.", 400),
    _verdict("malformed.request", "A request is not JSON of the form that `requests` takes: the message says where.", "Correct it, and send it under another id.", 400),
    _verdict("malformed.contexts", "The `topics` header is not a JSON array of BRC-87 names.", "Correct the header.", 400),
    # --- how the parts fit together
    _verdict("structure.no-transactions", "The payload holds no transaction.", "Send the transaction and its ancestors.", 468),
    _verdict("structure.subject-missing", "The subject that Atomic BEEF names is not in it as bytes.", _REBUILD, 468),
    _verdict("structure.subject-unclear", "Several transactions of a bag have no child, or the last is not the tip.", "Use Atomic BEEF (BRC-95), or send one tip.", 468),
    _verdict("structure.nested-atomic", "Atomic BEEF inside Atomic BEEF.", _REBUILD, 468),
    _verdict("structure.unrelated", "A transaction that is neither the subject nor its ancestor.", "Leave it out; `lenient` drops it.", 468),
    _verdict("structure.unused-bump", "A proof that no transaction uses.", "Leave it out.", 468),
    _verdict("structure.txid-only", "An ancestor is named by its txid alone, and it is not one we verified.", "Send its bytes.", 475),
    _verdict("structure.missing-parent", "An un-mined transaction spends one that is not in the payload.", "Send its ancestors down to proven ones.", 460),
    _verdict("structure.order", "A child stands before its parent.", "Put ancestors first; `lenient` sorts them.", 468),
    _verdict("structure.repeated", "One transaction twice, with different content or proof.", _REBUILD, 468),
    _verdict("structure.tx-size", "A transaction shorter than 61 bytes, or of 64 bytes, which could pose as a node of a Merkle tree.", _REBUILD, 463),
    _verdict("structure.no-inputs", "An un-mined transaction without inputs.", _RESIGN, 462),
    _verdict("structure.no-outputs", "A transaction without outputs.", _RESIGN, 464),
    _verdict("structure.coinbase", "An un-mined transaction that looks like a coinbase, or a coinbase off its place.", _RESIGN, 462),
    _verdict("structure.input-missing", "An input names an output that its parent does not have.", _RESIGN, 462),
    _verdict("structure.double-spend", "Two inputs of the payload spend one output.", _RESIGN, 466),
    _verdict("structure.bump-index", "A proof index beyond the list of proofs.", _REBUILD, 468),
    _verdict("structure.bump-leaf", "A Merkle path's leaf is out of place: its level, offset, flag or order.", _REBUILD, 468),
    _verdict("structure.bump-height", "A Merkle path of no level, or of more levels than a block can have.", _REBUILD, 468),
    _verdict("structure.bump-missing", "A Merkle path lacks a hash that its root needs.", _REBUILD, 468),
    _verdict("structure.bump-duplicate", "A Merkle path pairs a hash with itself where no tree does.", _REBUILD, 468),
    _verdict("structure.bump-roots", "The leaves of one Merkle path, or of two for one block, give different roots.", _REBUILD, 469),
    _verdict("structure.not-in-bump", "A transaction that claims a proof is not among its leaves.", _REBUILD, 468),
    # --- scripts and values
    _verdict("script.false", "An unlocking script does not satisfy its locking script.", _RESIGN, 461),
    _verdict("script.malformed", "A script breaks a rule of its form: pushes, signature encoding, opcode.", _RESIGN, 461),
    _condition("script.busy", "As many payloads wait for a script process as may, or the machine gave it no time.", _WAIT),
    _verdict("value.range", "An output's value, or their sum, is beyond 21 million coins.", _RESIGN, 464),
    _verdict("value.inflation", "A transaction's outputs are worth more than its inputs.", _RESIGN, 462),
    # --- the chain
    _verdict("anchor.wrong-root", "A proof's root is not that of the block at its height.", "Ask for the proof again; the block may have been replaced.", 469),
    _verdict("anchor.immature", "A coinbase is spent before 100 blocks have passed.", "Send it again when it is mature.", 462),
    _condition("anchor.unknown", "Too few chain trackers know the block.", _WAIT, 469),
    _condition("structure.ancestor-unknown", "An ancestor is named by its txid alone, and it cannot be said yet whether we verified it.", _WAIT, 475),
    _condition("anchor.above-tip", "The proof's block is above the best header we know.", _WAIT, 469),
    _condition("anchor.no-quorum", "Too few chain trackers answer.", _WAIT, None, "world"),
    _condition("finality.not-final", "A lock time lies ahead.", _WAIT, 476),
    # --- policy
    _verdict("policy.limits", "More transactions, proofs or levels than this installation takes.", "Send a shorter chain of ancestors.", 474),
    _verdict("policy.contexts", "More than 32 contexts.", "Name fewer.", 400),
    _verdict("policy.fee", "The fee is below the floor, or below what the endpoints publish.", "Pay more.", 465),
    _verdict("policy.script-budget", "The scripts need more time or memory than they may have.", "Use scripts that cost less.", 461),
    _verdict("policy.reservations", "As many reservations of the owner stand, or hold as many outputs, as may.", "Release what is not needed."),
    # --- contexts
    _verdict("admission.no-context", "No topic or basket was named.", "Name one; `tm_anytx` just verifies and broadcasts.", 400),
    _verdict("admission.not-paid", "An output does not pay the owner it is said to pay (BRC-29).", "Check the derivation, or the linkage.", 400),
    _verdict("admission.change", "An output is change of the wallet's own basket: none can be put elsewhere.", "Leave it out.", 400),
    _verdict("admission.nothing", "A context makes nothing of the transaction, and all were to take it or none.", "Name the contexts it is for, or ask for each by itself.", 400),
    _verdict("admission.unknown-topic", "No such overlay topic is hosted here.", "Ask a host of that topic.", 400),
    _verdict("admission.late-request", "The request waited for longer than answers are kept for certain.", "Send it again, under another id."),
    _condition("conflict.undecided", "Another transaction spends the same output, and the network has not decided.", _WAIT),
    _verdict("conflict.double-spend", "The network took another transaction that spends the same output.", "Spend another output.", 466),
    _verdict("conflict.already-applied", "This transaction was applied with other off-chain values.", "Nothing; the first ones stand."),
    _verdict("conflict.unsent", "Nobody sent this transaction to the network, and another that spends the same output came.", "Nothing; the other stands.", 466),
    _verdict("conflict.reservation-lost", "The reservation has ended, or another one holds the output; or it was not named with its token.", "Reserve again, and spend before the lease ends."),
    _verdict("conflict.too-few", "Fewer outputs are free than were asked for: none was reserved.", "Ask for fewer, or again later."),
    _verdict("conflict.not-free", "Outputs that were named are spent, reserved, contested, or in no basket: none was reserved.", "Name others, or ask again later."),
    _verdict("conflict.request-id", "A request of that id asked for something else.", "Take a new id for each request."),
    _verdict("conflict.evicted", "The network had refused this transaction, or one it descends from.", "Build another.", 466),
    # --- the network
    _verdict("network.rejected", "The network refused the transaction.", "Read the message; build another.", 463),
    _verdict("network.malformed", "An endpoint cannot read the transaction, though we can.", "Tell the operator.", 463),
    _verdict("network.script", "An endpoint says that a script is false or malformed.", _RESIGN, 461),
    _verdict("network.inputs", "An endpoint says that inputs are malformed.", _RESIGN, 462),
    _verdict("network.outputs", "An endpoint says that outputs are invalid.", _RESIGN, 464),
    _verdict("network.fee", "The fee is below what the endpoints take.", "Pay more.", 465),
    _verdict("network.double-spend", "The network knows another transaction that spends the same output.", "Spend another output.", 466),
    _verdict("network.frozen", "The output is frozen.", "Spend another output.", 471),
    _verdict("network.too-large", "The transaction is larger than the endpoints take.", "Send less at once.", 474),
    _condition("network.contested", "The network has seen another transaction that spends the same output, and has not decided.", _WAIT),
    _condition("network.orphan", "The network misses an ancestor.", _WAIT, 460),
    _condition("network.not-final", "The network says that a lock time lies ahead.", _WAIT, 476),
    _condition("network.undecided", "No endpoint has given an answer that decides.", _WAIT),
    _condition("network.no-endpoint", "No endpoint is available.", _WAIT, None, "world"),
    # --- ours
    _condition("internal.deadline", "Not all contexts of an operation over several voted in time.", _WAIT),
    _condition("internal.no-broker", "A record is to be read where it stands, and no broker answers.", _WAIT, None, "world"),
    _condition("internal.suspended", "The topic's manager takes too long or fails again and again: its context is suspended.", _WAIT, None, "context"),
    _condition("internal.manager-busy", "As many payloads wait for a topic's manager to examine them as may.", _WAIT, None, "context"),
    _fault("internal.fault", "A stage failed on this record."),
    _fault("internal.manager-raised", "The topic's manager raised on this record, or answered what none may."),
    _fault("internal.manager-overran", "The topic's manager was ended at its time limit on this record."),
    _fault("internal.manager-ended", "The topic's manager ended its process on this record, or took more memory than it may have."),
    _fault("internal.killed", "This record ended the process of a stage, more than once."),
    _fault("internal.payload-gone", "A payload was to be heard again, and `ingest` no longer has it."),
    _fault("internal.too-large", "A record made from this one is larger than its topic takes."),
    _fault("internal.undecodable", "An internal record does not hold what its topic declares."),
    _fault("internal.unknown-version", "An internal record is of a version this program does not know."),
)  # fmt: skip

BY_CODE = {row.code: row for row in CODES}


def from_arc(number: int) -> str:
    """The code of a refusal that an endpoint expresses as an ARC number; `network.undecided` when it decides nothing.

    Source: ARC pkg/api status codes 460-475, Arcade 467 and 476.
    """
    return ARC.get(number, "network.undecided")


ARC: dict[int, str] = {
    400: "network.malformed",
    460: "network.orphan",
    461: "network.script",
    462: "network.inputs",
    463: "network.malformed",
    464: "network.outputs",
    465: "network.fee",
    466: "network.double-spend",
    468: "network.malformed",
    471: "network.frozen",
    472: "network.frozen",
    473: "network.fee",
    474: "network.too-large",
    475: "network.orphan",
    476: "network.not-final",
}
