"""What a simulated ARC calls the states of a transaction. Its HTTP is in `arc_http`."""

from ops.simulate.endpoint import Words

STATUSES: dict[str, int] = {
    "UNKNOWN": 0,
    "QUEUED": 10,
    "RECEIVED": 20,
    "STORED": 30,
    "ANNOUNCED_TO_NETWORK": 40,
    "REQUESTED_BY_NETWORK": 50,
    "SENT_TO_NETWORK": 60,
    "ACCEPTED_BY_NETWORK": 70,
    "SEEN_IN_ORPHAN_MEMPOOL": 80,
    "SEEN_ON_NETWORK": 90,
    "DOUBLE_SPEND_ATTEMPTED": 100,
    "REJECTED": 110,
    "MINED_IN_STALE_BLOCK": 115,
    "MINED": 120,
}
"""ARC's statuses, by how far a transaction has come."""

WORDS = Words(STATUSES, stored="STORED", orphan="SEEN_IN_ORPHAN_MEMPOOL")
