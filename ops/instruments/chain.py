"""A simulated chain in a folder: headers that link and have work, blocks full of coins whose keys are known.

Everything follows from a seed, so that processes which share the folder agree, and so that a payload is the same
wherever it is generated. The chain only grows: a *stretch* is 32 blocks of coins with 160 blocks above them, which bury
them; `grow` adds one. The blocks above hold a few coins each, for payloads whose anchor is recent.

    folder/chain.json        seed, checkpoint, number of stretches: replaced last, so a reader never sees half a stretch
    folder/headers.bin       80 bytes a header, from the checkpoint up
    folder/coins-0000.bin    one file a stretch: txid (32 bytes) and place (u32), sorted by txid
"""

import contextlib
import fcntl
import functools
import hashlib
import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from ops.home import home
from ops.instruments.keys import Coin, Key, keyring
from ops.instruments.wire import Levels, hash256, merkle_levels, p2pkh, push, write_transaction
from schemas.types import Root, Txid, display

CHECKPOINT = 900_000
"""Height of the first block. Real payloads' proofs lie below, generated ones' above: they cannot be mistaken."""

COIN_BLOCKS = 32
BURIAL_BLOCKS = 160
STRETCH = COIN_BLOCKS + BURIAL_BLOCKS

COINS = 3600
"""Coins in a block of a stretch's first part. With the coinbase 3,601 leaves: 12 levels, eight of them odd."""

RECENT_COINS = 14
"""Coins in a block above them: with the coinbase 15 leaves, 4 levels, the last leaf paired with itself."""

BITS = 0x207FFFFF
TARGET = 0x7FFFFF << (8 * (0x20 - 3))
WORK = (1 << 256) // (TARGET + 1)
"""Hashes a block takes on average: 2, as on regtest."""

VERSION = 0x20000000
BIRTH = 1_750_000_000
"""Time of the checkpoint block, Unix seconds: June 2025, as block 900,000 of the real chain."""

SPACING_S = 600
SUBSIDY = 312_500_000
FORMAT = 1


class Funding(Struct, frozen=True):
    """A mined transaction of the chain that pays to keys we hold."""

    raw: bytes
    height: int
    leaf: int  # place in the block; 0 is the coinbase
    coin: Coin  # its output 0


class Block(Struct, frozen=True):
    """A block's transactions and their Merkle tree."""

    height: int
    raws: list[bytes]
    levels: Levels

    @property
    def root(self) -> Root:
        """Merkle root, wire order."""
        return self.levels[-1][0]


class Manifest(Struct, frozen=True):
    """What `chain.json` holds."""

    format: int
    seed: int
    checkpoint_height: int
    checkpoint_hash: str  # display hex
    stretches: int
    tip_height: int
    tip_hash: str  # display hex
    coins: int


def material(seed: int, height: int, leaf: int | str, size: int) -> bytes:
    """Bytes that look random and follow from their place."""
    return hashlib.shake_128(f"beefline/chain/{seed}/{height}/{leaf}".encode()).digest(size)


def block_time(seed: int, height: int) -> int:
    """Unix seconds: ten minutes apart, give or take four."""
    jitter = int.from_bytes(material(seed, height, "time", 2), "little") % 480 - 240
    return BIRTH + (height - CHECKPOINT) * SPACING_S + jitter


def leaves_at(height: int) -> int:
    """How many transactions the block at `height` holds."""
    return 1 + (COINS if (height - CHECKPOINT) % STRETCH < COIN_BLOCKS else RECENT_COINS)


def coinbase(seed: int, height: int, key: Key) -> bytes:
    """A coinbase: its script begins with the height (BIP 34)."""
    script = push(height.to_bytes(3, "little")) + push(material(seed, height, "coinbase", 12))
    return write_transaction([(bytes(32) + b"\xff\xff\xff\xff", script, 0xFFFFFFFF)], [(SUBSIDY, key.script)])


def funding(seed: int, height: int, leaf: int, keys: list[Key]) -> bytes:
    """A payment of 0.01 to 0.02 to one of `keys`, with change to someone else: 225 bytes.

    It spends a coin that does not exist, and its signature is of the right form only: it is mined, so that nobody who
    follows the rules looks.
    """
    m = material(seed, height, leaf, 160)
    satoshis = 1_000_000 + int.from_bytes(m[148:152], "little") % 1_000_000
    change = 1_000_000 + int.from_bytes(m[152:156], "little") % 9_000_000
    key = keys[m[159] % len(keys)]
    return (
        b"\x01\x00\x00\x00\x01" + m[:32] + bytes([m[158] & 3]) + b"\x00\x00\x00\x6a\x47\x30\x44\x02\x20"
        + bytes([m[32] & 0x7F | 1]) + m[33:64] + b"\x02\x20" + bytes([m[64] & 0x3F | 1]) + m[65:96]
        + b"\x41\x21" + bytes([2 + (m[157] & 1)]) + m[96:128] + b"\xff\xff\xff\xff\x02"
        + satoshis.to_bytes(8, "little") + b"\x19" + key.script
        + change.to_bytes(8, "little") + b"\x19" + p2pkh(m[128:148]) + b"\x00\x00\x00\x00"
    )  # fmt: skip


def write_header(previous: bytes, root: Root, time: int, version: int = VERSION) -> bytes:
    """A header with the work it needs: about two hashes."""
    head = version.to_bytes(4, "little") + previous + root + time.to_bytes(4, "little") + BITS.to_bytes(4, "little")
    nonce = 0
    while int.from_bytes(hash256(candidate := head + nonce.to_bytes(4, "little")), "little") > TARGET:
        nonce += 1
    return candidate


def checkpoint_text(first: bytes) -> str:
    """A chain's first header as `headers.checkpoint` names it."""
    return f"{CHECKPOINT}:{display(hash256(first))}"


class BareChain:
    """Headers alone, so many of them, in memory: for those who follow headers and ask for nothing in the blocks.

    10 us a header to make. A minute apart, so that 100,000 of them end in the past.
    """

    SPACING_S = 60

    def __init__(self, blocks: int, seed: int = 0) -> None:
        self.seed = seed
        self.tip = CHECKPOINT + blocks - 1
        self._headers: list[bytes] = []
        previous = material(seed, CHECKPOINT - 1, "block", 31) + b"\x00"
        for height in range(CHECKPOINT, self.tip + 1):
            self._headers.append(self._write(previous, height, "main"))
            previous = hash256(self._headers[-1])

    def _write(self, previous: bytes, height: int, branch: str, given: Sequence[Root] = ()) -> bytes:
        root = given[0] if given else material(self.seed, height, f"{branch} root", 32)
        return write_header(previous, root, BIRTH + (height - CHECKPOINT) * self.SPACING_S)

    @property
    def begins(self) -> str:
        """The first block as `headers.checkpoint` names it."""
        return checkpoint_text(self._headers[0])

    def refresh(self) -> bool:
        """It never grows."""
        return False

    def header(self, height: int) -> bytes:
        """The header at `height`.

        Raises:
            IndexError: the height is below the checkpoint or above the tip.
        """
        if not CHECKPOINT <= height <= self.tip:
            raise IndexError(f"the simulated chain has no block {height}")
        return self._headers[height - CHECKPOINT]

    def branch(self, depth: int, roots: Sequence[Root] = ()) -> list[bytes]:
        """Headers that replace the last `depth` blocks: one more of them, hence more work.

        roots: of the first of them, in place of its own.
        """
        if not 1 <= depth <= self.tip - CHECKPOINT:
            raise ValueError(f"a branch replaces 1 to {self.tip - CHECKPOINT} blocks")
        previous = hash256(self.header(self.tip - depth))
        headers: list[bytes] = []
        for height in range(self.tip - depth + 1, self.tip + 2):
            headers.append(self._write(previous, height, "branch", roots[len(headers) : len(headers) + 1]))
            previous = hash256(headers[-1])
        return headers


class Chain:
    """The chain in a folder. Opening one that does not exist makes it, in about two seconds.

    A process sees what was there when it opened the chain, and what `refresh` found since.
    """

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        self.folder = folder
        self.seed = manifest.seed
        self.keys = keyring(manifest.seed)
        self._by_script = {key.script: key for key in self.keys}
        self._maps: list[mmap.mmap] = []
        self._headers = b""
        self._seen = 0
        self._block = functools.lru_cache(maxsize=8)(self._make_block)
        self._load(manifest)

    @staticmethod
    def open(folder: Path | None = None, *, seed: int | None = None) -> "Chain":
        """The chain in `folder` (default: in the local home), made when there is none.

        Raises:
            ValueError: the folder holds a chain of another seed, or of another format.
        """
        folder = folder or home() / "simulate" / "chain"
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder):
            if not (folder / "chain.json").exists():
                _Writer(folder, seed or 0).add_stretch()
            manifest = _read_manifest(folder)
        if manifest.format != FORMAT or (seed is not None and manifest.seed != seed):
            raise ValueError(
                f"{folder} holds a chain of seed {manifest.seed}, format {manifest.format}; use another folder"
            )
        return Chain(folder, manifest)

    def grow(self) -> None:
        """Add a stretch (115,200 coins, and 160 blocks above them), unless another process just did. About a second."""
        with _locked(self.folder):
            if _read_manifest(self.folder).stretches == self.stretches:
                _Writer(self.folder, self.seed).add_stretch()
        self.refresh()

    def refresh(self) -> bool:
        """Take over what another process added. True when the chain has grown. One `stat` when it has not."""
        if (self.folder / "chain.json").stat().st_mtime_ns == self._seen:
            return False
        before = self.tip
        self._load(_read_manifest(self.folder))
        return self.tip > before

    def _load(self, manifest: Manifest) -> None:
        self._seen = (self.folder / "chain.json").stat().st_mtime_ns
        self.tip = manifest.tip_height
        self.stretches = manifest.stretches
        self._headers = (self.folder / "headers.bin").read_bytes()[: 80 * (self.tip - CHECKPOINT + 1)]
        for number in range(len(self._maps), manifest.stretches):
            with (self.folder / f"coins-{number:04}.bin").open("rb") as file:
                self._maps.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))

    @property
    def begins(self) -> str:
        """The first block as `headers.checkpoint` names it."""
        return checkpoint_text(self.header(CHECKPOINT))

    @property
    def coins(self) -> int:
        """How many buried coins there are."""
        return self.stretches * COIN_BLOCKS * COINS

    def headers(self) -> list[bytes]:
        """All headers, 80 bytes each, from the checkpoint up."""
        return [self._headers[at : at + 80] for at in range(0, len(self._headers), 80)]

    def header(self, height: int) -> bytes:
        """The header at `height`.

        Raises:
            IndexError: the height is below the checkpoint or above the tip.
        """
        if not CHECKPOINT <= height <= self.tip:
            raise IndexError(f"the simulated chain has no block {height}")
        at = 80 * (height - CHECKPOINT)
        return self._headers[at : at + 80]

    def block(self, height: int) -> Block:
        """The block at `height`; also one that is not mined yet, whose header does not exist.

        Cost: 40 ms for a block of coins; the last eight are kept.
        """
        return self._block(height)

    def _make_block(self, height: int) -> Block:
        if height < CHECKPOINT:
            raise IndexError(f"the simulated chain has no block {height}")
        return _block(self.seed, height, self.keys)

    def transaction(self, height: int, leaf: int) -> bytes:
        """The transaction at a place, without building its block: about 5 us."""
        if leaf == 0:
            return coinbase(self.seed, height, self.keys[height % len(self.keys)])
        return funding(self.seed, height, leaf, self.keys)

    def funding(self, height: int, leaf: int) -> Funding:
        """The transaction at a place, with the coin it makes."""
        block = self.block(height)
        raw = block.raws[leaf]
        # Both kinds have the coin as output 0, behind one input: its script length is the byte at 41.
        at = 41 + 1 + raw[41] + 4 + 1
        script = raw[at + 9 : at + 34]
        coin = Coin(
            block.levels[0][leaf], 0, int.from_bytes(raw[at : at + 8], "little"), script, self._by_script[script]
        )
        return Funding(raw, height, leaf, coin)

    def coin(self, number: int) -> Funding:
        """Buried coin `number`, from 0; grows the chain when it has fewer."""
        while number >= self.coins:
            self.grow()
        stretch, rest = divmod(number, COIN_BLOCKS * COINS)
        block, leaf = divmod(rest, COINS)
        return self.funding(CHECKPOINT + stretch * STRETCH + block, 1 + leaf)

    def find(self, txid: Txid) -> tuple[int, int] | None:
        """Height and leaf of a mined transaction, or None. About 10 us: a search in a sorted file."""
        for table in self._maps:
            low, high = 0, len(table) // 36
            while low < high:
                middle = (low + high) // 2
                if table[36 * middle : 36 * middle + 32] < txid:
                    low = middle + 1
                else:
                    high = middle
            if table[36 * low : 36 * low + 32] == txid:
                place = int.from_bytes(table[36 * low + 32 : 36 * low + 36], "little")
                return CHECKPOINT + (place >> 12), place & 0xFFF
        return None

    def median_time_past(self, height: int | None = None) -> int:
        """Median of the times of the 11 headers up to `height` (default: the tip), Unix seconds (BIP 113)."""
        top = self.tip if height is None else height
        times = [int.from_bytes(self.header(h)[68:72], "little") for h in range(max(CHECKPOINT, top - 10), top + 1)]
        return sorted(times)[len(times) // 2]

    def branch(self, depth: int, roots: Sequence[Root] = ()) -> list[bytes]:
        """Headers that replace the last `depth` blocks: one more of them, hence more work.

        roots: of the first of them. The other blocks hold a coinbase alone: what was proven is so no longer.
        """
        if not 1 <= depth <= self.tip - CHECKPOINT:
            raise ValueError(f"a branch replaces 1 to {self.tip - CHECKPOINT} blocks")
        fork = self.tip - depth
        previous = hash256(self.header(fork))
        headers: list[bytes] = []
        for height in range(fork + 1, self.tip + 2):
            own = hash256(coinbase(self.seed ^ 1 << 32, height, self.keys[0]))
            root = roots[len(headers)] if len(headers) < len(roots) else own
            headers.append(write_header(previous, root, block_time(self.seed, height) + 300))
            previous = hash256(headers[-1])
        return headers


def _block(seed: int, height: int, keys: list[Key]) -> Block:
    own = keys[height % len(keys)]
    raws = [coinbase(seed, height, own), *(funding(seed, height, leaf, keys) for leaf in range(1, leaves_at(height)))]
    return Block(height, raws, merkle_levels([hash256(raw) for raw in raws]))


class _Writer:
    """Adds stretches to a folder whose lock is held."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.seed = seed

    def add_stretch(self) -> None:
        done = _read_manifest(self.folder).stretches if (self.folder / "chain.json").exists() else 0
        path = self.folder / "headers.bin"
        # Bytes beyond the last whole stretch are of a writer that was killed.
        kept = path.read_bytes()[: 80 * STRETCH * done] if done else b""
        headers = [kept[at : at + 80] for at in range(0, len(kept), 80)]
        keys = keyring(self.seed)
        rows: list[bytes] = []
        for height in range(CHECKPOINT + done * STRETCH, CHECKPOINT + (done + 1) * STRETCH):
            block = _block(self.seed, height, keys)
            previous = hash256(headers[-1]) if headers else material(self.seed, height - 1, "block", 31) + b"\x00"
            headers.append(write_header(previous, block.root, block_time(self.seed, height)))
            place = height - CHECKPOINT << 12
            rows.extend(txid + (place | leaf).to_bytes(4, "little") for leaf, txid in enumerate(block.levels[0]))
        rows.sort()
        (self.folder / f"coins-{done:04}.bin").write_bytes(b"".join(rows))
        path.write_bytes(b"".join(headers))
        manifest = Manifest(
            format=FORMAT,
            seed=self.seed,
            checkpoint_height=CHECKPOINT,
            checkpoint_hash=display(hash256(headers[0])),
            stretches=done + 1,
            tip_height=CHECKPOINT + len(headers) - 1,
            tip_hash=display(hash256(headers[-1])),
            coins=(done + 1) * COIN_BLOCKS * COINS,
        )
        written = self.folder / "chain.json.new"
        written.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=1))
        written.replace(self.folder / "chain.json")


def _read_manifest(folder: Path) -> Manifest:
    return msgspec.json.decode((folder / "chain.json").read_bytes(), type=Manifest)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One writer at a time, over processes; a process that dies lets go."""
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
