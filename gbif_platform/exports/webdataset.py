"""Pictures in tar files as WebDataset reads them, with img2dataset's metadata in a Parquet file beside each.

Sources: https://github.com/webdataset/webdataset (a sample's key ends at the first dot of a member's name; members of a
sample follow each other) and img2dataset's README (columns of the metadata).
"""

import json
import tarfile
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl

from gbif_platform.exports.catalogue import COLUMNS
from gbif_platform.exports.contents import Export, Read, class_index
from gbif_platform.exports.layout import row_digests
from gbif_platform.exports.shards import Shards

CAPTION = "caption_taxonomic_common"
"""What img2dataset's column `caption` holds here: BioCLIP's longest text."""


class WebDatasetShards(Shards):
    """Each sample: `<media_id>.jpg`, `.json` (its catalogue row) and, where it has a label, `.cls` (its index)."""

    pattern = "{subset}/{name}-{subset}-{number:06d}.tar"

    def _contents(self, export: Export) -> pl.Series:
        return row_digests(export.rows.select(*COLUMNS, "sha256", index=class_index(export.classes)))

    def _write(self, export: Export, rows: pl.DataFrame, read: Read, path: Path) -> None:
        write_tar(rows.with_columns(index=class_index(export.classes)), read, path, export.suffix)

    def beside(self, export: Export, folder: Path) -> None:
        """classes.txt, and the metadata of each shard."""
        super().beside(export, folder)
        for (name,), rows in export.rows.sort("file", "media_id").group_by("file", maintain_order=True):
            file = (folder / str(name)).with_suffix(".parquet")
            file.parent.mkdir(parents=True, exist_ok=True)
            metadata(rows, int(file.stem.rpartition("-")[2])).write_parquet(file)


def write_tar(rows: pl.DataFrame, read: Read, path: Path, suffix: str) -> None:
    """Write a shard; equal rows and pictures give equal bytes.

    Args:
        rows: the columns of the catalogue, of the stored picture, and index (of the class, or null); order is kept.
        suffix: of the pictures, with its dot.
    """
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for row in rows.iter_rows(named=True):
            _add(tar, row["media_id"] + suffix, read(row["shard"], row["shard_offset"], row["shard_size"]))
            _add(tar, row["media_id"] + ".json", _json(row))
            if row["index"] is not None:
                _add(tar, row["media_id"] + ".cls", str(row["index"]).encode())


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # time 0, no owner, mode 644
    member.size = len(data)
    tar.addfile(member, BytesIO(data))


def _json(row: dict[str, Any]) -> bytes:
    known = {"key": row["media_id"]} | {name: row[name] for name in COLUMNS if row[name] is not None}
    return json.dumps(known | {"sha256": row["sha256"]}, ensure_ascii=False).encode()


def metadata(rows: pl.DataFrame, shard_id: int) -> pl.DataFrame:
    """img2dataset's columns of a shard's pictures: key, shard_id, status, error_message, url, caption, width, height,
    sha256; then the catalogue's other columns.

    All of them were fetched; what failed is in the lake's tables `images` and `quarantine`.
    """
    own = rows.select(
        pl.col("media_id").alias("key"),
        pl.lit(shard_id, pl.Int64).alias("shard_id"),
        pl.lit("success").alias("status"),
        pl.lit(None, pl.String).alias("error_message"),
        "url",
        pl.col(CAPTION).alias("caption"),
        *("width", "height", "sha256"),
    )
    return own.hstack(rows.select([name for name in COLUMNS if name not in ("media_id", *own.columns)]))
