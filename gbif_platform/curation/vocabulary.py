"""The words that GBIF knows, so that a slip in a filter is told before a download, not after it.

GBIF adds words now and then: one that is unknown here, but looks like no slip, is doubtful and no mistake.
"""

import re
from difflib import get_close_matches

import pytz  # type: ignore[import-untyped]

from gbif_platform.gbif.terms import snake_case

_BASES_OF_RECORD = (
    "PRESERVED_SPECIMEN FOSSIL_SPECIMEN LIVING_SPECIMEN OBSERVATION HUMAN_OBSERVATION MACHINE_OBSERVATION "
    "MATERIAL_SAMPLE LITERATURE MATERIAL_CITATION OCCURRENCE UNKNOWN"
)
BASES_OF_RECORD = frozenset(_BASES_OF_RECORD.split())
"""GBIF's BasisOfRecord; UNKNOWN is in older downloads."""
_ISSUES = """
ZERO_COORDINATE COORDINATE_OUT_OF_RANGE COORDINATE_INVALID COORDINATE_ROUNDED COORDINATE_REPROJECTED
COORDINATE_REPROJECTION_FAILED COORDINATE_REPROJECTION_SUSPICIOUS COORDINATE_ACCURACY_INVALID
COORDINATE_PRECISION_INVALID COORDINATE_UNCERTAINTY_METERS_INVALID COORDINATE_PRECISION_UNCERTAINTY_MISMATCH
GEODETIC_DATUM_INVALID GEODETIC_DATUM_ASSUMED_WGS84
FOOTPRINT_SRS_INVALID FOOTPRINT_WKT_MISMATCH FOOTPRINT_WKT_INVALID
COUNTRY_COORDINATE_MISMATCH COUNTRY_MISMATCH COUNTRY_INVALID COUNTRY_DERIVED_FROM_COORDINATES
CONTINENT_COORDINATE_MISMATCH CONTINENT_COUNTRY_MISMATCH CONTINENT_INVALID CONTINENT_DERIVED_FROM_COUNTRY
CONTINENT_DERIVED_FROM_COORDINATES
PRESUMED_SWAPPED_COORDINATE PRESUMED_NEGATED_LONGITUDE PRESUMED_NEGATED_LATITUDE
RECORDED_DATE_MISMATCH RECORDED_DATE_INVALID RECORDED_DATE_UNLIKELY
TAXON_MATCH_FUZZY TAXON_MATCH_HIGHERRANK TAXON_MATCH_AGGREGATE TAXON_MATCH_NONE TAXON_MATCH_NAME_AND_ID_AMBIGUOUS
TAXON_MATCH_SCIENTIFIC_NAME_ID_IGNORED TAXON_MATCH_TAXON_CONCEPT_ID_IGNORED TAXON_MATCH_TAXON_ID_IGNORED
SCIENTIFIC_NAME_ID_NOT_FOUND TAXON_CONCEPT_ID_NOT_FOUND TAXON_ID_NOT_FOUND SCIENTIFIC_NAME_AND_ID_INCONSISTENT
DEPTH_NOT_METRIC DEPTH_UNLIKELY DEPTH_MIN_MAX_SWAPPED DEPTH_NON_NUMERIC
ELEVATION_UNLIKELY ELEVATION_MIN_MAX_SWAPPED ELEVATION_NOT_METRIC ELEVATION_NON_NUMERIC
MODIFIED_DATE_INVALID MODIFIED_DATE_UNLIKELY IDENTIFIED_DATE_UNLIKELY IDENTIFIED_DATE_INVALID
BASIS_OF_RECORD_INVALID TYPE_STATUS_INVALID SUSPECTED_TYPE
MULTIMEDIA_DATE_INVALID MULTIMEDIA_URI_INVALID REFERENCES_URI_INVALID INTERPRETATION_ERROR
INDIVIDUAL_COUNT_INVALID INDIVIDUAL_COUNT_CONFLICTS_WITH_OCCURRENCE_STATUS
OCCURRENCE_STATUS_UNPARSABLE OCCURRENCE_STATUS_INFERRED_FROM_INDIVIDUAL_COUNT
OCCURRENCE_STATUS_INFERRED_FROM_BASIS_OF_RECORD
GEOREFERENCED_DATE_UNLIKELY GEOREFERENCED_DATE_INVALID
AMBIGUOUS_INSTITUTION AMBIGUOUS_COLLECTION INSTITUTION_MATCH_NONE COLLECTION_MATCH_NONE INSTITUTION_MATCH_FUZZY
COLLECTION_MATCH_FUZZY INSTITUTION_COLLECTION_MISMATCH POSSIBLY_ON_LOAN DIFFERENT_OWNER_INSTITUTION
ERA_OR_ERATHEM_INFERRED_FROM_PARENT_RANK PERIOD_OR_SYSTEM_INFERRED_FROM_PARENT_RANK
EPOCH_OR_SERIES_INFERRED_FROM_PARENT_RANK AGE_OR_STAGE_INFERRED_FROM_PARENT_RANK
EON_OR_EONOTHEM_RANK_MISMATCH ERA_OR_ERATHEM_RANK_MISMATCH PERIOD_OR_SYSTEM_RANK_MISMATCH
EPOCH_OR_SERIES_RANK_MISMATCH AGE_OR_STAGE_RANK_MISMATCH
EON_OR_EONOTHEM_INVALID_RANGE ERA_OR_ERATHEM_INVALID_RANGE PERIOD_OR_SYSTEM_INVALID_RANGE
EPOCH_OR_SERIES_INVALID_RANGE AGE_OR_STAGE_INVALID_RANGE
EON_OR_EONOTHEM_AND_ERA_OR_ERATHEM_MISMATCH ERA_OR_ERATHEM_AND_PERIOD_OR_SYSTEM_MISMATCH
PERIOD_OR_SYSTEM_AND_EPOCH_OR_SERIES_MISMATCH EPOCH_OR_SERIES_AND_AGE_OR_STAGE_MISMATCH
"""
ISSUES = frozenset(_ISSUES.split())
"""GBIF's OccurrenceIssue, deprecated ones too (gbif-api at 0397c19)."""
BEYOND_ISO = frozenset(("XK", "XZ", "AA", "ZZ"))
"""GBIF's country codes that ISO leaves to users: Kosovo, international waters, user-defined, unknown."""
CODES_BESIDE_ISO = {"UK": "GB", "EL": "GR"}
"""Codes that the European Union uses and ISO does not."""
SLIP = 0.93
"""Similarity from which on an unknown word is a slip; no two of GBIF's issues are as similar."""
_WORD = re.compile(r"[A-Z][A-Z0-9_]*")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)


def check_issue(word: str) -> None:
    """Raise ValueError where a text is nearly one of ISSUES, or has not their form."""
    _check_word(word, issue(word), ISSUES, "issue")


def check_basis_of_record(word: str) -> None:
    """Raise ValueError where a text is nearly one of BASES_OF_RECORD, or has not their form."""
    _check_word(word, basis_of_record(word), BASES_OF_RECORD, "basis of record")


def check_country(code: str) -> None:
    """Raise ValueError where a text is no country code that GBIF gives."""
    plain = code.strip().upper()
    if plain in BEYOND_ISO or plain in pytz.country_names:
        return
    named = CODES_BESIDE_ISO.get(plain) or _CODES_BY_NAME.get(plain)
    hint = f"did you mean {named}?" if named else "write e.g. [DK, SE]"
    raise ValueError(f"{code!r} is no country code of ISO 3166-1 alpha-2; {hint}")


def check_dataset_key(key: str) -> None:
    """Raise ValueError where a text is no UUID, as the keys of GBIF's datasets are."""
    if not _UUID.fullmatch(key.strip()):
        raise ValueError(f"{key!r} is no dataset key of GBIF: a UUID, e.g. 50c9509d-22c7-4a22-a47d-8c48425ef4a7")


def issue(word: str) -> str:
    """Taxon_match_fuzzy as GBIF writes it: TAXON_MATCH_FUZZY."""
    return word.strip().upper()


def basis_of_record(word: str) -> str:
    """HumanObservation and Human Observation as GBIF writes them: HUMAN_OBSERVATION."""
    return snake_case(word).upper()


def _check_word(word: str, plain: str, known: frozenset[str], what: str) -> None:
    if plain in known:
        return
    if close := get_close_matches(plain, sorted(known), 1, SLIP):
        raise ValueError(f"{word!r} is no {what} of GBIF; did you mean {close[0]}?")
    if not _WORD.fullmatch(plain):
        raise ValueError(f"{word!r} is no {what} of GBIF; they are written like {min(known)}")


_CODES_BY_NAME = {name.upper(): code for code, name in pytz.country_names.items()}
