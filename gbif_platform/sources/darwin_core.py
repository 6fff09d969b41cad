"""Occurrence rows and media lines out of a Darwin Core Archive, staged as Parquet in bounded memory."""

from collections.abc import Callable, Iterator
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


ROW_GROUP = 20_000
"""Rows of a staged Parquet row group: hundreds of wide columns are buffered for one group at a time."""


@dataclass(frozen=True)
class Staged:
    """A data file of an archive as Parquet: every field text, `_id` and `_row_ref` beside them.

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


def stage(data_file: DataFile, file: Path, progress: Callable[[int], None] | None = None) -> Staged:
    """Stream a data file of an archive into a Parquet file.

    Raises:
        ArchiveError: the member is cut, missing or unsafe.
    """
    filled: set[str] = set()
    with pq.ParquetWriter(file, data_file.schema, compression="lz4") as writer:  # read once, then deleted
        for batch in data_file.batches():
            writer.write_batch(batch)
            columns = zip(batch.schema.names, batch.columns, strict=True)
            filled.update(name for name, column in columns if name not in filled and column.null_count < len(column))
            if progress:
                progress(data_file.rows)
    refused = refusals([(row.row_ref, row.reason, row.detail) for row in data_file.rejected])
    return Staged(file, data_file.rows, frozenset(filled), refused)


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
    gbif_id = "trim(coalesce(gbif_id, _id))" if "gbif_id" in staged.filled else "trim(_id)"
    terms = [name for name in core.columns if name in staged.filled and name not in ("_id", "_row_ref", "gbif_id")]
    fields = [*_typed(con, core, terms)]
    fields += [f"NULL::VARCHAR AS {name}" for name in ("dataset_key", "occurrence_id") if name not in terms]
    con.execute(f"""
        CREATE OR REPLACE TEMP TABLE refused_occurrences AS
        WITH ids AS (SELECT file_row_number AS line, {gbif_id} AS id, _row_ref AS row_ref FROM core),
             twice AS (SELECT id, min(line) AS first FROM ids WHERE coalesce(id, '') <> ''
                       GROUP BY id HAVING count(*) > 1)
        SELECT line, row_ref, 'empty_id' AS reason, 'the row has no id' AS detail
        FROM ids WHERE coalesce(id, '') = ''
        UNION ALL
        SELECT line, row_ref, 'duplicate_id', 'id ' || ids.id || ' stands in an earlier row'
        FROM ids JOIN twice ON ids.id = twice.id AND line > first""")
    file = work / "occurrences.parquet"
    con.sql(f"""
        SELECT {gbif_id} AS gbif_id, _row_ref AS row_ref, {", ".join(fields)}
        FROM core ANTI JOIN refused_occurrences ON core.file_row_number = refused_occurrences.line
        """).write_parquet(str(file), compression="zstd", row_group_size=ROW_GROUP)
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


def _typed(con: duckdb.DuckDBPyConnection, core: duckdb.DuckDBPyRelation, terms: list[str]) -> Iterator[str]:
    """Columns with their types; beside each the text of values that are not of its type, where there are any."""
    odd = {
        name: f'CASE WHEN try_cast("{name}" AS {TYPES[name]}) IS NULL THEN "{name}" END'
        for name in terms
        if name in TYPES
    }
    unread: dict[str, int] = {}
    if odd:
        counts = con.sql(f"SELECT {', '.join(f'count({text})' for text in odd.values())} FROM core").fetchone() or ()
        unread = dict(zip(odd, counts, strict=True))
    for name in terms:
        yield f'try_cast("{name}" AS {TYPES[name]}) AS "{name}"' if name in odd else f'"{name}"'
        if unread.get(name):
            yield f'{odd[name]} AS "{name}_text"'
