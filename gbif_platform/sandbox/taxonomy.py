"""The sandbox's two checklists: every invented organism's names, ranks, synonyms, and keys in each checklist."""

from dataclasses import dataclass
from functools import cache

from gbif_platform.sandbox.organisms import AUTHORSHIP, SPECIES, Species
from gbif_platform.sandbox.randomness import seeded

BACKBONE = "d7dddbf4-2cf0-4f39-9b2a-bb099caae36c"
COL_XR = "7ddf754f-d193-4cc9-b351-99906754a03b"
CHECKLISTS = (BACKBONE, COL_XR)
RANKS = ("kingdom", "phylum", "class", "order", "family", "genus", "species")

_COL_ALPHABET = "23456789BCDFGHJKLMNPQRSTVWXYZ"  # Catalogue of Life identifiers: digits and letters hard to confuse
_SYNONYMS = (
    ("Demoptera argus", 99_000_201, "Demoptera ocellata"),
    ("Loopbackia notata", 99_000_202, "Loopbackia maculata"),
)


@dataclass(frozen=True)
class Usage:
    """One name of the checklists; `accepted` is set for a synonym, `lineage` goes from the kingdom down to itself."""

    name: str
    rank: str
    backbone_key: str
    authorship: str = ""
    accepted: "Usage | None" = None
    parents: tuple["Usage", ...] = ()

    @property
    def scientific_name(self) -> str:
        """The name with its authorship."""
        return f"{self.name} {self.authorship}".strip()

    @property
    def lineage(self) -> tuple["Usage", ...]:
        """Kingdom … itself; a synonym's is that of its accepted name."""
        return self.accepted.lineage if self.accepted else (*self.parents, self)

    def key(self, checklist: str) -> str:
        """The identifier in a checklist: a number as text in the backbone, such as `6X3QK` in COL XR."""
        return self.backbone_key if checklist == BACKBONE else col_key(self.backbone_key)


@cache
def col_key(backbone_key: str) -> str:
    """The COL XR key of a taxon: five characters, the first and last a letter, so that none reads as a number."""
    rng = seeded("col", backbone_key)
    letters = _COL_ALPHABET[8:]
    return rng.choice(letters) + "".join(rng.choices(_COL_ALPHABET, k=3)) + rng.choice(letters)


def _of_species(species: Species) -> Usage:
    higher = (species.kingdom, species.phylum, species.class_, species.order, species.family, species.genus)
    parents: tuple[Usage, ...] = ()
    for rank, taxon in zip(RANKS, higher, strict=False):
        parents = (*parents, Usage(taxon.name, rank.upper(), str(taxon.key), parents=parents))
    return Usage(species.name, "SPECIES", str(species.key), AUTHORSHIP, parents=parents)


def _usages() -> dict[str, Usage]:
    usages: dict[str, Usage] = {}
    for species in SPECIES:
        usage = _of_species(species)
        usages |= {each.name.lower(): each for each in usage.lineage}
    for name, key, accepted in _SYNONYMS:
        usages[name.lower()] = Usage(name, "SPECIES", str(key), "Sandbox, 1999", accepted=usages[accepted.lower()])
    return usages


USAGES: dict[str, Usage] = _usages()
"""Every name, by its lower-case canonical form."""
