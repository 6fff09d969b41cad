"""What occurrences can be searched by: every parameter's name, kind, and the values that a record has for it."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from uuid import UUID

from gbif_platform.sandbox.answers import Refusal
from gbif_platform.sandbox.records import Occurrence
from gbif_platform.sandbox.taxonomy import BACKBONE, COL_XR, RANKS, col_key

Values = Callable[[Occurrence], tuple[str, ...]]


class Kind(Enum):
    """How values are checked and compared."""

    TEXT = "text"
    KEY = "taxon key"
    UUID = "uuid"
    INTEGER = "integer"
    DECIMAL = "decimal"
    DATE = "date"
    BOOLEAN = "boolean"
    ENUMERATION = "enumeration"


@dataclass(frozen=True)
class Parameter:
    """One search parameter: `taxonKey` in addresses, `TAXON_KEY` in predicates and facets."""

    name: str
    kind: Kind
    values: Values
    enumeration: str = ""
    allowed: frozenset[str] = frozenset()

    @property
    def key(self) -> str:
        """UPPER_SNAKE, as predicates and facets name it."""
        return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", self.name).upper()

    @property
    def ordered(self) -> bool:
        """Whether it has ranges and `lessThan` …"""
        return self.kind in (Kind.INTEGER, Kind.DECIMAL, Kind.DATE)

    def of(self, occurrence: Occurrence, checklist: str = BACKBONE) -> tuple[str, ...]:
        """The record's values; taxon keys are those of the given checklist (none in an unknown one)."""
        values = self.values(occurrence)
        if self.kind is not Kind.KEY or checklist == BACKBONE:
            return values
        return tuple(col_key(value) for value in values) if checklist == COL_XR else ()

    def check(self, value: str) -> None:
        """Refuse (400) what GBIF cannot read as a single value of this parameter, in GBIF's words where recorded."""
        checks = {
            Kind.INTEGER: self._check_number,
            Kind.DECIMAL: self._check_number,
            Kind.DATE: self._check_date,
            Kind.BOOLEAN: self._check_boolean,
            Kind.ENUMERATION: self._check_enumeration,
            Kind.UUID: self._check_uuid,
        }
        if check := checks.get(self.kind):
            check(value)

    def _check_number(self, value: str) -> None:
        try:
            number = int(value) if self.kind is Kind.INTEGER else float(value)
        except ValueError:
            raise Refusal(400, f"Invalid {self.kind.value} range: {value}") from None
        limit = {"decimalLatitude": 90, "decimalLongitude": 180}.get(self.name)
        if limit and abs(number) > limit:
            name = self.name.removeprefix("decimal").lower()
            raise Refusal(400, f"{value} is not valid value, {name} must be between -{limit} and {limit}.")

    def _check_date(self, value: str) -> None:
        if not re.fullmatch(r"\d{4}(-\d\d?(-\d\d?(T[\d:.+Z-]+)?)?)?", value):
            raise Refusal(400, f"Invalid date: {value}")

    def _check_boolean(self, value: str) -> None:
        if value.lower() not in ("true", "false"):
            raise Refusal(400, f"Invalid boolean: {value}")

    def _check_enumeration(self, value: str) -> None:
        known = value.upper() in self.allowed if self.allowed else re.fullmatch("[A-Za-z_]+", value)
        if not known:
            raise Refusal(400, f"Cannot parse {value} into a known {self.enumeration}")

    def _check_uuid(self, value: str) -> None:
        try:
            UUID(value)
        except ValueError:
            raise Refusal(400, f"Invalid UUID string: {value}") from None


def _term(*names: str) -> Values:
    """The non-empty values among these terms, each once."""
    return lambda occurrence: tuple(dict.fromkeys(filter(None, (occurrence.terms.get(name, "") for name in names))))


def _list(name: str) -> Values:
    """The parts of a term whose values are joined with `;`."""
    return lambda occurrence: tuple(filter(None, occurrence.terms.get(name, "").split(";")))


def _text(name: str, *terms: str) -> Parameter:
    return Parameter(name, Kind.TEXT, _term(*(terms or (name,))))


def _of_kind(kind: Kind, *names: str) -> tuple[Parameter, ...]:
    return tuple(Parameter(name, kind, _term(name)) for name in names)


def _enumeration(name: str, enumeration: str, allowed: str = "", values: Values | None = None) -> Parameter:
    return Parameter(name, Kind.ENUMERATION, values or _term(name), enumeration, frozenset(allowed.split()))


def in_cluster(occurrence: Occurrence) -> bool:
    """Whether the sandbox says that a record belongs to a cluster: every tenth does, by gbifID."""
    return occurrence.gbif_id % 10 == 0


_BASES = (
    "PRESERVED_SPECIMEN FOSSIL_SPECIMEN LIVING_SPECIMEN OBSERVATION HUMAN_OBSERVATION MACHINE_OBSERVATION "
    "MATERIAL_SAMPLE LITERATURE MATERIAL_CITATION OCCURRENCE"
)
_CONTINENTS = "AFRICA ANTARCTICA ASIA OCEANIA EUROPE NORTH_AMERICA SOUTH_AMERICA"
_LICENCES = "CC0_1_0 CC_BY_4_0 CC_BY_NC_4_0 UNSPECIFIED UNSUPPORTED"
_MEDIA_TYPES = "STILLIMAGE MOVINGIMAGE SOUND INTERACTIVERESOURCE"
_RANK_KEYS = tuple(f"{rank}Key" for rank in RANKS)

# GBIF searches by these too; the sandbox's records have no value for them.
_EMPTY_NUMBERS = ("depth", "elevation", "organismQuantity", "sampleSizeValue", "distanceFromCentroidInMeters")
_EMPTY_TEXTS = (
    "typeStatus", "establishmentMeans", "recordNumber", "eventId", "samplingProtocol", "waterBody", "networkKey",
    "projectId", "programme", "fieldNumber", "organismId", "taxonId", "recordedByID", "identifiedByID",
    "verbatimTaxonId", "collectionKey", "institutionKey", "gadmGid",
)  # fmt: skip

_ALL = (
    Parameter("taxonKey", Kind.KEY, _term(*_RANK_KEYS, "taxonKey", "acceptedTaxonKey")),
    *_of_kind(Kind.KEY, "acceptedTaxonKey", *_RANK_KEYS),
    Parameter("datasetKey", Kind.UUID, _term("datasetKey")),
    *_of_kind(Kind.INTEGER, "year", "month", "day", "startDayOfYear", "endDayOfYear"),
    Parameter("gbifId", Kind.INTEGER, _term("gbifID")),
    *_of_kind(Kind.DECIMAL, "decimalLatitude", "decimalLongitude", "coordinateUncertaintyInMeters"),
    *_of_kind(Kind.DATE, "eventDate", "lastInterpreted"),
    *_of_kind(Kind.BOOLEAN, "hasCoordinate", "repatriated"),
    Parameter("hasGeospatialIssue", Kind.BOOLEAN, _term("hasGeospatialIssues")),
    Parameter("isInCluster", Kind.BOOLEAN, lambda occurrence: (str(in_cluster(occurrence)).lower(),)),
    _enumeration("basisOfRecord", "BasisOfRecord", _BASES),
    _enumeration("mediaType", "MediaType", _MEDIA_TYPES, _list("mediaType")),
    _enumeration("license", "License", _LICENCES),
    _enumeration("continent", "Continent", _CONTINENTS),
    _enumeration("occurrenceStatus", "OccurrenceStatus", "PRESENT ABSENT"),
    _enumeration("issue", "OccurrenceIssue", values=_list("issue")),
    Parameter("country", Kind.TEXT, _term("countryCode")),
    *_of_kind(Kind.DECIMAL, *_EMPTY_NUMBERS),
    *_of_kind(Kind.DATE, "modified"),
    *_of_kind(Kind.TEXT, *_EMPTY_TEXTS, "protocol", "taxonomicStatus", "datasetName"),
    Parameter("publishingOrg", Kind.UUID, lambda occurrence: (occurrence.publisher.organisation_key,)),
    Parameter("isSequenced", Kind.BOOLEAN, lambda occurrence: ("false",)),
    _text("publishingCountry"),
    _text("occurrenceId", "occurrenceID"),
    _text("recordedBy"),
    _text("identifiedBy"),
    _text("institutionCode"),
    _text("collectionCode"),
    _text("catalogNumber"),
    _text("stateProvince"),
    _text("locality"),
    _text("sex"),
    _text("lifeStage"),
    _text("taxonRank"),
    _text("iucnRedListCategory"),
    _text("scientificName", "scientificName", "species", *RANKS[:-1]),
    _text("verbatimScientificName"),
)

BY_NAME: dict[str, Parameter] = {parameter.name: parameter for parameter in _ALL}
BY_KEY: dict[str, Parameter] = {parameter.key: parameter for parameter in _ALL}


def find(name: str) -> Parameter | None:
    """A parameter by either of its names: `gbifID` and `occurrenceID` are other spellings that GBIF accepts."""
    spelt = {"gbifID": "gbifId", "occurrenceID": "occurrenceId"}.get(name, name)
    return BY_NAME.get(spelt) or BY_KEY.get(name.upper())
