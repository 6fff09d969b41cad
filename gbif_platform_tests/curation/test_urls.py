"""URLs: one spelling, one identity, for whatever publishers write."""

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbif_platform.curation.renditions import RENDITIONS, Rendition
from gbif_platform.curation.urls import PLAIN, define_macros, percent_encode


@pytest.fixture(scope="module")
def con() -> duckdb.DuckDBPyConnection:
    con = duckdb.connect()
    define_macros(con)
    return con


def spelling(con: duckdb.DuckDBPyConnection, url: str) -> tuple[str, str]:
    return con.execute("SELECT url_spelling($1), identity(url_key($1))", [url]).fetchone()


@pytest.mark.parametrize(
    ("written", "spelt"),
    [
        ("HTTP://Example.ORG:80/A/b.JPG?x=1#top", "http://example.org/A/b.JPG?x=1"),
        ("https://example.org:443", "https://example.org/"),
        ("https://example.org:8443/a", "https://example.org:8443/a"),
        (
            "https://iiif.example.org/full/!512,512/0/default.jpg",
            "https://iiif.example.org/full/!512,512/0/default.jpg",
        ),
    ],
)
def test_one_spelling(con: duckdb.DuckDBPyConnection, written: str, spelt: str) -> None:
    assert spelling(con, written)[0] == spelt


def test_http_and_https_twins_share_their_identity_and_paths_do_not(con: duckdb.DuckDBPyConnection) -> None:
    assert spelling(con, "http://a.org/1.jpg")[1] == spelling(con, "https://A.org:443/1.jpg")[1]
    assert spelling(con, "http://a.org/1.jpg")[1] != spelling(con, "http://a.org/1.JPG")[1]


def picture_key(con: duckdb.DuckDBPyConnection, key: str) -> str:
    return con.execute("SELECT picture_key(key) FROM (SELECT $1::VARCHAR AS key)", [key]).fetchone()[0]


@pytest.mark.parametrize("rule", RENDITIONS, ids=lambda rule: rule.name)
def test_each_rule_does_what_its_example_says_and_once_only(con: duckdb.DuckDBPyConnection, rule: Rendition) -> None:
    written, canonical = rule.example
    assert picture_key(con, written) == canonical
    assert picture_key(con, canonical) == canonical


S3 = "inaturalist-open-data.s3.amazonaws.com"


@pytest.mark.parametrize(
    "keys",
    [
        (f"{S3}/photos/7/original.jpg", f"{S3}/photos/7/square.jpg", "static.inaturalist.org/photos/7/large.jpg?1"),
        tuple(f"live.staticflickr.com/65535/5_ab1{size}.jpg" for size in ("", "_s", "_z", "_c", "_b")),
        ("farm1.static.flickr.com/65535/5_ab1_m.jpg", "c2.staticflickr.com/6/65535/5_ab1.jpg"),
        tuple(
            f"a.org/iiif/2/x%2F1/full/{size}/0/default.jpg" for size in ("max", "full", "1024,", ",90", "!9,9", "pct:5")
        ),
        ("a.org/1.jpg", "a.org/1.jpg?utm_source=x&utm_medium=y", "a.org/1.jpg?fbclid=q"),
        ("a.org/v?id=1&w=2", "a.org/v?utm_source=x&id=1&utm_medium=y&w=2", "a.org/v?id=1&w=2&gclid=3"),
    ],
)
def test_sizes_and_trackers_are_one_picture(con: duckdb.DuckDBPyConnection, keys: tuple[str, ...]) -> None:
    assert len({picture_key(con, key) for key in keys}) == 1


@pytest.mark.parametrize(
    "keys",
    [
        (
            f"{S3}/photos/7/large.jpg",
            f"{S3}/photos/8/large.jpg",
            f"{S3}/photos/7/other.jpg",
            "a.org/photos/7/large.jpg",
        ),
        tuple(f"live.staticflickr.com/1/5_ab1{size}.jpg" for size in ("_b", "_o", "_h", "_k")),  # secrets of their own
        ("live.staticflickr.com/1/5_ab1_b.jpg", "live.staticflickr.com/1/5_ab2_b.jpg"),
        ("a.org/full/max/0/default.jpg", "b.org/full/max/0/default.jpg"),
        ("a.org/x/full/max/0/default.jpg", "a.org/x/0,0,9,9/max/0/default.jpg", "a.org/x/full/max/90/default.jpg"),
        ("a.org/x/full/max/0/default.jpg", "a.org/x/full/max/0/default.jpg?page=2", "a.org/x/full/max/0/gray.jpg"),
        (
            "upload.wikimedia.org/wikipedia/commons/a/ab/R.tif",
            "upload.wikimedia.org/wikipedia/commons/thumb/a/ab/R.tif/lossy-page2-9px-R.tif.jpg",
        ),
        ("a.org/v?id=1", "a.org/v?id=2", "a.org/v?id=1&my_utm_source=3", "a.org/v"),
    ],
)
def test_different_pictures_are_never_merged(con: duckdb.DuckDBPyConnection, keys: tuple[str, ...]) -> None:
    assert len({picture_key(con, key) for key in keys}) == len(keys)


@settings(max_examples=300, deadline=None)
@given(st.from_regex(r"\A(https?|HTTP)://[aA.]{1,3}(:80|:443|:8080|:80800)?[/?#:;x|%=-]{0,6}\Z"))
def test_a_plain_url_is_spelt_as_it_is(con: duckdb.DuckDBPyConnection, url: str) -> None:
    """The short way of media rows and the long way give the same."""
    plain, spelt = con.execute(f"SELECT regexp_full_match($1, '{PLAIN}'), url_spelling($1)", [url]).fetchone()
    assert not plain or spelt == url


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_percent_encoding_gives_plain_ascii_and_is_idempotent(path: str) -> None:
    once = percent_encode(f"http://a.org/{path}")
    assert all("!" <= letter <= "~" for letter in once)
    assert percent_encode(once) == once


def test_blanks_and_letters_are_encoded_as_a_browser_would() -> None:
    assert percent_encode("http://a.org/with blank/ö 照片.jpg") == (
        "http://a.org/with%20blank/%C3%B6%20%E7%85%A7%E7%89%87.jpg"
    )
