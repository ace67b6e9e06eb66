"""The one door for imports from outside.

- Applications: `Client` and what it gives (`beefline.client`), `read_payloads` (`beefline.encodings`).
- Authors of topic managers: `TopicManager`, `Subject`, `Output`, `Admittance`.
- Whoever wants to look into a payload: `parse`, `Policy`, `Payload`, `Verdict`.

Each name is imported when it is first used, so that an application loads nothing of the pipeline, and a topic manager
no Kafka client.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from beefline.client import (
        Client,
        MissingTopic,
        NoOutcome,
        RequestOutcome,
        Result,
        Submitted,
        TooLarge,
        Unreachable,
    )
    from beefline.encodings import Given, Unreadable, read_payloads
    from pipeline.outcome import Verdict
    from pipeline.overlay.manager import Output, Subject, TopicManager
    from pipeline.parse import Payload, parse
    from pipeline.policy import Policy
    from schemas.external import Admittance

_WHERE = {
    "Admittance": "schemas.external",
    "Client": "beefline.client",
    "Given": "beefline.encodings",
    "MissingTopic": "beefline.client",
    "NoOutcome": "beefline.client",
    "RequestOutcome": "beefline.client",
    "Output": "pipeline.overlay.manager",
    "Payload": "pipeline.parse",
    "Policy": "pipeline.policy",
    "Result": "beefline.client",
    "Subject": "pipeline.overlay.manager",
    "Submitted": "beefline.client",
    "TooLarge": "beefline.client",
    "TopicManager": "pipeline.overlay.manager",
    "Unreachable": "beefline.client",
    "Unreadable": "beefline.encodings",
    "Verdict": "pipeline.outcome",
    "parse": "pipeline.parse",
    "read_payloads": "beefline.encodings",
}

__all__ = [
    "Admittance",
    "Client",
    "Given",
    "MissingTopic",
    "NoOutcome",
    "Output",
    "Payload",
    "Policy",
    "RequestOutcome",
    "Result",
    "Subject",
    "Submitted",
    "TooLarge",
    "TopicManager",
    "Unreachable",
    "Unreadable",
    "Verdict",
    "parse",
    "read_payloads",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"beefline offers no {name!r}")
    found = getattr(import_module(_WHERE[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
