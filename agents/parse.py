"""parse: what strangers wrote. Bytes to a well-formed payload, with what its headers ask; requests to operations."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Struct

from agents.runtime.outcomes import answer_out
from agents.runtime.records import Decision, Emit, Inbound, Out, Refuse, SetAside
from pipeline import answers, baskets, requests
from pipeline.baskets import BadInstruction
from pipeline.keys import public_of
from pipeline.outcome import Verdict
from pipeline.parse import parse
from pipeline.policy import Policy
from pipeline.results import About
from schemas import headers as h
from schemas.baskets import Instruction
from schemas.flow import OPERATION, Asked, Origin, Parsed, Request
from schemas.flow import PARSED as SCHEMA
from schemas.types import Context, is_topic_name, why
from topics.registry import ANSWERS, DEAD_LETTERS, INGEST, OPERATIONS, PARSED, REQUESTS, RESULTS, Topic

MAX_CONTEXTS = 32

_names = msgspec.json.Decoder(list[str]).decode


class ParseSettings(Struct, frozen=True):
    """What is taken from a sender who says nothing."""

    default_topics: Annotated[
        tuple[str, ...], why("`tm_anytx` verifies and broadcasts: what a sender who names nothing most likely wants.")
    ] = ("tm_anytx",)
    owner_key_files: Annotated[
        tuple[str, ...],
        why(
            "Files of identity keys that are held here, 64 hexadecimal digits each. Payments to their owners are "
            "checked without a linkage; payments to others that bring none count as unverified."
        ),
    ] = ()


class Parse:
    """The stage (design: at least once, deterministic output)."""

    name = "parse"
    inputs: tuple[Topic, ...] = (INGEST, REQUESTS)
    outputs: tuple[Topic, ...] = (PARSED, OPERATIONS, RESULTS, ANSWERS, DEAD_LETTERS)
    begins_traces = True
    went_well: tuple[str, ...] = ("",)

    def __init__(self, settings: ParseSettings, policy: Policy, cluster_id: str) -> None:
        """Secrets are read here.

        Raises:
            ValueError: a file of `owner_key_files` holds no secret.
            OSError: one cannot be read.
        """
        self._settings = settings
        self._secrets = dict(map(_owner, settings.owner_key_files))
        self._policy = policy
        self._cluster = cluster_id

    async def start(self) -> None:
        """Nothing to open."""

    async def stop(self) -> None:
        """Nothing to close."""

    async def probe(self) -> None:
        """The world is not asked."""

    async def gather(self, batch: Sequence[Inbound]) -> AsyncGenerator[tuple[Sequence[Inbound], None], None]:
        """Nothing is waited for."""
        yield batch, None

    def about(self, record: Inbound) -> About | None:
        """The request, as far as its record tells. Results are of payloads: who asks something else has no part."""
        return None if _asks(record) else self._about(record)

    def _about(self, record: Inbound) -> About:
        origin = self.origin(record)
        return About.before_contexts(origin, _request_id(record, origin))

    def decide(self, record: Inbound, gathered: None, now_ms: int) -> Decision:
        """A parsed payload, or a request, or what is wrong with it."""
        if _asks(record):
            return self._request(record, now_ms)
        headers = {name: value for name, value in record.headers if value is not None}  # senders may write nulls
        instructions = self._instructions(headers)
        if isinstance(instructions, Verdict):
            return Refuse(instructions, self._about(record))
        asked = self._asked(record, headers, instructions)
        if isinstance(asked, Verdict):
            return Refuse(asked, self._about(record))
        why = h.first(record.headers, h.UNREADABLE)
        if why is not None and record.value is None:
            return Refuse(Verdict("malformed.compression", why.decode("utf-8", "replace")), self._about(record))
        payload = parse(record.value or b"", self._policy)
        if isinstance(payload, Verdict):
            return Refuse(payload, self._about(record))
        if instructions and (unfit := baskets.unfit(instructions.values(), payload.subject)) is not None:
            return Refuse(_bad(unfit), self._about(record))
        txid = payload.subject.txid
        parsed = Parsed(asked, txid, payload.canonical(), len(payload.unmined))
        return Emit((Out(PARSED, txid, SCHEMA.encode(parsed)),))

    def _request(self, record: Inbound, now_ms: int) -> Decision:
        """What an owner's context is asked; or an answer that says why it is not, and the record among the letters."""
        origin = self.origin(record)
        why = h.first(record.headers, h.UNREADABLE)
        if why is not None and record.value is None:
            verdict = Verdict("malformed.compression", why.decode("utf-8", "replace"))
            asked: requests.Read | requests.Unread = requests.Unread(verdict, None, None)
        else:
            asked = requests.read(record.value or b"")
        if isinstance(asked, requests.Unread):
            told = answers.unread(asked.request_id, asked.owner, origin, asked.verdict, now_ms)
            return SetAside(asked.verdict, (answer_out(told),))
        operation = Request(f"request {origin.text()}", origin, asked.request_id, asked.what)
        return Emit((Out(OPERATIONS, asked.context.encode(), OPERATION.encode(operation)),))

    def origin(self, record: Inbound) -> Origin:
        """The coordinate of a record."""
        return Origin(self._cluster, record.topic, record.partition, record.offset, record.timestamp)

    def _instructions(self, headers: Mapping[str, bytes]) -> dict[Context, Instruction] | Verdict:
        """What owners are to make of the transaction."""
        header = headers.get(h.BASKETS, b"")
        if header in (b"", b"[]"):
            return {}
        try:
            return baskets.read_header(header, self._secrets)
        except BadInstruction as error:
            return _bad(str(error))

    def _asked(
        self, record: Inbound, headers: Mapping[str, bytes], instructions: Mapping[Context, Instruction]
    ) -> Asked | Verdict:
        origin = self.origin(record)
        atomicity = headers.get(h.ATOMICITY, b"each")
        if atomicity not in (b"each", b"all"):
            return Verdict("malformed.headers", f"{h.ATOMICITY} is `each` or `all`", h.ATOMICITY)
        contexts = self._contexts(headers.get(h.TOPICS), tuple(instructions))
        if isinstance(contexts, Verdict):
            return contexts
        encoded = tuple((context, baskets.encode(each)) for context, each in instructions.items())
        values = headers.get(h.OFF_CHAIN_VALUES, b"")
        # All or nothing of one context is what every operation is.
        several = atomicity == b"all" and len(contexts) > 1
        return Asked(origin, _request_id(record, origin), contexts, "all" if several else "each", values, encoded)

    def _contexts(self, header: bytes | None, owners: tuple[Context, ...]) -> tuple[Context, ...] | Verdict:
        """Who names a basket and no topic wants none."""
        names = [] if owners else list(self._settings.default_topics)
        if header is not None:
            try:
                names = _names(header)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                return Verdict("malformed.contexts", f"{h.TOPICS} is a JSON array of names: {error}", h.TOPICS)
        for name in names:
            if not is_topic_name(name):
                return Verdict("malformed.contexts", f"{name[:60]!r} is no overlay topic name (BRC-87)", h.TOPICS)
        contexts = (*(f"topic:{name}" for name in dict.fromkeys(names)), *owners)
        if not contexts:
            return Verdict("admission.no-context", "no topic was named", h.TOPICS)
        if len(contexts) > MAX_CONTEXTS:
            return Verdict("policy.contexts", f"{len(contexts)} topics and owners, {MAX_CONTEXTS} at most", h.TOPICS)
        return contexts


def _asks(record: Inbound) -> bool:
    """Whether it is a request, and no payload. Names on a cluster begin with the installation's prefix."""
    return record.topic.endswith(REQUESTS.name)


def _bad(message: str) -> Verdict:
    return Verdict("malformed.baskets", f"{h.BASKETS} {message}", h.BASKETS)


def _owner(file: str) -> tuple[str, bytes]:
    """An identity key and its secret."""
    text = Path(file).read_text(encoding="utf-8").strip()
    try:
        secret = bytes.fromhex(text)
        return public_of(secret).hex(), secret
    except ValueError:
        # Without the cause: what the file holds may be a key all the same.
        raise ValueError(
            f"{file} holds no secret: 64 hexadecimal digits, of a number below the curve's order"
        ) from None


def _request_id(record: Inbound, origin: Origin) -> str:
    """What the sender calls the request: its header, else the record's key, else the coordinate."""
    given = h.first(record.headers, h.REQUEST_ID) or record.key
    if not given:
        return f"{origin.topic}/{origin.partition}/{origin.offset}"
    return given.decode("utf-8", "replace")[:200]
