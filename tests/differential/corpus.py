"""What both verifiers are asked: vectors, generated families, spoiled payloads, changed bytes, special cases."""

from collections.abc import Iterator, Mapping, Sequence
from random import Random

from msgspec import Struct

from ops.instruments.chain import CHECKPOINT, Chain
from ops.instruments.spoiled import KINDS
from ops.instruments.workshop import Workshop
from pipeline.chain.answer import Answer, RootAt, Tip
from pipeline.parse import Payload, parse
from pipeline.policy import MAX_SATOSHIS, Policy
from schemas.types import from_display
from tests.builders import TIP, Bag, In, Out, bag, by_p2pkh, funding, key, spend
from tests.families import DEFECTS, HARMLESS, family
from tests.vectors import conformance, load, universal


class Question(Struct, frozen=True):
    """A payload, and the chain it is judged against."""

    label: str
    beef: bytes
    answers: Mapping[RootAt, Answer]
    tip: Tip = TIP


def of_families(count: int) -> Iterator[Question]:
    """`count` payloads: sound ones, each defect and each variation in turn, in one of its framings."""
    sound: tuple[str, Sequence[str]] = ("", ())
    rows = [*[sound] * 8, *((defect, ()) for defect in DEFECTS), *(("", (name,)) for name in HARMLESS)]
    for number in range(count):
        found = family(number, *rows[number % len(rows)])
        framing = list(found.framed)[number // len(rows) % len(found.framed)]
        yield Question(f"{found.label} {framing}", found.framed[framing], found.answers, found.tip)


def of_vectors() -> Iterator[Question]:
    """All published payloads; the roots of the synthetic ones are their own."""
    mainnet = load("mainnet/payloads.json")
    roots = {(int(height), from_display(root)): Answer.YES for height, root in mainnet["roots"].items()}
    for number, payload in enumerate(mainnet["payloads"]):
        yield Question(f"mainnet {number}", bytes.fromhex(payload["beef"]), roots, Tip(mainnet["tip"], TIP.height))
    raws = {
        f"{name} {key}": vector[key]
        for name, vector in universal().items()
        for key in ("beef_hex", "beef_v2_hex", "atomic_beef_hex")
    }
    raws |= {id_: vector["input"]["beef_hex"] for id_, vector in conformance("beef-isvalid-hydration").items()}
    raws |= {id_: vector["input"]["beef_hex"] for id_, vector in conformance("beef-v2-txid-panic").items()}
    for label, raw in raws.items():
        for tip in (TIP, Tip(1_050, TIP.median_time_past)):
            yield Question(f"{label} at {tip.height}", bytes.fromhex(raw), own_roots(bytes.fromhex(raw)), tip)


def own_roots(beef: bytes) -> dict[RootAt, Answer]:
    """The roots a payload claims, taken to be true."""
    found = parse(beef, Policy())
    return dict.fromkeys(found.roots, Answer.YES) if isinstance(found, Payload) else {}


def of_spoiled(chain: Chain, seed: int = 0) -> Iterator[Question]:
    """Each kind of bad payload the instruments make, against their chain."""
    shop = Workshop(chain, seed)
    tip = Tip(chain.tip, chain.median_time_past())
    known = on_chain(chain)
    for kind, row in KINDS.items():
        beef, _ = row.build(shop)
        yield Question(f"spoiled {kind}", beef, told(beef, known, tip), tip)


def told(beef: bytes, known: Mapping[RootAt, Answer], tip: Tip) -> dict[RootAt, Answer]:
    """What a tracker that knows just these roots says: no to others, and nothing above the tip."""
    found = parse(beef, Policy())
    asked = found.roots if isinstance(found, Payload) else ()
    return {at: Answer.NO for at in asked if at[0] <= tip.height} | dict(known)


def on_chain(chain: Chain) -> dict[RootAt, Answer]:
    """The roots of the simulated chain."""
    heights = range(CHECKPOINT, chain.tip + 1)
    return {(height, chain.header(height)[36:68]): Answer.YES for height in heights}


def of_changed_bytes(count: int) -> Iterator[Question]:
    """Sound payloads with one place changed, cut or filled, judged against the roots of the sound one."""
    keys = ("beef_hex", "beef_v2_hex", "atomic_beef_hex")
    published = [bytes.fromhex(vector[key]) for vector in universal().values() for key in keys]
    for number in range(count):
        draw = Random(f"changed {number}")
        if number % 2:
            found = family(number % 40)
            beef = draw.choice(list(found.framed.values()))
        else:
            beef = draw.choice(published)
        known = found.answers if number % 2 else own_roots(beef)
        at = draw.randrange(len(beef))
        cut = draw.choice([0, 1, 1, 1, 1, draw.randint(2, 40)])
        put = bytes(draw.randrange(256) for _ in range(draw.choice([cut, cut, cut, draw.randint(0, 3)])))
        if draw.random() < 0.5:
            cut, put = 1, bytes([beef[at] ^ 1 << draw.randrange(8)])
        changed = beef[:at] + put + beef[at + cut :]
        yield Question(f"changed {number} at {at}", changed, told(changed, known, TIP))


def of_special_cases() -> Iterator[Question]:
    """What the others make seldom or never."""
    rich, parent = funding(Out(2 * MAX_SATOSHIS)), funding(Out(1000))
    relaxed = spend([In(parent, 0, by_p2pkh(key(), high_s=True))], version=2)
    middle = spend([In(parent)], [Out(990)])
    subject = spend([In(middle)], [Out(980)])
    line = bag(parent, middle, subject, proven=[parent, middle])
    made: dict[str, tuple[Bag, Tip]] = {
        "more than all coins": (bag(rich, spend([In(rich)], [Out(MAX_SATOSHIS + 1)]), proven=[rich]), TIP),
        "relaxed before Chronicle": (bag(parent, relaxed, proven=[parent], height=900_000), Tip(940_000, 1)),
        "relaxed since Chronicle": (bag(parent, relaxed, proven=[parent]), TIP),
        "subject first": (Bag([subject, parent, middle], line.proofs), TIP),
        "another's proof, not needed": (Bag(line.txs, dict.fromkeys(line.proofs, line.proofs[parent.txid])), TIP),
    }
    for label, (found, tip) in made.items():
        yield Question(label, found.v1(), found.answers(), tip)
    denied = dict(line.answers(Answer.NO)) | dict(bag(middle, proven=[middle], height=950_001).answers())
    yield Question("denied behind a proof", line.v1(), denied)
    beef = line.atomic()
    at = beef.index(parent.raw) - 3
    assert beef[at] == len(line.txs)
    yield Question("one more promised", beef[:at] + b"\x04" + beef[at + 1 :], line.answers())
    vector = bytes.fromhex(universal()["1-in-1-out"]["beef_hex"])
    beyond = vector[:10] + b"\x05" + vector[11:]
    yield Question("offset beyond the tree", beyond, own_roots(vector))
