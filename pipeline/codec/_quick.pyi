from collections.abc import Callable, Sequence
from typing import TypeVar

from pipeline.chain.answer import RootAt

B = TypeVar("B")
T = TypeVar("T")

def hash256(data: bytes, /) -> bytes: ...
def quick_bump(data: bytes, start: int, bump: Callable[..., B], /) -> B | None: ...
def quick_tx(data: bytes, start: int, tx: Callable[..., T], /) -> T | None: ...
def quick_payload(
    data: bytes, bump: Callable[..., B], tx: Callable[..., T], /
) -> tuple[list[T], list[T], list[B], tuple[RootAt, ...], bytes | None] | None: ...
def quick_coins(
    raw: bytes, ins: Sequence[int], outs: Sequence[int], parents: Sequence[object], /
) -> tuple[list[bytes], int, int] | None: ...
