"""An occurrence as GBIF's search answers it: numbers as numbers, the licence as a URL, empty terms absent."""

from typing import Any

from gbif_platform.sandbox.answers import JsonObject
from gbif_platform.sandbox.parameters import in_cluster
from gbif_platform.sandbox.records import Medium, Occurrence
from gbif_platform.sandbox.taxonomy import BACKBONE, CHECKLISTS, USAGES, Usage

_TEXTS = (
    "datasetKey", "publishingCountry", "protocol", "basisOfRecord", "occurrenceStatus", "scientificName",
    "acceptedScientificName", "kingdom", "phylum", "class", "order", "family", "genus", "species", "genericName",
    "specificEpithet", "taxonRank", "taxonomicStatus", "iucnRedListCategory", "continent", "stateProvince",
    "eventDate", "references", "datasetName", "recordedBy", "identifiedBy", "countryCode", "rightsHolder",
    "collectionCode", "catalogNumber", "institutionCode", "occurrenceID", "locality", "occurrenceRemarks", "sex",
    "lifeStage", "vernacularName", "gbifID",
)  # fmt: skip
_INTEGERS = (
    "taxonKey", "kingdomKey", "phylumKey", "classKey", "orderKey", "familyKey", "genusKey", "speciesKey",
    "acceptedTaxonKey", "year", "month", "day", "startDayOfYear", "endDayOfYear", "individualCount",
)  # fmt: skip
_DECIMALS = ("decimalLatitude", "decimalLongitude", "coordinateUncertaintyInMeters")
_MOMENTS = ("lastCrawled", "lastParsed", "lastInterpreted")
_COUNTRIES = {"DK": "Denmark", "PT": "Portugal", "EE": "Estonia", "CO": "Colombia"}
_CRAWL = 1


def search_record(occurrence: Occurrence, base_url: str) -> JsonObject:
    """One entry of `results`, and the answer of `GET /v1/occurrence/{key}`; `base_url` serves the media."""
    terms, publisher = occurrence.terms, occurrence.publisher
    return {
        "key": occurrence.gbif_id,
        "publishingOrgKey": publisher.organisation_key,
        "hostingOrganizationKey": publisher.organisation_key,
        "crawlId": _CRAWL,
        "extensions": {},
        **{name: terms[name] for name in _TEXTS if terms.get(name)},
        **{name: int(terms[name]) for name in _INTEGERS if terms.get(name)},
        **{name: float(terms[name]) for name in _DECIMALS if terms.get(name)},
        **{name: terms[name].replace("Z", "+00:00") for name in _MOMENTS},
        "classifications": {checklist: _classification(occurrence, checklist) for checklist in CHECKLISTS},
        "country": _COUNTRIES[terms["countryCode"]],
        "license": publisher.licence_url,
        "issues": [issue for issue in terms["issue"].split(";") if issue],
        "geodeticDatum": "WGS84",
        "isSequenced": False,
        "isInCluster": in_cluster(occurrence),
        "identifiers": [{"identifier": terms["occurrenceID"]}],
        "media": [_medium(medium, base_url) for medium in occurrence.media_rows],
        **{name: [] for name in ("facts", "relations", "recordedByIDs", "identifiedByIDs")},
    }


def _medium(medium: Medium, base_url: str) -> JsonObject:
    moment = medium.created if "T" in medium.created else f"{medium.created}T00:00:00"
    described = {
        "type": medium.type,
        "format": medium.format,
        "created": f"{moment}.000+00:00",
        "creator": medium.creator,
        "publisher": medium.publisher,
        "license": medium.license,
        "rightsHolder": medium.creator,
        "identifier": base_url + medium.path if medium.path else "",
    }
    return {name: value for name, value in described.items() if value}


def usage_json(usage: Usage, checklist: str) -> JsonObject:
    """A name with its parts, as the classifications of a record show it; `species/match` adds to it."""
    parts = usage.name.split()
    names: dict[str, Any] = {"genericName": parts[0], "specificEpithet": parts[1]} if len(parts) > 1 else {}
    authorship = {"authorship": usage.authorship} if usage.authorship else {}
    italic = " ".join(f"<i>{part}</i>" for part in parts)
    return {
        "key": usage.key(checklist),
        "name": usage.scientific_name,
        "rank": usage.rank,
        **({} if checklist == BACKBONE else {"code": "ZOOLOGICAL"}),
        **authorship,
        **names,
        "formattedName": f"{italic} {usage.authorship}".strip(),
    }


def lineage_json(usage: Usage, checklist: str) -> list[JsonObject]:
    """`classification[]`: kingdom … the accepted name itself."""
    return [{"key": each.key(checklist), "name": each.name, "rank": each.rank} for each in usage.lineage]


def _classification(occurrence: Occurrence, checklist: str) -> JsonObject:
    usage = USAGES[(occurrence.terms["species"] or occurrence.terms["genus"]).lower()]
    return {
        "usage": usage_json(usage, checklist),
        "acceptedUsage": usage_json(usage, checklist),
        "taxonomicStatus": "ACCEPTED",
        "classification": lineage_json(usage, checklist),
        "issues": [],
    }
