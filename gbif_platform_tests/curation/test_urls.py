"""URLs: one spelling, one identity, for whatever publishers write."""

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gbif_platform.curation.urls import define_macros, percent_encode


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
