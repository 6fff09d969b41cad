"""Formats in which each picture is a file of its own."""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import polars as pl

from gbif_platform.exports.contents import Export, ExportFile, Read
from gbif_platform.exports.layout import growing
from gbif_platform.exports.pictures import read_ahead

CHUNK = 500
"""Pictures that are written before it is told."""


@dataclass(frozen=True)
class PictureFiles:
    """A file for each picture; `_folder` is the format's own.

    Args:
        link: a picture that is there twice (one URL in two media) is a second name of the same file, no second copy.
    """

    link: bool = True
    in_shards: ClassVar[bool] = False

    def place(self, export: Export, before: pl.DataFrame) -> pl.DataFrame:
        """`<folder>/<media_id>.jpg`."""
        file = pl.concat_str(self._folder(export), pl.lit("/"), "media_id", pl.lit(export.suffix))
        return export.rows.select("media_id", file.alias("file"), pl.col("sha256").alias("content"))

    def _folder(self, export: Export) -> pl.Expr:
        raise NotImplementedError

    def write(self, export: Export, work: pl.DataFrame, read: Read, folder: Path) -> Iterator[list[ExportFile]]:
        """Write pictures in the order in which they are stored."""
        for parent in {(folder / file).parent for file in work["file"]}:
            parent.mkdir(parents=True, exist_ok=True)
        first = work.unique("sha256", keep="first", maintain_order=True).sort("shard", "shard_offset")
        part, there = growing(folder, "picture"), {}
        done: list[ExportFile] = []
        for row, data in read_ahead(first, read):
            part.write_bytes(data)
            part.replace(folder / row["file"])
            there[row["sha256"]] = folder / row["file"]
            done.append(ExportFile(row["file"], len(data), row["sha256"]))
            if len(done) == CHUNK:
                yield done
                done = []
        again = work.join(first, "file", "anti")
        for file, size, digest in again.select("file", "shard_size", "sha256").iter_rows():
            self._repeat(there[digest], folder / file, part)
            done.append(ExportFile(file, size, digest))
        yield done

    def _repeat(self, source: Path, target: Path, part: Path) -> None:
        part.unlink(missing_ok=True)
        linked = False
        if self.link:
            with suppress(OSError):  # a file system without hard links, or too many of them
                part.hardlink_to(source)
                linked = True
        if not linked:
            part.write_bytes(source.read_bytes())
        part.replace(target)
        part.unlink(missing_ok=True)  # renaming one name of a file to another one of it does nothing

    def beside(self, export: Export, folder: Path) -> None:
        """Write the files into a folder that follow from the rows alone."""
        raise NotImplementedError
