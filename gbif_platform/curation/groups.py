"""Groups of media that belong together: the values of their keys, and what they connect.

One key at a time, in SQL, so that millions of media need little memory.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import duckdb
import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from gbif_platform.curation.dates import interval
from gbif_platform.curation.filters import term_column
from gbif_platform.curation.spec import KEYS
from gbif_platform.errors import PlatformError

SETTING = "split.group_by"
CELLS_PER_DEGREE = 10
PLAIN_TERMS = {"locality": "locality", "recordedBy": "recorded_by", "datasetKey": "dataset_key"}
"""Terms that the audit counts even where they are not asked for."""
OWN_COLUMNS = ("row", "media_id", "label", "url_id", "source_sha256", "sha256", "near_duplicate", "gbif_id")
"""What every table of media has; the other columns are the occurrence's."""
_ALSO_TERMS = ("label", "gbif_id")
OCCURRENCE_COLUMNS = (
    "dataset_key",
    "occurrence_id",
    "recorded_by",
    "event_date",
    "year",
    "month",
    "day",
    "event_id",
    "parent_event_id",
    "decimal_latitude",
    "decimal_longitude",
    "locality",
)
"""Columns of the occurrences that keys are made of, where they are there."""
_NEEDS = {
    "observer_day": (("recorded_by",), ("event_date", "year"), ("decimal_latitude", "locality")),
    "event": (("event_id", "parent_event_id"),),
}
"""Columns without which a key says nothing: one of each tuple."""
_PICTURE_KEYS = {
    "url": "url_id",
    "duplicate": "source_sha256",
    "pixels": "sha256",
    "near_duplicate": "near_duplicate",
}


@dataclass(frozen=True)
class Media:
    """A table of media to split, each with a number: `row` = 0, 1, …, in any order.

    Columns: `media_id`, `label`; what is known of the picture: `url_id`, `source_sha256` (the bytes as fetched),
    `sha256` (the picture as stored), `near_duplicate` (its group in duplicate_images); `gbif_id` and further columns of
    the occurrence under their own names, as far as the source has them.
    """

    con: duckdb.DuckDBPyConnection
    table: str
    columns: Mapping[str, str]
    size: int

    @property
    def terms(self) -> dict[str, str]:
        """The columns that a key or a hold-out may name: the occurrence's, and what they are learnt by."""
        return {name: kind for name, kind in self.columns.items() if name not in OWN_COLUMNS or name in _ALSO_TERMS}


def numbered(con: duckdb.DuckDBPyConnection, media: duckdb.DuckDBPyRelation, table: str = "split_media") -> Media:
    """Number the media, in a temporary table."""
    con.execute(f"CREATE OR REPLACE TEMP TABLE {table} AS SELECT row_number() OVER () - 1 AS row, * FROM media")
    columns = {name: kind for name, kind, *_ in con.execute(f"DESCRIBE {table}").fetchall()}
    return Media(con, table, columns, (con.execute(f"SELECT count(*) FROM {table}").fetchone() or (0,))[0])


def present_keys(columns: Mapping[str, str], asked: Sequence[str]) -> dict[str, bool]:
    """Every key that the media can have, and whether it is asked for: first those asked for, in their order."""
    others = [key for key in KEYS if not _lacking(columns, key)]
    terms = [term for term, column in PLAIN_TERMS.items() if column in columns]
    asked_columns = [term_column(columns, key, SETTING) for key in asked if key not in KEYS]
    terms = [term for term in terms if PLAIN_TERMS[term] not in asked_columns]
    return dict.fromkeys(asked, True) | {key: False for key in [*others, *terms] if key not in asked}


def key_values(media: Media, key: str) -> str:
    """SQL for the rows `row`, `value` (VARCHAR, never null) of a key; of `observer_day` several rows a medium.

    - occurrence: datasetKey and occurrenceID, or gbifID where there is none;
    - observer_day: each recorder in recordedBy, the full day of eventDate, and the place: a cell of 0.1°, or the
      locality where there are no coordinates. What lacks one of the three, or lasted longer than a day, has no value;
    - event: datasetKey and eventID, or parentEventID where there is none;
    - url, duplicate, pixels, near_duplicate: what `Media` says;
    - anything else: the value of that term.

    Raises:
        PlatformError: the source has no column that the key is made of; names split.group_by.
        UnknownTerm: neither a key nor a term that the source has.
    """
    columns = media.columns
    if lacking := _lacking(columns, key):
        raise PlatformError(
            f"{SETTING}: {key} needs {lacking}, which the occurrences do not have",
            f"take {key} out of {SETTING} in the dataset file",
        )
    if key == "observer_day":
        return _observer_days(media)
    return (
        f"SELECT row, value FROM (SELECT m.row, {_value(media, key)} AS value FROM {media.table} m) WHERE value <> ''"
    )


def components(media: Media, values: Sequence[str]) -> npt.NDArray[np.int32]:
    """Number of the connected component of each medium, where media that share a value of a key are connected.

    Args:
        values: queries for `row`, `value`, one for each key, as `key_values` gives them.

    Returns:
        int32 array by row; the numbers themselves mean nothing.
    """
    rows, firsts = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for query in values:
        # each medium is tied to the first one with its value: no more edges than media, and none for lone values
        edges = media.con.sql(f"""
            WITH key_values AS ({query}),
                 shared AS (SELECT value, min(row) AS first FROM key_values GROUP BY value HAVING count(*) > 1)
            SELECT row, first FROM key_values JOIN shared USING (value) WHERE row <> first""").fetchnumpy()
        rows.append(np.asarray(edges["row"], np.int64))
        firsts.append(np.asarray(edges["first"], np.int64))
    row, first = np.concatenate(rows), np.concatenate(firsts)
    graph = coo_array((np.ones(len(row), np.int8), (row, first)), shape=(media.size, media.size))
    return connected_components(graph, directed=False)[1] if media.size else np.empty(0, np.int32)


def _lacking(columns: Mapping[str, str], key: str) -> str:
    """What a key needs and the columns do not have, in words; empty where nothing is missing."""
    for choice in _NEEDS.get(key, ()):
        if not any(column in columns for column in choice):
            return " or ".join(choice)
    return ""


def _text(columns: Mapping[str, str], column: str) -> str:
    return f"nullif(trim(m.\"{column}\"::VARCHAR), '')" if column in columns else "NULL::VARCHAR"


def _value(media: Media, key: str) -> str:
    columns = media.columns
    if key in _PICTURE_KEYS:
        return _text(columns, _PICTURE_KEYS[key])
    if key == "occurrence":
        return _in_dataset(columns, "occurrence_id", "gbif_id")
    if key == "event":
        return _in_dataset(columns, "event_id", "parent_event_id")
    return _text(columns, term_column(media.terms, key, SETTING))


def _in_dataset(columns: Mapping[str, str], *names: str) -> str:
    """The first of some identifiers, which are unique within a GBIF dataset only; null where there is none."""
    dataset = f"coalesce({_text(columns, 'dataset_key')}, '')"
    return f"{dataset} || '\x1f' || coalesce({', '.join(_text(columns, name) for name in names)})"


def _observer_days(media: Media) -> str:
    """A row for each recorder; their names differ neither by case nor by blanks."""
    columns = media.columns
    tidy = f"lower(regexp_replace({_text(columns, 'recorded_by')}, '\\s+', ' ', 'g'))"
    start, end = interval(columns, "event_date", "m")
    day = f"CASE WHEN {start} = {end} THEN {start}::VARCHAR END"  # months and years do not end on their first day
    return f"""
        SELECT row, name || '\x1f' || day || '\x1f' || place AS value
        FROM (SELECT row, trim(unnest(string_split(translate(people, ';&', '||'), '|'))) AS name, day, place
              FROM (SELECT m.row, {tidy} AS people, {day} AS day, {_place(columns)} AS place FROM {media.table} m)
              WHERE day IS NOT NULL AND place IS NOT NULL)
        WHERE name <> ''"""


def _place(columns: Mapping[str, str]) -> str:
    cell = [
        f"try_cast(floor(try_cast({_text(columns, name)} AS DOUBLE) * {CELLS_PER_DEGREE}) AS INTEGER)"
        for name in ("decimal_latitude", "decimal_longitude")
    ]
    return f"coalesce({cell[0]} || ' ' || {cell[1]}, lower({_text(columns, 'locality')}))"
