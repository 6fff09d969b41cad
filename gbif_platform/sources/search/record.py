"""A record of GBIF's search as the rows that a GBIF download would have for it: values by term, all of them text.

The columns are those of a GBIF Darwin Core Archive of November 2024, with the checklistKey of the taxon keys.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from gbif_platform.gbif.checklists import BACKBONE

_NAMESPACES = {
    "gbif": "http://rs.gbif.org/terms/1.0/",
    "dc": "http://purl.org/dc/terms/",
    "dwc": "http://rs.tdwg.org/dwc/terms/",
    "gadm": "http://rs.gbif.org/terms/gadm/3.0/",
    "iucn": "http://iucn.org/terms/",
}
_COLUMNS = (
    ("gbif", "gbifID"),
    ("dc", "accessRights bibliographicCitation language license modified publisher references rightsHolder type"),
    ("dwc", """institutionID collectionID datasetID institutionCode collectionCode datasetName ownerInstitutionCode
    basisOfRecord informationWithheld dataGeneralizations dynamicProperties occurrenceID catalogNumber recordNumber
    recordedBy recordedByID individualCount organismQuantity organismQuantityType sex lifeStage reproductiveCondition
    caste behavior vitality establishmentMeans degreeOfEstablishment pathway georeferenceVerificationStatus
    occurrenceStatus preparations disposition associatedOccurrences associatedReferences associatedSequences
    associatedTaxa otherCatalogNumbers occurrenceRemarks organismID organismName organismScope associatedOrganisms
    previousIdentifications organismRemarks materialEntityID materialEntityRemarks verbatimLabel materialSampleID
    eventID parentEventID eventType fieldNumber eventDate eventTime startDayOfYear endDayOfYear year month day
    verbatimEventDate habitat samplingProtocol sampleSizeValue sampleSizeUnit samplingEffort fieldNotes eventRemarks
    locationID higherGeographyID higherGeography continent waterBody islandGroup island countryCode stateProvince county
    municipality locality verbatimLocality verbatimElevation verticalDatum verbatimDepth
    minimumDistanceAboveSurfaceInMeters maximumDistanceAboveSurfaceInMeters locationAccordingTo locationRemarks
    decimalLatitude decimalLongitude coordinateUncertaintyInMeters coordinatePrecision pointRadiusSpatialFit
    verbatimCoordinateSystem verbatimSRS footprintWKT footprintSRS footprintSpatialFit georeferencedBy georeferencedDate
    georeferenceProtocol georeferenceSources georeferenceRemarks geologicalContextID earliestEonOrLowestEonothem
    latestEonOrHighestEonothem earliestEraOrLowestErathem latestEraOrHighestErathem earliestPeriodOrLowestSystem
    latestPeriodOrHighestSystem earliestEpochOrLowestSeries latestEpochOrHighestSeries earliestAgeOrLowestStage
    latestAgeOrHighestStage lowestBiostratigraphicZone highestBiostratigraphicZone lithostratigraphicTerms group
    formation member bed identificationID verbatimIdentification identificationQualifier typeStatus identifiedBy
    identifiedByID dateIdentified identificationReferences identificationVerificationStatus identificationRemarks
    taxonID scientificNameID acceptedNameUsageID parentNameUsageID originalNameUsageID nameAccordingToID
    namePublishedInID taxonConceptID scientificName acceptedNameUsage parentNameUsage originalNameUsage nameAccordingTo
    namePublishedIn namePublishedInYear higherClassification kingdom phylum class order superfamily family subfamily
    tribe subtribe genus genericName subgenus infragenericEpithet specificEpithet infraspecificEpithet cultivarEpithet
    taxonRank verbatimTaxonRank vernacularName nomenclaturalCode taxonomicStatus nomenclaturalStatus taxonRemarks"""),
    ("gbif", """datasetKey publishingCountry lastInterpreted elevation elevationAccuracy depth depthAccuracy
    distanceFromCentroidInMeters issue mediaType hasCoordinate hasGeospatialIssues taxonKey acceptedTaxonKey kingdomKey
    phylumKey classKey orderKey familyKey genusKey subgenusKey speciesKey species acceptedScientificName
    verbatimScientificName typifiedName protocol lastParsed lastCrawled repatriated relativeOrganismQuantity projectId
    isSequenced isInCluster gbifRegion publishedByGbifRegion checklistKey"""),
    ("gadm", "level0Gid level0Name level1Gid level1Name level2Gid level2Name level3Gid level3Name"),
    ("iucn", "iucnRedListCategory"),
)  # fmt: skip
OCCURRENCE_TERMS = tuple(_NAMESPACES[space] + name for space, names in _COLUMNS for name in names.split())
"""Full URIs, in file order; the first is the id."""
_MEDIA_COLUMNS = """type format identifier references title description source audience created creator contributor
publisher license rightsHolder"""
MEDIA_TERMS = (_NAMESPACES["gbif"] + "gbifID", *(_NAMESPACES["dc"] + name for name in _MEDIA_COLUMNS.split()))
"""Full URIs of the multimedia extension, in file order; the first is the core's id."""

_RANKS = ("kingdom", "phylum", "class", "order", "family", "genus", "subgenus", "species")
_OF_THE_TAXON = frozenset(
    {"taxonKey", "acceptedTaxonKey", "scientificName", "acceptedScientificName", "taxonRank", "taxonomicStatus"}
    | {"genericName", "specificEpithet", "infraspecificEpithet", "iucnRedListCategory"}
    | {*_RANKS, *(f"{rank}Key" for rank in _RANKS)}
)
"""Fields that GBIF fills from the backbone, whatever checklist is asked for."""
_MOMENTS = ("lastInterpreted", "lastParsed", "lastCrawled")
_BREAKS = re.compile(r"[\t\n\v\f\r\x00\x85\u2028\u2029]")


def occurrence_row(record: Mapping[str, Any], checklist_key: str | None) -> list[str]:
    """The values of OCCURRENCE_TERMS, "" where there is none.

    Args:
        record: one of the search's `results`.
        checklist_key: taxonomy of the search; where the record is classified by it, names and keys are that one's.
    """
    values = dict(record) | _flattened(record)
    if checklist_key and checklist_key != BACKBONE:
        values = {name: value for name, value in values.items() if name not in _OF_THE_TAXON}
        values |= _taxon(_mapping(_mapping(record.get("classifications")).get(checklist_key)))
    values["checklistKey"] = checklist_key or BACKBONE
    return [text(values.get(term.rsplit("/", 1)[1])) for term in OCCURRENCE_TERMS]


def media_rows(record: Mapping[str, Any]) -> list[list[str]]:
    """The values of MEDIA_TERMS for each medium of a record."""
    names = _MEDIA_COLUMNS.split()
    return [[gbif_id(record), *(text(one.get(name)) for name in names)] for one in _mappings(record.get("media"))]


def gbif_id(record: Mapping[str, Any]) -> str:
    """The record's key, "" where it has none."""
    return text(record.get("gbifID") or record.get("key"))


def text(value: object) -> str:
    """A value as GBIF writes it into files: line breaks and tabs as blanks, lists joined by `;`."""
    if value is None or isinstance(value, Mapping):
        return ""
    if isinstance(value, list):
        return ";".join(filter(None, map(text, value)))
    return str(value).lower() if isinstance(value, bool) else _BREAKS.sub(" ", str(value))


def _flattened(record: Mapping[str, Any]) -> dict[str, Any]:
    """What the search nests, or names otherwise than the files."""
    media = [one["type"] for one in _mappings(record.get("media")) if one.get("type")]
    moments = {name: text(record.get(name)).replace("+00:00", "Z") for name in _MOMENTS}
    return moments | {
        "gbifID": gbif_id(record),
        "issue": record.get("issues"),
        "mediaType": list(dict.fromkeys(media)),
        "hasCoordinate": record.get("decimalLatitude") is not None,
        "recordedByID": [one.get("value") for one in _mappings(record.get("recordedByIDs"))],
        "identifiedByID": [one.get("value") for one in _mappings(record.get("identifiedByIDs"))],
        **{
            f"{level}{part.capitalize()}": place.get(part)
            for level, place in _mapping(record.get("gadm")).items()
            if isinstance(place, Mapping)
            for part in ("gid", "name")
        },
    }


def _taxon(classified: Mapping[str, Any]) -> dict[str, Any]:
    """The taxonomic fields of a record by another checklist than the backbone."""
    usage = _mapping(classified.get("usage"))
    accepted = _mapping(classified.get("acceptedUsage")) or usage
    ranked = {str(one.get("rank")).lower(): one for one in _mappings(classified.get("classification"))}
    return {
        "taxonKey": usage.get("key"),
        "scientificName": usage.get("name"),
        "taxonRank": usage.get("rank"),
        "taxonomicStatus": classified.get("taxonomicStatus"),
        "acceptedTaxonKey": accepted.get("key"),
        "acceptedScientificName": accepted.get("name"),
        "iucnRedListCategory": classified.get("iucnRedListCategoryCode"),
        **{name: usage.get(name) for name in ("genericName", "specificEpithet", "infraspecificEpithet")},
        **{rank: ranked[rank].get("name") for rank in _RANKS if rank in ranked},
        **{f"{rank}Key": ranked[rank].get("key") for rank in _RANKS if rank in ranked},
    }


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _mappings(values: object) -> Iterable[Mapping[str, Any]]:
    return [one for one in values if isinstance(one, Mapping)] if isinstance(values, list) else []
