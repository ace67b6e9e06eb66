"""Readers of what nearly all payloads are made of: compiled where a C compiler was at hand.

They give what the long way gives, or None of whatever is unusual or wrong, which the long way judges. Where nothing was
compiled all goes the long way.
"""

__all__ = ["not_quick", "quick_bump", "quick_coins", "quick_payload", "quick_tx"]


def not_quick(*_: object) -> None:
    """Stands in for each of them."""


try:
    from pipeline.codec._quick import quick_bump, quick_coins, quick_payload, quick_tx
except ImportError:
    quick_bump = quick_coins = quick_payload = quick_tx = not_quick
