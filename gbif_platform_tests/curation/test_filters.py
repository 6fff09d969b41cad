"""Filters: what each one rules out and under which name, and what a missing value or term counts as."""

import calendar
from collections.abc import Iterator, Mapping
from datetime import date
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from gbif_platform.curation.filters import UnknownTerm, conditions, licence_counted, literal, matches_sql, term_column
from gbif_platform.curation.spec import Filters
from gbif_platform.curation.vocabulary import BASES_OF_RECORD, ISSUES, SLIP
from gbif_platform.errors import PlatformError
from gbif_platform.gbif.archive import DarwinCoreArchive
from gbif_platform.sources.darwin_core import occurrence_rows

COLUMNS = {
    "gbif_id": "VARCHAR",
    "dataset": "VARCHAR",
    "dataset_key": "VARCHAR",
    "basis_of_record": "VARCHAR",
    "occurrence_status": "VARCHAR",
    "establishment_means": "VARCHAR",
    "degree_of_establishment": "VARCHAR",
    "decimal_latitude": "DOUBLE",
    "decimal_longitude": "DOUBLE",
    "has_geospatial_issues": "BOOLEAN",
    "coordinate_uncertainty_in_meters": "DOUBLE",
    "issue": "VARCHAR",
    "event_date": "VARCHAR",
    "year": "INTEGER",
    "month": "INTEGER",
    "day": "INTEGER",
    "country_code": "VARCHAR",
    "life_stage": "VARCHAR",
    "locality": "VARCHAR",
}
BEES = "50c9509d-22c7-4a22-a47d-8c48425ef4a7"
MEDIA = {"license": "VARCHAR", "license_text": "VARCHAR", "occurrence_license": "VARCHAR"}


@pytest.fixture
def con() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


def relation(values: Mapping[str, Any], types: Mapping[str, str], alias: str) -> str:
    cells = ", ".join(
        f"{'NULL' if values.get(name) is None else literal(values[name])}::{kind} AS {name}"
        for name, kind in types.items()
    )
    return f"(SELECT {cells}) {alias}"


def verdicts(con: duckdb.DuckDBPyConnection, filters: Filters, **values: Any) -> list[tuple[str, str]]:
    """Every condition that one medium fails, with the value at fault."""
    medium = {"license": "CC-BY-4.0"} | {name: values.pop(name) for name in list(values) if name in MEDIA}
    rows = f"{relation(medium, MEDIA, 'm')}, {relation(values, COLUMNS, 'o')}"
    licences = [row[0] for row in con.sql(f"SELECT {licence_counted(filters, 'm')} FROM {rows}").fetchall()]
    failed = []
    for condition in conditions(COLUMNS, filters, licences):
        answer = con.sql(f"SELECT {condition.fails}, {condition.detail} FROM {rows}").fetchone()
        assert answer is not None
        assert None not in answer, condition
        if answer[0]:
            failed.append((condition.filter, answer[1]))
    return failed


HERE = {"decimal_latitude": 55.5, "decimal_longitude": 12.5}
NULL_ISLAND = {"decimal_latitude": 0.0, "decimal_longitude": 0.0}
CASES: list[tuple[dict[str, Any], dict[str, Any], list[str]]] = [
    # licences
    ({}, {"license": "CC-BY-4.0"}, []),
    ({}, {"license": "CC-BY-NC-4.0"}, ["licence_not_allowed"]),
    ({}, {"license": None}, ["licence_not_allowed"]),
    ({"licences": "any"}, {"license": None}, []),
    ({"licences": ["CC0-1.0"]}, {"license": "CC-BY-4.0"}, ["licence_not_allowed"]),
    ({"licence_fallback": "occurrence"}, {"license": "unknown", "occurrence_license": "CC0-1.0"}, []),
    (
        {"licence_fallback": "occurrence"},
        {"license": "unknown", "license_text": "ask me", "occurrence_license": "CC0-1.0"},
        ["licence_not_allowed"],
    ),
    # kinds of record
    ({"basis_of_record": ["HUMAN_OBSERVATION"]}, {"basis_of_record": "HUMAN_OBSERVATION"}, []),
    ({"basis_of_record": ["HumanObservation"]}, {"basis_of_record": "HUMAN_OBSERVATION"}, []),
    ({"basis_of_record": ["human_observation"]}, {"basis_of_record": "HumanObservation"}, []),
    (
        {"basis_of_record": ["HUMAN_OBSERVATION"]},
        {"basis_of_record": "OBSERVATION"},
        ["basis_of_record_not_allowed"],
    ),
    ({"basis_of_record": ["HUMAN_OBSERVATION"]}, {}, ["basis_of_record_not_allowed"]),
    ({}, {"occurrence_status": "absent"}, ["absence"]),
    ({}, {"occurrence_status": "ABSENT"}, ["absence"]),
    ({}, {"occurrence_status": "PRESENT"}, []),
    ({}, {}, []),
    ({"absence": "keep"}, {"occurrence_status": "ABSENT"}, []),
    ({"captive": "leave_out"}, {"basis_of_record": "LIVING_SPECIMEN"}, ["captive"]),
    ({"captive": "leave_out"}, {"establishment_means": "MANAGED"}, ["captive"]),
    ({"captive": "leave_out"}, {"degree_of_establishment": "Cultivated"}, ["captive"]),
    ({"captive": "leave_out"}, {"degree_of_establishment": "Established"}, []),
    ({"captive": "leave_out"}, {}, []),
    ({}, {"basis_of_record": "LIVING_SPECIMEN"}, []),
    ({"fossil": "leave_out"}, {"basis_of_record": "FossilSpecimen"}, ["fossil"]),
    ({"fossil": "leave_out"}, {"basis_of_record": "PRESERVED_SPECIMEN"}, []),
    ({}, {"basis_of_record": "FOSSIL_SPECIMEN"}, []),
    # place
    ({"coordinates": "required"}, HERE, []),
    ({"coordinates": "required"}, {"decimal_latitude": 55.5}, ["no_coordinates"]),
    ({"coordinates": "required"}, {"decimal_latitude": 91.0, "decimal_longitude": 0.0}, ["no_coordinates"]),
    ({"coordinates": "required"}, {"decimal_latitude": float("nan"), "decimal_longitude": 0.0}, ["no_coordinates"]),
    ({"coordinates": "required"}, NULL_ISLAND, []),
    ({"coordinates": "sound"}, HERE | {"has_geospatial_issues": False}, []),
    ({"coordinates": "sound"}, NULL_ISLAND, ["zero_coordinates"]),
    ({"coordinates": "sound"}, HERE | {"has_geospatial_issues": True}, ["geospatial_issue"]),
    ({"zero_coordinates": "leave_out"}, NULL_ISLAND, ["zero_coordinates"]),
    ({"zero_coordinates": "leave_out"}, {"decimal_latitude": 0.0, "decimal_longitude": 30.0}, []),
    ({"zero_coordinates": "leave_out"}, {}, []),
    ({"max_coordinate_uncertainty": 100}, {"coordinate_uncertainty_in_meters": 100.0}, []),
    ({"max_coordinate_uncertainty": 100}, {"coordinate_uncertainty_in_meters": 100.5}, ["coordinate_uncertainty"]),
    ({"max_coordinate_uncertainty": 100}, {}, ["coordinate_uncertainty"]),
    ({"exclude_issue": ["TAXON_MATCH_FUZZY"]}, {"issue": "ZERO_COORDINATE;TAXON_MATCH_FUZZY"}, ["issue"]),
    ({"exclude_issue": ["X", "TAXON_MATCH_FUZZY"]}, {"issue": "TAXON_MATCH_FUZZY"}, ["issue"]),
    ({"exclude_issue": ["TAXON_MATCH"]}, {"issue": "TAXON_MATCH_FUZZY"}, []),
    ({"exclude_issue": ["TAXON_MATCH_FUZZY"]}, {}, []),
    # dates
    ({"event_date": "2010,2020"}, {"event_date": "2010-01-01T00:00:00+13:00"}, []),
    ({"event_date": "2010,2020"}, {"event_date": "2020-12-31T23:59"}, []),
    ({"event_date": "2010,2020"}, {"event_date": "2021"}, ["event_date_out_of_range"]),
    ({"event_date": "2010,2020"}, {"event_date": "2009-12-31"}, ["event_date_out_of_range"]),
    ({"event_date": "2010-05,2010-06"}, {"event_date": "2010"}, ["event_date_out_of_range"]),
    ({"event_date": "2010-02-01,2010-02-28"}, {"event_date": "2010-02"}, []),
    ({"event_date": "2012-02-01,2012-02-28"}, {"event_date": "2012-02"}, ["event_date_out_of_range"]),
    ({"event_date": "2010-05-02,*"}, {"event_date": "2010-05-01/2010-05-09"}, ["event_date_out_of_range"]),
    ({"event_date": "*,2010-05-08"}, {"event_date": "2010-05-01/2010-05-09"}, ["event_date_out_of_range"]),
    ({"event_date": "2010-05"}, {"event_date": "2010-05-01/2010-05-09"}, []),
    ({"event_date": "2007-11-13,2007-11-15"}, {"event_date": "2007-11-13/15"}, []),
    ({"event_date": "2007-11-13,2007-11-14"}, {"event_date": "2007-11-13/15"}, ["event_date_out_of_range"]),
    ({"event_date": "2007-10,2007-11"}, {"event_date": "2007-10-31/11-15"}, []),
    ({"event_date": "1900,1909"}, {"event_date": "1900/1909"}, []),
    ({"event_date": "*,*"}, {"event_date": "1735"}, []),
    ({"event_date": "*,*"}, {}, ["no_event_date"]),
    ({"event_date": "*,*"}, {"event_date": ""}, ["no_event_date"]),
    ({"event_date": "*,*"}, {"event_date": "in May"}, ["no_event_date"]),
    ({"event_date": "*,*"}, {"event_date": "20xx"}, ["no_event_date"]),
    ({"event_date": "*,*"}, {"event_date": "2010-02-30"}, ["no_event_date"]),
    ({"event_date": "*,*"}, {"event_date": "2010-05-01/"}, ["no_event_date"]),
    ({"event_date": "*,*"}, {"event_date": "2010/11/05"}, ["no_event_date"]),
    ({"event_date": "*,*"}, {"event_date": "2010-05-09/2010-05-01"}, ["no_event_date"]),
    ({"event_date": "2010-05-03"}, {"year": 2010, "month": 5, "day": 3}, []),
    ({"event_date": "2010-05"}, {"year": 2010, "month": 5}, []),
    ({"event_date": "2010-05"}, {"year": 2010}, ["event_date_out_of_range"]),
    ({"event_date": "2010"}, {"year": 2010, "month": 13, "day": 40}, ["no_event_date"]),
    ({"event_date": "2010"}, {"event_date": "2011", "year": 2010}, ["event_date_out_of_range"]),
    # lists
    ({"country": ["dk", "NO"]}, {"country_code": "DK"}, []),
    ({"country": ["DK"]}, {"country_code": "SE"}, ["country_not_allowed"]),
    ({"country": ["DK"]}, {}, ["country_not_allowed"]),
    ({"exclude_country": ["DK"]}, {"country_code": "DK"}, ["country_excluded"]),
    ({"exclude_country": ["DK"]}, {}, []),
    ({"life_stage": ["Adult"]}, {"life_stage": "adult"}, []),
    ({"life_stage": ["adult"]}, {"life_stage": "Larva"}, ["life_stage_not_allowed"]),
    ({"life_stage": ["adult"]}, {}, ["life_stage_not_allowed"]),
    ({"exclude_life_stage": ["larva"]}, {"life_stage": "Larva"}, ["life_stage_excluded"]),
    ({"exclude_life_stage": ["larva"]}, {}, []),
    ({"dataset_key": [BEES.upper()]}, {"dataset_key": BEES}, []),
    ({"dataset_key": [BEES]}, {"dataset_key": "a-2"}, ["dataset_not_allowed"]),
    ({"dataset_key": [BEES]}, {}, ["dataset_not_allowed"]),
    ({"exclude_dataset_key": [BEES]}, {"dataset_key": BEES}, ["dataset_excluded"]),
    ({"exclude_dataset_key": [BEES]}, {}, []),
    ({"life_stage": ["o'clock', ''"]}, {"life_stage": "o'clock', ''"}, []),
    ({"basis_of_record": [], "country": [], "life_stage": [], "dataset_key": []}, {}, []),
]


@pytest.mark.parametrize(("filters", "values", "expected"), CASES)
def test_each_filter_rules_out_what_it_says(
    con: duckdb.DuckDBPyConnection, filters: dict[str, Any], values: dict[str, Any], expected: list[str]
) -> None:
    assert [name for name, _ in verdicts(con, Filters(**filters), **values)] == expected


def test_the_value_at_fault_is_named(con: duckdb.DuckDBPyConnection) -> None:
    filters = Filters(captive="leave_out", coordinates="sound", event_date="2010,*", country=["DK"])
    found = verdicts(
        con,
        filters,
        license="CC-BY-NC-4.0",
        occurrence_status="ABSENT",
        basis_of_record="LIVING_SPECIMEN",
        degree_of_establishment="captive",
        event_date="2009",
        country_code="SE",
        **NULL_ISLAND,
    )
    assert found == [
        ("licence_not_allowed", "CC-BY-NC-4.0"),
        ("absence", "ABSENT"),
        ("captive", "LIVING_SPECIMEN, captive"),
        ("zero_coordinates", "0.0 0.0"),
        ("event_date_out_of_range", "2009"),
        ("country_not_allowed", "SE"),
    ]


@pytest.mark.parametrize(
    ("filters", "term"),
    [
        ({"basis_of_record": ["HUMAN_OBSERVATION"]}, "basisOfRecord"),
        ({"coordinates": "required"}, "decimalLatitude"),
        ({"coordinates": "sound"}, "decimalLatitude"),
        ({"max_coordinate_uncertainty": 10}, "coordinateUncertaintyInMeters"),
        ({"event_date": "2010,*"}, "eventDate"),
        ({"country": ["DK"]}, "countryCode"),
        ({"life_stage": ["adult"]}, "lifeStage"),
        ({"dataset_key": [BEES]}, "datasetKey"),
    ],
)
def test_a_demand_of_a_term_that_is_not_there_is_an_error_with_both_names(filters: dict[str, Any], term: str) -> None:
    with pytest.raises(UnknownTerm) as error:
        conditions({"gbif_id": "VARCHAR"}, Filters(**filters), ["CC0-1.0"])
    (key,) = filters
    assert f"filters.{key}" in error.value.cause
    assert term in error.value.cause


def test_what_no_record_can_match_is_no_condition() -> None:
    filters = Filters(
        captive="leave_out",
        fossil="leave_out",
        zero_coordinates="leave_out",
        exclude_issue=["X"],
        exclude_country=["DK"],
        exclude_life_stage=["larva"],
        exclude_dataset_key=[BEES],
    )
    assert [one.filter for one in conditions({"gbif_id": "VARCHAR"}, filters, [])] == ["licence_not_allowed"]
    establishment = {"establishment_means": "VARCHAR"}
    assert [one.filter for one in conditions(establishment, filters, [])] == ["licence_not_allowed", "captive"]


def test_dates_can_come_from_the_year_alone(con: duckdb.DuckDBPyConnection) -> None:
    found = conditions({"year": "INTEGER"}, Filters(licences="any", event_date="2010,2012"), [])
    fails = " OR ".join(one.fails for one in found)
    passed = con.sql(f"SELECT year FROM (VALUES (2009), (2010), (2012), (2013), (NULL)) o(year) WHERE NOT ({fails})")
    assert passed.fetchall() == [(2010,), (2012,)]


@pytest.mark.parametrize(
    ("filters", "said"),
    [
        ({"licences": ["CC-BY"]}, "'CC-BY' is no licence policy"),
        ({"licences": []}, "no licence policy"),
        ({"event_date": "2010,2011,2012"}, "'2010,2011,2012' is no date range"),
        ({"event_date": "2012,2010"}, "it ends before it begins"),
        ({"event_date": "last year"}, "'last year' is no date range"),
        ({"event_date": "2010-13"}, "'2010-13' is no date range"),
        ({"event_date": "2010-02-30,*"}, "'2010-02-30,*' is no date range"),
        ({"event_date": "2010-05-01T12:00,*"}, "is no date range"),
        ({"event_date": "0000"}, "is no date range"),
        ({"event_date": ""}, "is no date range"),
        ({"country": ["Denmark"]}, "'Denmark' is no country code of ISO 3166-1 alpha-2; did you mean DK?"),
        ({"country": ["DK", "UKK"]}, "'UKK' is no country code"),
        ({"exclude_country": ["UK"]}, "did you mean GB?"),
        ({"exclude_country": ["D1"]}, "'D1' is no country code"),
        ({"exclude_issue": ["TAXON_MATCH_FUZY"]}, "did you mean TAXON_MATCH_FUZZY?"),
        ({"exclude_issue": ["TAXON_MATCH_HIGHER_RANK"]}, "did you mean TAXON_MATCH_HIGHERRANK?"),
        ({"exclude_issue": ["bad coordinates"]}, "'bad coordinates' is no issue of GBIF"),
        ({"basis_of_record": ["HUMAN_OBSERVATON"]}, "did you mean HUMAN_OBSERVATION?"),
        ({"basis_of_record": ["humanobservation"]}, "did you mean HUMAN_OBSERVATION?"),
        ({"dataset_key": ["a-1"]}, "'a-1' is no dataset key of GBIF"),
        ({"exclude_dataset_key": ["nonsense"]}, "'nonsense' is no dataset key of GBIF"),
    ],
)
def test_a_value_that_cannot_be_is_told_with_the_key_before_anything_is_downloaded(
    filters: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValidationError) as error:
        Filters(**filters)
    (mistake,) = error.value.errors()
    assert mistake["loc"][0] in filters
    assert said in mistake["msg"]


def test_what_gbif_may_have_added_since_is_doubtful_and_no_mistake() -> None:
    new = Filters(
        exclude_issue=["TAXON_MATCH_DREAMT", "zero_coordinate"], basis_of_record=["HumanObservation", "DREAM"]
    )
    assert [doubt.split(" is ")[0] for doubt in new.doubts] == [
        "filters.exclude_issue: 'TAXON_MATCH_DREAMT'",
        "filters.basis_of_record: 'DREAM'",
    ]
    assert Filters(country=["XK", "dk"], exclude_country=["ZZ"]).doubts == []


def test_no_known_word_counts_as_a_slip_of_another() -> None:
    for known in (ISSUES, BASES_OF_RECORD):
        for word in known:
            assert get_close_matches(word, known - {word}, 1, SLIP) == []


def matched(con: duckdb.DuckDBPyConnection, term: str, wanted: Any, **values: Any) -> bool:
    sql = matches_sql(COLUMNS, term, wanted, "t", "split.holdout.test")
    answer = con.sql(f"SELECT {sql} FROM {relation(values, COLUMNS, 't')}").fetchone()
    assert answer is not None
    assert answer[0] is not None
    return bool(answer[0])


@pytest.mark.parametrize(
    ("term", "wanted", "values", "expected"),
    [
        ("year", [2023, 2024], {"year": 2024}, True),
        ("year", ["2023"], {"year": 2024}, False),
        ("year", "2020,2024", {"year": 2024}, True),
        ("year", "2020,*", {"year": 2019}, False),
        ("year", ["*,2000", 2024], {"year": 1999}, True),
        ("year", "*,*", {}, False),
        ("decimalLatitude", "-10,10", {"decimal_latitude": -10.0}, True),
        ("hasGeospatialIssues", [True], {"has_geospatial_issues": True}, True),
        ("has_geospatial_issues", "true", {}, False),
        ("locality", "Oslo, Norway", {"locality": "oslo, norway"}, True),
        ("locality", ["7"], {"locality": "7"}, True),
        ("locality", [7], {"locality": "7"}, True),
        ("locality", "5,8", {"locality": "7.5"}, True),
        ("locality", "5,8", {"locality": "Oslo"}, False),
        ("locality", [], {"locality": "Oslo"}, False),
        ("countryCode", "SE", {}, False),
        ("country", ["SE"], {"country_code": "SE"}, True),
        ("http://rs.tdwg.org/dwc/terms/countryCode", "SE", {"country_code": "SE"}, True),
        ("eventDate", "2024,*", {"event_date": "2024-01-01T00:00:00Z"}, True),
        ("eventDate", [2024], {"event_date": "2024-05"}, True),
        ("eventDate", "2024", {"event_date": "2023-12-31/2024-01-02"}, False),
        ("eventDate", "2024", {"year": 2024}, True),
        ("eventDate", "*,*", {}, False),
        ("eventDate", "2010-05-05,2010-06", {"event_date": "2010-05-09/2010-05-01"}, False),
    ],
)
def test_a_term_matches_values_and_ranges(
    con: duckdb.DuckDBPyConnection, term: str, wanted: Any, values: dict[str, Any], expected: bool
) -> None:
    assert matched(con, term, wanted, **values) is expected


@pytest.mark.parametrize(
    ("term", "wanted"),
    [
        ("year", ["twenty"]),
        ("year", [True]),
        ("year", "a,b"),
        ("hasGeospatialIssues", ["maybe"]),
        ("country", [False]),
        ("eventDate", "May"),
    ],
)
def test_a_value_that_a_term_cannot_have_is_an_error_with_the_setting(term: str, wanted: Any) -> None:
    with pytest.raises(PlatformError, match=r"split\.holdout\.test"):
        matches_sql(COLUMNS, term, wanted, "t", "split.holdout.test")


def test_an_unknown_term_is_told_with_those_that_come_close() -> None:
    with pytest.raises(UnknownTerm, match=r"^split.group_by: .*lifeStages.*life_stage"):
        term_column(COLUMNS, "lifeStages", "split.group_by")
    with pytest.raises(UnknownTerm, match="have no ''; there are"):
        term_column(COLUMNS, "", "split.group_by")
    with pytest.raises(UnknownTerm):  # the lake's own column
        term_column(COLUMNS, "dataset", "split.group_by")


TEXTS = st.one_of(
    st.text(max_size=12), st.sampled_from(["'", "''; DROP TABLE o; --", "\\'", "$$", "%", '"', "a\0b", "\0"])
)


@settings(max_examples=60, deadline=None)
@given(value=st.one_of(TEXTS, st.integers(-(2**31), 2**31), st.floats(allow_nan=False), st.booleans()))
def test_any_value_survives_quoting(value: str | int | float | bool) -> None:
    with duckdb.connect() as con:
        answer = con.sql(f"SELECT {literal(value)}").fetchone()
    assert answer == (value,)


DAYS = st.dates(date(1998, 1, 1), date(2003, 12, 31))
FORMS = st.sampled_from(["%Y", "%Y-%m", "%Y-%m-%d"])
TIMES = st.sampled_from(["", "T00:00", "T23:59:59Z", "T12:00:00.000-05:00", " 12:00"])


@st.composite
def record_dates(draw: st.DrawFn) -> str:
    """A date or an interval as GBIF and publishers write them."""

    def one(day: date) -> str:
        form = draw(FORMS)
        return day.strftime(form) + (draw(TIMES) if form.endswith("d") else "")

    first = draw(DAYS)
    return one(first) if draw(st.booleans()) else f"{one(first)}/{one(draw(DAYS))}"


def days_of(text: str) -> tuple[date, date] | None:
    """The first and the last day of an ISO date or interval, read with Python's own calendar."""
    parts = [part.replace(" ", "T").partition("T")[0].split("-") for part in text.split("/")]
    try:
        (year, *rest), (last_year, *last_rest) = ([int(number) for number in part] for part in (parts[0], parts[-1]))
    except ValueError:
        return None
    first = date(year, *[*rest, 1, 1][:2])
    last_month = last_rest[0] if last_rest else 12
    last_day = last_rest[1] if len(last_rest) > 1 else calendar.monthrange(last_year, last_month)[1]
    last = date(last_year, last_month, last_day)
    return (first, last) if first <= last else None


def expected_for(text: str, low: date | None, high: date | None) -> str | None:
    if (days := days_of(text)) is None:
        return "no_event_date"
    inside = (low is None or low <= days[0]) and (high is None or days[1] <= high)
    return None if inside else "event_date_out_of_range"


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(record_dates(), min_size=1, max_size=30), first=st.none() | DAYS, last=st.none() | DAYS, form=FORMS
)
@example(texts=["2000-02"], first=date(2000, 2, 1), last=date(2000, 2, 28), form="%Y-%m-%d")
def test_dates_lie_in_a_range_as_python_reads_them(
    con: duckdb.DuckDBPyConnection, texts: list[str], first: date | None, last: date | None, form: str
) -> None:
    if first and last and first > last:
        first, last = last, first
    bounds = [day.strftime(form) if day else "*" for day in (first, last)]
    low, high = (days_of(bound) if bound != "*" else None for bound in bounds)
    wanted = ",".join(bounds)
    none, outside = conditions(COLUMNS, Filters(licences="any", absence="keep", event_date=wanted), [])
    rows = " UNION ALL ".join(f"FROM {relation({'event_date': text}, COLUMNS, 'x')}" for text in texts)
    reason = f"CASE WHEN {none.fails} THEN '{none.filter}' WHEN {outside.fails} THEN '{outside.filter}' END"
    answers = con.sql(f"SELECT {reason}, {matches_sql(COLUMNS, 'eventDate', wanted)} FROM ({rows}) o").fetchall()
    for text, (name, inside) in zip(texts, answers, strict=True):
        assert name == expected_for(text, low and low[0], high and high[1]), text
        assert inside is (name is None), text


class Scenario:
    """The scenario's occurrences as the archive's reader gives them, and the traps of the truth file."""

    def __init__(self, con: duckdb.DuckDBPyConnection, archive: Path, truth: Path, work: Path) -> None:
        with DarwinCoreArchive(archive) as opened:
            file = occurrence_rows(con, opened.core, work).rows["occurrences"]
        con.execute(f"CREATE TABLE o AS FROM read_parquet('{file}')")
        self.con = con
        self.columns: dict[str, str] = {name: kind for name, kind, *_ in con.sql("DESCRIBE o").fetchall()}
        rows = pl.read_csv(truth, infer_schema_length=0).select("gbifID", "trap", "copy_of").rows()
        self.ids = {gbif_id for gbif_id, _, _ in rows}
        self.traps = {trap: {gbif_id for gbif_id, other, _ in rows if other == trap} for _, trap, _ in rows}
        # A republished record has no trap of its own, but lacks the coordinates that its original lacks.
        without = self.traps["no coordinates"]
        without |= {gbif_id for gbif_id, _, copied in rows if copied in without}

    def ruled_out(self, **filters: Any) -> dict[str, set[str]]:
        found = conditions(self.columns, Filters(licences="any", absence=filters.pop("absence", "keep"), **filters), [])
        return {
            one.filter: {row[0] for row in self.con.sql(f"SELECT gbif_id FROM o WHERE {one.fails}").fetchall()}
            for one in found
        }


@pytest.fixture(scope="module")
def scenario(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scenario]:
    folder = shared / "scenario/dev"
    with duckdb.connect() as con:
        work = tmp_path_factory.mktemp("scenario")
        yield Scenario(con, folder / "archive.zip", folder / "occurrences_truth.csv", work)


@pytest.mark.parametrize(
    ("filters", "reason", "trap"),
    [
        ({"absence": "leave_out"}, "absence", "absent"),
        ({"captive": "leave_out"}, "captive", "captive"),
        ({"fossil": "leave_out"}, "fossil", "fossil"),
        ({"zero_coordinates": "leave_out"}, "zero_coordinates", "zero coordinates"),
        ({"coordinates": "required"}, "no_coordinates", "no coordinates"),
    ],
)
def test_the_scenarios_traps_are_ruled_out_and_nothing_else(
    scenario: Scenario, filters: dict[str, Any], reason: str, trap: str
) -> None:
    assert scenario.traps[trap]
    assert scenario.ruled_out(**filters) == {reason: scenario.traps[trap]}


def test_sound_coordinates_in_the_scenario(scenario: Scenario) -> None:
    zero = scenario.traps["zero coordinates"]
    assert scenario.ruled_out(coordinates="sound") == {
        "no_coordinates": scenario.traps["no coordinates"],
        "zero_coordinates": zero,
        "geospatial_issue": zero,  # GBIF flags them, too
    }


@pytest.mark.parametrize("wanted", ["2010,2018", "2019-06-15,*", "*,1999-12", "2017-12-08,2017-12-27", "2008"])
def test_date_ranges_over_the_scenario_are_those_of_python(scenario: Scenario, wanted: str) -> None:
    first, _, last = wanted.partition(",")
    low, high = (None if bound == "*" else days_of(bound) for bound in (first, last or first))
    rows = scenario.con.sql("SELECT gbif_id, event_date FROM o").fetchall()
    outside = {
        gbif_id
        for gbif_id, text in rows
        if expected_for(text or "", low and low[0], high and high[1]) == "event_date_out_of_range"
    }
    found = scenario.ruled_out(event_date=wanted)
    assert found == {"no_event_date": set(), "event_date_out_of_range": outside}
    assert 0 < len(outside) < len(scenario.ids)
