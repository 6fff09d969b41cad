"""The fields that GBIF's occurrence search and download predicates know, under both of their spellings.

Source: `OccurrenceSearchParameter` of gbif-api and https://techdocs.gbif.org/en/openapi/v1/occurrence. GBIF ignores a
parameter that it does not know, so that a misspelt filter would return everything: names are checked here first.
"""

import difflib
import re
from collections.abc import Mapping
from typing import Any

from gbif_platform.gbif.errors import BadRequest, UnknownField

_KEYS = """
ACCEPTED_TAXON_KEY ASSOCIATED_SEQUENCES BASIS_OF_RECORD BED BIOSTRATIGRAPHY CATALOG_NUMBER CHECKLIST_KEY CLASS_KEY
COLLECTION_CODE COLLECTION_KEY CONTINENT COORDINATE_UNCERTAINTY_IN_METERS COUNTRY CRAWL_ID DATASET_CATEGORY DATASET_ID
DATASET_KEY DATASET_NAME DAY DECIMAL_LATITUDE DECIMAL_LONGITUDE DEGREE_OF_ESTABLISHMENT DEPTH
DISTANCE_FROM_CENTROID_IN_METERS DWCA_EXTENSION EARLIEST_AGE_OR_LOWEST_STAGE EARLIEST_EON_OR_LOWEST_EONOTHEM
EARLIEST_EPOCH_OR_LOWEST_SERIES EARLIEST_ERA_OR_LOWEST_ERATHEM EARLIEST_PERIOD_OR_LOWEST_SYSTEM ELEVATION
END_DAY_OF_YEAR ESTABLISHMENT_MEANS EVENT_DATE EVENT_ID FAMILY_KEY FIELD_NUMBER FORMATION GADM_GID GADM_LEVEL_0_GID
GADM_LEVEL_1_GID GADM_LEVEL_2_GID GADM_LEVEL_3_GID GBIF_ID GBIF_REGION GENUS_KEY GEOLOGICAL_TIME GEOMETRY GEO_DISTANCE
GEOREFERENCED_BY GROUP HAS_COORDINATE HAS_GEOSPATIAL_ISSUE HIGHER_GEOGRAPHY HIGHEST_BIOSTRATIGRAPHIC_ZONE
HOSTING_ORGANIZATION_KEY IDENTIFIED_BY IDENTIFIED_BY_ID INSTALLATION_KEY INSTITUTION_CODE INSTITUTION_KEY ISLAND
ISLAND_GROUP ISSUE IS_IN_CLUSTER IS_SEQUENCED IUCN_RED_LIST_CATEGORY KINGDOM_KEY LAST_INTERPRETED
LATEST_AGE_OR_HIGHEST_STAGE LATEST_EON_OR_HIGHEST_EONOTHEM LATEST_EPOCH_OR_HIGHEST_SERIES LATEST_ERA_OR_HIGHEST_ERATHEM
LATEST_PERIOD_OR_HIGHEST_SYSTEM LICENSE LIFE_STAGE LITHOSTRATIGRAPHY LOCALITY LOWEST_BIOSTRATIGRAPHIC_ZONE MEDIA_TYPE
MEMBER MODIFIED MONTH NETWORK_KEY OCCURRENCE_ID OCCURRENCE_STATUS ORDER_KEY ORGANISM_ID ORGANISM_QUANTITY
ORGANISM_QUANTITY_TYPE OTHER_CATALOG_NUMBERS PARENT_EVENT_ID PATHWAY PHYLUM_KEY PREPARATIONS PREVIOUS_IDENTIFICATIONS
PROGRAMME PROJECT_ID PROTOCOL PUBLISHED_BY_GBIF_REGION PUBLISHING_COUNTRY PUBLISHING_ORG RECORDED_BY RECORDED_BY_ID
RECORD_NUMBER RELATIVE_ORGANISM_QUANTITY REPATRIATED SAMPLE_SIZE_UNIT SAMPLE_SIZE_VALUE SAMPLING_PROTOCOL
SCIENTIFIC_NAME SEX SPECIES_KEY START_DAY_OF_YEAR STATE_PROVINCE SUBGENUS_KEY TAXONOMIC_ISSUE TAXONOMIC_STATUS
TAXON_CONCEPT_ID TAXON_ID TAXON_KEY TYPE_STATUS VERBATIM_SCIENTIFIC_NAME WATER_BODY YEAR
"""

_CAPITAL_ID = ("RECORDED_BY_ID", "IDENTIFIED_BY_ID")
_SEARCH_ONLY = ("q",)


def _parameter(key: str) -> str:
    first, *rest = key.lower().split("_")
    name = first + "".join(word.capitalize() for word in rest)
    return f"{name.removesuffix('Id')}ID" if key in _CAPITAL_ID else name


_PARAMETERS = {key: _parameter(key) for key in _KEYS.split()}
_BY_LETTERS = {re.sub("_", "", key).lower(): key for key in _PARAMETERS}


def predicate_key(name: str) -> str:
    """The name of a field in a download predicate, from any spelling: `taxonKey`, `taxon_key`, `TAXON_KEY`.

    Raises:
        UnknownField
    """
    letters = re.sub("[^a-z0-9]", "", name.lower())
    if letters in _BY_LETTERS:
        return _BY_LETTERS[letters]
    close = difflib.get_close_matches(letters, _BY_LETTERS, n=1)
    hint = f"did you mean {_PARAMETERS[_BY_LETTERS[close[0]]]}?" if close else "see gbif.org/occurrence/search"
    raise UnknownField(f"GBIF's occurrence search has no field {name!r}", hint)


def parameter(name: str) -> str:
    """The name of a field as a search parameter, from any spelling.

    Raises:
        UnknownField
    """
    return name if name in _SEARCH_ONLY else _PARAMETERS[predicate_key(name)]


def as_query(query: Mapping[str, Any]) -> dict[str, Any]:
    """A query with GBIF's own names and text values; lists, which mean any of their values, are sorted.

    Raises:
        UnknownField: of a name that GBIF would ignore.
        BadRequest: one field under two spellings, or Norway without quotes, which YAML reads as false.
    """
    fields: dict[str, Any] = {}
    for name, value in query.items():
        if value is not None and parameter(name) in fields:
            raise BadRequest(f"{parameter(name)} is given twice, once as {name!r}", "give it once, with a list")
        if value is not None:
            _check_norway(parameter(name), value)
            fields[parameter(name)] = _texts(value)
    return dict(sorted(fields.items()))


def _check_norway(name: str, value: object) -> None:
    values = value if isinstance(value, list | tuple | set) else [value]
    if name in ("country", "publishingCountry") and any(isinstance(one, bool) for one in values):
        raise BadRequest(f"{name}: YAML reads NO, which is Norway, as false", 'put it in quotes: "NO"')


def _texts(value: object) -> str | list[str]:
    if isinstance(value, list | tuple | set):
        return sorted({str(_texts(one)) for one in value})
    return str(value).lower() if isinstance(value, bool) else str(value)
