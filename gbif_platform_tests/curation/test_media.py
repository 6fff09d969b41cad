"""Media rows: every line of the extension becomes a picture or a refusal that names why."""

from pathlib import Path

import duckdb
import polars as pl
import pytest

from gbif_platform.curation.media import media_rows
from gbif_platform.storage.tables import Outcome

OCCURRENCES = pl.DataFrame(
    {"gbif_id": ["1", "2"], "dataset_key": ["d", "d"], "occurrence_id": ["urn:1", None]},
)
LINE = {
    "_id": "1",
    "type": "StillImage",
    "format": "image/jpeg",
    "identifier": "http://a.org/1.jpg",
    "license": "http://creativecommons.org/licenses/by/4.0/",
    "creator": "Ann",
}


def read(folder: Path, *lines: dict[str, str | None]) -> Outcome:
    con = duckdb.connect()
    rows = [LINE | {"_row_ref": f"multimedia.txt:{place + 2}"} | line for place, line in enumerate(lines)]
    schema = dict.fromkeys([*LINE, "_row_ref"], pl.String)
    media = con.from_arrow(pl.DataFrame(rows, schema=schema).to_arrow())
    return media_rows(con, media, con.from_arrow(OCCURRENCES.to_arrow()), folder)


def kept(outcome: Outcome) -> pl.DataFrame:
    return pl.read_parquet(outcome.rows["media_urls"])


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ({"_id": "9"}, "orphan"),
        ({"_id": None}, "orphan"),
        ({"type": "Sound", "format": "audio/mpeg"}, "not_still_image"),
        ({"type": None, "format": "video/mp4"}, "not_still_image"),
        ({"type": None, "format": None, "identifier": "http://a.org/view?id=7"}, "unknown_media_type"),
        ({"identifier": None}, "no_identifier"),
        ({"identifier": "   "}, "no_identifier"),
        ({"identifier": "http://a.org/1.jpg | http://a.org/2.jpg"}, "several_urls_in_identifier"),
        ({"identifier": "http://a.org/1.jpg;https://a.org/2.jpg"}, "several_urls_in_identifier"),
        ({"identifier": "/photos/1.jpg"}, "relative_url"),
        ({"identifier": "www.a.org/1.jpg"}, "no_scheme"),
        ({"identifier": "a.org:8080/1.jpg"}, "no_scheme"),
        ({"identifier": "file:///etc/hostname"}, "unsupported_scheme"),
        ({"identifier": "DATA:image/gif;base64,R0lGODlhAQABAAAAACw="}, "unsupported_scheme"),
        ({"identifier": "https:///1.jpg"}, "no_host"),
    ],
)
def test_refusals(tmp_path: Path, line: dict[str, str | None], reason: str) -> None:
    outcome = read(tmp_path, line)
    assert outcome.refused["reason"].to_list() == [reason]
    assert (outcome.rows_in, outcome.rows_out) == (1, 0)
    assert outcome.refused["row_ref"].to_list() == ["multimedia.txt:2"]


@pytest.mark.parametrize(
    "line",
    [
        {"type": None},
        {"format": None},
        {"type": "http://purl.org/dc/dcmitype/StillImage", "format": "tiff, jpeg"},
        {"type": None, "format": None, "identifier": "http://a.org/1.JPG?size=big"},
        {"identifier": "https://iiif.a.org/full/!512,512/0/default.jpg"},
        {"_id": " 1 "},
    ],
)
def test_what_is_a_picture_is_kept(tmp_path: Path, line: dict[str, str | None]) -> None:
    assert read(tmp_path, line).rows_out == 1


def test_licence_credit_and_line_stay_with_the_picture(tmp_path: Path) -> None:
    row = kept(read(tmp_path, {})).row(0, named=True)
    assert (row["license"], row["license_text"]) == ("CC-BY-4.0", LINE["license"])
    assert (row["creator"], row["row_ref"], row["gbif_id"]) == ("Ann", "multimedia.txt:2", "1")
    assert kept(read(tmp_path, {"license": None})).row(0, named=True)["license"] == "unknown"


def test_the_same_picture_of_the_same_occurrence_is_one_row_and_twins_share_their_url_id(tmp_path: Path) -> None:
    outcome = read(
        tmp_path, {}, {"identifier": "https://A.org:443/1.jpg#x"}, {"_id": "2"}, {"identifier": "http://a.org/2.jpg"}
    )
    assert outcome.refused.select("row_ref", "reason").rows() == [("multimedia.txt:3", "duplicate_media")]
    rows = kept(outcome)
    assert rows["url_id"].n_unique() == 2
    assert rows["media_id"].n_unique() == 3


def test_identities_do_not_depend_on_row_order_or_gbif_id(tmp_path: Path) -> None:
    one = kept(read(tmp_path, {}, {"identifier": "http://a.org/2.jpg"}))
    two = kept(read(tmp_path, {"identifier": "http://a.org/2.jpg"}, {}))
    assert set(one["media_id"]) == set(two["media_id"])
    con = duckdb.connect()
    renumbered = OCCURRENCES.with_columns(gbif_id=pl.Series(["7", "2"]))
    media = con.from_arrow(pl.DataFrame([LINE | {"_id": "7", "_row_ref": "m:2"}]).to_arrow())
    three = kept(media_rows(con, media, con.from_arrow(renumbered.to_arrow()), tmp_path))
    assert three["media_id"][0] in set(one["media_id"])


def test_odd_letters_are_percent_encoded(tmp_path: Path) -> None:
    assert kept(read(tmp_path, {"identifier": " http://a.org/ö x.jpg "}))["url"][0] == "http://a.org/%C3%B6%20x.jpg"


def test_an_extension_with_hardly_any_column_is_read(tmp_path: Path) -> None:
    con = duckdb.connect()
    media = con.sql("SELECT '1' AS _id, 'm:2' AS _row_ref, 'http://a.org/1.jpg' AS identifier")
    outcome = media_rows(con, media, con.from_arrow(OCCURRENCES.to_arrow()), tmp_path)
    assert outcome.rows_out == 1
