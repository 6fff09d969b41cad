"""Rows, files and differences of catalogues, from plain frames."""

import csv
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbif_platform.exports.catalogue import (
    COLUMNS,
    CatalogueError,
    catalogue_differences,
    catalogue_keys,
    catalogue_rows,
    copy_catalogue,
    unexplained,
    write_files,
)
from gbif_platform.storage.objects import ObjectStore
from gbif_platform.storage.tables import TABLES

LINEAGE = {"kingdom": "Animalia", "class": "Aves", "family": "Corvidae", "genus": "Pica", "species": "Pica hudsonia"}
MAGPIE = LINEAGE | {"scientific_name": "Pica hudsonia (Sabine, 1823)", "taxon_rank": "SPECIES", "taxon_key": "1"}
SYNONYM = LINEAGE | {"scientific_name": "Corvus hudsonius Sabine, 1823", "taxon_rank": "SPECIES", "taxon_key": "2"}
SUBSPECIES = LINEAGE | {
    "scientific_name": "Pica hudsonia var. minor L.",
    "taxon_rank": "VARIETY",
    "taxon_key": "3",
    "accepted_taxon_key": "3",
    "accepted_scientific_name": "Pica hudsonia var. minor L.",
}
ACCEPTED = {"accepted_taxon_key": "1", "accepted_scientific_name": "Pica hudsonia (Sabine, 1823)"}


def table(con: duckdb.DuckDBPyConnection, name: str, rows: list[dict[str, Any]]) -> duckdb.DuckDBPyRelation:
    """Rows as those of a lake's table; what they do not have is null."""
    con.execute(f"CREATE OR REPLACE TEMP TABLE {name}_rows ({TABLES[name].replace(' NOT NULL', '')})")
    for row in rows:
        columns = ", ".join(f'"{column}"' for column in row)
        con.execute(f"INSERT INTO {name}_rows ({columns}) VALUES ({', '.join('?' * len(row))})", list(row.values()))
    return con.table(f"{name}_rows")


def rows(
    occurrences: list[dict[str, Any]], label: str = "species", labels: list[str] | None = None, taxa: bool = True
) -> list[dict[str, Any]]:
    """The catalogue of one medium for each occurrence; table taxa holds what the occurrences hold."""
    con = duckdb.connect()
    labels = labels or [one[label] for one in occurrences]
    sources = [ACCEPTED | one | {"gbif_id": str(n)} for n, one in enumerate(occurrences)]
    con.register("frame", pl.DataFrame(sources).to_arrow())
    chosen = pl.DataFrame(
        {"media_id": [f"m{n}" for n in range(len(labels))], "label": labels, "subset": ["train"] * len(labels)}
    ).with_columns(nested=pl.lit(None, pl.List(pl.String)), width=pl.lit(64), height=pl.lit(48))
    con.register("chosen_frame", chosen.to_arrow())
    known = [
        {key: value for key, value in one.items() if key not in ("gbif_id", "sex", "species_key")}
        | {"dataset": "d", "snapshot": "s", "label": of}
        for one, of in zip(sources, labels, strict=True)
    ]
    media = [
        {"dataset": "d", "snapshot": "s", "media_id": f"m{n}", "gbif_id": str(n), "license": "CC0-1.0"}
        for n in range(len(sources))
    ]
    made = catalogue_rows(
        con,
        con.table("chosen_frame"),
        table(con, "media_urls", media),
        con.table("frame"),
        table(con, "taxa", [one | {"vernacular_name": "magpie"} for one in known] if taxa else []),
        label=label,
        licence="m.license",
    )
    assert tuple(made.columns) == COLUMNS
    return made.pl().to_dicts()


def test_a_label_s_rows_have_the_accepted_taxon_whatever_the_record_says() -> None:
    found = rows([MAGPIE, SYNONYM, SUBSPECIES])
    assert [row["media_id"] for row in found] == ["m0", "m1", "m2"]
    for row in found:
        assert (row["scientific_name"], row["taxon_rank"], row["taxon_key"]) == (
            MAGPIE["scientific_name"],
            "SPECIES",
            "1",
        )
        assert row["caption_taxonomic"] == "Animalia Aves Corvidae Pica hudsonia"
        assert row["caption_scientific_common"] == "Pica hudsonia with common name magpie"
        assert (row["width"], row["height"], row["subset"], row["license"]) == (64, 48, "train", "CC0-1.0")


def test_a_subspecies_as_label_keeps_its_name() -> None:
    kept = rows([MAGPIE, SUBSPECIES], labels=["Pica hudsonia", "Pica hudsonia minor"])[1]
    assert (kept["scientific_name"], kept["taxon_rank"], kept["taxon_key"]) == (
        SUBSPECIES["scientific_name"],
        "VARIETY",
        "3",
    )
    assert kept["caption_scientific"] == "Pica hudsonia var. minor"


def test_a_synonym_as_label_keeps_its_name() -> None:
    kept = rows([SYNONYM], labels=["Corvus hudsonius"])[0]
    assert (kept["scientific_name"], kept["taxon_key"]) == (SYNONYM["scientific_name"], "2")
    assert kept["species"] == "Pica hudsonia"


@pytest.mark.parametrize("taxa", [True, False])
def test_a_genus_label_ends_with_the_genus(taxa: bool) -> None:
    found = rows([MAGPIE], "genus", taxa=taxa)[0]
    assert (found["scientific_name"], found["taxon_rank"], found["species"]) == ("Pica", "GENUS", None)
    assert found["caption_taxonomic"] == "Animalia Aves Corvidae Pica"


def test_another_label_leaves_the_record_its_taxon() -> None:
    found = rows([SYNONYM | {"sex": "FEMALE"}], "sex")[0]
    assert (found["label"], found["scientific_name"]) == ("FEMALE", ACCEPTED["accepted_scientific_name"])


def test_an_archive_may_lack_every_term_but_the_label() -> None:
    found = rows(
        [{"species": "Pica hudsonia", "accepted_taxon_key": None, "accepted_scientific_name": None}], taxa=False
    )
    assert (found[0]["scientific_name"], found[0]["caption_taxonomic"]) == ("Pica hudsonia", "Pica hudsonia")


def test_names_that_two_kingdoms_share_stay_apart() -> None:
    plant = {"kingdom": "Plantae", "family": "Rosaceae", "taxon_key": "9", "scientific_name": "Pica hudsonia Bot."}
    plant |= {"accepted_taxon_key": "9", "accepted_scientific_name": "Pica hudsonia Bot."}
    assert [row["taxon_key"] for row in rows([MAGPIE, MAGPIE | plant])] == ["1", "9"]


def test_a_subspecies_that_bears_its_species_name_as_accepted_does_not_stand_in_for_it() -> None:
    """GBIF's own contradiction: status SYNONYM, and its own key as the accepted one."""
    odd = LINEAGE | {"scientific_name": "Pica hudsonia hudsonia", "taxon_rank": "SUBSPECIES", "taxon_key": "0"}
    found = rows(
        [odd | {"accepted_taxon_key": "0", "species_key": "1"}, SYNONYM | {"species_key": "1"}],
        "accepted_scientific_name",
        labels=[ACCEPTED["accepted_scientific_name"]] * 2,
    )
    assert {(row["taxon_key"], row["taxon_rank"]) for row in found} == {("1", "SPECIES")}


# Files


@pytest.fixture
def objects(tmp_path: Path) -> ObjectStore:
    return ObjectStore(str(tmp_path / "objects"))


def written(objects: ObjectStore, work: Path, row: dict[str, Any]) -> dict[str, str]:
    keys = catalogue_keys("birds", "10.15468/dl.a", "catalogue")
    work.mkdir()
    with duckdb.connect() as con:
        staged = write_files(
            table(con, "catalogue", [row]).project(", ".join(f'"{c}"' for c in COLUMNS)), objects, keys, work
        )
    assert list(work.iterdir()) == [staged]
    return keys


def test_both_files_hold_the_same_and_the_csv_no_formula(objects: ObjectStore, tmp_path: Path) -> None:
    row = {
        "dataset": "birds",
        "snapshot": "s",
        "media_id": "m1",
        "creator": '=HYPERLINK("http://x")',
        "publisher": 'Søren, "the\nbird"',
        "decimal_longitude": -12.5,
        "nested": ["small", "tiny"],
        "width": 3,
    }
    keys = written(objects, tmp_path / "work", row)
    parquet = pl.read_parquet(tmp_path / "objects" / keys["parquet"])
    assert tuple(parquet.columns) == COLUMNS
    assert {name: value for name, value in parquet.row(0, named=True).items() if value is not None} == {
        name: value for name, value in row.items() if name in COLUMNS
    }
    with (tmp_path / "objects" / keys["csv"]).open(encoding="utf-8", newline="") as file:
        (line,) = csv.DictReader(file)
    assert tuple(line) == COLUMNS
    assert line["creator"] == "'" + row["creator"]
    assert {name: value for name, value in line.items() if value and name != "creator"} == {
        "media_id": "m1",
        "publisher": row["publisher"],
        "decimal_longitude": "-12.5",
        "nested": "small|tiny",
        "width": "3",
    }


def test_snapshots_and_tables_have_keys_of_their_own() -> None:
    keys = [
        key
        for snapshot in ("10.15468/dl.a", "10.15468_dl.a", "../x")
        for name in ("catalogue", "predicted_catalogue")
        for key in catalogue_keys("birds", snapshot, name).values()
    ]
    assert len(set(keys)) == len(keys)
    assert all(key.count("/") == 3 and ".." not in key for key in keys)


def test_a_copy_replaces_the_file_or_changes_nothing(objects: ObjectStore, tmp_path: Path) -> None:
    keys = written(objects, tmp_path / "work", {"dataset": "d", "snapshot": "s", "media_id": "m1"})
    file = tmp_path / "mine.CSV"
    file.write_text("old")
    copy_catalogue(objects, keys, file)
    assert file.read_bytes() == objects.get(keys["csv"])
    objects.delete(keys["parquet"])
    for target, cause in (
        (tmp_path / "mine.xlsx", "Parquet or CSV"),
        (tmp_path / "no" / "mine.csv", "there is no folder"),
        (tmp_path / "mine.parquet", "is not there"),
    ):
        with pytest.raises(CatalogueError, match=cause):
            copy_catalogue(objects, keys, target)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.CSV", "objects", "work"]


# Differences

SUBSETS = st.sampled_from(["train", "test", None])


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.integers(0, 30), st.tuples(SUBSETS, SUBSETS, st.sampled_from(["gone", "lost", "in"]))))
def test_differences_are_exactly_what_the_catalogues_differ_in(media: dict[int, tuple[Any, Any, str]]) -> None:
    con = duckdb.connect()
    text = pl.String
    schema = {"media_id": text, "url": text, "label": text, "subset": text}
    before = pl.DataFrame([(f"m{n}", "u", "l", was) for n, (was, _, _) in media.items()], schema, orient="row")
    after = pl.DataFrame(
        [(f"m{n}", "u", "l", now or "train", f"g{n % 9}") for n, (_, now, fate) in media.items() if fate == "in"],
        schema | {"group_id": text},
        orient="row",
    )
    stages = {"gone": ("downloaded_images", "http_404"), "lost": ("splits", "below_min_side")}
    refused = pl.DataFrame(
        [(f"m{n}", *stages[fate], "so it was") for n, (_, _, fate) in media.items() if fate != "in"],
        {"row_ref": text, "stage": text, "reason": text, "detail": text},
        orient="row",
    )
    predicted, actual, left = (con.from_arrow(frame.to_arrow()) for frame in (before, after, refused))
    found = catalogue_differences(con, predicted, actual, left).pl()
    assert found["media_id"].is_unique().all()
    missing = found.filter(pl.col("change").is_in(["not_fetched", "excluded"]))
    assert set(missing["media_id"]) == set(before["media_id"]) - set(after["media_id"])
    assert set(missing["reason"]) <= {"http_404", "below_min_side"}
    both = before.join(after, on="media_id")
    moved = both.filter(pl.col("subset") != pl.col("subset_right"))["media_id"]
    assert set(found.filter(pl.col("change") == "subset_changed")["media_id"]) == set(moved)
    assert len(found) == len(missing) + len(moved)
    torn = both.group_by("group_id").agg(pl.col("subset").drop_nulls().n_unique()).filter(pl.col("subset") > 1)
    merged = both.filter(
        pl.col("media_id").is_in(moved.implode()), pl.col("group_id").is_in(torn["group_id"].implode())
    )
    assert set(found.filter(pl.col("reason") == "groups_merged")["media_id"]) == set(merged["media_id"])
    told = con.from_arrow(found.to_arrow())
    assert unexplained(con, predicted, actual, told) == []
    if len(found):
        short = con.from_arrow(found.slice(1).to_arrow())
        assert unexplained(con, predicted, actual, short) == [found["media_id"][0]]
        twice = con.from_arrow(pl.concat([found, found.head(1)]).to_arrow())
        assert unexplained(con, predicted, actual, twice) == [found["media_id"][0]]


def test_what_nobody_accounts_for_is_not_explained() -> None:
    con = duckdb.connect()
    frame = con.sql("SELECT 'm1' AS media_id, 'u' AS url, 'l' AS label, 'train' AS subset, 'g' AS group_id")
    none = frame.filter("false")
    refused = con.sql("SELECT '' AS row_ref, '' AS stage, '' AS reason, '' AS detail").filter("false")
    for before, after in ((frame, none), (none, frame)):
        found = catalogue_differences(con, before, after, refused)
        assert found.pl()["change"].to_list() == ["unexplained"]
        assert unexplained(con, before, after, found) == ["m1"]
