"""Eight invented insects, drawn on request: they differ in shape and pattern, never by colour.

Every picture has its own pose, colours, light, background and camera, all from one seed, so that
`draw(species, seed)` is the same picture everywhere and no picture has to be stored.
"""

from dataclasses import dataclass, field

from PIL import Image

from gbif_platform.sandbox import scenery
from gbif_platform.sandbox.bodies import Plan, Shell, Wings, paint, scalloped, smooth
from gbif_platform.sandbox.markings import bands, eyespots, panes, spots, stripes, zigzags
from gbif_platform.sandbox.randomness import seeded

AUTHORSHIP = "Sandbox, 2026"


@dataclass(frozen=True)
class Taxon:
    """An invented name with its rank and the key that the sandbox's GBIF gives it."""

    name: str
    key: int


@dataclass(frozen=True)
class Species:
    """One invented species with its lineage; `index` is its place in `SPECIES`."""

    index: int
    epithet: str
    vernacular_name: str
    genus: Taxon
    family: Taxon
    order: Taxon
    plan: Plan = field(repr=False)
    kingdom: Taxon = Taxon("Animalia", 1)
    phylum: Taxon = Taxon("Arthropoda", 54)
    class_: Taxon = Taxon("Insecta", 216)

    @property
    def name(self) -> str:
        """The binomial, without authorship: Darwin Core's (GBIF's) `species`."""
        return f"{self.genus.name} {self.epithet}"

    @property
    def scientific_name(self) -> str:
        """The binomial with its invented authorship."""
        return f"{self.name} {AUTHORSHIP}"

    @property
    def key(self) -> int:
        """The sandbox's speciesKey."""
        return 99_000_100 + self.index


_ROUND_FORE = "0.05,-0.18 0.3,-0.5 0.66,-0.78 0.93,-0.8 1,-0.6 0.93,-0.32 0.72,-0.08 0.4,0.04 0.05,0.02"
_ROUND_HIND = "0.05,-0.05 0.4,-0.02 0.74,0.08 0.88,0.32 0.8,0.6 0.55,0.78 0.28,0.7 0.1,0.4"
_LONG_FORE = "0.05,-0.16 0.35,-0.36 0.75,-0.52 1.08,-0.56 1.14,-0.4 0.98,-0.18 0.6,-0.02 0.3,0.04 0.05,0.03"
_SMALL_HIND = "0.05,-0.03 0.42,0 0.66,0.12 0.7,0.34 0.52,0.54 0.26,0.52 0.1,0.3"
_POINTED_FORE = "0.05,-0.18 0.35,-0.5 0.75,-0.74 1.02,-0.8 0.92,-0.55 0.8,-0.28 0.72,-0.04 0.4,0.06 0.05,0.02"
_TAILED_HIND = (
    "0.05,-0.05 0.4,0 0.64,0.14 0.72,0.38 0.62,0.56 0.68,0.82 0.66,1.08 0.55,1.04 0.52,0.8 0.4,0.66 0.2,0.58 0.08,0.38"
)
_HOOKED_FORE = "0.05,-0.18 0.32,-0.54 0.68,-0.78 1.06,-0.66 0.86,-0.48 0.8,-0.24 0.86,0 0.42,0.06 0.05,0.02"
_TOOTHED_HIND = "0.05,-0.05 0.45,0 0.74,0.1 0.7,0.3 0.92,0.46 0.64,0.56 0.6,0.76 0.36,0.64 0.12,0.42"

_PLANS: dict[str, Plan] = {
    "ocellata": Wings(
        fore=smooth(_ROUND_FORE),
        hind=smooth(_ROUND_HIND),
        mark_fore=eyespots("0.68,-0.48,0.2"),
        mark_hind=eyespots("0.56,0.4,0.22"),
    ),
    "fasciata": Wings(
        fore=scalloped(smooth(_ROUND_FORE), teeth=13, depth=0.035),
        hind=scalloped(smooth(_ROUND_HIND), teeth=11, depth=0.045),
        mark_fore=bands("0.52,0.11 0.86,0.1"),
        mark_hind=bands("0.4,0.1 0.66,0.1"),
    ),
    "guttata": Wings(
        fore=smooth(_LONG_FORE),
        hind=smooth(_SMALL_HIND),
        mark_fore=spots("0.95,-0.4,0.065 0.8,-0.25,0.06 0.7,-0.42,0.07 0.5,-0.2,0.065 0.38,-0.3,0.045 0.3,-0.1,0.05"),
        mark_hind=spots("0.55,0.2,0.055 0.52,0.38,0.055 0.34,0.42,0.055 0.32,0.18,0.07"),
    ),
    "caudata": Wings(
        fore=smooth(_POINTED_FORE),
        hind=smooth(_TAILED_HIND),
        mark_fore=stripes(
            "0.3,-0.46,0.3,0,0.09 0.5,-0.6,0.5,0,0.09 0.7,-0.72,0.68,-0.05,0.09 0.88,-0.8,0.82,-0.3,0.08"
        ),
        mark_hind=stripes("0.26,0,0.2,0.5,0.09 0.46,0.02,0.36,0.56,0.09 0.62,0.16,0.5,0.62,0.06"),
    ),
    "fenestrata": Wings(
        fore=smooth(_HOOKED_FORE),
        hind=smooth(_TOOTHED_HIND),
        mark_fore=panes("0.3,-0.24,0.12 0.54,-0.42,0.14 0.56,-0.14,0.13 0.78,-0.6,0.11 0.74,-0.3,0.09"),
        mark_hind=panes("0.3,0.2,0.13 0.56,0.22,0.13 0.46,0.46,0.12 0.72,0.44,0.08"),
    ),
    "lineata": Shell(
        half_width=0.36,
        half_length=0.74,
        markings=stripes("0.11,-0.6,0.09,0.95,0.09 0.26,-0.5,0.22,0.8,0.08"),
        antennae=1.6,
    ),
    "maculata": Shell(
        half_width=0.62,
        half_length=0.66,
        markings=spots("0.2,-0.16,0.11 0.44,0.08,0.11 0.2,0.26,0.11 0.4,0.48,0.1 0.16,0.64,0.09"),
        antennae=0.7,
        club=0.03,
    ),
    "cornuta": Shell(
        half_width=0.5,
        half_length=0.66,
        markings=zigzags("-0.18,0.09 0.12,0.09 0.42,0.09 0.68,0.07"),
        antennae=0.9,
        club=0.06,
        horn=0.32,
    ),
}


def _species() -> tuple[Species, ...]:
    lineages = (
        (Taxon("Demoptera", 99_000_011), Taxon("Demopteridae", 99_000_001), Taxon("Lepidoptera", 797)),
        (Taxon("Pixelana", 99_000_012), Taxon("Demopteridae", 99_000_001), Taxon("Lepidoptera", 797)),
        (Taxon("Loopbackia", 99_000_013), Taxon("Loopbackiidae", 99_000_002), Taxon("Coleoptera", 1470)),
    )
    epithets = (
        (0, "ocellata", "four-eyed demowing"),
        (0, "fasciata", "banded demowing"),
        (0, "guttata", "dotted demowing"),
        (1, "caudata", "tailed pixelwing"),
        (1, "fenestrata", "window pixelwing"),
        (2, "lineata", "long-horned loopback"),
        (2, "maculata", "spotted loopback"),
        (2, "cornuta", "horned loopback"),
    )
    return tuple(
        Species(index, epithet, vernacular, *lineages[lineage], _PLANS[epithet])
        for index, (lineage, epithet, vernacular) in enumerate(epithets)
    )


SPECIES = _species()


def draw(species: int | Species, seed: int, size: tuple[int, int] = (400, 300)) -> Image.Image:
    """A picture of one animal.

    Args:
        species: an entry of `SPECIES` or its index.
        seed: which of the species' endlessly many pictures.
        size: (width, height) in pixels, at least 32 each.

    Returns:
        RGB; the same for the same arguments, on every machine.
    """
    chosen = SPECIES[species] if isinstance(species, int) else species
    rng = seeded(chosen.name, seed)
    width, height = size
    scene = scenery.background(size, rng)
    radius = min(size) * rng.uniform(0.33, 0.45)
    spare = max(0.0, min(size) / 2 - radius)
    centre = round(width / 2 + rng.uniform(-1, 1) * spare), round(height / 2 + rng.uniform(-1, 1) * spare)
    colours, coverage = paint(chosen.plan, radius, rng)
    scenery.place(scene, colours, coverage, centre, rng)
    scenery.foreground(scene, rng)
    return scenery.expose(scene, rng)
