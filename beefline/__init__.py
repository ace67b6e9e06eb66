"""The one door for imports from outside.

- Applications: `Client` and what it gives (`beefline.client`), `read_payloads` (`beefline.encodings`).
- Whoever reads what contexts hold: `StateReader`, `NoAnswer` (`beefline.reading`).
- Authors of topic managers: `TopicManager`, `Transaction`, `Subject`, `Output`, `PreviousCoin`, `Admittance`; and
  `beefline.testing`, the contract as tests.
- Whoever verifies payloads himself: `verify_payload`, `Verifier`, `Outcome`; who knows the chain: `RootTable`,
  `read_table`, `Services`, or any `Tracker`, with `Answer` and `Tip`; `SandboxFault`, which is ours.
- Whoever wants to look into a payload: `parse`, `Policy`, `Payload`, `Verdict`.

Each name is imported when it is first used, so that an application loads nothing of the pipeline, and a topic manager
no Kafka client.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agents.runtime.sandbox import SandboxFault
    from agents.services import Services
    from agents.verifier import NoAnswerError, Outcome, Tracker, Verifier, verify_payload
    from beefline.client import (
        Client,
        Held,
        MissingTopic,
        NoOutcome,
        NotReserved,
        RequestOutcome,
        Result,
        Submitted,
        TooLarge,
        Unanswered,
        Unreachable,
    )
    from beefline.encodings import Given, Unreadable, read_payloads
    from beefline.reading import NoAnswer, StateReader
    from pipeline.chain.answer import Answer, Tip
    from pipeline.chain.table import RootTable, read_table
    from pipeline.outcome import Verdict
    from pipeline.overlay.manager import Output, PreviousCoin, Subject, TopicManager, Transaction
    from pipeline.parse import Payload, parse
    from pipeline.policy import Policy
    from schemas.external import Admittance

_WHERE = {
    "Admittance": "schemas.external",
    "Answer": "pipeline.chain.answer",
    "Client": "beefline.client",
    "Given": "beefline.encodings",
    "Held": "beefline.client",
    "MissingTopic": "beefline.client",
    "NoAnswer": "beefline.reading",
    "NoAnswerError": "agents.verifier",
    "NoOutcome": "beefline.client",
    "NotReserved": "beefline.client",
    "Outcome": "agents.verifier",
    "Output": "pipeline.overlay.manager",
    "Payload": "pipeline.parse",
    "Policy": "pipeline.policy",
    "PreviousCoin": "pipeline.overlay.manager",
    "RequestOutcome": "beefline.client",
    "Result": "beefline.client",
    "RootTable": "pipeline.chain.table",
    "SandboxFault": "agents.runtime.sandbox",
    "Services": "agents.services",
    "StateReader": "beefline.reading",
    "Subject": "pipeline.overlay.manager",
    "Submitted": "beefline.client",
    "Tip": "pipeline.chain.answer",
    "TooLarge": "beefline.client",
    "TopicManager": "pipeline.overlay.manager",
    "Tracker": "agents.verifier",
    "Transaction": "pipeline.overlay.manager",
    "Unanswered": "beefline.client",
    "Unreachable": "beefline.client",
    "Unreadable": "beefline.encodings",
    "Verdict": "pipeline.outcome",
    "Verifier": "agents.verifier",
    "parse": "pipeline.parse",
    "read_payloads": "beefline.encodings",
    "read_table": "pipeline.chain.table",
    "verify_payload": "agents.verifier",
}

__all__ = [
    "Admittance",
    "Answer",
    "Client",
    "Given",
    "Held",
    "MissingTopic",
    "NoAnswer",
    "NoAnswerError",
    "NoOutcome",
    "NotReserved",
    "Outcome",
    "Output",
    "Payload",
    "Policy",
    "PreviousCoin",
    "RequestOutcome",
    "Result",
    "RootTable",
    "SandboxFault",
    "Services",
    "StateReader",
    "Subject",
    "Submitted",
    "Tip",
    "TooLarge",
    "TopicManager",
    "Tracker",
    "Transaction",
    "Unanswered",
    "Unreachable",
    "Unreadable",
    "Verdict",
    "Verifier",
    "parse",
    "read_payloads",
    "read_table",
    "verify_payload",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"beefline offers no {name!r}")
    found = getattr(import_module(_WHERE[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
