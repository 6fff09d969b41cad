"""Media to split, of any shape, for the tests of groups, floors and splits."""

from dataclasses import dataclass

import duckdb
import polars as pl
from hypothesis import strategies as st

from gbif_platform.curation.groups import Media, numbered

DATABASE = duckdb.connect()
TEXTS = ("media_id", "label", "url_id", "source_sha256", "sha256", "near_duplicate", "gbif_id")


@dataclass(frozen=True)
class Row:
    """One medium by small numbers; its id is its place."""

    occurrence: int
    url: int
    data: int | None = None
    label: int = 0
    year: int | None = None


def frame(rows: list[Row], first: int = 0) -> pl.DataFrame:
    """The media as the split step has them."""
    return pl.DataFrame(
        {
            "media_id": [f"m{place:05}" for place in range(first, first + len(rows))],
            "label": [f"label {row.label}" for row in rows],
            "url_id": [f"u{row.url}" for row in rows],
            "source_sha256": [None if row.data is None else f"s{row.data}" for row in rows],
            "sha256": [None] * len(rows),
            "near_duplicate": [None] * len(rows),
            "gbif_id": [f"g{row.occurrence}" for row in rows],
            "dataset_key": ["d"] * len(rows),
            "year": [row.year for row in rows],
        },
        schema=dict.fromkeys((*TEXTS, "dataset_key"), pl.String) | {"year": pl.Int32},
    )


def media_of(rows: list[Row] | pl.DataFrame) -> Media:
    """The same as a numbered table."""
    data = rows if isinstance(rows, pl.DataFrame) else frame(rows)
    con = DATABASE.cursor()  # with temporary tables of its own
    return numbered(con, con.from_arrow(data.to_arrow()))


def lists(most: int = 40) -> st.SearchStrategy[list[Row]]:
    """Media with many shared keys: any shape, also empty, one label, all one group."""
    number = st.integers(0, 25)
    row = st.builds(
        Row, number, st.integers(0, 60), st.none() | st.integers(0, 60), st.integers(0, 4), st.integers(2020, 2024)
    )
    alike = st.builds(Row, st.just(1), st.integers(0, 2), st.none(), st.just(0), st.none())
    return st.lists(row, max_size=most) | st.lists(row, max_size=most) | st.lists(alike, max_size=most)
