"""Dates as GBIF writes them, and ranges of them: an eventDate is a day, a month, a year or an interval of these."""

import calendar
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date

from gbif_platform.errors import PlatformError

DATES = (
    "event_date",
    "date_identified",
    "georeferenced_date",
    "modified",
    "last_interpreted",
    "last_parsed",
    "last_crawled",
)
"""Columns whose text is a date or an interval."""
EXAMPLES = "write e.g. '2010,2020', '2015-06-01,*' or '2015-06'; days, months or years without a time"
NOTHING = "NULL::DATE"
_DAY = re.compile(r"(\d{4})(?:-(\d\d)(?:-(\d\d))?)?")


@dataclass(frozen=True)
class DateRange:
    """From the first day to the last one, both included; None = open."""

    first: date | None
    last: date | None


def date_range(text: str, setting: str) -> DateRange:
    """As `read_range`; raises PlatformError, which names the setting."""
    try:
        return read_range(text)
    except ValueError as error:
        raise PlatformError(f"{setting}: {error}", EXAMPLES) from error


def read_range(text: str) -> DateRange:
    """Read `a,b` or `a`, where each is yyyy, yyyy-MM, yyyy-MM-dd or `*`: from the first day of a to the last of b.

    Raises ValueError.
    """
    parts = [part.strip() for part in text.split(",")]
    try:
        if len(parts) > 2:
            raise ValueError(f"{len(parts)} dates")
        found = DateRange(_first_day(parts[0]), _last_day(parts[-1]))
        if found.first and found.last and found.first > found.last:
            raise ValueError("it ends before it begins")
    except ValueError as error:
        raise ValueError(f"{text!r} is no date range: {error}") from error
    return found


def interval(columns: Mapping[str, str], column: str, table: str) -> tuple[str, str]:
    """SQL for the first and the last DATE of a record's date column; null where it is missing or no ISO date.

    Times and time zones are dropped: the day counts as it was written, at the place of the record. An end may be short,
    as in Darwin Core's example `2007-11-13/15`. Where eventDate is missing, year, month and day stand in.
    """
    instead = _of_parts(columns, table) if column == "event_date" else (NOTHING, NOTHING)
    if column not in columns:
        return instead
    text = f"{table}.{column}"
    ends = _of_text(text)
    first, last = (
        f"(CASE WHEN coalesce({text}, '') <> '' THEN {written} ELSE {parts} END)"
        for written, parts in zip(ends, instead, strict=True)
    )
    return first, last


def _of_text(text: str) -> tuple[str, str]:
    pair = f"contains({text}, '/')"
    start, end = f"split_part({text}, '/', 1)", f"split_part({text}, '/', 2)"
    short = f"length({start}) >= 10 AND length({end}) IN (2, 5)"
    completed = f"try_cast(substr({start}, 1, 10 - length({end})) || {end} AS DATE)"
    first = f"CASE WHEN {pair} THEN {_first_of(start)} ELSE {_first_of(text)} END"
    last = f"CASE WHEN NOT {pair} THEN {_last_of(text)} WHEN {short} THEN {completed} ELSE {_last_of(end)} END"
    return first, last


def _first_of(text: str) -> str:
    return _by_length(text, f"try_cast({text} || '-01-01' AS DATE)", f"try_cast({text} || '-01' AS DATE)")


def _last_of(text: str) -> str:
    return _by_length(text, f"try_cast({text} || '-12-31' AS DATE)", f"last_day(try_cast({text} || '-01' AS DATE))")


def _by_length(text: str, year: str, month: str) -> str:
    """A day, which may go on with a time, a month or a year; anything else is null."""
    day = f"try_cast(substr({text}, 1, 10) AS DATE)"
    return (
        f"CASE WHEN length({text}) >= 10 THEN {day}"
        f" WHEN length({text}) = 7 THEN {month} WHEN length({text}) = 4 THEN {year} END"
    )


def _of_parts(columns: Mapping[str, str], table: str) -> tuple[str, str]:
    """From the columns year, month and day, of which the later ones may be missing."""
    if "year" not in columns:
        return NOTHING, NOTHING
    month = f"{table}.month" if "month" in columns else "NULL"
    day = f"{table}.day" if "day" in columns else "NULL"
    first_of_month = f"try_cast({table}.year || '-' || {month} || '-1' AS DATE)"
    first, last = (
        f"CASE WHEN {month} IS NULL THEN try_cast({table}.year || '{of_year}' AS DATE)"
        f" WHEN {day} IS NULL THEN {of_month.format(first_of_month)}"
        f" ELSE try_cast({table}.year || '-' || {month} || '-' || {day} AS DATE) END"
        for of_year, of_month in (("-01-01", "{}"), ("-12-31", "last_day({})"))
    )
    return first, last


def _first_day(text: str) -> date | None:
    if text == "*":
        return None
    year, month, day = _numbers(text)
    return date(year, month or 1, day or 1)


def _last_day(text: str) -> date | None:
    if text == "*":
        return None
    year, month, day = _numbers(text)
    month = month or 12
    return date(year, month, day or calendar.monthrange(year, month)[1])


def _numbers(text: str) -> tuple[int, int | None, int | None]:
    if not (match := _DAY.fullmatch(text)):
        raise ValueError(f"{text!r} is no yyyy, yyyy-MM or yyyy-MM-dd")
    year, month, day = (int(part) if part else None for part in match.groups())
    assert year is not None  # the pattern has it
    return year, month, day
