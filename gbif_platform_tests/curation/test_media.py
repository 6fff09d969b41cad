"""Media rows: every line of the extension becomes a picture or a refusal that names why."""

from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbif_platform.curation.media import media_rows
from gbif_platform.storage.tables import Outcome

OCCURRENCES = pl.DataFrame(
    {
        "gbif_id": ["1", "2"],
        "dataset_key": ["d", "d"],
        "occurrence_id": ["urn:1", None],
        "license": ["CC_BY_NC_4_0", None],
    },
)
LINE = {
    "_id": "1",
    "type": "StillImage",
    "format": "image/jpeg",
    "identifier": "http://a.org/1.jpg",
    "license": "http://creativecommons.org/licenses/by/4.0/",
    "creator": "Ann",
    "references": None,
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
        ({"identifier": None, "references": "http://a.org/records/1"}, "no_identifier"),
        ({"identifier": None, "references": "https://commons.wikimedia.org/wiki/File:Rana.jpg"}, "no_identifier"),
        ({"identifier": None, "references": "see /photos/1.jpg"}, "no_identifier"),
        ({"identifier": "http://a.org/1.mp3;http://a.org/2.mp3", "type": "Sound"}, "not_still_image"),
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


def test_identities_are_fixed_for_ever(tmp_path: Path) -> None:
    """A change of them would fetch every picture anew and redraw every sample."""
    row = kept(read(tmp_path, {})).row(0, named=True)
    assert (row["url_id"], row["media_id"]) == (URL_ID, MEDIA_ID)
    assert row["sample_key"] == int(MEDIA_ID[:16], 16)


URL_ID = sha256(b"a.org/1.jpg").hexdigest()[:32]
MEDIA_ID = sha256(b"d\x1furn:1\x1fa.org/1.jpg").hexdigest()[:32]


def test_odd_letters_are_percent_encoded(tmp_path: Path) -> None:
    assert kept(read(tmp_path, {"identifier": " http://a.org/ö x.jpg "}))["url"][0] == "http://a.org/%C3%B6%20x.jpg"


def test_an_extension_with_hardly_any_column_is_read(tmp_path: Path) -> None:
    con = duckdb.connect()
    media = con.sql("SELECT '1' AS _id, 'm:2' AS _row_ref, 'http://a.org/1.jpg' AS identifier")
    outcome = media_rows(con, media, con.from_arrow(OCCURRENCES.to_arrow()), tmp_path)
    assert outcome.rows_out == 1


@pytest.mark.parametrize("separator", ["|", " | ", ";", ", ", " "])
def test_every_url_of_a_line_becomes_a_row_and_the_account_names_them(tmp_path: Path, separator: str) -> None:
    urls = ["http://a.org/1.jpg", "HTTPS://A.org/ö.jpg", "http://a.org/full/!51,51/3.jpg"]
    outcome = read(tmp_path, {"identifier": separator.join(urls)}, {"identifier": "http://a.org/4.jpg"})
    rows = kept(outcome).sort("row_ref")
    assert rows["row_ref"].to_list() == [
        "multimedia.txt:2",
        "multimedia.txt:2#2",
        "multimedia.txt:2#3",
        "multimedia.txt:3",
    ]
    assert rows["url"].to_list() == [urls[0], "https://a.org/%C3%B6.jpg", urls[2], "http://a.org/4.jpg"]
    assert (outcome.rows_in, outcome.rows_out, len(outcome.refused)) == (4, 4, 0)


def test_a_piece_is_judged_alone(tmp_path: Path) -> None:
    outcome = read(tmp_path, {"identifier": "1.jpg; http://a.org/2.jpg; http://a.org/2.jpg"})
    assert outcome.refused.select("row_ref", "reason").rows() == [
        ("multimedia.txt:2", "no_scheme"),
        ("multimedia.txt:2#3", "duplicate_media"),
    ]
    assert outcome.rows_in == outcome.rows_out + len(outcome.refused) == 3


def test_a_picture_among_the_references_is_taken_where_there_is_no_identifier(tmp_path: Path) -> None:
    picture = "http://a.org/ref.JPG"
    rows = kept(read(tmp_path, {"identifier": " ", "references": picture}, {"references": picture})).sort("row_ref")
    assert rows["url"].to_list() == [picture, LINE["identifier"]]
    assert rows["from_references"].to_list() == [True, False]


def test_sizes_of_a_picture_are_one_medium_and_the_url_stays_as_given(tmp_path: Path) -> None:
    small, large = (f"https://static.inaturalist.org/photos/7/{size}.jpg?15" for size in ("small", "original"))
    canonical = "https://inaturalist-open-data.s3.amazonaws.com/photos/7/original.jpg"
    outcome = read(tmp_path, {"identifier": small}, {"identifier": large}, {"_id": "2", "identifier": canonical})
    rows = kept(outcome).sort("row_ref")
    assert rows["url"].to_list() == [small, canonical]
    assert rows["url_id"].n_unique() == 1
    assert outcome.refused.rows() == [
        ("multimedia.txt:3", "duplicate_media", f"{large} is the picture of multimedia.txt:2")
    ]


@given(st.permutations(range(12)))
@settings(max_examples=5, deadline=None)
def test_the_first_line_of_the_file_stays_whatever_the_order_of_rows(order: list[int]) -> None:
    with TemporaryDirectory() as folder:
        lines = [{"_row_ref": f"multimedia.txt:{place + 2}"} for place in order]
        outcome = read(Path(folder), *lines)
        assert kept(outcome)["row_ref"].to_list() == ["multimedia.txt:2"]
        assert outcome.rows_in == 1 + len(outcome.refused) == 12


def test_both_licences_are_read_and_unknown_ones_have_no_flags(tmp_path: Path) -> None:
    rows = kept(read(tmp_path, {"license": "CC BY-SA 3.0"}, {"_id": "2", "license": "ask me"})).sort("row_ref")
    columns = ("license", "occurrence_license", "attribution", "non_commercial", "no_derivatives", "share_alike")
    assert rows.select(columns).rows() == [
        ("CC-BY-SA-3.0", "CC-BY-NC-4.0", True, False, False, True),
        ("unknown", "unknown", None, None, None, None),
    ]


def test_every_licence_text_is_counted_with_its_reading(tmp_path: Path) -> None:
    lines = [
        {"license": text, "identifier": f"http://a.org/{n}.jpg"} for n, text in enumerate(["CC0", "CC0", "?", None])
    ]
    outcome = read(tmp_path, *lines, {"_id": "9", "license": "of an orphan"})
    assert outcome.rows["licence_texts"].rows() == [
        ("medium", "CC0", "CC0-1.0", 2),
        ("medium", "?", "unknown", 1),
        ("medium", None, "unknown", 1),
        ("occurrence", "CC_BY_NC_4_0", "CC-BY-NC-4.0", 4),
    ]


ODD = st.sampled_from(
    ["http://a.org/1.jpg", "HTTP://a.org/1.jpg", "http://a.org:80/1.jpg", "https://b.org/ö", "x", "", None,
     "ftp://a/1", "http://a.org/1.jpg|http://a.org/2.jpg", "http://a.org/7.jpg#x", "http:///", "http://a.org",
     " http://a.org/9.jpg "]
)  # fmt: skip
LINES = st.lists(
    st.fixed_dictionaries(
        {"identifier": ODD, "_id": st.sampled_from(["1", "2", " 1", "9", None]),
         "type": st.sampled_from(["StillImage", "Image", "Sound", None])}
    ), min_size=1, max_size=25,
)  # fmt: skip


@given(LINES)
@settings(max_examples=15, deadline=None)
def test_no_row_is_lost_or_stands_twice(lines: list[dict[str, str | None]]) -> None:
    with TemporaryDirectory() as folder:
        outcome = read(Path(folder), *lines)
        rows = kept(outcome)
        refs = rows["row_ref"].to_list() + outcome.refused["row_ref"].to_list()
        assert len(refs) == len(set(refs)) == outcome.rows_in
        assert {ref.partition("#")[0] for ref in refs} == {f"multimedia.txt:{n + 2}" for n in range(len(lines))}
        assert rows["media_id"].n_unique() == len(rows) == outcome.rows_out
