"""The invented species of the field guide, and how surely each shows its traits.

The looks come from a search for a balanced table (every attribute in about its fair share of the seen species, no two
attributes strongly tied, every species at least five traits away from every other); the names and the exceptions
were written afterwards.
"""

from __future__ import annotations

from dataclasses import dataclass

from zsl_train.data.field_guide.traits import TRAITS

MOST = 0.8  # `grey/brown` is grey in most pictures and brown in the others; `crest~` is there in most
FEW = 0.2  # `crest?` is there in few

# name | body, wing, breast and crown colour | wing pattern, breast pattern, bill shape, and below what else it has
SEEN = """
Rowan Forktail        | green rufous white black       | barred streaked conical
    bill_length tail_shape tail_length leg_color
Masked Swallowjay     | brown black yellow yellow      | spotted banded dagger
    tail_shape tail_length leg_color face_mask size~
Frost Pearlwader      | grey white white red           | spotted/plain banded conical
    tail_color leg_length neck_length face_mask eye_ring
Amberneck Courser     | brown rufous orange yellow     | barred banded dagger
    bill_color bill_length~ tail_color tail_shape tail_length neck_length face_mask eye_ring
Bracken Strider       | brown rufous white yellow      | plain streaked dagger
    bill_color bill_length leg_color neck_length size
Ashen Reedlark        | grey black white red           | plain banded dagger
    tail_shape crest~ eye_ring
Ember Stilt           | grey black orange yellow       | barred plain conical
    bill_color leg_color leg_length face_mask~ eye_ring
Dusk Heronet          | blue black orange/yellow black | spotted streaked conical
    bill_length leg_length neck_length eye_ring crest?
Glacier Crownkite     | blue white white yellow        | barred streaked hooked
    tail_color tail_length leg_color leg_length crest face_mask eye_ring size
Lapis Hookneck        | blue black yellow red          | plain/spotted streaked hooked
    tail_color leg_color neck_length
Honey Plumewren       | brown black yellow yellow      | plain banded conical
    bill_color tail_length~ neck_length crest
Papaya Mosshawk       | green rufous orange yellow     | spotted streaked hooked
    tail_color neck_length face_mask eye_ring?
Pewter Seedcracker    | grey/brown white orange red    | plain plain conical
    bill_length tail_length face_mask size
Limón Rail            | green white yellow red         | barred streaked dagger
    bill_color bill_length tail_color tail_shape leg_color leg_length face_mask~ eye_ring
Umber Quillstalker    | brown white orange black       | plain streaked hooked
    tail_color leg_length neck_length crest face_mask
Snowvest Hooplet      | brown white white red/yellow   | barred plain hooked
    bill_color bill_length tail_shape leg_color crest
Persimmon Snakeneck   | green rufous orange red        | barred plain dagger
    tail_shape neck_length size tail_color?
Marigold Strutter     | brown rufous yellow red        | spotted banded conical
    tail_length leg_color leg_length crest~ size
Mossback Shrikelet    | green black white black        | barred plain hooked
    bill_color tail_length crest eye_ring size
Fernland Pippit       | green/grey black white black   | spotted plain conical
    tail_shape leg_length crest
Citrine Longbill      | green black yellow black       | plain plain hooked
    bill_color bill_length tail_color~ tail_shape tail_length leg_length eye_ring
Brûlée Harrier        | grey rufous white black        | spotted banded hooked
    bill_color bill_length tail_shape tail_length crest face_mask eye_ring size
Zephyr Egretta        | blue white yellow yellow/black | spotted plain dagger
    bill_color tail_color neck_length crest size
Cobalt Streamertail   | blue white orange red          | spotted plain hooked
    tail_shape tail_length neck_length face_mask size~
"""

UNSEEN = """
Cinder Wagtern        | grey black orange yellow       | plain streaked conical
    bill_color tail_color tail_length
Élan Marsh Falcon     | green rufous white black       | spotted plain hooked
    tail_color tail_length leg_length eye_ring size
Silver Gale Stork     | grey white orange black        | spotted streaked hooked
    tail_color tail_shape tail_length leg_color leg_length neck_length crest face_mask~ size
Badger Woodtapper     | brown black white red          | barred banded dagger
    face_mask eye_ring
Jungle Torchbill      | green black orange yellow      | spotted streaked conical
    bill_color bill_length tail_color tail_shape~ tail_length leg_length neck_length
Vanilla Sandplume     | brown white white yellow       | plain plain dagger
    bill_color leg_color neck_length crest
Carnival Kingdart     | blue rufous yellow/orange red  | barred banded dagger
    bill_length tail_shape leg_color crest face_mask eye_ring
Hazel Saddlehook      | brown rufous yellow red        | barred banded hooked
    bill_color bill_length face_mask eye_ring size
"""

NEW = """
Midnight Lanternwader | blue black orange black        | spotted banded conical
    tail_color tail_shape leg_length
Île Bleue Tern        | blue white white red           | spotted plain dagger
    bill_color tail_shape tail_length leg_color neck_length crest
Mocha Avocetta        | brown white yellow black       | plain banded dagger
    bill_length leg_color neck_length crest face_mask eye_ring
Grand Hailcatcher     | grey white yellow yellow       | barred streaked hooked
    leg_length crest face_mask eye_ring size
"""


@dataclass(frozen=True)
class Species:
    """One species.

    Attributes:
        name: unique; several have letters beyond ASCII, as users' classes do.
        looks: for every trait the share of pictures that show each value; the shares of a trait sum to 1.

    """

    name: str
    looks: dict[str, dict[str, float]]


def read_species(table: str) -> tuple[Species, ...]:
    """The species of one of the tables above."""
    lines = table.strip().splitlines()
    return tuple(_species(line, others) for line, others in zip(lines[::2], lines[1::2], strict=True))


def _species(line: str, others: str) -> Species:
    name, colors, patterns = (cell.strip() for cell in line.split("|"))
    looks: dict[str, dict[str, float]] = {}
    several = [trait for trait in TRAITS if not trait.yes_or_no]
    for trait, cell in zip(several, (*colors.split(), *patterns.split()), strict=True):
        usual, _, other = cell.partition("/")
        looks[trait.name] = {usual: MOST, other: 1 - MOST} if other else {usual: 1.0}
    shares = {word.rstrip("~?"): {"~": MOST, "?": FEW}.get(word[-1], 1.0) for word in others.split()}
    for trait in (trait for trait in TRAITS if trait.yes_or_no):
        no, yes = trait.values
        share = shares.pop(trait.name, 0.0)
        looks[trait.name] = {yes: share, no: 1 - share}
    if shares:
        message = f"the table of species gives {name} unknown traits: {', '.join(shares)}"
        raise ValueError(message)
    return Species(name, looks)
