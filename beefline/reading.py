"""Read what contexts hold, from any worker of an installation.

    from beefline import StateReader

    async with StateReader("http://127.0.0.1:9100") as reader:
        state = await reader.state("tm_helloworld")
        async for output in reader.outputs("tm_helloworld"):
            print(output.outpoint, output.satoshis)

Any worker answers, whichever stage it runs: it forwards what it does not hold. Answers name the sequence and the roots
they are of. `consistency="strong"` (the default) is no older than what was committed when the question came; `"any"`
is what the worker that holds the context has, at once. `min_sequence`, from a result, shows one's own writes.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Literal, TypeVar
from urllib.parse import quote

import aiohttp
import msgspec

from schemas.baskets import BasketOutputs, Baskets, FieldValue, FieldValues
from schemas.external import ContextState, ExportedEntry, JournalPage, LiveOutput, Outputs, TransactionStanding
from schemas.reservations import HeldReservation, OneReservation, Reservations

__all__ = ["Consistency", "Include", "NoAnswer", "StateReader"]

Consistency = Literal["strong", "any"]

Include = Literal["locking scripts", "entire transactions"]
"""What of the transactions to tell. `entire transactions`: the answer's `beef` has those of its outputs, with their
ancestors down to proven ones. A page is smaller then where those of all its outputs would be too much for one BEEF: the
next begins `len(outputs)` further."""

T = TypeVar("T")

PAGE = 500
"""Outputs or entries asked for at once."""

TIMEOUT_S = 30.0
"""A worker waits 5 s for what must come first, and 10 s for another worker."""


class NoAnswer(Exception):  # noqa: N818 - what the installation says
    """No answer, and why.

    error: `bad-request`; to be asked again later: `behind`, `moved`, `nobody`, `incomplete`, `differs`, `unreachable`,
    `no-broker`; `not-kept`: the journal does not hold what is asked for; or `broken`: an operator has to look first.
    """

    def __init__(self, error: str, message: str) -> None:
        super().__init__(f"{error}: {message}")
        self.error = error


class StateReader:
    """A connection to a worker, for `async with`.

    url: of any worker's HTTP port. token: what `worker.http_token_file` holds, where the port is protected.
    """

    def __init__(self, url: str, token: str | None = None) -> None:
        self._url = url.rstrip("/")
        self._token = token
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> "StateReader":
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        self._session = aiohttp.ClientSession(headers=headers, timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()

    async def state(
        self,
        name: str,
        *,
        kind: Literal["topic", "owner"] = "topic",
        consistency: Consistency = "strong",
        min_sequence: int = 0,
    ) -> ContextState:
        """Where an overlay topic stands, or the baskets of an owner.

        Raises:
            NoAnswer: see there; so do all calls.
        """
        return await self._get(ContextState, f"/{kind}s/{name}/state", _asked(consistency, min_sequence))

    async def outputs(
        self, topic: str, *, consistency: Consistency = "strong", min_sequence: int = 0
    ) -> AsyncIterator[LiveOutput]:
        """Live outputs of an overlay topic, page by page: each page is of one moment, and all are of several."""
        after: str | None = None
        while True:
            page = await self.page(topic, after=after, consistency=consistency, min_sequence=min_sequence)
            for output in page.outputs:
                yield output
            if (after := page.next) is None:
                return

    async def page(
        self,
        topic: str,
        *,
        after: str | None = None,
        limit: int = PAGE,
        consistency: Consistency = "strong",
        min_sequence: int = 0,
    ) -> Outputs:
        """A page of them, of one moment; `after` is the `next` of the page before."""
        asked = {**_asked(consistency, min_sequence), "limit": str(limit)}
        return await self._get(Outputs, f"/topics/{topic}/outputs", asked | ({"after": after} if after else {}))

    async def transaction(self, txid: str, *, consistency: Consistency = "strong") -> TransactionStanding:
        """How a transaction stands in all contexts that know it."""
        return await self._get(TransactionStanding, f"/transactions/{txid}", {"consistency": consistency})

    async def baskets(self, owner: str, *, consistency: Consistency = "strong", min_sequence: int = 0) -> Baskets:
        """What an owner's baskets hold, each as a sum: that of `default` is the balance.

        owner: identity key, hexadecimal.
        """
        return await self._get(Baskets, f"/owners/{owner}/baskets", _asked(consistency, min_sequence))

    async def list_outputs(
        self,
        owner: str,
        basket: str,
        *,
        tags: Sequence[str] = (),
        tag_query_mode: Literal["any", "all"] = "any",
        fields: Mapping[int, bytes] | None = None,
        include: Include | None = None,
        include_custom_instructions: bool = False,
        include_tags: bool = False,
        include_labels: bool = False,
        include_fields: bool = False,
        limit: int = 10,
        offset: int = 0,
        consistency: Consistency = "strong",
        min_sequence: int = 0,
    ) -> BasketOutputs:
        """`listOutputs` of BRC-100, in the order of the outpoints' bytes. `limit` is at most 10,000.

        basket: any but `default`, which is the wallet's own: see `change`.
        fields: values by number of the fields of PushDrop outputs that the basket indexes; all of them must be there,
            beside the tags.
        """
        asked = [*_asked(consistency, min_sequence).items(), *_page(limit, offset), ("basket", basket)]
        asked += [("tag", tag) for tag in tags]
        asked += [("field", f"{number}={value.hex()}") for number, value in (fields or {}).items()]
        asked += [("tagQueryMode", tag_query_mode), *((("include", include),) if include else ())]
        asked += [("includeCustomInstructions", "true")] if include_custom_instructions else []
        asked += [("includeTags", "true")] if include_tags else []
        asked += [("includeLabels", "true")] if include_labels else []
        asked += [("includeFields", "true")] if include_fields else []
        return await self._get(BasketOutputs, f"/owners/{owner}/outputs", asked)

    async def values(
        self, owner: str, basket: str, field: int, *, consistency: Consistency = "strong", min_sequence: int = 0
    ) -> AsyncIterator[FieldValue]:
        """What an indexed field of a basket's outputs holds: how many outputs, and how much, have each value. Page by
        page: each page is of one moment, and all are of several.
        """
        after: str | None = None
        while True:
            page = await self.values_page(
                owner, basket, field, after=after, consistency=consistency, min_sequence=min_sequence
            )
            for each in page.values:
                yield each
            if (after := page.next) is None:
                return

    async def values_page(
        self,
        owner: str,
        basket: str,
        field: int,
        *,
        value: bytes | None = None,
        after: str | None = None,
        limit: int = PAGE,
        consistency: Consistency = "strong",
        min_sequence: int = 0,
    ) -> FieldValues:
        """A page of them, of one moment; `after` is the `next` of the page before.

        value: this one alone; nothing is told of one that no output has.
        """
        asked = {**_asked(consistency, min_sequence), "basket": basket, "field": str(field), "limit": str(limit)}
        asked |= {"after": after} if after is not None else {}
        asked |= {"value": value.hex()} if value is not None else {}
        return await self._get(FieldValues, f"/owners/{owner}/values", asked)

    async def change(
        self,
        owner: str,
        *,
        include: Include | None = None,
        limit: int = 10,
        offset: int = 0,
        consistency: Consistency = "strong",
        min_sequence: int = 0,
    ) -> BasketOutputs:
        """What pays the owner, with what each key was derived from: for the wallet itself."""
        asked = [*_asked(consistency, min_sequence).items(), *_page(limit, offset)]
        asked += [("include", include)] if include else []
        return await self._get(BasketOutputs, f"/owners/{owner}/change", asked)

    async def reservations(
        self, owner: str, *, consistency: Consistency = "strong", min_sequence: int = 0
    ) -> AsyncIterator[HeldReservation]:
        """Who holds which outputs of an owner, by id, page by page: each page is of one moment."""
        after = ""
        while True:
            asked = {**_asked(consistency, min_sequence), "limit": str(PAGE), "after": after}
            page = await self._get(Reservations, f"/owners/{owner}/reservations", asked)
            for each in page.reservations:
                yield each
            if page.next is None:
                return
            after = page.next

    async def reservation(
        self, owner: str, name: str, *, consistency: Consistency = "strong", min_sequence: int = 0
    ) -> OneReservation:
        """One of them, by its id; its `reservation` is None where there is none, or it has ended."""
        path = f"/owners/{owner}/reservations/{quote(name, safe='')}"
        return await self._get(OneReservation, path, _asked(consistency, min_sequence))

    async def journal(self, context: str, first: int = 1) -> AsyncIterator[ExportedEntry]:
        """A context's journal from a sequence on, to what is there by now."""
        while True:
            asked = {"from": str(first), "limit": str(PAGE)}
            page = await self._get(JournalPage, f"/journal/{context}", asked)
            for entry in page.entries:
                yield entry
            if len(page.entries) < PAGE:
                return
            first = page.entries[-1].sequence + 1

    async def _get(self, kind: type[T], path: str, asked: dict[str, str] | list[tuple[str, str]]) -> T:
        assert self._session is not None, "used outside of `async with`"
        try:
            async with self._session.get(self._url + path, params=asked) as response:
                body = await response.read()
                status = response.status
        except (aiohttp.ClientError, TimeoutError) as error:
            raise NoAnswer("unreachable", f"{self._url} does not answer: {error or type(error).__name__}") from error
        try:
            if status == 200:
                return msgspec.json.decode(body, type=kind)
            said: dict[str, Any] = msgspec.json.decode(body, type=dict[str, Any])
        except msgspec.MsgspecError as error:
            raise NoAnswer(
                "unreachable", f"{self._url}{path} answers {status} and no JSON: no worker's port?"
            ) from error
        raise NoAnswer(str(said.get("error", status)), str(said.get("message", "")))


def _page(limit: int, offset: int) -> list[tuple[str, str]]:
    return [("limit", str(limit)), ("offset", str(offset))]


def _asked(consistency: Consistency, min_sequence: int) -> dict[str, str]:
    least = {"min_sequence": str(min_sequence)} if min_sequence else {}
    return {"consistency": consistency, **least}
