"""Merkle paths that came for transactions, asked of the trackers (ANCHOR-2)."""

import logging
import time

from agents.runtime.chain_watch import ChainWatch
from agents.runtime.trackers import NoQuorum
from pipeline.chain.answer import Answer
from pipeline.http import Unreadable
from pipeline.proof import claim
from schemas.network import Anchored
from schemas.types import Txid, display

log = logging.getLogger(__name__)


class Anchors:
    """One a process."""

    def __init__(self, chain: ChainWatch) -> None:
        """chain: started before anything is asked."""
        self._chain = chain

    async def check(self, txid: Txid, path: bytes) -> Anchored | None:
        """What the trackers say of a path (BUMP) of a transaction; None where it claims nothing, or they cannot say."""
        claimed = claim(txid, path)
        if isinstance(claimed, Unreadable):
            log.warning("a Merkle path of %s is not believed: %s", display(txid), claimed.why)
            return None
        trackers = self._chain.trackers
        try:
            answer = (await trackers.ask([claimed.at]))[claimed.at]
            tip = await trackers.tip()
        except NoQuorum as error:
            log.warning("a Merkle path of %s waits for the trackers: %s", display(txid), error)
            return None
        if answer is Answer.UNKNOWN:
            return None
        height, root = claimed.at
        return Anchored(path, height, root, answer is Answer.YES, tip.height, int(time.time() * 1000))
