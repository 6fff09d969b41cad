"""The sandbox's data sets, and the Darwin Core Archives that its GBIF makes of them, in the layout of 2024."""

import zipfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from gbif_platform.sandbox import documents
from gbif_platform.sandbox.documents import DownloadIdentity
from gbif_platform.sandbox.randomness import seeded
from gbif_platform.sandbox.records import Medium, Occurrence, Publisher, Trouble, ordinary, troubled


@dataclass(frozen=True)
class SandboxDataset:
    """A reproducible set of records; two of one seed share every record that both hold.

    Args:
        seed: which world of records.
        size: ordinary occurrences of the first snapshot.
        grow: share of `size` added to them, as a later snapshot has; 0.1 adds a tenth.
        remove: share of the first `size` occurrences that their publisher has deleted since.
        relabel: share of them (others) now identified as a sister species, their pictures unchanged.
        troubles: how many cases of every `Trouble` there are besides; 0 for a data set without faults.
    """

    seed: int = 17
    size: int = 480
    grow: float = 0.0
    remove: float = 0.0
    relabel: float = 0.0
    troubles: int = 1

    def occurrences(self) -> Iterator[Occurrence]:
        """The rows of the core, by rising gbifID."""
        for number in range(self.size + round(self.size * self.grow)):
            if number not in self._removed:
                yield ordinary(self.seed, number, relabelled=number in self._relabelled)
        yield from (occurrence for occurrence, _ in self._troubled() if occurrence is not None)

    def media(self) -> Iterator[Medium]:
        """The rows of the multimedia extension, orphans and duplicated lines included."""
        for occurrence in self.occurrences():
            yield from occurrence.media_rows
        yield from (medium for occurrence, medium in self._troubled() if occurrence is None)

    def records_by_publisher(self) -> Counter[Publisher]:
        """Occurrences of each constituent data set, the largest first."""
        return _by_publisher(self.occurrences())

    def _troubled(self) -> list[tuple[Occurrence | None, Medium]]:
        return [troubled(self.seed, trouble, copy) for copy in range(self.troubles) for trouble in Trouble]

    @cached_property
    def _shuffled(self) -> list[int]:
        """The first `size` numbers in a fixed random order: removal takes from its front, relabelling from its end."""
        return sorted(range(self.size), key=lambda number: seeded("change", self.seed, number).random())

    @cached_property
    def _removed(self) -> frozenset[int]:
        return frozenset(self._shuffled[: round(self.size * self.remove)])

    @cached_property
    def _relabelled(self) -> frozenset[int]:
        return frozenset(self._shuffled[self.size - round(self.size * self.relabel) :]) - self._removed


@dataclass(frozen=True)
class Selection:
    """Any occurrences, as an archive is made of them; it has no media rows without an occurrence."""

    records: tuple[Occurrence, ...]

    def occurrences(self) -> Iterator[Occurrence]:
        """The rows of the core, as given."""
        return iter(self.records)

    def media(self) -> Iterator[Medium]:
        """The rows of the multimedia extension."""
        return (medium for occurrence in self.records for medium in occurrence.media_rows)

    def records_by_publisher(self) -> Counter[Publisher]:
        """Occurrences of each constituent data set, the largest first."""
        return _by_publisher(self.records)


def _by_publisher(occurrences: Iterable[Occurrence]) -> Counter[Publisher]:
    return Counter(dict(Counter(occurrence.publisher for occurrence in occurrences).most_common()))


_DWC, _DC, _GBIF = "http://rs.tdwg.org/dwc/terms/", "http://purl.org/dc/terms/", "http://rs.gbif.org/terms/1.0/"

_OCCURRENCE_TERMS: dict[str, tuple[str, ...]] = {
    _GBIF: ("gbifID",),
    _DC: ("license", "publisher", "references", "rightsHolder"),
    _DWC: (
        "institutionCode", "collectionCode", "datasetName", "basisOfRecord", "occurrenceID", "catalogNumber",
        "recordedBy", "individualCount", "sex", "lifeStage", "occurrenceStatus", "occurrenceRemarks", "eventDate",
        "startDayOfYear", "endDayOfYear", "year", "month", "day", "habitat", "continent", "countryCode",
        "stateProvince", "locality", "decimalLatitude", "decimalLongitude", "coordinateUncertaintyInMeters",
        "identifiedBy", "scientificName", "kingdom", "phylum", "class", "order", "family", "genus", "genericName",
        "specificEpithet", "taxonRank", "vernacularName", "taxonomicStatus",
    ),
}  # fmt: skip
_INTERPRETED_TERMS = (
    "datasetKey", "publishingCountry", "lastInterpreted", "issue", "mediaType", "hasCoordinate", "hasGeospatialIssues",
    "taxonKey", "acceptedTaxonKey", "kingdomKey", "phylumKey", "classKey", "orderKey", "familyKey", "genusKey",
    "speciesKey", "species", "acceptedScientificName", "verbatimScientificName", "protocol", "lastParsed",
    "lastCrawled", "repatriated",
)  # fmt: skip
_MEDIA_TERMS = (
    "type", "format", "identifier", "references", "title", "description", "source", "audience", "created", "creator",
    "contributor", "publisher", "license", "rightsHolder",
)  # fmt: skip
_VERBATIM_TERMS = (
    "institutionCode", "collectionCode", "basisOfRecord", "occurrenceID", "catalogNumber", "recordedBy", "eventDate",
    "countryCode", "stateProvince", "locality", "decimalLatitude", "decimalLongitude", "scientificName", "taxonRank",
)  # fmt: skip

OCCURRENCE_COLUMNS: tuple[str, ...] = (
    *(namespace + name for namespace, names in _OCCURRENCE_TERMS.items() for name in names),
    *(_GBIF + name for name in _INTERPRETED_TERMS),
    "http://iucn.org/terms/iucnRedListCategory",
)
MULTIMEDIA_COLUMNS: tuple[str, ...] = (_GBIF + "gbifID", *(_DC + name for name in _MEDIA_TERMS))
SIMPLE_COLUMNS: tuple[str, ...] = (
    "gbifID", "datasetKey", "occurrenceID", "kingdom", "phylum", "class", "order", "family", "genus", "species",
    "infraspecificEpithet", "taxonRank", "scientificName", "verbatimScientificName",
    "verbatimScientificNameAuthorship", "countryCode", "locality", "stateProvince", "occurrenceStatus",
    "individualCount", "publishingOrgKey", "decimalLatitude", "decimalLongitude", "coordinateUncertaintyInMeters",
    "coordinatePrecision", "elevation", "elevationAccuracy", "depth", "depthAccuracy", "eventDate", "day", "month",
    "year", "taxonKey", "speciesKey", "basisOfRecord", "institutionCode", "collectionCode", "catalogNumber",
    "recordNumber", "identifiedBy", "dateIdentified", "license", "rightsHolder", "recordedBy", "typeStatus",
    "establishmentMeans", "lastInterpreted", "mediaType", "issue",
)  # fmt: skip
VERBATIM_COLUMNS: tuple[str, ...] = (_GBIF + "gbifID", *(_DWC + name for name in _VERBATIM_TERMS))


def write_archive(
    dataset: SandboxDataset | Selection, path: Path, base_url: str, identity: DownloadIdentity | None = None
) -> None:
    """Write records as a GBIF-shaped Darwin Core Archive; atomic, and the same bytes for the same arguments.

    Args:
        dataset: the records.
        path: the zip to write; its folder exists.
        base_url: where the media are served, such as `http://127.0.0.1:8765`.
        identity: the download's key, DOI and date in the archive's own metadata; by default those of the first one.
    """
    identity = identity or DownloadIdentity.nth(1)
    publishers = dataset.records_by_publisher()
    part = path.with_name(f".{path.name}.part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        texts = {
            "citations.txt": documents.citations(publishers, identity),
            "meta.xml": documents.descriptor(OCCURRENCE_COLUMNS, MULTIMEDIA_COLUMNS, VERBATIM_COLUMNS),
            "metadata.xml": documents.download_metadata(publishers, identity, base_url),
            "rights.txt": documents.rights(publishers),
            **{f"dataset/{publisher.dataset_key}.xml": documents.eml(publisher) for publisher in publishers},
        }
        for name, text in texts.items():
            _write_member(archive, name, [text])
        _write_member(archive, "occurrence.txt", _table(OCCURRENCE_COLUMNS, _terms(dataset)))
        _write_member(archive, "multimedia.txt", _table(MULTIMEDIA_COLUMNS, _media_rows(dataset, base_url)))
        _write_member(archive, "verbatim.txt", _table(VERBATIM_COLUMNS, _terms(dataset)))
    part.replace(path)


def write_simple_csv(dataset: Selection, path: Path) -> None:
    """Write records as GBIF's SIMPLE_CSV: a zip of one tab-separated file of 50 columns, no media; atomic."""
    part = path.with_name(f".{path.name}.part")
    rows = (
        occurrence.terms | {"publishingOrgKey": occurrence.publisher.organisation_key}
        for occurrence in dataset.occurrences()
    )
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED, compresslevel=6) as archive:
        _write_member(archive, f"{path.stem}.csv", _table(SIMPLE_COLUMNS, rows))
    part.replace(path)


def _write_member(archive: zipfile.ZipFile, name: str, lines: Iterable[str]) -> None:
    """Stream text into one member; the fixed date makes equal contents equal archives."""
    member = zipfile.ZipInfo(name, date_time=(2026, 1, 15, 0, 0, 0))
    member.compress_type = zipfile.ZIP_DEFLATED
    with archive.open(member, "w") as stream:
        for line in lines:
            stream.write(line.encode())


def _terms(dataset: SandboxDataset | Selection) -> Iterator[dict[str, str]]:
    return (occurrence.terms for occurrence in dataset.occurrences())


def _media_rows(dataset: SandboxDataset | Selection, base_url: str) -> Iterator[dict[str, str]]:
    for medium in dataset.media():
        yield {
            "gbifID": str(medium.gbif_id),
            "type": medium.type,
            "format": medium.format,
            "identifier": base_url + medium.path if medium.path else "",
            "created": medium.created,
            "creator": medium.creator,
            "publisher": medium.publisher,
            "license": medium.license,
            "rightsHolder": medium.creator,
        }


def _table(columns: tuple[str, ...], rows: Iterable[dict[str, str]]) -> Iterator[str]:
    """Tab-separated lines with a header of short names."""
    names = [column.rsplit("/", 1)[-1] for column in columns]
    yield "\t".join(names) + "\n"
    for row in rows:
        yield "\t".join(_encoded(row.get(name, "")) for name in names) + "\n"


def _encoded(value: str) -> str:
    """As GBIF writes small downloads: a value holding quotes is enclosed, although the descriptor says that none is."""
    return '"' + value.replace('"', '""') + '"' if '"' in value else value
