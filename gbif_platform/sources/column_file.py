"""Parquet written table by table, with the columns that turn out to hold anything."""

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

ROW_GROUP = 20_000
"""Rows of a row group: hundreds of wide columns are buffered for one group at a time."""


class ColumnFile:
    """A Parquet file whose columns need not be known before; a context manager, complete when it is left.

    A column gets into the file with its first value, the columns of `always` in any case. Where one turns up after the
    first row group a new part is begun, and the parts are joined at the end.

    Attributes:
        file: where it is.
        rows: rows so far.
        schema: columns so far.
    """

    def __init__(self, file: Path, always: pa.Schema) -> None:
        self.file = file
        self.rows = 0
        self.schema = always
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0
        self._even_empty: set[str] = set()
        self._parts: list[Path] = []
        self._dictionary: list[str] = []
        self._writer: pq.ParquetWriter | None = None

    def write(self, rows: pa.Table, even_empty: Iterable[str] = ()) -> None:
        """Add rows; a column has the same type in every table that holds it. Columns of `even_empty` need no value."""
        self._even_empty.update(even_empty)
        self._waiting.append(rows)
        self._waiting_rows += rows.num_rows
        self.rows += rows.num_rows
        if self._waiting_rows >= ROW_GROUP:
            self._write_group()

    def __enter__(self) -> "ColumnFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None and (self._waiting or not self._parts):
            self._write_group()
        if self._writer:
            self._writer.close()
        if error is None:
            self._join_parts()

    def _write_group(self) -> None:
        schema = self._grown_schema()
        rows = pa.concat_tables([_aligned(batch, schema) for batch in self._waiting] or [schema.empty_table()])
        if self._writer is None or schema != self.schema:
            self._begin_part(rows)
        assert self._writer is not None
        self._writer.write_table(rows)
        self._waiting, self._waiting_rows = [], 0

    def _grown_schema(self) -> pa.Schema:
        fields = {field.name: field for field in self.schema}
        for batch in self._waiting:
            for field, column in zip(batch.schema, batch.columns, strict=True):
                wanted = column.null_count < len(column) or field.name in self._even_empty
                if wanted and field.name not in fields:
                    fields[field.name] = field
        return self.schema if len(fields) == len(self.schema) else pa.schema(list(fields.values()))

    def _begin_part(self, rows: pa.Table) -> None:
        if self._writer:
            self._writer.close()
        known = self.schema.names if self._parts else []
        self._dictionary += [name for name in _repeating(rows) if name not in known]
        self.schema = rows.schema
        self._parts.append(self.file.with_name(f"{self.file.stem}.{len(self._parts)}.parquet"))
        self._writer = _writer(self._parts[-1], self.schema, self._dictionary)

    def _join_parts(self) -> None:
        if len(self._parts) > 1:
            with _writer(self.file, self.schema, self._dictionary) as writer:
                for part in self._parts:
                    _append(writer, part, self.schema)
                    part.unlink()
        else:
            self._parts[0].replace(self.file)


def _writer(file: Path, schema: pa.Schema, dictionary: list[str]) -> pq.ParquetWriter:
    return pq.ParquetWriter(file, schema, compression="zstd", use_dictionary=dictionary)


def _repeating(rows: pa.Table) -> list[str]:
    """Columns of few different values, for which dictionary encoding is worth its time."""
    return [name for name in rows.column_names if pc.count_distinct(rows[name]).as_py() < len(rows) / 4]


def _append(writer: pq.ParquetWriter, part: Path, schema: pa.Schema) -> None:
    with pq.ParquetFile(part) as source:
        for group in range(source.num_row_groups):
            writer.write_table(_aligned(source.read_row_group(group, use_threads=False), schema))


def _aligned(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    found = dict(zip(rows.schema.names, rows.columns, strict=True))
    columns = [found[f.name] if f.name in found else pa.nulls(rows.num_rows, f.type) for f in schema]
    return pa.table(columns, schema=schema)
