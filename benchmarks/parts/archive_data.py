"""Write a Darwin Core Archive of GBIF's shape: archive_data.py ROWS FOLDER makes FOLDER/archive.zip.

Descriptor and columns are those of a download of 2024 (gbif_columns.txt: 223 occurrence columns, 15 of multimedia, 190
verbatim); the values are those of a citizen-science record, which fill about a third of the columns with some 700
characters. Every other occurrence has two pictures, so that there are 1.5 media rows to an occurrence, in the order of
the occurrences. One seed, so one text for a number of rows.
"""

import sys
import zipfile
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

SEED = 17
CHUNK_ROWS = 50_000
SPECIES, DATASETS, PLACES, OBSERVERS = 5_000, 40, 5_000, 4_000
FIRST_ID = 1_000_000_000
COLUMNS = Path(__file__).with_name("gbif_columns.txt")
VOCABULARIES = {
    "dc": "http://purl.org/dc/terms/",
    "dwc": "http://rs.tdwg.org/dwc/terms/",
    "gbif": "http://rs.gbif.org/terms/1.0/",
    "gadm": "http://rs.gbif.org/terms/gadm/3.0/",
    "iucn": "http://iucn.org/terms/",
}
EML = (
    '<eml:eml xmlns:eml="eml://ecoinformatics.org/eml-2.1.1" packageId="{0}"><dataset><title>{0}</title></dataset>'
    "</eml:eml>"
)
SYLLABLES = ("ba", "ce", "di", "fo", "gu", "ha", "li", "mo", "nu", "pe", "ra", "sti", "to", "vu", "xe", "phi")

Columns = dict[str, pa.Array | str]
Numbers = npt.NDArray[np.int64]


class Vocabularies:
    """The values that many records share, by an index: species, data sets, places, observers."""

    def __init__(self) -> None:
        self._rng = np.random.default_rng(SEED)
        self.genus = pa.array([self._word(3).title() for _ in range(SPECIES)])
        self.epithet = pa.array([self._word(4) for _ in range(SPECIES)])
        self.author = pa.array([f"{self._word(2).title()}, {1758 + i % 240}" for i in range(SPECIES)])
        self.family = pa.array([self._word(3).title() + "idae" for _ in range(SPECIES // 20)])
        self.order = pa.array([self._word(2).title() + "ptera" for _ in range(SPECIES // 200)])
        self.dataset_key = pa.array([self._key(i) for i in range(DATASETS)])
        self.dataset = pa.array([f"{self._word(3).title()} research-grade observations" for _ in range(DATASETS)])
        self.observer = pa.array([f"{self._word(2).title()} {self._word(3).title()}" for _ in range(OBSERVERS)])
        self.locality = pa.array([f"{self._word(3).title()}, {self._word(4).title()}" for _ in range(PLACES)])
        self.province = pa.array([self._word(3).title() for _ in range(PLACES // 50)])
        self.country = pa.array(["DK", "SE", "DE", "FR", "US", "CA", "BR", "ZA", "AU", "IN"])

    @cached_property
    def species(self) -> pa.Array:
        """Genus and epithet."""
        return joined(self.genus, " ", self.epithet)

    @cached_property
    def scientific_name(self) -> pa.Array:
        """Genus, epithet and author."""
        return joined(self.species, " ", self.author)

    def _word(self, syllables: int) -> str:
        return "".join(self._rng.choice(SYLLABLES, syllables))

    def _key(self, number: int) -> str:
        digits = self._rng.bytes(16).hex()
        return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def joined(*parts: pa.Array | str) -> pa.Array:
    """Texts one after another."""
    return pc.binary_join_element_wise(*parts, "")


def text(numbers: npt.NDArray[np.generic]) -> pa.Array:
    """Numbers as text."""
    return pa.array(numbers).cast(pa.string())


def occurrence_columns(numbers: Numbers, shared: Vocabularies) -> Columns:
    """The filled columns of these records, interpreted."""
    rng = np.random.default_rng([SEED, int(numbers[0])])
    size = len(numbers)
    species = np.minimum((rng.pareto(1.0, size) * 40).astype(np.int64), SPECIES - 1)
    place, observer = rng.integers(0, PLACES, size), rng.integers(0, OBSERVERS, size)
    dataset = rng.integers(0, DATASETS, size)
    day = np.datetime64("2012-01-01") + rng.integers(0, 4600, size).astype("timedelta64[D]")
    date = text(day.astype("datetime64[D]"))
    month = pc.utf8_slice_codeunits(date, 5, 7)
    day_of_year = text((day - day.astype("datetime64[Y]")).astype(np.int64) + 1)
    latitude, longitude = np.round(rng.uniform(-60, 70, size), 6), np.round(rng.uniform(-180, 180, size), 6)
    name, scientific_name = shared.species.take(species), shared.scientific_name.take(species)
    family, order = shared.family.take(species // 20), shared.order.take(species // 200)
    page = joined("https://www.inaturalist.org/observations/", text(numbers + 5_000_000))
    parsed = joined(date, "T20:29:49.178Z")
    person, key = shared.observer.take(observer), text(species + 2_000_000)
    return {
        "gbifID": text(numbers + FIRST_ID), "license": "CC_BY_NC_4_0", "modified": joined(date, "T09:12:33Z"),
        "references": page, "rightsHolder": person, "institutionCode": "iNaturalist", "collectionCode": "Observations",
        "datasetName": shared.dataset.take(dataset), "basisOfRecord": "HUMAN_OBSERVATION", "occurrenceID": page,
        "catalogNumber": text(numbers + 5_000_000), "recordedBy": person, "occurrenceStatus": "PRESENT",
        "lifeStage": "Adult", "eventDate": date, "eventTime": "14:05:31+02:00", "startDayOfYear": day_of_year,
        "endDayOfYear": day_of_year, "year": pc.utf8_slice_codeunits(date, 0, 4), "month": month,
        "day": pc.utf8_slice_codeunits(date, 8, 10), "verbatimEventDate": joined(date, " 14:05:31"),
        "continent": "EUROPE", "countryCode": shared.country.take(place % 10),
        "stateProvince": shared.province.take(place // 50), "locality": shared.locality.take(place),
        "verbatimLocality": shared.locality.take(place), "decimalLatitude": text(latitude),
        "decimalLongitude": text(longitude), "coordinateUncertaintyInMeters": text(rng.integers(3, 3000, size)),
        "identificationID": text(numbers + 90_000_000), "identifiedBy": person, "dateIdentified": parsed,
        "taxonID": key, "scientificName": scientific_name, "kingdom": "Animalia", "phylum": "Arthropoda",
        "class": "Insecta", "order": order, "family": family, "genus": shared.genus.take(species),
        "genericName": shared.genus.take(species), "specificEpithet": shared.epithet.take(species),
        "taxonRank": "SPECIES", "taxonomicStatus": "ACCEPTED", "datasetKey": shared.dataset_key.take(dataset),
        "publishingCountry": "US", "lastInterpreted": "2024-11-20T20:29:49.178Z",
        "issue": "COORDINATE_ROUNDED;CONTINENT_DERIVED_FROM_COORDINATES;TAXON_MATCH_TAXON_ID_IGNORED",
        "mediaType": "StillImage", "hasCoordinate": "true", "hasGeospatialIssues": "false", "taxonKey": key,
        "acceptedTaxonKey": key, "kingdomKey": "1", "phylumKey": "54", "classKey": "216",
        "orderKey": text(species // 200 + 700), "familyKey": text(species // 20 + 5_000),
        "genusKey": text(species + 1_000_000), "speciesKey": key, "species": name,
        "acceptedScientificName": scientific_name, "verbatimScientificName": name, "protocol": "DWC_ARCHIVE",
        "lastParsed": "2024-11-20T20:29:49.178Z", "lastCrawled": "2024-11-19T18:03:12.004Z", "repatriated": "true",
        "isSequenced": "false", "gbifRegion": "EUROPE", "publishedByGbifRegion": "NORTH_AMERICA", "level0Gid": "DNK",
        "level0Name": "Denmark", "level1Gid": "DNK.1_1", "level1Name": shared.province.take(place // 50),
        "iucnRedListCategory": "NE",
    }  # fmt: skip


VERBATIM = (
    "gbifID", "license", "modified", "references", "rightsHolder", "institutionCode", "collectionCode",
    "datasetName", "basisOfRecord", "occurrenceID", "catalogNumber", "recordedBy", "eventDate", "eventTime",
    "verbatimEventDate", "countryCode", "stateProvince", "locality", "verbatimLocality", "decimalLatitude",
    "decimalLongitude", "coordinateUncertaintyInMeters", "identificationID", "identifiedBy", "dateIdentified",
    "taxonID", "scientificName", "kingdom", "phylum", "class", "order", "family", "genus", "taxonRank",
)  # fmt: skip


def media_columns(numbers: Numbers, occurrences: Columns) -> Columns:
    """The filled columns of the pictures of these records."""
    row = np.repeat(np.arange(len(numbers)), 1 + numbers % 2)
    photo = text(numbers[row] * 2 + np.append(False, row[1:] == row[:-1]) + 20_000_000)
    person, date = (pc.take(occurrences[key], pa.array(row)) for key in ("recordedBy", "eventDate"))
    licences = pa.array([f"http://creativecommons.org/licenses/{name}/4.0/" for name in ("by-nc", "by", "by-sa")])
    return {
        "gbifID": text(numbers[row] + FIRST_ID), "type": "StillImage", "format": "image/jpeg",
        "identifier": joined("https://inaturalist-open-data.s3.amazonaws.com/photos/", photo, "/original.jpg"),
        "references": joined("https://www.inaturalist.org/photos/", photo),
        "created": joined(date, "T12:05:31Z"), "creator": person,
        "publisher": "iNaturalist", "license": licences.take(pa.array(numbers[row] % 3)), "rightsHolder": person,
    }  # fmt: skip


def lines(names: list[str], columns: Columns) -> bytes:
    """Tab-separated lines of these columns."""
    table = pc.binary_join_element_wise(*(columns.get(name, "") for name in names), "\t")
    return ("\n".join(table.to_pylist()) + "\n").encode()


def described() -> dict[str, list[str]]:
    """Terms of each member, with their vocabulary's prefix, in their order; the row type is the first."""
    members: dict[str, list[str]] = {}
    for line in COLUMNS.read_text(encoding="utf-8").splitlines()[1:]:
        if line.startswith("= "):
            _, name, row_type = line.split()
            members[name] = [row_type]
        else:
            members[name] += line.split()
    return members


def descriptor(members: dict[str, list[str]]) -> str:
    """The meta.xml of GBIF's downloads: tabs, no quotes, one header line, the id first."""
    sections = []
    for number, (name, (row_type, *terms)) in enumerate(members.items()):
        tag, key = ("core", "id") if number == 0 else ("extension", "coreid")
        fields = "".join(f'<field index="{place}" term="{uri(term)}"/>' for place, term in enumerate(terms))
        sections.append(
            f'<{tag} encoding="UTF-8" fieldsTerminatedBy="\\t" linesTerminatedBy="\\n" fieldsEnclosedBy="" '
            f'ignoreHeaderLines="1" rowType="{uri(row_type)}"><files><location>{name}</location></files>'
            f'<{key} index="0"/>{fields}</{tag}>'
        )
    return f'<archive xmlns="http://rs.tdwg.org/dwc/text/" metadata="metadata.xml">{"".join(sections)}</archive>'


def uri(term: str) -> str:
    """A term's URI."""
    prefix, _, name = term.partition(":")
    return VOCABULARIES[prefix] + name


def member(name: str, names: list[str], rows: int, shared: Vocabularies) -> Iterator[bytes]:
    """The text of one member, in chunks."""
    yield ("\t".join(names) + "\n").encode()
    for start in range(0, rows, CHUNK_ROWS):
        numbers = np.arange(start, min(start + CHUNK_ROWS, rows))
        columns = occurrence_columns(numbers, shared)
        if name == "multimedia.txt":
            columns = media_columns(numbers, columns)
        elif name == "verbatim.txt":
            columns = {key: columns[key] for key in VERBATIM}
        yield lines(names, columns)


def main() -> None:
    rows, folder = int(sys.argv[1]), Path(sys.argv[2])
    folder.mkdir(parents=True)
    shared = Vocabularies()
    with zipfile.ZipFile(folder / "archive.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("meta.xml", descriptor(described()))
        archive.writestr("metadata.xml", EML.format("GBIF Occurrence Download"))
        archive.writestr("citations.txt", "When using this dataset please use the following citation:\n")
        archive.writestr("rights.txt", "Dataset: all\nRights as supplied: CC_BY_NC_4_0\n")
        for key in shared.dataset_key.to_pylist():
            archive.writestr(f"dataset/{key}.xml", EML.format(key))
        for name, (_, *terms) in described().items():
            names = [term.partition(":")[2] for term in terms]
            with archive.open(name, "w", force_zip64=True) as out:
                for chunk in member(name, names, rows, shared):
                    out.write(chunk)


if __name__ == "__main__":
    main()
