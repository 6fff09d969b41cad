"""What an export holds, whatever its format, and where it lies in the export's folder:

imagefolder, tf-data   <subset>/<folder of the label>/<media_id>.jpg
webdataset             <subset>/<name>-<subset>-000000.tar, a Parquet file of metadata beside each
parquet, huggingface   data/<subset>/<name>-<subset>-000000.parquet
coco-camera-traps      images/<subset>/<media_id>.jpg, and <name>.json
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Any

import polars as pl

Read = Callable[[str, int, int], bytes]
"""Bytes of a stored picture by (shard, offset, size)."""
ALL = "all"
"""Where pictures go that are in no subset."""


@dataclass(frozen=True)
class Export:
    """The final pictures of a dataset, or some subsets of them.

    Attributes:
        name, snapshot, description: of the dataset.
        label: the term that it is labelled by.
        format: imagefolder, webdataset, parquet, huggingface, tf-data or coco-camera-traps.
        rows: the columns of table `catalogue`, then `transform, shard, shard_offset, shard_size, sha256` of the stored
            picture, and `file`: where the export has it, relative to its folder, with `/` (the picture's own file, or
            the tar or Parquet file that it is in; null before that is known). Ordered by media_id; no medium twice.
        classes: the labels, sorted; a class's index is its place.
        subsets: those that there are, sorted; rows of a null subset lie in `all`.
        citations: how to cite the whole, one line each.
        licence: of the whole, SPDX, `A and B`, `unknown` or "".
        licences: `license` (SPDX or unknown), `pictures`, most first.
        version: fingerprint of the content: equal versions hold equal rows, citations and licences.
        suffix: of a picture's file, `.jpg`, `.png` or `.webp`.
        dataset_citations: one line for each contributing GBIF dataset.
        recipe: what the dataset file says of filters, sampling, images and split, as plain values.
        published: the day on which the snapshot was added.
    """

    name: str
    snapshot: str
    description: str
    label: str
    format: str
    rows: pl.DataFrame
    classes: list[str]
    subsets: list[str]
    citations: list[str]
    licence: str
    licences: pl.DataFrame
    version: str
    suffix: str = ".jpg"
    dataset_citations: list[str] = field(default_factory=list)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    published: date = date(1970, 1, 1)

    @property
    def is_from_gbif(self) -> bool:
        """Whether GBIF or one of its datasets is to be cited; pictures of a mere list are of unknown making."""
        return bool(self.dataset_citations) or any("GBIF.org" in citation for citation in self.citations)

    def with_files(self, files: pl.DataFrame) -> "Export":
        """The export with the column `file` filled.

        Args:
            files: media_id, file.
        """
        known = files.select("media_id", "file")
        return replace(
            self, rows=self.rows.drop("file", strict=False).join(known, "media_id", "left", maintain_order="left")
        )


def class_index(classes: Sequence[str]) -> pl.Expr:
    """The place of `label` among the classes; null where it is none of them."""
    index = {name: number for number, name in enumerate(classes)}
    return pl.col("label").replace_strict(index, default=None, return_dtype=pl.Int64)


@dataclass(frozen=True, slots=True)
class ExportFile:
    """A file of an export that holds many pictures, or none: a shard, the catalogue, …

    Pictures that are files of their own are not listed so; they are found by `Export.rows["file"]`.

    Attributes:
        path: relative to the export's folder, with `/`.
        size: bytes.
        sha256: hex digest of the file.
    """

    path: str
    size: int
    sha256: str
