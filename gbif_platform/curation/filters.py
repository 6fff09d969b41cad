"""What rules a medium out before it is fetched: the dataset file's filters as SQL conditions.

Every condition is plain comparisons, so that 100 million rows cost seconds. Values come from the user's own dataset
file and are quoted into the SQL.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial

import duckdb

from gbif_platform.curation.dates import DATES, DateRange, date_range, interval
from gbif_platform.curation.spec import Filters, Value
from gbif_platform.curation.vocabulary import issue
from gbif_platform.errors import PlatformError
from gbif_platform.gbif.licences import UNKNOWN, allowed
from gbif_platform.gbif.terms import snake_case
from gbif_platform.storage.lake import quoted

BOOKKEEPING = ("dataset", "snapshot", "row_ref")
"""Columns of the lake that are no terms."""
MANAGED = ("managed", "captive", "cultivated")
"""What says "in captivity or cultivation": concepts of the vocabulary DegreeOfEstablishment, the last three under the
first; in old downloads `MANAGED` is a value of establishmentMeans."""
NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UBIGINT", "FLOAT", "DOUBLE")
GBIF_PARAMETERS = {"country": "country_code"}
"""Search parameters of GBIF that are spelt otherwise than their term."""


@dataclass(frozen=True)
class Condition:
    """One way to be ruled out.

    `filter` is its name in the funnel, and the reason of refusal. `fails` is a SQL boolean, never null, over the
    aliases `m` (a row of media_urls) and `o` (its occurrence); `detail` a SQL text, never null: the value at fault.
    """

    filter: str
    fails: str
    detail: str = "''"


class UnknownTerm(PlatformError):
    """The occurrences have no such term."""


def conditions(columns: Mapping[str, str], filters: Filters, licences: Sequence[str | None]) -> list[Condition]:
    """What the filters rule out that is known before pictures arrive, in the order of the funnel.

    Args:
        columns: DuckDB types of the occurrences' columns, by name.
        filters: the dataset file's; `duplicates`, `duplicate_images` and `min_side` are applied elsewhere.
        licences: the distinct values of `licence_counted(filters)`.

    A filter that rules out what a term says is left out of the list where no record has the term.

    Raises:
        UnknownTerm: a filter demands something of a term that the occurrences do not have.
    """
    return [
        *_licence(filters, licences),
        *_kind_of_record(columns, filters),
        *_place(columns, filters),
        *_date(columns, filters),
        *_listed(columns, "countryCode", "country", filters.country, filters.exclude_country),
        *_listed(columns, "lifeStage", "life_stage", filters.life_stage, filters.exclude_life_stage),
        *_listed(columns, "datasetKey", "dataset_key", filters.dataset_key, filters.exclude_dataset_key),
    ]


def licence_counted(filters: Filters, table: str = "media_urls") -> str:
    """SQL for the licence that a medium of `table` counts as being under."""
    if filters.licence_fallback == "none":
        return f"{table}.license"
    silent = f"trim(coalesce({table}.license_text, '')) = ''"
    return f"CASE WHEN {silent} THEN {table}.occurrence_license ELSE {table}.license END"


def column_types(rows: duckdb.DuckDBPyRelation) -> dict[str, str]:
    """DuckDB types of the columns, by name."""
    return {name: str(kind) for name, kind in zip(rows.columns, rows.types, strict=True)}


def term_column(columns: Mapping[str, str], term: str, setting: str) -> str:
    """The column of a GBIF or Darwin Core term, spelt as in the archive or in snake case.

    Raises UnknownTerm, which names the setting and the columns that come close.
    """
    name = snake_case(term)
    column = name if name in columns else GBIF_PARAMETERS.get(name, name)
    if column in columns and column not in BOOKKEEPING:
        return column
    terms = [known for known in columns if known not in BOOKKEEPING]
    close = get_close_matches(name, terms, n=5) or sorted(terms)
    raise UnknownTerm(
        f"{setting}: the occurrences have no {term.strip() or repr(term)}; there are: {', '.join(close)}",
        f"correct {setting} in the dataset file, or remove it: the source's records do not have this term",
    )


def matches_sql(
    columns: Mapping[str, str], term: str, wanted: str | Sequence[Value], table: str = "o", setting: str = ""
) -> str:
    """SQL boolean, never null: whether a term's value is `wanted`.

    Args:
        columns: DuckDB types of the columns of `table`, by name.
        term: as for `term_column`.
        wanted: a value, GBIF's range `a,b` (`*` = open), or a list of values and ranges of which one is enough. Texts
            are compared without regard to case, as GBIF does. Dates are ranges always: `2024` = within that year, and
            the record's whole date must lie inside. For a term of text, what is no range of numbers is a value.
        setting: the setting's name, for messages.

    Raises:
        UnknownTerm: no such column.
        PlatformError: a value that the term cannot have.
    """
    column = term_column(columns, term, setting or term)
    values = [wanted] if isinstance(wanted, str) else list(wanted)
    if column in DATES:
        build = partial(_date_matches, columns, column, table)
    elif columns[column] in NUMBERS:
        build = partial(_number_matches, f'{table}."{column}"')
    elif columns[column] == "BOOLEAN":
        build = partial(_boolean_matches, f'{table}."{column}"')
    else:
        build = partial(_text_matches, f'{table}."{column}"')
    parts = [build(value, setting or term) for value in values]
    return f"coalesce({' OR '.join(parts)}, false)" if parts else "false"


def literal(value: Value) -> str:
    """A value as SQL."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return f"'{value!r}'::DOUBLE"  # also inf and nan
    return quoted(value)


def _licence(filters: Filters, licences: Sequence[str | None]) -> list[Condition]:
    if filters.licences == "any":
        return []
    licence = f"coalesce({licence_counted(filters, 'm')}, {literal(UNKNOWN)})"
    good = [spdx for spdx in sorted({spdx or UNKNOWN for spdx in licences}) if allowed(spdx, filters.licences)]
    return [Condition("licence_not_allowed", f"NOT {_one_of(licence, good)}", licence)]


def _kind_of_record(columns: Mapping[str, str], filters: Filters) -> list[Condition]:
    """By basisOfRecord, occurrenceStatus and establishment."""
    found = []
    if filters.basis_of_record:
        column = term_column(columns, "basisOfRecord", "filters.basis_of_record")
        good = _says(column, *filters.basis_of_record)
        found.append(Condition("basis_of_record_not_allowed", f"NOT {good}", _shown(column)))
    if filters.absence == "leave_out" and "occurrence_status" in columns:
        found.append(Condition("absence", _says("occurrence_status", "absent"), _shown("occurrence_status")))
    if filters.captive == "leave_out":
        found += _any_of(
            columns,
            "captive",
            {
                "basis_of_record": ["living specimen"],
                "establishment_means": MANAGED,
                "degree_of_establishment": MANAGED,
            },
        )
    if filters.fossil == "leave_out":
        found += _any_of(columns, "fossil", {"basis_of_record": ["fossil specimen"]})
    return found


def _any_of(columns: Mapping[str, str], name: str, words: Mapping[str, Sequence[str]]) -> list[Condition]:
    """Ruled out by one of several columns, of those that there are."""
    present = [column for column in words if column in columns]
    if not present:
        return []
    fails = " OR ".join(_says(column, *words[column]) for column in present)
    return [Condition(name, f"({fails})", f"concat_ws(', ', {', '.join(f'o.{column}' for column in present)})")]


def _place(columns: Mapping[str, str], filters: Filters) -> list[Condition]:
    found = []
    setting = f"filters.coordinates: {filters.coordinates}"
    there = {"decimal_latitude", "decimal_longitude"} <= columns.keys()
    position = "concat_ws(' ', o.decimal_latitude, o.decimal_longitude)"
    if filters.coordinates != "any":
        for term in ("decimalLatitude", "decimalLongitude"):
            term_column(columns, term, setting)
        on_earth = "o.decimal_latitude BETWEEN -90 AND 90 AND o.decimal_longitude BETWEEN -180 AND 180"
        found.append(Condition("no_coordinates", f"NOT coalesce({on_earth}, false)", position))
    if there and (filters.coordinates == "sound" or filters.zero_coordinates == "leave_out"):
        null_island = "coalesce(o.decimal_latitude = 0 AND o.decimal_longitude = 0, false)"
        found.append(Condition("zero_coordinates", null_island, position))
    if filters.coordinates == "sound":
        column = term_column(columns, "hasGeospatialIssues", setting)
        issues = _shown("issue") if "issue" in columns else position
        found.append(Condition("geospatial_issue", f"coalesce(o.{column}, false)", issues))
    if filters.max_coordinate_uncertainty is not None:
        column = term_column(columns, "coordinateUncertaintyInMeters", "filters.max_coordinate_uncertainty")
        too_much = f"coalesce(o.{column} > {literal(filters.max_coordinate_uncertainty)}, true)"
        found.append(Condition("coordinate_uncertainty", too_much, _shown(column)))
    if filters.exclude_issue and "issue" in columns:
        has = [f"contains(';' || o.issue || ';', {literal(f';{issue(name)};')})" for name in filters.exclude_issue]
        found.append(Condition("issue", f"coalesce({' OR '.join(has)}, false)", _shown("issue")))
    return found


def _date(columns: Mapping[str, str], filters: Filters) -> list[Condition]:
    if filters.event_date is None:
        return []
    wanted = date_range(filters.event_date, "filters.event_date")
    if "year" not in columns:
        term_column(columns, "eventDate", "filters.event_date")
    start, end = interval(columns, "event_date", "o")
    inside = _inside(start, end, wanted)
    shown = _shown("event_date") if "event_date" in columns else _shown("year")
    return [
        Condition("no_event_date", f"NOT coalesce({start} <= {end}, false)", shown),
        Condition("event_date_out_of_range", f"NOT coalesce({inside}, true)", shown),
    ]


def _listed(
    columns: Mapping[str, str], term: str, key: str, allow: Sequence[str] | None, deny: Sequence[str]
) -> list[Condition]:
    """An allow list, which a missing value fails, and a deny list, which it passes; in any case."""
    found = []
    column = snake_case(term)
    name = key.removesuffix("_key")
    if allow:
        column = term_column(columns, term, f"filters.{key}")
        found.append(Condition(f"{name}_not_allowed", f"NOT {_equals(column, allow)}", _shown(column)))
    if deny and column in columns:
        found.append(Condition(f"{name}_excluded", _equals(column, deny), _shown(column)))
    return found


def _one_of(expression: str, values: Sequence[str]) -> str:
    values = list(dict.fromkeys(values))
    return f"coalesce({expression} IN ({', '.join(map(literal, values))}), false)" if values else "false"


def _equals(column: str, values: Sequence[str]) -> str:
    return _one_of(f"lower(trim(o.{column}))", [value.strip().lower() for value in values])


def _says(column: str, *words: str) -> str:
    """FOSSIL_SPECIMEN, FossilSpecimen and Fossil Specimen are one word."""
    plain = [snake_case(word) for word in words]
    return _one_of(f"lower(o.{column})", [word.replace("_", gap) for word in plain for gap in ("_", "", " ")])


def _shown(column: str) -> str:
    return f"coalesce(o.{column}::VARCHAR, '')"


def _inside(start: str, end: str, wanted: DateRange) -> str:
    """SQL: the interval lies in the range; may be null where there is no date."""
    bounds = [f"{start} >= DATE {literal(wanted.first.isoformat())}"] if wanted.first else []
    bounds += [f"{end} <= DATE {literal(wanted.last.isoformat())}"] if wanted.last else []
    return " AND ".join(bounds) or "true"


def _date_matches(columns: Mapping[str, str], column: str, table: str, value: Value, setting: str) -> str:
    start, end = interval(columns, column, table)
    return f"({start} <= {end} AND {_inside(start, end, date_range(str(value), setting))})"


def _number_matches(expression: str, value: Value, setting: str) -> str:
    if (bounds := _number_range(value)) is not None:
        return _between(expression, *bounds)
    number = None if isinstance(value, bool) else _number(str(value))
    if number is None:
        raise PlatformError(
            f"{setting}: {value!r} is no number, and no range of numbers", "write e.g. [2023, 2024], or '2020,*'"
        )
    return f"{expression} = {literal(number)}"


def _boolean_matches(expression: str, value: Value, setting: str) -> str:
    word = str(value).strip().lower()
    if word not in ("true", "false"):
        raise PlatformError(f"{setting}: {value!r} is neither true nor false", "write [true] or [false]")
    return f"{expression} = {word}"


def _text_matches(expression: str, value: Value, setting: str) -> str:
    if isinstance(value, bool):
        raise PlatformError(
            f"{setting}: {value!r} is no text; YAML reads NO, on and yes as true or false", "quote it: 'NO'"
        )
    if (bounds := _number_range(value)) is not None:
        return _between(f"try_cast({expression} AS DOUBLE)", *bounds)
    return f"lower(trim({expression})) = lower({literal(str(value).strip())})"


def _number_range(value: Value) -> tuple[float | None, float | None] | None:
    """The bounds of `a,b`, None where open; None where it is no range of numbers."""
    parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else []
    if len(parts) != 2:
        return None
    low, high = (None if part == "*" else _number(part) for part in parts)
    if (low is None and parts[0] != "*") or (high is None and parts[1] != "*"):
        return None
    return low, high


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _between(expression: str, low: float | None, high: float | None) -> str:
    bounds = [f"{expression} IS NOT NULL"]
    bounds += [f"{expression} >= {literal(low)}"] if low is not None else []
    bounds += [f"{expression} <= {literal(high)}"] if high is not None else []
    return f"({' AND '.join(bounds)})"
