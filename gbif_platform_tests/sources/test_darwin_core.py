"""Occurrences out of archives: columns, numbers, refused ids, rows as published."""

import math
from pathlib import Path
from typing import Any, NamedTuple

import duckdb
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gbif_platform.errors import PlatformError
from gbif_platform.gbif import archive_rows
from gbif_platform.gbif.archive import DarwinCoreArchive
from gbif_platform.gbif.terms import TYPES
from gbif_platform.sources import column_file
from gbif_platform.sources.darwin_core import occurrence_rows, stage, verbatim_rows
from gbif_platform.storage.tables import Outcome
from gbif_platform_tests.gbif.archives import (
    DC,
    DWC,
    GBIF,
    MULTIMEDIA,
    OCCURRENCE,
    meta,
    occurrence_archive,
    pack,
    section,
)

TERMS = [GBIF + "gbifID", DWC + "locality", DWC + "decimalLatitude", DWC + "year", GBIF + "hasCoordinate"]
TERM_NAMES = ("decimal_latitude", "year", "has_coordinate")


class Read(NamedTuple):
    outcome: Outcome
    rows: list[dict[str, Any]]
    refused: list[tuple[str, str]]


def read(archive: Path, work: Path) -> Read:
    with duckdb.connect() as con, DarwinCoreArchive(archive) as opened:
        outcome = occurrence_rows(con, opened.core, work)
        rows = con.read_parquet(str(outcome.rows["occurrences"])).pl().to_dicts()
    return Read(outcome, rows, [(row["row_ref"], row["reason"]) for row in outcome.refused.to_dicts()])


def archive_of(folder: Path, *lines: str, terms: list[str] = TERMS) -> Path:
    header = "\t".join(term.rpartition("/")[2] for term in terms)
    return occurrence_archive(folder / "a.zip", "\n".join((header, *lines)) + "\n", terms)


def test_numbers_are_numbers_and_columns_without_a_value_are_left_out(tmp_path: Path) -> None:
    read_back = read(archive_of(tmp_path, "1\t\t55.5\t2020\ttrue", "2\t\t\t\tfalse"), tmp_path)
    assert read_back.rows == [
        {"gbif_id": "1", "row_ref": "occurrence.txt:2", "dataset_key": None, "occurrence_id": None,
         "decimal_latitude": 55.5, "year": 2020, "has_coordinate": True},
        {"gbif_id": "2", "row_ref": "occurrence.txt:3", "dataset_key": None, "occurrence_id": None,
         "decimal_latitude": None, "year": None, "has_coordinate": False},
    ]  # fmt: skip
    assert (read_back.outcome.rows_in, read_back.outcome.rows_out, read_back.refused) == (2, 2, [])


def test_what_is_no_number_stays_beside_it_as_text(tmp_path: Path) -> None:
    read_back = read(archive_of(tmp_path, "1\tA\t55,5\t2020-21\tyes", "2\tB\t1e1\t2020.0\tmaybe"), tmp_path)
    first, second = read_back.rows
    assert (first["decimal_latitude"], first["decimal_latitude_text"]) == (None, "55,5")
    assert (second["decimal_latitude"], second["decimal_latitude_text"]) == (10.0, None)
    assert (first["year"], first["year_text"], second["year"], second["year_text"]) == (None, "2020-21", 2020, None)
    assert (first["has_coordinate"], second["has_coordinate"], second["has_coordinate_text"]) == (True, None, "maybe")


def test_a_column_of_which_no_value_is_a_number_is_there_all_the_same(tmp_path: Path) -> None:
    (row,) = read(archive_of(tmp_path, "1\tA\tnorth\t\t"), tmp_path).rows
    assert (row["decimal_latitude"], row["decimal_latitude_text"]) == (None, "north")


NUMBERS = st.one_of(
    st.text(alphabet="0123456789.eE+- _x", min_size=1, max_size=8),
    st.floats().map(repr),
    st.integers(-(2**33), 2**33).map(str),
    st.sampled_from(["inf", "-Infinity", "NaN", "1e999", "true", "FALSE", "t", "no", "1", " 12 ", "12 ", "007", "٣"]),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25, deadline=None)
@given(values=st.lists(NUMBERS, min_size=1, max_size=8))
@example(values=["1.5", "x"])
def test_numbers_are_what_duckdb_reads_in_any_mixture(tmp_path: Path, values: list[str]) -> None:
    lines = [f"{number}\tA\t{value}\t{value}\t{value}" for number, value in enumerate(values)]
    rows = read(archive_of(tmp_path, *lines), tmp_path).rows
    with duckdb.connect() as con:
        typed = ", ".join(f"try_cast(value AS {TYPES[name]}) AS {name}" for name in TERM_NAMES)
        all_expected = con.execute(f"SELECT {typed} FROM (SELECT unnest(?::VARCHAR[]) AS value)", [values]).fetchall()
        for value, row, expected_row in zip(values, rows, all_expected, strict=True):
            for name, expected in zip(TERM_NAMES, expected_row, strict=True):
                same_nan = isinstance(expected, float) and math.isnan(expected) and math.isnan(row[name])
                assert same_nan or row[name] == expected, (name, value)
                assert row.get(f"{name}_text") == (value if expected is None else None), (name, value)


def test_a_column_that_turns_up_late_is_in_all_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(column_file, "ROW_GROUP", 10)
    monkeypatch.setattr(archive_rows, "CACHE_BYTES", 64)
    lines = [f"{n}\t\t{n}\t{'19xx' if n == 77 else n}\t" for n in range(90)] + ["90\tRønne\t\t\ttrue"]
    with duckdb.connect() as con, DarwinCoreArchive(archive_of(tmp_path, *lines)) as archive:
        core = archive.core
        whole = core.tables

        def small_tables(**kwargs: Any) -> Any:
            return whole(batch_bytes=100, **kwargs)

        monkeypatch.setattr(core, "tables", small_tables)
        outcome = occurrence_rows(con, core, tmp_path)
        file = outcome.rows["occurrences"]
        assert isinstance(file, Path)
        rows = con.read_parquet(str(file)).pl().to_dicts()
    assert [row["gbif_id"] for row in rows] == [str(n) for n in range(91)]
    assert [row["locality"] for row in rows] == [None] * 90 + ["Rønne"]
    assert [row["year"] for row in rows] == [None if n in (77, 90) else n for n in range(91)]
    assert [row["year_text"] for row in rows if row["year_text"]] == ["19xx"]
    assert pq.ParquetFile(file).num_row_groups > 2
    assert [path.name for path in tmp_path.glob("*.parquet")] == ["occurrences.parquet"]


def test_rows_without_an_id_or_with_one_that_was_there_are_refused(tmp_path: Path) -> None:
    lines = ["1\tA\t\t\t", "\tB\t\t\t", "2\tC\t\t\t", " 1 \tD\t\t\t", "  \tE\t\t\t", "1\tF\t\t\t", "3\tG"]
    read_back = read(archive_of(tmp_path, *lines), tmp_path)
    assert [(row["gbif_id"], row["locality"]) for row in read_back.rows] == [("1", "A"), ("2", "C")]
    assert read_back.refused == [
        ("occurrence.txt:8", "wrong_field_count"),
        ("occurrence.txt:3", "empty_id"),
        ("occurrence.txt:5", "duplicate_id"),
        ("occurrence.txt:6", "empty_id"),
        ("occurrence.txt:7", "duplicate_id"),
    ]
    assert (read_back.outcome.rows_in, read_back.outcome.rows_out) == (7, 2)


@pytest.mark.parametrize("lines", [(), ("\tA\t\t\t",), ("1\tA",)])
def test_an_archive_without_a_sound_occurrence_is_said(tmp_path: Path, lines: tuple[str, ...]) -> None:
    with pytest.raises(PlatformError, match="no occurrence"):
        read(archive_of(tmp_path, *lines), tmp_path)


def test_media_lines_are_staged_as_text(tmp_path: Path) -> None:
    media = [GBIF + "gbifID", DC + "identifier", DC + "title"]
    files = {
        "meta.xml": meta(
            section("core", "occurrence.txt", TERMS[:2]), section("extension", "media.txt", media, MULTIMEDIA)
        ),
        "occurrence.txt": "gbifID\tlocality\n1\tA\n",
        "media.txt": "gbifID\tidentifier\ttitle\n1\thttp://a/1.jpg\t\n1\n 2 \thttp://a/2.jpg\t\n",
    }
    with DarwinCoreArchive(pack(tmp_path / "a.zip", files)) as archive:
        assert archive.multimedia is not None
        staged = stage(archive.multimedia, tmp_path / "media.parquet")
    assert pq.read_table(staged.file).to_pylist() == [
        {"_row_ref": "media.txt:2", "_id": "1", "gbif_id": "1", "identifier": "http://a/1.jpg"},
        {"_row_ref": "media.txt:4", "_id": "2", "gbif_id": " 2 ", "identifier": "http://a/2.jpg"},
    ]
    assert (staged.rows, staged.rows_in, staged.refused["row_ref"].to_list()) == (2, 3, ["media.txt:3"])
    assert staged.filled == {"_row_ref", "_id", "gbif_id", "identifier"}


def test_rows_as_published_are_text(tmp_path: Path) -> None:
    published = [GBIF + "gbifID", DWC + "decimalLatitude", DWC + "locality"]
    files = {
        "meta.xml": meta(
            section("core", "occurrence.txt", TERMS), section("extension", "verbatim.txt", published, OCCURRENCE)
        ),
        "occurrence.txt": "x\n1\tA\t55.5\t2020\ttrue\n",
        "verbatim.txt": "x\n1\t55.50\t\n",
        "verbatim/dna.txt": "not of interest\n",
    }
    with DarwinCoreArchive(pack(tmp_path / "a.zip", files)) as archive:
        assert archive.verbatim is not None
        staged = verbatim_rows(archive.verbatim, tmp_path / "verbatim.parquet")
    assert pq.read_table(staged.file).to_pylist() == [
        {"gbif_id": "1", "row_ref": "verbatim.txt:2", "decimal_latitude": "55.50"}
    ]


def test_a_checklist_has_no_rows_as_published(tmp_path: Path) -> None:
    files = {
        "meta.xml": meta(
            section("core", "taxon.txt", [DWC + "taxonID"], DWC + "Taxon"),
            section("extension", "occurrence.txt", [DWC + "taxonID", DWC + "locality"], OCCURRENCE),
        ),
        "taxon.txt": "taxonID\n1\n",
        "occurrence.txt": "taxonID\tlocality\n1\tA\n",
    }
    with DarwinCoreArchive(pack(tmp_path / "a.zip", files)) as archive:
        assert archive.verbatim is None
