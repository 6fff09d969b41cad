"""What the sandbox's invented naturalists recorded: occurrences, their media, and the troubles real downloads have.

Every record depends on the seed and its own number alone: a larger data set holds the same records and more, with
the same gbifID, occurrenceID, values and media URLs.
"""

import math
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum
from hashlib import sha256
from random import Random
from uuid import NAMESPACE_URL, uuid5

from gbif_platform.sandbox.organisms import SPECIES, Species
from gbif_platform.sandbox.randomness import seeded

CC0 = "http://creativecommons.org/publicdomain/zero/1.0/"
CC_BY = "http://creativecommons.org/licenses/by/4.0/"
CC_BY_NC = "http://creativecommons.org/licenses/by-nc/4.0/"

_FIRST_GBIF_ID = 4_900_000_000
_FIRST_TROUBLE = 90_000_000  # record numbers from here on belong to troubles, far beyond any size
_LAST_INTERPRETED = "2026-01-10T08:00:00.000Z"


class Trouble(StrEnum):
    """What is wrong with a medium or its occurrence; the value says what must be noticed."""

    ORPHAN = "media row without an occurrence"
    NO_IDENTIFIER = "empty identifier"
    SOUND = "a sound, not a picture"
    DUPLICATE = "the same media line twice"
    GENUS_ONLY = "identified to genus only"
    NOT_FOUND = "HTTP 404"
    HTML_PAGE = "an HTML page instead of a picture"
    BUSY_ONCE = "HTTP 503 the first time, then a picture"
    TRUNCATED = "the transfer ends half way"


@dataclass(frozen=True)
class Publisher:
    """One constituent data set of the sandbox's GBIF; `share` is its part of the records."""

    name: str
    title: str
    organisation: str
    institution_code: str
    basis_of_record: str
    licence: str
    licence_url: str
    country: str
    share: float

    @property
    def dataset_key(self) -> str:
        """GBIF's datasetKey, a UUID."""
        return str(uuid5(NAMESPACE_URL, f"https://sandbox.example/dataset/{self.name}"))

    @property
    def organisation_key(self) -> str:
        """GBIF's publishingOrgKey, a UUID."""
        return str(uuid5(NAMESPACE_URL, f"https://sandbox.example/organisation/{self.organisation}"))

    @property
    def doi(self) -> str:
        """The data set's own invented DOI."""
        return f"10.15468/{self.name}"

    @property
    def citation(self) -> str:
        """How the data set wants to be cited."""
        return f"{self.organisation} (2026). {self.title}. Occurrence dataset https://doi.org/{self.doi}"


PUBLISHERS: tuple[Publisher, ...] = (
    Publisher(
        "sbxnat", "Loopback Naturalists research-grade observations", "Loopback Naturalists", "LoopNat",
        "HUMAN_OBSERVATION", "CC_BY_NC_4_0", "http://creativecommons.org/licenses/by-nc/4.0/legalcode", "DK", 0.58,
    ),
    Publisher(
        "sbxent", "Sandbox University Entomological Collection", "Sandbox University", "SBX",
        "PRESERVED_SPECIMEN", "CC0_1_0", "http://creativecommons.org/publicdomain/zero/1.0/legalcode", "PT", 0.18,
    ),
    Publisher(
        "sbxtrp", "Regional light-trap survey", "Port 8765 Nature Agency", "PNA",
        "MACHINE_OBSERVATION", "CC_BY_4_0", "http://creativecommons.org/licenses/by/4.0/legalcode", "EE", 0.18,
    ),
    Publisher(
        "sbxgrd", "Community garden bioblitz", "Friends of the Demo Garden", "FDG",
        "HUMAN_OBSERVATION", "CC_BY_4_0", "http://creativecommons.org/licenses/by/4.0/legalcode", "CO", 0.06,
    ),
)  # fmt: skip

_PEOPLE = (
    "Ada Petersen", "Frode Ås", "Élodie d'Orsay", "María José Núñez", "Katrin Põld", "João Simões", "Дарья Иванова",
    "江口 健", "Niamh O'Shea", "Tomasz Wójcik", "Ingrid Sørensen", "Amara Okafor", "Lúcia Braga", "Mihkel Tamm",
    "Sofía Restrepo", "Henrik Lund", "Beatriz Vale", "Camilo Ángel",
)  # fmt: skip

# country, state or province, locality, latitude, longitude
_PLACES = (
    ("DK", "Midtjylland", "Mols Bjerge, heath above the bay", 56.22, 10.55),
    ("DK", "Hovedstaden", 'Meadow by the "Three Oaks"', 55.86, 12.41),
    ("PT", "Évora", "Montado south of the village", 38.53, -7.95),
    ("PT", "Bragança", "Ribeira path; stone bridge", 41.80, -6.76),
    ("EE", "Saaremaa", "Kuressaare, alvar", 58.25, 22.48),
    ("EE", "Tartu", "Botanical garden, light trap 3", 58.38, 26.72),
    ("CO", "Antioquia", "Vereda El Salado, 2100 m", 6.05, -75.45),
    ("CO", "Quindío", "Jardín botánico, sendero norte", 4.51, -75.72),
)
_CONTINENTS = {"DK": "EUROPE", "PT": "EUROPE", "EE": "EUROPE", "CO": "SOUTH_AMERICA"}

# Media licences are free text, mostly a Creative Commons address, often nothing, sometimes odd: (text, weight).
_MEDIUM_LICENCES = (
    (CC_BY_NC, 42), (CC_BY, 20), (CC0, 12), ("", 9), ("CC BY-NC-SA 4.0", 4),
    ("http://creativecommons.org/licenses/by-sa/4.0/", 4), ("http://creativecommons.org/licenses/by-nc-nd/4.0/", 3),
    ("© all rights reserved", 3), ("cc by", 2), ("Usage conditions apply, ask the curator", 1),
)  # fmt: skip

# The commonest species first; counts fall as 1 / rank ** 0.8, a mild long tail.
_COMMONEST_FIRST = (0, 5, 3, 6, 1, 7, 2, 4)
_COMMONNESS = tuple(1 / (rank + 1) ** 0.8 for rank in range(len(SPECIES)))
_MEDIA_WEIGHTS = (2, 75, 16, 7)  # no picture, one, two, three
_PICTURE_SIZES = ((400, 300), (300, 400), (360, 360), (420, 280))


@dataclass(frozen=True)
class Medium:
    """One media row and, unless it has none, the address below the sandbox where the server answers for it."""

    gbif_id: int
    path: str
    type: str
    format: str
    created: str
    creator: str
    publisher: str
    license: str
    species: int
    size: tuple[int, int]
    trouble: Trouble | None = None

    @property
    def drawing_seed(self) -> int:
        """Which drawing of its species the picture is."""
        return int.from_bytes(sha256(self.path.encode()).digest()[:6], "big")


@dataclass(frozen=True)
class Occurrence:
    """One occurrence: its interpreted terms by Darwin Core or GBIF name, its true species, and its media."""

    gbif_id: int
    terms: dict[str, str]
    publisher: Publisher
    species: Species
    media: tuple[Medium, ...]
    trouble: Trouble | None = None

    @property
    def media_rows(self) -> tuple[Medium, ...]:
        """The media as GBIF lists them: all of them twice where that is the trouble."""
        return self.media * 2 if self.trouble is Trouble.DUPLICATE else self.media


def ordinary(seed: int, number: int, *, relabelled: bool = False) -> Occurrence:
    """The `number`th occurrence of a seed; `relabelled` gives it a sister species' name and leaves its pictures."""
    rng = seeded("occurrence", seed, number)
    ranked = rng.choices(_COMMONEST_FIRST, weights=_COMMONNESS)[0]
    # The first ones go round, so that the smallest data set holds every species twice.
    species = SPECIES[number % len(SPECIES) if number < 2 * len(SPECIES) else ranked]
    publisher = rng.choices(PUBLISHERS, weights=[publisher.share for publisher in PUBLISHERS])[0]
    pictures = rng.choices(range(len(_MEDIA_WEIGHTS)), weights=_MEDIA_WEIGHTS)[0]
    terms = _terms(seed, number, publisher, rng)
    media = tuple(_picture(seed, number, nth, terms, publisher, species.index) for nth in range(pictures))
    name = _sister(species) if relabelled else species
    terms |= _identification(name) | {"mediaType": "StillImage" if media else ""}
    return Occurrence(int(terms["gbifID"]), terms, publisher, species, media)


def troubled(seed: int, trouble: Trouble, copy: int) -> tuple[Occurrence | None, Medium]:
    """The `copy`th case of a trouble: its medium, and its occurrence unless the trouble is that there is none."""
    number = _FIRST_TROUBLE + copy * len(Trouble) + list(Trouble).index(trouble)
    rng = seeded("trouble", seed, number)
    species, publisher = SPECIES[number % len(SPECIES)], PUBLISHERS[0]
    terms = _terms(seed, number, publisher, rng)
    medium = _picture(seed, number, 0, terms, publisher, species.index, trouble)
    if trouble is Trouble.ORPHAN:
        return None, medium
    terms |= _identification(species, to_genus=trouble is Trouble.GENUS_ONLY) | {"mediaType": medium.type}
    return Occurrence(medium.gbif_id, terms, publisher, species, (medium,), trouble), medium


def _sister(species: Species) -> Species:
    """Another species of the same genus: what a record is most easily mistaken for."""
    sisters = [other for other in SPECIES if other.genus == species.genus and other is not species]
    return sisters[species.index % len(sisters)]


def _picture(
    seed: int,
    number: int,
    nth: int,
    terms: dict[str, str],
    publisher: Publisher,
    species: int,
    trouble: Trouble | None = None,
) -> Medium:
    rng = seeded("medium", seed, number, nth)
    token = sha256(f"{seed}/{number}/{nth}".encode()).hexdigest()[:12]
    sound = trouble is Trouble.SOUND
    licences, weights = zip(*_MEDIUM_LICENCES, strict=True)
    return Medium(
        gbif_id=int(terms["gbifID"]),
        path="" if trouble is Trouble.NO_IDENTIFIER else f"/media/{token}/{'call.mp3' if sound else 'original.jpg'}",
        type="Sound" if sound else "StillImage",
        format="audio/mpeg" if sound else "image/jpeg",
        created=terms["eventDate"],
        creator=terms["recordedBy"],
        publisher=publisher.organisation,
        # Troubles are about something else: their licence is plain, so that a licence filter lets them through.
        license=rng.choices(licences, weights)[0] if trouble is None else CC_BY,
        species=species,
        size=rng.choice(_PICTURE_SIZES),
        trouble=trouble,
    )


def _terms(seed: int, number: int, publisher: Publisher, rng: Random) -> dict[str, str]:
    """Everything but the identification. Three records in a row are one outing: same observer, day and place."""
    outing = seeded("outing", seed, number // 3)
    observer, place = outing.choice(_PEOPLE), outing.choice(_PLACES)
    museum = publisher.basis_of_record == "PRESERVED_SPECIMEN"
    year = outing.randrange(5) + (1962 if museum else 2021)
    day = date(year, 1, 1) + timedelta(days=int(outing.triangular(90, 300, 190)))
    time = "" if museum else f"T{rng.randint(7, 21):02d}:{rng.randrange(60):02d}:00"
    country, state, locality, latitude, longitude = place
    occurrence_id = (
        f"urn:catalog:SBX:Ent:{number:08d}" if museum else f"https://sandbox.example/{publisher.name}/{seed}/{number}"
    )
    return {
        "gbifID": str(_FIRST_GBIF_ID + 10 * number + rng.randrange(10)),
        "license": publisher.licence,
        "publisher": publisher.organisation,
        "references": "" if museum else occurrence_id,
        "rightsHolder": "" if museum else observer,
        "institutionCode": publisher.institution_code,
        "collectionCode": "Ent" if museum else "Observations",
        "datasetName": publisher.title,
        "basisOfRecord": publisher.basis_of_record,
        "occurrenceID": occurrence_id,
        "catalogNumber": f"{number:08d}",
        "recordedBy": observer,
        "individualCount": "1" if rng.random() < 0.6 else "",
        "sex": rng.choice(("", "", "FEMALE", "MALE")),
        "lifeStage": rng.choice(("", "Adult")),
        "occurrenceStatus": "PRESENT",
        "occurrenceRemarks": rng.choice(("", "", "", "on thistle", 'label reads "rare?"', "worn; left hind wing torn")),
        "eventDate": f"{day.isoformat()}{time}",
        "startDayOfYear": str(day.timetuple().tm_yday),
        "endDayOfYear": str(day.timetuple().tm_yday),
        "year": str(day.year),
        "month": str(day.month),
        "day": str(day.day),
        "continent": _CONTINENTS[country],
        "countryCode": country,
        "stateProvince": state,
        "locality": locality,
        "decimalLatitude": f"{latitude + rng.gauss(0, 0.01):.6f}",
        "decimalLongitude": f"{longitude + rng.gauss(0, 0.01) / math.cos(math.radians(latitude)):.6f}",
        "coordinateUncertaintyInMeters": rng.choice(("", "10.0", "25.0", "250.0", "1000.0")),
        "identifiedBy": observer if museum else "",
        "datasetKey": publisher.dataset_key,
        "publishingCountry": publisher.country,
        "lastInterpreted": _LAST_INTERPRETED,
        "issue": rng.choice(("", "", "COORDINATE_ROUNDED", "COORDINATE_ROUNDED;CONTINENT_DERIVED_FROM_COORDINATES")),
        "hasCoordinate": "true",
        "hasGeospatialIssues": "false",
        "protocol": "DWC_ARCHIVE",
        "lastParsed": _LAST_INTERPRETED,
        "lastCrawled": _LAST_INTERPRETED,
        "repatriated": str(publisher.country != country).lower(),
        "iucnRedListCategory": "NE",
    }


def _identification(species: Species, *, to_genus: bool = False) -> dict[str, str]:
    """The taxon terms, down to the species or to its genus only."""
    lineage = {
        "kingdom": species.kingdom,
        "phylum": species.phylum,
        "class": species.class_,
        "order": species.order,
        "family": species.family,
        "genus": species.genus,
    }
    name = species.genus.name if to_genus else species.scientific_name
    key = str(species.genus.key if to_genus else species.key)
    terms = {rank: taxon.name for rank, taxon in lineage.items()}
    terms |= {f"{rank}Key": str(taxon.key) for rank, taxon in lineage.items()}
    return terms | {
        "scientificName": name,
        "acceptedScientificName": name,
        "verbatimScientificName": name,
        "genericName": species.genus.name,
        "specificEpithet": "" if to_genus else species.epithet,
        "taxonRank": "GENUS" if to_genus else "SPECIES",
        "vernacularName": "" if to_genus else species.vernacular_name,
        "taxonomicStatus": "ACCEPTED",
        "taxonKey": key,
        "acceptedTaxonKey": key,
        "species": "" if to_genus else species.name,
        "speciesKey": "" if to_genus else key,
    }
