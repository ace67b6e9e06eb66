"""The dialects by name."""

from pipeline.broadcasters import Dialect
from pipeline.broadcasters.arc import Arc
from pipeline.broadcasters.arcade import Arcade
from pipeline.broadcasters.teranode import Teranode
from pipeline.broadcasters.whatsonchain import WhatsOnChain

DIALECTS: dict[str, Dialect] = {
    "arc": Arc(),
    "arcade": Arcade(),
    "teranode": Teranode(),
    "whatsonchain": WhatsOnChain(),
}
"""Dialects by the name they have in the setting `broadcast.endpoints`."""
