"""Splits without leakage: media that belong together stay together, and no picture changes sides while data grow."""

import duckdb
import numpy as np
import polars as pl
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from gbif_platform.curation.urls import define_macros
from gbif_platform.dataset import Split

VERSION = "1"

KEY_COLUMNS = {"occurrence": "occurrence", "url": "url_id", "duplicate": "source_sha256"}
"""Which column of the media holds each kind of group key; the same bytes are a duplicate."""


def group_components(media: pl.DataFrame, keys: list[str]) -> np.ndarray:
    """Number of the connected component of each medium, where media that share a value of any key are connected.

    Args:
        media: one row a medium, with the columns `keys`; null connects to nothing.

    Returns:
        int32 array of `len(media)`.
    """
    rows, columns, first = [], [], 0
    for key in keys:
        codes = media[key].rank("dense").cast(pl.Int64).to_numpy() - 1 if len(media) else np.empty(0)
        known = media[key].is_not_null().to_numpy()
        rows.append(np.flatnonzero(known))
        columns.append(first + codes[known].astype(np.int64))
        first += media[key].n_unique()
    size = len(media) + first
    row, column = np.concatenate(rows), np.concatenate(columns) + len(media)
    edges = coo_array((np.ones(len(row), dtype=np.int8), (row, column)), shape=(size, size))
    return connected_components(edges, directed=False)[1][: len(media)]


def group_ids(media: pl.DataFrame, keys: list[str], previous: pl.DataFrame) -> pl.DataFrame:
    """Columns `media_id`, `group_id` for each medium.

    A group keeps the id that its members had before; a new one is named after its smallest occurrence. So a group that
    gains a member never changes its subset.

    Args:
        media: `media_id`, `occurrence` and the key columns.
        previous: `media_id`, `group_id` of earlier snapshots, possibly empty.
    """
    named = media.select("media_id", "occurrence", component=pl.Series(group_components(media, keys))).join(
        previous, on="media_id", how="left"
    )
    smallest = pl.coalesce(pl.col("group_id").min(), pl.col("occurrence").min()).over("component")
    return named.select("media_id", group_id=smallest)


def assign_subsets(
    con: duckdb.DuckDBPyConnection, media: pl.DataFrame, split: Split, previous: pl.DataFrame | None = None
) -> pl.DataFrame:
    """Assign each medium to a subset by a seeded hash of its group.

    Args:
        con: any DuckDB connection.
        media: one row a medium: `media_id`, `occurrence` (a stable identity), `url_id`, `source_sha256`.
        split: subsets with their shares, group keys, seed.
        previous: `media_id`, `group_id` of earlier snapshots of the dataset.

    Returns:
        `media_id`, `subset`, `group_id`, ordered by media_id.
    """
    if previous is None:
        previous = pl.DataFrame(schema={"media_id": pl.String, "group_id": pl.String})
    groups = group_ids(media, [KEY_COLUMNS[key] for key in split.group_by], previous)  # noqa: F841  read in the query
    define_macros(con)
    bound, cases = 0.0, []
    for name, share in list(split.subsets.items())[:-1]:
        bound += share
        cases.append(f"WHEN share < {bound!r} THEN '{name}'")
    last = list(split.subsets)[-1]
    subset = f"CASE {' '.join(cases)} ELSE '{last}' END" if cases else f"'{last}'"
    return con.execute(
        f"""SELECT media_id, {subset} AS subset, group_id
            FROM (SELECT *, key64(identity(? || '\x1f' || group_id)) / 18446744073709551616.0 AS share FROM groups)
            ORDER BY media_id""",
        [str(split.seed)],
    ).pl()


def straddling_groups(splits: pl.DataFrame, media: pl.DataFrame, keys: list[str]) -> dict[str, int]:
    """How many values of each key, and groups, have media in more than one subset: all zero in a sound split."""
    joined = splits.join(media, on="media_id")
    columns = {"group": "group_id"} | {key: KEY_COLUMNS[key] for key in keys}
    return {
        key: joined.filter(pl.col(column).is_not_null())
        .group_by(column)
        .agg(pl.col("subset").n_unique())
        .filter(pl.col("subset") > 1)
        .height
        for key, column in columns.items()
    }
