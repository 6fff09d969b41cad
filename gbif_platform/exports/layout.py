"""What a format of exports has to say: where pictures go, how files are written, and what lies beside them."""

from collections.abc import Iterator
from hashlib import file_digest
from pathlib import Path
from typing import ClassVar, Protocol

import duckdb
import polars as pl

from gbif_platform.exports.contents import Export, ExportFile, Read
from gbif_platform.exports.manifest import WORK


class Layout(Protocol):
    """A format of exports; `in_shards` where a file holds many pictures."""

    in_shards: ClassVar[bool]

    def place(self, export: Export, before: pl.DataFrame) -> pl.DataFrame:
        """Where each picture goes.

        Args:
            before: rows of the folder's manifest that hold pictures.

        Returns:
            media_id, file, and content: a digest of what the file says about the picture.
        """

    def write(self, export: Export, work: pl.DataFrame, read: Read, folder: Path) -> Iterator[list[ExportFile]]:
        """Write files, each whole or not at all; yields those that have become whole.

        Args:
            work: rows of the export, all of each file that is to be written.
        """

    def beside(self, export: Export, folder: Path) -> None:
        """Write the files into a folder that follow from the rows alone, such as a list of the classes."""


def row_digests(rows: pl.DataFrame) -> pl.Series:
    """A digest of each row, of all its columns; the same on every machine."""
    with duckdb.connect() as con:
        arrow = rows.to_arrow()  # noqa: F841  read by name
        return con.sql("SELECT md5(to_json(arrow)::VARCHAR) AS digest FROM arrow").pl()["digest"]


def growing(folder: Path, name: str) -> Path:
    """Where a file grows until it is whole and can be renamed."""
    path = folder / WORK / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def described(folder: Path, path: str) -> ExportFile:
    """Size and digest of a file."""
    with (folder / path).open("rb") as file:
        digest = file_digest(file, "sha256").hexdigest()
        return ExportFile(path, file.tell(), digest)
