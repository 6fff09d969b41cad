"""Lists of URLs as a source: every row is an occurrence of its own with one picture."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa

from gbif_platform.dataset import UrlList
from gbif_platform.errors import PlatformError
from gbif_platform.gbif.archive_rows import Rejected
from gbif_platform.gbif.retry import Progress
from gbif_platform.gbif.terms import TYPES, snake_case
from gbif_platform.sources.column_file import ROW_GROUP, ColumnFile
from gbif_platform.sources.darwin_core import without_bad_ids
from gbif_platform.sources.list_files import OWN, no_rows, tables
from gbif_platform.storage.tables import Outcome

KIND = "urls"
VERSION = "1"

COMMON_NAMES: dict[str, tuple[str, ...]] = {
    "url": ("url", "image_url", "identifier", "access_uri", "img_url", "photo_url", "media_url", "image"),
    "label": ("label", "species", "scientific_name", "class", "category"),
    "caption": ("caption", "text", "alt_text", "alt"),
    "license": ("license", "licence", "rights", "license_url", "licence_url"),
    "creator": ("creator", "author", "photographer"),
    "rights_holder": ("rights_holder", "copyright_holder"),
}
"""How lists name what is meant, in snake case; the first one that a list has is taken."""
LABEL = "label"
"""The term that is learnt where the dataset file names none; a list need not have such a column."""
UNLABELLED = "unlabelled"
"""The one label of a list without labels, so that its pictures can be sampled, split and exported as all others."""
OTHER_MEDIA = "^(sound|audio|moving ?image|video|text|interactive ?resource)$"


class UnknownColumn(PlatformError):
    """The list has no such column."""


def common_column(columns: Iterable[str], meaning: str) -> str | None:
    """The column (as it is spelt) that goes by a common name for `meaning`, a key of COMMON_NAMES."""
    spelt = {snake_case(column): column for column in reversed(list(columns))}
    return next((spelt[name] for name in COMMON_NAMES[meaning] if name in spelt), None)


def collect(files: Sequence[Path], file: Path, progress: Progress | None = None) -> None:
    """Write all rows of some lists into one Parquet file: row_ref and the columns as text.

    Rows that cannot be read are in it too, with `refused` (a reason) and `refused_detail`, and nothing else.

    Raises:
        ListUnreadable: a file is damaged or no list, or there is no row in any.
    """
    refused: list[Rejected] = []
    with ColumnFile(file, pa.schema([(name, pa.string()) for name in OWN[:3]])) as out:
        for rows in chain.from_iterable(tables(listed, refused) for listed in files):
            out.write(rows, even_empty=rows.column_names)
            if refused:
                out.write(_refused_rows(refused))
                refused.clear()
            if progress:
                progress(out.rows, None, "rows of the list")
        if refused:
            out.write(_refused_rows(refused))
        if not out.rows:
            raise no_rows(files[0] if len(files) == 1 else files[0].parent)


def _refused_rows(refused: list[Rejected]) -> pa.Table:
    columns = zip(*refused, strict=True)
    return pa.table([pa.array(column, pa.string()) for column in columns], names=list(OWN[:3]))


def occurrence_rows(con: duckdb.DuckDBPyConnection, listed: Path, source: UrlList, label: str, work: Path) -> Outcome:
    """One occurrence for each row of the list.

    Its id is hashed from the URL, with occurrenceID (or gbifID) where the list has it, and with the label where a URL
    stands under several: it does not depend on the order of the rows.

    Args:
        con: any DuckDB connection; a temporary table is made on it.
        listed: a file from `collect`.
        source: what the dataset file says of the list.
        label: the term that is learnt.
        work: folder for the staged result.

    Returns:
        `occurrences` rows as a Parquet file: `identifier` (the URL), `description` (the caption), the label under its
        term (`unlabelled` where a list has none), all other columns under their own names. Refused: wrong_field_count,
        not_utf8, not_json, no_url, duplicate_row.

    Raises:
        UnknownColumn: a column that the dataset file names, or one of the URLs, is not there.
        PlatformError: there is not one URL.
    """
    rows = con.read_parquet(str(listed))
    term = snake_case(label)
    names = _names([name for name in rows.columns if name not in OWN], source, term)
    file = work / "occurrences.parquet"
    occurrences = _typed(con, _identified(con, _named(con, rows, names, term), term))
    occurrences.write_parquet(str(file), compression="zstd", row_group_size=ROW_GROUP)
    duplicates = without_bad_ids(con, file).with_columns(
        reason=pl.lit("duplicate_row"), detail=pl.lit("the same URL and label stand in an earlier row")
    )
    refused = con.sql(f"""
        SELECT row_ref, coalesce(refused, 'no_url') AS reason, coalesce(refused_detail, 'the row has no URL') AS detail
        FROM rows WHERE refused IS NOT NULL OR {_url(names)} IS NULL""").pl()
    (rows_in,) = rows.count("*").fetchone() or (0,)
    refused = pl.concat([refused, duplicates])
    if rows_in == len(refused):
        said = "".join(f"; {place}: {reason}, {detail}" for place, reason, detail in refused.head(1).iter_rows())
        raise PlatformError(
            f"the list holds no URL in {rows_in:,} rows{said}", "check source.urls.files and source.urls.url_column"
        )
    return Outcome({"occurrences": file}, rows_in=rows_in, rows_out=rows_in - len(refused), refused=refused)


def media_lines(con: duckdb.DuckDBPyConnection, occurrences: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """The pictures of `occurrence_rows`, as lines of a multimedia extension (`_row_ref`, `_id`, identifier, …).

    What a list has in a column `type` counts only where it names another kind of media.
    """
    columns = occurrences.columns
    other = "NULL"
    if "type" in columns:
        other = f"""CASE WHEN regexp_matches("type", '{OTHER_MEDIA}', 'i') THEN "type" END"""
    kept = [f'"{name}"' for name in columns if name not in ("type", "row_ref", "gbif_id")]
    return con.sql(f"""
        SELECT row_ref AS _row_ref, gbif_id AS _id, coalesce({other}, 'StillImage') AS "type", {", ".join(kept)}
        FROM occurrences""")


def _names(columns: list[str], source: UrlList, term: str) -> dict[str, str]:
    """The column of the lake for each column of the list."""
    meant = {"identifier": _column(columns, source.url_column, "url")}
    if source.caption_column:
        meant["description"] = _column(columns, source.caption_column, "caption")
    if source.label_column:
        meant[term] = _column(columns, source.label_column, "label")
    for meaning in ("license", "creator", "rights_holder"):
        if (found := common_column(columns, meaning)) and found not in meant.values():
            meant[meaning] = found
    if len(set(meant.values())) < len(meant):
        raise UnknownColumn("one column of the list is to be two things", "correct source.urls in the dataset file")
    new = {old: name for name, old in meant.items()}
    # A further column gives way where its name is that of something else now.
    return {old: new.get(old) or (f"{old}_2" if old in meant else old) for old in columns}


def _column(columns: list[str], named: str | None, meaning: str) -> str:
    """The column that the dataset file names; else the one with a common name."""
    found = snake_case(named) if named else common_column(columns, meaning)
    if found in columns:
        return found
    cause = f"the list has no column {named!r}" if named else "no column of the list is known to hold URLs"
    raise UnknownColumn(
        f"{cause}; it has: {', '.join(columns) or 'none'}", f"name it in the dataset file: source.urls.{meaning}_column"
    )


def _url(names: Mapping[str, str]) -> str:
    """SQL for the URL of a row of the list, null where there is none."""
    column = next(old for old, new in names.items() if new == "identifier")
    return f"""nullif(trim("{column}"), '')"""


def _named(
    con: duckdb.DuckDBPyConnection, rows: duckdb.DuckDBPyRelation, names: Mapping[str, str], term: str
) -> duckdb.DuckDBPyRelation:
    """The rows that have a URL, under the names of the lake."""
    fields = {new: f'"{old}"' for old, new in names.items()} | {"identifier": _url(names)}
    records = [fields.pop(name) for name in ("occurrence_id", "gbif_id") if name in fields]
    fields["occurrence_id"] = f"coalesce({', '.join(records)}, NULL)" if records else "NULL::VARCHAR"
    fields.setdefault("dataset_key", "NULL::VARCHAR")
    if term == LABEL:
        fields.setdefault(LABEL, f"'{UNLABELLED}'")
    selected = ", ".join(f'{sql} AS "{name}"' for name, sql in fields.items())
    return con.sql(f"SELECT row_ref, {selected} FROM rows WHERE refused IS NULL AND {_url(names)} IS NOT NULL")


def _identified(con: duckdb.DuckDBPyConnection, named: duckdb.DuckDBPyRelation, term: str) -> duckdb.DuckDBPyRelation:
    """The rows with `gbif_id`."""
    label = f"""coalesce("{term}", '')""" if term in named.columns else "''"
    record = "identifier || '\x1f' || coalesce(occurrence_id, '')"
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE several_labels AS
        SELECT hash({record}) AS record FROM named GROUP BY ALL HAVING min(hash({label})) <> max(hash({label}))""")
    whole = f"{record} || CASE WHEN record IS NULL THEN '' ELSE '\x1f' || {label} END"
    # 72 bits in twelve letters, which DuckDB holds in place: joins take a third of the memory that hex digits would.
    digest = f"translate(base64(unhex(left(sha256({whole}), 18))), '+/', '-_')"
    return con.sql(f"""
        SELECT {digest} AS gbif_id, named.*
        FROM named LEFT JOIN several_labels ON hash({record}) = record""")


def _typed(con: duckdb.DuckDBPyConnection, rows: duckdb.DuckDBPyRelation) -> duckdb.DuckDBPyRelation:
    """Numbers as numbers, where the term is one; what cannot be read as one in `<term>_text`, as an archive's."""
    casts = {name: f'try_cast("{name}" AS {TYPES[name]})' for name in rows.columns if name in TYPES}
    if not casts:
        return rows
    unread = {name: f"""("{name}" <> '' AND {cast} IS NULL)""" for name, cast in casts.items()}
    found = con.sql(f"SELECT {', '.join(f'bool_or({sql})' for sql in unread.values())} FROM rows").fetchone() or ()
    numbers = ", ".join(f'{cast} AS "{name}"' for name, cast in casts.items())
    texts = "".join(
        f', CASE WHEN {unread[name]} THEN "{name}" END AS "{name}_text"'
        for name, odd in zip(casts, found, strict=True)
        if odd
    )
    return con.sql(f"SELECT * REPLACE ({numbers}){texts} FROM rows")
