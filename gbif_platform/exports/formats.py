"""The formats of exports by their names."""

from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import polars as pl

from gbif_platform.exports.coco_camera_traps import write_coco_camera_traps
from gbif_platform.exports.contents import ALL, Export, Read
from gbif_platform.exports.imagefolder import ImageFolder
from gbif_platform.exports.layout import Layout, row_digests
from gbif_platform.exports.manifest import ExportError
from gbif_platform.exports.parquet import write_parquet_shard
from gbif_platform.exports.picture_files import PictureFiles
from gbif_platform.exports.shards import Shards, ShardSize
from gbif_platform.exports.tf_data import TfDataFolder
from gbif_platform.exports.webdataset import WebDatasetShards


class CocoCameraTraps(PictureFiles):
    """`images/<subset>/<media_id>.jpg`; what they show is in one JSON file."""

    def _folder(self, export: Export) -> pl.Expr:
        return "images/" + pl.col("subset").fill_null(ALL)

    def beside(self, export: Export, folder: Path) -> None:
        """`<name>.json`."""
        write_coco_camera_traps(export, folder / f"{export.name}.json")


class ParquetShards(Shards):
    """Parquet files with the pictures in them, where Hugging Face `datasets` looks for them."""

    pattern = "data/{subset}/{name}-{subset}-{number:06d}.parquet"

    def _contents(self, export: Export) -> pl.Series:
        classes = sha256("\n".join(export.classes).encode()).hexdigest()  # each file names them all
        return row_digests(self._described(export).with_columns(classes=pl.lit(classes)))

    def _write(self, export: Export, rows: pl.DataFrame, read: Read, path: Path) -> None:
        write_parquet_shard(rows, read, path, export.classes, suffix=export.suffix)


IN_FILES: dict[str, Callable[[bool], Layout]] = {
    "imagefolder": ImageFolder,
    "tf-data": TfDataFolder,
    "coco-camera-traps": CocoCameraTraps,
}
IN_SHARDS: dict[str, Callable[[ShardSize], Layout]] = {
    "webdataset": WebDatasetShards,
    "parquet": ParquetShards,
    "huggingface": ParquetShards,
}


def layout_of(name: str, *, link: bool = True, shard_size: ShardSize | None = None) -> Layout:
    """A format by its name.

    Args:
        link: for those with a file for each picture.
        shard_size: for those with shards.

    Raises:
        ExportError: there is none of that name.
    """
    if name in IN_FILES:
        return IN_FILES[name](link)
    if name in IN_SHARDS:
        return IN_SHARDS[name](shard_size or ShardSize())
    raise ExportError(f"there is no format {name!r}", f"use one of {', '.join((*IN_FILES, *IN_SHARDS))}")
