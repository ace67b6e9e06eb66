"""Where a record that met a condition waits, and for how long (RETRY-1, TOPIC-3)."""

from msgspec import Struct

TIER_MS = (10_000, 60_000, 600_000)
"""10 s, 1 min, then 10 min repeated: an orphan's parent comes in seconds, a header in minutes, an endpoint in hours."""


class Wait(Struct, frozen=True):
    """The record goes to this tier, to return at `not_before`."""

    tier: int  # index into TIER_MS
    attempt: int
    first_failed: int  # Unix milliseconds
    not_before: int  # Unix milliseconds


class GiveUp(Struct, frozen=True):
    """The record has waited long enough: it is parked."""

    attempt: int
    first_failed: int


def after(attempt: int, first_failed: int | None, now: int, give_up_after_ms: int) -> Wait | GiveUp:
    """What becomes of a record that met a condition at its attempt number `attempt` (0 before any return).

    first_failed: when it first met one (Unix milliseconds), None when this is the first time.
    A wait that would end after the limit is shortened to end at it, so that the last try is made then.
    """
    began = now if first_failed is None else first_failed
    left = began + give_up_after_ms - now
    if left <= 0:
        return GiveUp(attempt, began)
    tier = min(attempt, len(TIER_MS) - 1)
    while tier and TIER_MS[tier] > left:
        tier -= 1
    return Wait(tier, attempt + 1, began, now + min(TIER_MS[tier], left))


def held(attempt: int, first_failed: int | None, now: int, since: int) -> Wait:
    """Where a record waits whose context takes nothing: about as long as that has lasted, and it counts for nothing.

    since: when the context was suspended (Unix milliseconds). It is not the record that is waited for: its attempts
    stay as they are, and what it may wait for conditions of its own begins that much later.
    """
    tier = max((tier for tier, delay in enumerate(TIER_MS) if delay <= now - since), default=0)
    began = now if first_failed is None else first_failed
    return Wait(tier, attempt, began + TIER_MS[tier], now + TIER_MS[tier])
