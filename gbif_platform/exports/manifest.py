"""The manifest of an export: which files are its own, and what is in them.

It is written before the first file, with size and digest unknown, so that a run that is killed leaves no file without
an owner; a file's size and digest follow once the file is whole.
"""

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl

from gbif_platform.errors import PlatformError

NAME = "manifest.parquet"
WORK = ".export"
"""Folder for files as they grow; removed when the export ends."""
SCHEMA = {
    "file": pl.String,
    "size": pl.Int64,
    "sha256": pl.String,
    "media_id": pl.String,
    "subset": pl.String,
    "label": pl.String,
    "content": pl.String,
}
NOTE = "gbif-platform export"
IGNORED = {WORK, ".DS_Store", "Thumbs.db", "desktop.ini"}


class ExportError(PlatformError):
    """An export cannot be made as it is asked for."""


@dataclass(frozen=True)
class Manifest:
    """What an export's folder holds.

    Attributes:
        dataset, format: of the export.
        files: one row for each picture in each file, and one with a null media_id for each file without pictures:
            file, size and sha256 of the file (null: not whole yet), media_id, subset, label, and content, a digest of
            all that the file says about that picture.
        folders: those that the export has made for themselves, as one for each class, also without a picture.
        complete: whether nothing is missing.
    """

    dataset: str
    format: str
    files: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=SCHEMA))
    folders: list[str] = field(default_factory=list)
    complete: bool = False

    @property
    def pictures(self) -> pl.DataFrame:
        """The rows of files that hold pictures."""
        return self.files.filter(pl.col("media_id").is_not_null())

    def same_as(self, other: "Manifest") -> bool:
        """Whether both say the same."""
        return replace(self, files=other.files) == other and self.files.equals(other.files)

    def write(self, folder: Path) -> None:
        """Write it into the folder, whole or not at all."""
        note = {name: getattr(self, name) for name in ("dataset", "format", "folders", "complete")}
        part = folder / WORK / NAME
        part.parent.mkdir(exist_ok=True)
        self.files.select(*SCHEMA).rechunk().write_parquet(part, metadata={NOTE: json.dumps(note)})
        part.replace(folder / NAME)


def read_manifest(folder: Path, dataset: str, kind: str) -> Manifest:
    """The manifest of a folder; an empty one where the folder is new or empty.

    Raises:
        ExportError: the folder holds anything else than an export of that dataset in that format.
    """
    empty = Manifest(dataset, kind)
    if folder.is_dir() and not (folder / NAME).exists():
        if all(entry.name in IGNORED for entry in folder.iterdir()):
            return empty
        raise ExportError(f"{folder} is not empty and holds no export", "name a new folder")
    if not folder.is_dir():
        if folder.exists() or not folder.parent.is_dir():
            said = f"{folder} is a file" if folder.exists() else f"there is no folder {folder.parent}"
            raise ExportError(said, "name a new folder in one that exists")
        return empty
    found = _read(folder / NAME)
    if (found.dataset, found.format) != (dataset, kind):
        raise ExportError(
            f"{folder} holds an export of {found.dataset} as {found.format}", "name another folder, or a new one"
        )
    return found


def _read(file: Path) -> Manifest:
    """A manifest may come from anywhere, and files that it names may be removed: none outside its folder."""
    try:
        note = json.loads(pl.read_parquet_metadata(file)[NOTE])
        files = pl.read_parquet(file).select(*SCHEMA).cast(SCHEMA)  # type: ignore[arg-type]
        folders = [str(name) for name in note.get("folders", [])]
        found = Manifest(str(note["dataset"]), str(note["format"]), files, folders, bool(note["complete"]))
    except (OSError, KeyError, TypeError, ValueError, pl.exceptions.PolarsError) as error:
        raise ExportError(f"{file} is no manifest of an export", "name a new folder") from error
    outside = pl.col("file").str.contains(r"^[/\\]|^[A-Za-z]:|(^|[/\\])\.\.?([/\\]|$)|\x00") | (pl.col("file") == "")
    named = pl.concat([found.files.select("file"), pl.DataFrame({"file": found.folders}, schema={"file": pl.String})])
    if named.select((outside | pl.col("file").is_null()).any()).item():
        raise ExportError(f"{file} names files outside its folder", "name a new folder")
    return found
