"""Parquet files with the pictures in them, in the layout of Hugging Face `datasets`' Image feature.

Each row has `image` (struct of `bytes` and `path`), `label` (index into the class list), and the catalogue's columns.
Pandas, Polars, DuckDB and Spark read them as they are; `datasets` decodes the pictures.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from gbif_platform.exports.contents import Read, class_index
from gbif_platform.exports.huggingface import COLUMNS, schema_metadata

ROW_GROUP_PICTURES = 100
"""As the Hub has it for pictures: a reader of one picture loads at most these."""
ROW_GROUP_BYTES = 64 * 2**20
ARROW_TYPES: dict[str, pa.DataType] = {
    "VARCHAR": pa.string(),
    "VARCHAR[]": pa.list_(pa.string()),
    "DOUBLE": pa.float64(),
    "INTEGER": pa.int32(),
}


def write_parquet_shard(
    rows: pl.DataFrame, read: Read, path: Path, classes: Sequence[str], *, suffix: str = ".jpg"
) -> None:
    """Write rows and their pictures into one file; equal rows and pictures give equal bytes.

    At most `ROW_GROUP_PICTURES` pictures and, beyond the first of them, `ROW_GROUP_BYTES` are in memory at once.

    Args:
        rows: the catalogue's columns and `shard`, `shard_offset`, `shard_size`; their order is kept.
        classes: every class of the export, sorted. The label of a row that is none of them is null.
        suffix: ending of the picture's name in `image.path`.
    """
    schema = arrow_schema(classes)
    columns = [name for name in schema.names if name != "image"]
    pictures = ["image.bytes", "image.path"]
    with pq.ParquetWriter(
        path,
        schema,
        compression={name: "none" if name == "image.bytes" else "zstd" for name in _leaves(schema)},
        use_dictionary=[name for name in _leaves(schema) if name not in pictures],
        write_statistics=[name for name in _leaves(schema) if name not in pictures],
        write_page_index=True,
    ) as writer:
        for group in _row_groups(rows.with_columns(class_index(classes), label_name=pl.col("label"))):
            found = [read(*place) for place in group.select("shard", "shard_offset", "shard_size").iter_rows()]
            names = (group["media_id"] + suffix).to_arrow().cast(pa.string())
            image = pa.StructArray.from_arrays([pa.array(found, pa.binary()), names], ["bytes", "path"])
            beside = [group[name].to_arrow().cast(schema.field(name).type) for name in columns]
            writer.write_table(pa.Table.from_arrays([image, *beside], schema=schema))


def arrow_schema(classes: Sequence[str]) -> pa.Schema:
    """The columns of every file of an export, with what `datasets` reads of them."""
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    fields: list[tuple[str, Any]] = [("image", image), ("label", pa.int64())]
    fields += [(name, ARROW_TYPES[kind]) for name, kind in COLUMNS.items()]
    return pa.schema(fields, metadata=schema_metadata(classes))


def _leaves(schema: pa.Schema) -> list[str]:
    """Paths of the columns as Parquet has them."""
    inner = {"image": ["image.bytes", "image.path"], "nested": ["nested.list.element"]}
    return [leaf for name in schema.names for leaf in inner.get(name, [name])]


def _row_groups(rows: pl.DataFrame) -> Iterator[pl.DataFrame]:
    start, size = 0, 0
    for place, more in enumerate(rows["shard_size"]):
        if place > start and (place - start == ROW_GROUP_PICTURES or size + more > ROW_GROUP_BYTES):
            yield rows[start:place]
            start, size = place, 0
        size += more
    if len(rows) > start:
        yield rows[start:]
