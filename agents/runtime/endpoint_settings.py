"""What an operator says of broadcast endpoints: `broadcast.*`, and its entries one by one."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Struct

from agents.runtime.http import Remote, listed
from pipeline.broadcasters.table import DIALECTS
from schemas.types import why

OPTIONS = ("priority", "batch", "concurrency", "timeout-s")


class BroadcastSettings(Struct, frozen=True):
    """The network's endpoints."""

    endpoints: Annotated[
        tuple[str, ...],
        why(
            "As dialect=URL[;key-file=PATH][;priority=N][;batch=N][;concurrency=N][;timeout-s=N]; dialects: arc, "
            "arcade, teranode, whatsonchain (its URL ends with /v1/bsv/main). What an entry leaves out is taken from "
            "the settings below, and priority 0. The lowest priority is asked first, the next for what has found no "
            "acceptance there. "
            "Two operators, so that neither's outage is ours."
        ),
    ] = ()
    batch: Annotated[int, why("Transactions in one call, as its operators ask; 23 kB of payments.", ge=1)] = 100
    call_bytes: Annotated[int, why("Of one call; a transaction that is larger goes alone.", ge=1 << 10)] = 8 << 20
    timeout_s: Annotated[
        float, why("ARC holds a reply for 5 s by itself; a batch of 100 is checked within as much.", gt=0)
    ] = 10.0
    concurrency: Annotated[int, why("Calls in flight to one endpoint; the others of a batch wait for them.", ge=1)] = 4
    attempts: Annotated[
        int, why("Quick ones, for a broken connection; what takes longer is the retry tiers' matter.", ge=1)
    ] = 3
    backoff_s: Annotated[
        float, why("Doubled a try, and drawn anew from 0 up to that, so that workers spread.", ge=0)
    ] = 0.2
    wait_for: Annotated[
        Literal[
            "",
            "RECEIVED",
            "STORED",
            "ANNOUNCED_TO_NETWORK",
            "SENT_TO_NETWORK",
            "ACCEPTED_BY_NETWORK",
            "SEEN_ON_NETWORK",
        ],
        why("RECEIVED is what counts as accepted; a later status is truer, and holds a connection up to `max_wait_s`."),
    ] = "RECEIVED"
    max_wait_s: Annotated[
        int, why("How long an endpoint may hold a reply for `wait_for`; below `timeout_s`.", ge=1, le=30)
    ] = 5
    callback_url: Annotated[
        str,
        why(
            "Where endpoints reach the HTTP port of a status worker, as https://host; they are told "
            "`<this>/callback?endpoint=…`. Empty: they call nobody back, and are asked instead."
        ),
    ] = ""
    callback_token_file: Annotated[
        str, why("Holds what endpoints must show with a callback; they are told it with each transaction.")
    ] = ""
    down_limit_s: Annotated[
        float,
        why(
            "An endpoint that has answered nothing for so long does not count where others refuse: what one of two "
            "refuses, and the other would be asked about for ever, is decided.",
            gt=0,
        ),
    ] = 600.0
    policy_refresh_s: Annotated[
        float,
        why("How often endpoints' fees and limits are read: they move by decision, not by the minute.", gt=0),
    ] = 600.0
    remembered: Annotated[
        int, why("Accepted transactions that are not sent again: ancestors shared by a family; 20 MB.", ge=0)
    ] = 100_000


class Chosen(Struct, frozen=True):
    """An entry of `broadcast.endpoints`, with what it leaves out taken from the other settings."""

    remote: Remote
    priority: int  # lower is asked first
    batch: int  # transactions in one call
    concurrency: int  # calls in flight
    timeout_s: float


def chosen(settings: BroadcastSettings) -> list[Chosen]:
    """What `broadcast.endpoints` lists, in its order.

    Raises:
        ValueError: what `listed` raises; or an option that is no number, or not one that can be meant.
    """
    setting = "broadcast.endpoints"
    found = []
    for remote, given in listed(settings.endpoints, DIALECTS, setting, OPTIONS):
        most = DIALECTS[remote.dialect].most
        batch = _whole(given, "batch", min(settings.batch, most), 1, setting)
        if batch > most:
            raise ValueError(f"{setting}: {remote.dialect}= takes {most} transactions in a call, not {batch}")
        timeout_s = _seconds(given, "timeout-s", settings.timeout_s, setting)
        if DIALECTS[remote.dialect].waits and settings.wait_for and settings.max_wait_s >= timeout_s:
            raise ValueError("broadcast.max_wait_s: a reply held that long comes after broadcast.timeout_s")
        priority = _whole(given, "priority", 0, 0, setting)
        concurrency = _whole(given, "concurrency", settings.concurrency, 1, setting)
        found.append(Chosen(remote, priority, batch, concurrency, timeout_s))
    return found


def _whole(given: Mapping[str, str], name: str, default: int, least: int, setting: str) -> int:
    text = given.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= least):
        raise ValueError(f"{setting}: {name} is a whole number, {least} or more")
    return int(text)


def _seconds(given: Mapping[str, str], name: str, default: float, setting: str) -> float:
    text = given.get(name)
    if text is None:
        return default
    if re.fullmatch(r"\d{1,6}(\.\d{1,6})?", text, re.ASCII) is None or float(text) == 0:
        raise ValueError(f"{setting}: {name} is a number of seconds above 0")
    return float(text)


def read_token(file: str) -> str:
    """What endpoints show with a callback.

    Raises:
        ValueError: the file is empty.
        OSError: it cannot be read.
    """
    token = Path(file).read_text(encoding="utf-8").strip()
    if not token:
        raise ValueError(f"{file} is empty: broadcast.callback_token_file holds the token of callbacks")
    return token
