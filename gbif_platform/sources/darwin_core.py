"""Occurrence rows and media lines out of a Darwin Core Archive, as Parquet in bounded memory."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from gbif_platform.errors import PlatformError
from gbif_platform.gbif.archive import ID, ROW_REF, DataFile
from gbif_platform.gbif.terms import TYPES
from gbif_platform.sources.column_file import ROW_GROUP, ColumnFile
from gbif_platform.storage.tables import Outcome, refusals

VERSION = "1"

ARROW_TYPES = {"DOUBLE": pa.float64(), "INTEGER": pa.int32(), "BOOLEAN": pa.bool_()}
KEYS = pa.schema([(name, pa.string()) for name in ("gbif_id", "row_ref", "dataset_key", "occurrence_id")])
"""Columns that occurrences have in any case."""

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Staged:
    """A data file of an archive as Parquet: every field text, `_id` and `_row_ref` beside them, no empty column.

    Attributes:
        rows: sound rows in the file.
        filled: columns that hold at least one value.
        refused: rows that could not be parsed.
    """

    file: Path
    rows: int
    filled: frozenset[str]
    refused: pl.DataFrame

    @property
    def rows_in(self) -> int:
        """Rows of the archive, sound or not."""
        return self.rows + len(self.refused)


def stage(data_file: DataFile, file: Path, progress: Progress | None = None) -> Staged:
    """Stream a data file of an archive into a Parquet file.

    Raises:
        ArchiveError: the member is cut, missing or unsafe.
    """
    with ColumnFile(file, pa.schema([(ROW_REF, pa.string()), (ID, pa.string())])) as out:
        for rows in data_file.tables():
            out.write(rows)
            if progress:
                progress(data_file.rows)
    return Staged(file, out.rows, frozenset(out.schema.names), _unparsed(data_file))


def occurrence_rows(
    con: duckdb.DuckDBPyConnection, core: DataFile, work: Path, progress: Progress | None = None
) -> Outcome:
    """The occurrences of an archive: one row for each id, columns that hold anything, numbers as numbers.

    Args:
        con: any DuckDB connection.
        core: the archive's core; it is read once.
        work: folder for the staged result.
        progress: is told the number of rows, batch after batch.

    Returns:
        `occurrences` rows as a Parquet file, with `gbif_id`, `dataset_key`, `occurrence_id`, `row_ref` and every core
        term that is not empty; a number that cannot be read as one stays in `<term>_text`. Refused: wrong number of
        fields (by the reader), empty_id, duplicate_id.

    Raises:
        ArchiveError: the core is cut, missing or unsafe.
        PlatformError: the archive has no occurrence at all.
    """
    file = work / "occurrences.parquet"
    with ColumnFile(file, KEYS) as out:
        for rows in core.tables(types={name: ARROW_TYPES[kind] for name, kind in TYPES.items()}):
            odd = _odd_columns(rows)
            out.write(_typed(con, _keyed(rows), odd), even_empty=odd)
            if progress:
                progress(core.rows)
    refused = without_bad_ids(con, file)
    outcome = Outcome(
        {"occurrences": file},
        rows_in=core.rows + len(core.rejected),
        rows_out=core.rows - len(refused),
        refused=pl.concat([_unparsed(core), refused]),
    )
    if outcome.rows_out == 0:
        raise PlatformError("the archive holds no occurrence", "check the download's filters, or name another archive")
    return outcome


def verbatim_rows(extension: DataFile, file: Path, progress: Progress | None = None) -> Staged:
    """The occurrences as their publishers wrote them: `gbif_id`, `row_ref` and every column that is not empty, as text.

    Raises:
        ArchiveError: the member is cut, missing or unsafe.
    """
    with ColumnFile(file, pa.schema([("gbif_id", pa.string()), ("row_ref", pa.string())])) as out:
        for rows in extension.tables():
            out.write(_keyed(rows))
            if progress:
                progress(extension.rows)
    return Staged(file, out.rows, frozenset(out.schema.names), _unparsed(extension))


def _unparsed(data_file: DataFile) -> pl.DataFrame:
    return refusals([(row.row_ref, row.reason, row.detail) for row in data_file.rejected])


def _keyed(rows: pa.Table) -> pa.Table:
    """The rows with `gbif_id` and `row_ref` in place of the reader's own columns."""
    columns = dict(zip(rows.column_names, rows.columns, strict=True))
    gbif_id, row_ref = columns.pop(ID), columns.pop(ROW_REF)
    if "gbif_id" in columns:
        gbif_id = pc.coalesce(pc.utf8_trim_whitespace(columns.pop("gbif_id")), gbif_id)
    return pa.table({"gbif_id": gbif_id, "row_ref": row_ref, **columns})


def _odd_columns(rows: pa.Table) -> list[str]:
    """Columns with a type that hold a value which Arrow could not read in it."""
    return [field.name for field in rows.schema if field.name in TYPES and field.type == pa.string()]


def _typed(con: duckdb.DuckDBPyConnection, rows: pa.Table, odd: list[str]) -> pa.Table:
    """Numbers as numbers also where Arrow could not read them; what DuckDB cannot read either in `<term>_text`."""
    if not odd:
        return rows
    fields = ", ".join(
        f'try_cast("{name}" AS {TYPES[name]}) AS "{name}", '
        f'CASE WHEN try_cast("{name}" AS {TYPES[name]}) IS NULL THEN "{name}" END AS "{name}_text"'
        for name in odd
    )
    texts = rows.select(odd)  # noqa: F841  read by name
    cast = con.sql(f"SELECT {fields} FROM texts").to_arrow_table()
    kept = rows.drop_columns(odd)
    columns = zip([*kept.column_names, *cast.column_names], [*kept.columns, *cast.columns], strict=True)
    return pa.table(dict(columns))


def without_bad_ids(con: duckdb.DuckDBPyConnection, file: Path) -> pl.DataFrame:
    """Take the rows without an id, and all but the first of those with one id, out of the file; return them."""
    rows = con.read_parquet(str(file), file_row_number=True)  # noqa: F841  read by name
    # Hashes take less memory than the ids; should two ids have one hash, the exact search below finds nothing.
    counts = con.sql("SELECT count(*), count(nullif(gbif_id, '')), count(DISTINCT hash(gbif_id)) FROM rows").fetchone()
    if len(set(counts or ())) == 1:
        return refusals([])
    con.execute("""
        CREATE OR REPLACE TEMP TABLE refused_occurrences AS
        WITH twice AS (SELECT gbif_id, min(file_row_number) AS first FROM rows WHERE gbif_id <> ''
                       GROUP BY gbif_id HAVING count(*) > 1)
        SELECT file_row_number, row_ref, 'empty_id' AS reason, 'the row has no id' AS detail
        FROM rows WHERE coalesce(gbif_id, '') = ''
        UNION ALL
        SELECT file_row_number, row_ref, 'duplicate_id', 'id ' || gbif_id || ' stands in an earlier row'
        FROM rows JOIN twice USING (gbif_id) WHERE file_row_number > first""")
    kept = file.with_suffix(".kept")
    con.sql("""
        SELECT rows.* EXCLUDE (file_row_number)
        FROM rows ANTI JOIN refused_occurrences USING (file_row_number)
        """).write_parquet(str(kept), compression="zstd", row_group_size=ROW_GROUP)
    kept.replace(file)
    return con.sql("SELECT row_ref, reason, detail FROM refused_occurrences ORDER BY file_row_number").pl()
