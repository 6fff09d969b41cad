"""Darwin Core term names as column names, and the few terms whose values have a type."""

import re
import unicodedata
from collections.abc import Sequence

# The columns of SIMPLE_CSV and of GBIF's monthly snapshot, which some exports write in lower case without word borders.
_GBIF_SIMPLE_TERMS = """
gbifID datasetKey occurrenceID infraspecificEpithet taxonRank scientificName verbatimScientificName
verbatimScientificNameAuthorship countryCode stateProvince occurrenceStatus individualCount publishingOrgKey
decimalLatitude decimalLongitude coordinateUncertaintyInMeters coordinatePrecision elevationAccuracy depthAccuracy
eventDate taxonKey speciesKey basisOfRecord institutionCode collectionCode catalogNumber recordNumber identifiedBy
dateIdentified rightsHolder recordedBy typeStatus establishmentMeans lastInterpreted mediaType
"""

# Prefixes as the vocabularies themselves abbreviate their names.
_VOCABULARIES = {
    "http://rs.tdwg.org/dwc/terms": "dwc",
    "http://rs.tdwg.org/dwc/iri": "dwciri",
    "http://purl.org/dc/terms": "dcterms",
    "http://purl.org/dc/elements/1.1": "dc",
    "http://rs.gbif.org/terms/1.0": "gbif",
    "http://rs.tdwg.org/ac/terms": "ac",
    "http://ns.adobe.com/xap/1.0": "xmp",
    "http://ns.adobe.com/xap/1.0/rights": "xmp_rights",
}

_DOUBLES = """
decimal_latitude decimal_longitude coordinate_uncertainty_in_meters coordinate_precision point_radius_spatial_fit
footprint_spatial_fit elevation elevation_accuracy depth depth_accuracy minimum_elevation_in_meters
maximum_elevation_in_meters minimum_depth_in_meters maximum_depth_in_meters minimum_distance_above_surface_in_meters
maximum_distance_above_surface_in_meters distance_from_centroid_in_meters relative_organism_quantity
"""
_INTEGERS = "year month day start_day_of_year end_day_of_year individual_count"
_BOOLEANS = "has_coordinate has_geospatial_issues repatriated is_sequenced is_in_cluster"

TYPES: dict[str, str] = {
    name: duckdb_type
    for duckdb_type, names in (("DOUBLE", _DOUBLES), ("INTEGER", _INTEGERS), ("BOOLEAN", _BOOLEANS))
    for name in names.split()
}
"""DuckDB type by column name, for interpreted GBIF terms (lengths in metres, coordinates in degrees). Everything else,
also every key and every date (which may be a range), stays VARCHAR."""

# Audubon Core (http://rs.tdwg.org/ac/terms/) has other names than GBIF's Multimedia; the first term with a value wins.
AUDUBON_COLUMNS: dict[str, tuple[str, ...]] = {
    "identifier": ("http://rs.tdwg.org/ac/terms/accessURI",),
    "type": ("http://purl.org/dc/elements/1.1/type", "http://purl.org/dc/terms/type"),
    "format": ("http://purl.org/dc/terms/format", "http://purl.org/dc/elements/1.1/format"),
    "references": ("http://purl.org/dc/terms/references", "http://rs.tdwg.org/ac/terms/furtherInformationURL"),
    "created": ("http://purl.org/dc/terms/created", "http://ns.adobe.com/xap/1.0/CreateDate"),
    "creator": ("http://purl.org/dc/terms/creator", "http://purl.org/dc/elements/1.1/creator"),
    "license": (
        "http://purl.org/dc/terms/license",
        "http://ns.adobe.com/xap/1.0/rights/WebStatement",
        "http://ns.adobe.com/xap/1.0/rights/UsageTerms",
        "http://purl.org/dc/terms/rights",
        "http://purl.org/dc/elements/1.1/rights",
    ),
    "rights_holder": ("http://purl.org/dc/terms/rightsHolder", "http://ns.adobe.com/xap/1.0/rights/Owner"),
}


def snake_case(term: str) -> str:
    """`http://rs.tdwg.org/dwc/terms/decimalLatitude` or `decimalLatitude` → `decimal_latitude`; `gbifID` → `gbif_id`.

    Only a-z, 0-9 and single inner underscores come out; "column" where nothing is left.
    """
    name = unicodedata.normalize("NFKD", _short_name(term)).encode("ascii", "ignore").decode()
    name = _SIMPLE_BY_LOWER_CASE.get(name, name)
    return _words(name) or "column"


def column_names(terms: Sequence[str], taken: Sequence[str] = ()) -> list[str]:
    """One distinct column name for each term, in order; of two terms with the same short name the later is prefixed
    with its vocabulary (`dc_type`), and numbered where that is taken as well. `taken` are names not to be used."""
    used, names = set(taken), []
    for term in terms:
        name = snake_case(term)
        if name in used:
            name = _unused(f"{_vocabulary(term)}_{name}", used)
        used.add(name)
        names.append(name)
    return names


def _short_name(term: str) -> str:
    return re.split(r"[/#:]", term.strip().rstrip("/#:"))[-1]


def _words(name: str) -> str:
    name = re.sub(r"([A-Z]{2,})s(?![a-z])", lambda m: m[1].capitalize() + "s", name)  # taxonIDs
    name = re.sub(r"([A-Z]+)([A-Z][a-z])", r"\1_\2", name)  # DNASequence
    name = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name)
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def _vocabulary(term: str) -> str:
    namespace = term.strip().rstrip("/#:").removesuffix(_short_name(term)).rstrip("/#:")
    return _VOCABULARIES.get(namespace) or snake_case(namespace)


def _unused(name: str, used: set[str]) -> str:
    number, candidate = 2, name
    while candidate in used:
        candidate, number = f"{name}_{number}", number + 1
    return candidate


_SIMPLE_BY_LOWER_CASE = {term.lower(): term for term in _GBIF_SIMPLE_TERMS.split()}
