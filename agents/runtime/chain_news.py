"""What happens to the chain as trackers see it, told to operators: a metric each time, an event now and then."""

import logging
import time
from collections.abc import Callable

from agents import metrics
from agents.runtime.desk import Teller
from agents.runtime.headers import Grown, News, PutAside, Reorganised, log_news
from agents.runtime.sparing import Sparing, no_event
from agents.runtime.trackers import Disagreement, log_disagreement
from schemas.types import display

log = logging.getLogger(__name__)


class ChainNews:
    """Counts all; of one kind about the same trackers it lets an event a minute through, and says how many it held."""

    def __init__(self, stage: str, teller: Teller = no_event, clock: Callable[[], float] = time.monotonic) -> None:
        self._stage = stage
        self._tell = Sparing(teller, clock).tell

    def disagreement(self, found: Disagreement) -> None:
        """One tracker says yes and another no."""
        metrics.TRACKER_DISAGREEMENTS.labels(self._stage).inc()
        said = {name: answer.value for name, answer in found.said.items()}
        height, root = found.at[0], display(found.at[1])
        details = {"height": height, "root": root, "said": said}
        message = f"trackers disagree about root {root} at height {height}"
        if self._tell("trackers-disagree", tuple(sorted(said.items())), "warning", message, details):
            log_disagreement(found)

    def reorganised(self, found: Reorganised) -> None:
        """A tracker shows other blocks."""
        metrics.REORGANISATIONS.labels(self._stage, found.by).inc()
        details = {"tracker": found.by, "height": found.height, "roots_forgotten": found.forgotten}
        message = f"{found.by} shows other blocks from height {found.height} on"
        if self._tell("chain-reorganised", found.by, "warning", message, details):
            log_news(found)

    def followed(self, news: News) -> None:
        """What the header follower tells; reorganisations come through the trackers, which heed them first."""
        match news:
            case Grown(height):
                metrics.FOLLOWER_HEIGHT.labels(self._stage).set(height)
            case PutAside(source, found):
                metrics.SOURCES_PUT_ASIDE.labels(self._stage, source).inc()
                details = {"source": source, "height": found.height, "why": found.why}
                message = f"headers of {source} are refused: at height {found.height}, {found.why}"
                if self._tell("headers-refused", source, "warning", message, details):
                    log_news(news)
