"""The broadcast endpoints that can be simulated, by the name of their dialect."""

from collections.abc import Callable

from ops.simulate.arc_http import ArcService
from ops.simulate.arcade import ArcadeService
from ops.simulate.endpoint_http import EndpointService
from ops.simulate.teranode import TeranodeService
from ops.simulate.whatsonchain import WhatsOnChainService

KINDS: dict[str, Callable[..., EndpointService]] = {
    "arc": ArcService,
    "arcade": ArcadeService,
    "teranode": TeranodeService,
    "whatsonchain": WhatsOnChainService,
}
"""Each takes a `Network`, `Options` and a token."""
