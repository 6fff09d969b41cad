"""Occurrence rows and media lines out of a Darwin Core Archive, staged as Parquet in bounded memory."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import duckdb
import polars as pl
import pyarrow.parquet as pq

from gbif_platform.errors import PlatformError
from gbif_platform.gbif.archive import DataFile
from gbif_platform.gbif.terms import TYPES
from gbif_platform.storage.tables import Outcome, refusals

VERSION = "1"


@dataclass(frozen=True)
class Staged:
    """A data file of an archive as Parquet: every field text, `_id` and `_row_ref` beside them."""

    file: Path
    rows: int
    refused: pl.DataFrame

    @property
    def rows_in(self) -> int:
        """Rows of the archive, sound or not."""
        return self.rows + len(self.refused)


def stage(data_file: DataFile, file: Path, progress: Callable[[int], None] | None = None) -> Staged:
    """Stream a data file of an archive into a Parquet file.

    Raises:
        ArchiveError: the member is cut, missing or unsafe.
    """
    with pq.ParquetWriter(file, data_file.schema, compression="zstd") as writer:
        for batch in data_file.batches():
            writer.write_batch(batch)
            if progress:
                progress(data_file.rows)
    return Staged(file, data_file.rows, refusals([(row.row_ref, row.reason, row.detail) for row in data_file.rejected]))


def occurrence_rows(con: duckdb.DuckDBPyConnection, staged: Staged, work: Path) -> Outcome:
    """The occurrences of an archive: one row for each id, columns that hold anything, numbers as numbers.

    Args:
        con: any DuckDB connection.
        staged: the archive's core.
        work: folder for the staged result.

    Returns:
        `occurrences` rows as a Parquet file, with `gbif_id`, `dataset_key`, `occurrence_id`, `row_ref` and every core
        term that is not empty; a number that cannot be read as one stays in `<term>_text`. Refused: wrong number of
        fields (by the reader), empty_id, duplicate_id.

    Raises:
        PlatformError: the archive has no occurrence at all.
    """
    core = con.read_parquet(str(staged.file), file_row_number=True)
    terms = [name for name in core.columns if name not in ("_id", "_row_ref", "file_row_number", "gbif_id")]
    known = _filled(con, core, [*terms, *(["gbif_id"] if "gbif_id" in core.columns else [])])
    gbif_id = "coalesce(gbif_id, _id)" if "gbif_id" in known else "_id"
    fields = [text for name in terms if name in known for text in _typed(con, core, name)]
    fields += [f"NULL::VARCHAR AS {name}" for name in ("dataset_key", "occurrence_id") if name not in known]
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE occurrence_ids AS
        SELECT file_row_number AS line, trim({gbif_id}) AS id, _row_ref AS row_ref FROM core""")
    con.execute("""
        CREATE OR REPLACE TEMP TABLE refused_occurrences AS
        SELECT line, row_ref, 'empty_id' AS reason, 'the row has no id' AS detail
        FROM occurrence_ids WHERE coalesce(id, '') = ''
        UNION ALL
        SELECT i.line, row_ref, 'duplicate_id', 'id ' || i.id || ' stands in an earlier row'
        FROM occurrence_ids i JOIN (SELECT id, min(line) AS first FROM occurrence_ids WHERE coalesce(id, '') <> ''
                                    GROUP BY id HAVING count(*) > 1) twice
        ON i.id = twice.id AND i.line > twice.first""")
    file = work / "occurrences.parquet"
    con.sql(f"""
        SELECT trim({gbif_id}) AS gbif_id, _row_ref AS row_ref, {", ".join(fields)}
        FROM core ANTI JOIN refused_occurrences ON core.file_row_number = refused_occurrences.line
        """).write_parquet(str(file), compression="zstd")
    refused = con.sql("SELECT row_ref, reason, detail FROM refused_occurrences ORDER BY line").pl()
    outcome = Outcome(
        {"occurrences": file},
        rows_in=staged.rows_in,
        rows_out=staged.rows - len(refused),
        refused=pl.concat([staged.refused, refused]),
    )
    if outcome.rows_out == 0:
        raise PlatformError("the archive holds no occurrence", "check the download's filters, or name another archive")
    return outcome


def _filled(con: duckdb.DuckDBPyConnection, core: duckdb.DuckDBPyRelation, names: list[str]) -> set[str]:
    """Columns that hold at least one value."""
    if not names:
        return set()
    columns = ", ".join(f'count("{name}")' for name in names)
    counts = con.sql(f"SELECT {columns} FROM core").fetchone() or ()
    return {name for name, count in zip(names, counts, strict=True) if count}


def _typed(con: duckdb.DuckDBPyConnection, core: duckdb.DuckDBPyRelation, name: str) -> list[str]:
    """The column with its type; beside it the text of values that are not of that type, where there are any."""
    kind = TYPES.get(name)
    if kind is None:
        return [f'"{name}"']
    odd = f'CASE WHEN try_cast("{name}" AS {kind}) IS NULL THEN "{name}" END'
    unread = con.sql(f"SELECT count({odd}) FROM core").fetchone() or (0,)
    return [f'try_cast("{name}" AS {kind}) AS "{name}"', *([f'{odd} AS "{name}_text"'] if unread[0] else [])]
