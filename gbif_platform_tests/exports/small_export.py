"""A small export: a few plain pictures in three classes and two subsets, and its folder in any format."""

from datetime import date
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl
from PIL import Image

from gbif_platform.exports.contents import Export, Read
from gbif_platform.exports.export import write_export
from gbif_platform.exports.formats import layout_of
from gbif_platform.exports.manifest import SCHEMA as MANIFEST
from gbif_platform.exports.shards import ShardSize
from gbif_platform.storage.tables import CATALOGUE

TYPES: dict[str, Any] = {
    "VARCHAR": pl.String,
    "VARCHAR[]": pl.List(pl.String),
    "DOUBLE": pl.Float64,
    "INTEGER": pl.Int32,
}
SCHEMA = {column.split()[0].strip('"'): TYPES[column.split()[1]] for column in CATALOGUE.split(", ")}
SCHEMA |= {"transform": pl.String, "shard": pl.String, "shard_offset": pl.Int64, "shard_size": pl.Int64}
SCHEMA |= {"sha256": pl.String}
CLASSES = ["Bufo bufo", "Rana temporaria", "Triturus cristatus"]
LICENCES = ["CC0-1.0", "CC-BY-4.0", "CC-BY-NC-4.0", "unknown"]
TWO_A_SHARD = ShardSize(pictures=2)
FORMATS = ("imagefolder", "tf-data", "coco-camera-traps", "webdataset", "parquet", "huggingface")
CITATION = "GBIF.org (15 January 2026) GBIF Occurrence Download https://doi.org/10.15468/dl.abcdef"


def colour(index: int) -> tuple[int, int, int]:
    """Of picture `index`, plain, so that a decoded picture can be recognised."""
    return (index * 23 % 256, index * 57 % 256, 128)


def pictures(count: int = 12) -> tuple[pl.DataFrame, Read]:
    """Catalogue rows with their places in one shard, and a reader of it: two thirds are in train."""
    shard = b""
    rows = []
    for index in range(count):
        data = BytesIO()
        Image.new("RGB", (20 + index, 16), colour(index)).save(data, "PNG")
        rows.append(_row(index, len(shard), data.getvalue()))
        shard += data.getvalue()
    return pl.DataFrame(rows, schema=SCHEMA), lambda _, offset, size: shard[offset : offset + size]


def _row(index: int, offset: int, data: bytes) -> dict[str, object]:
    return {
        "media_id": f"m{index:04}",
        "url_id": f"u{index:04}",
        "url": f"https://pictures.example/{index}.jpg",
        "gbif_id": str(1000 + index),
        "dataset_key": "50c9509d-22c7-4a22-a47d-8c48425ef4a7",
        "occurrence_id": f"occurrence:{index}",
        "label": CLASSES[index % 3],
        "license": LICENCES[index % 4],
        "creator": None if index % 5 == 0 else f"Jörg № {index}",
        "rights_holder": "The Museum",
        "event_date": f"2024-05-{index % 28 + 1:02}T07:30:00" if index % 2 else f"2024-05-{index % 28 + 1:02}",
        "decimal_latitude": 55.5 + index,
        "decimal_longitude": None if index == 1 else 9.25,
        "subset": "train" if index % 6 < 4 else "test",
        "nested": ["few"] if index % 6 == 0 else [],
        "width": 20 + index,
        "height": 16,
        "transform": "keep_ratio-256-png",
        "shard": "images/shard.tar",
        "shard_offset": offset,
        "shard_size": len(data),
        "sha256": sha256(data).hexdigest(),
    }


def small_export(kind: str, rows: pl.DataFrame) -> Export:
    """Those rows as an export, with the files that its layout gives them."""
    export = Export(
        name="frogs",
        snapshot="10.15468/dl.abcdef",
        description="Frogs & toads",
        label="species",
        format=kind,
        rows=rows,
        classes=CLASSES,
        subsets=sorted(rows["subset"].drop_nulls().unique()),
        citations=[CITATION],
        licence="unknown",
        licences=rows.group_by("license").agg(pictures=pl.len()).sort("pictures", "license", descending=[True, False]),
        version="0123abcd",
        suffix=".png",
        dataset_citations=["A dataset https://doi.org/10.15468/other"],
        recipe={"sampling": {"policy": "balanced", "per_label": 4, "seed": 17}, "split": {"seed": 17}},
        published=date(2026, 1, 15),
    )
    return export.with_files(layout_of(kind).place(export, pl.DataFrame(schema=MANIFEST)))


def written(kind: str, folder: Path, count: int = 12) -> Export:
    """An export of so many pictures, written into a folder."""
    rows, read = pictures(count)
    export = small_export(kind, rows)
    write_export(export, layout_of(kind, shard_size=TWO_A_SHARD), read, folder)
    return export
