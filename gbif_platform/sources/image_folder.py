"""A folder of pictures as a source: it becomes a list of URLs that name the pictures by content and place."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa

from gbif_platform.dataset import ImageFolder
from gbif_platform.errors import PlatformError
from gbif_platform.gbif.archive_rows import Rejected
from gbif_platform.gbif.retry import Progress
from gbif_platform.gbif.terms import snake_case
from gbif_platform.images.local_urls import url_of
from gbif_platform.sources.list_files import OWN, files_of, tables

ENDINGS = {".jpg", ".jpeg", ".jpe", ".png", ".webp", ".gif", ".tif", ".tiff", ".bmp", ".jp2"}
FILE_COLUMNS = ("file", "file_name", "path", "filename", "file_path", "image_path")
PLACE = "file"
"""Column of a picture's path below its folder, with slashes."""


class ImageFolderError(PlatformError):
    """The folder or its table cannot be used."""


def write_list(source: ImageFolder, file: Path, progress: Progress | None = None) -> str:
    """Write the pictures of a folder as a list that `url_list` reads, and hash every file for it.

    A picture's row has `url`, `file`, `label` (the name of the folder that it lies in), and what the table says of it;
    a `label` of the table's counts more. Refused rows: `no_such_file` (the table names one that is not there),
    `unreadable`, `not_utf8`.

    Returns:
        SHA-256 of the list: the same pictures at the same places with the same table give the same.

    Raises:
        ImageFolderError: no folder, no picture in it, or no column of files in the table.
        ListUnreadable: the table is damaged or none.
    """
    root = Path(source.path)
    if not root.is_dir():
        raise ImageFolderError(f"there is no folder {root}", "correct source.image_folder.path")
    refused: list[Rejected] = []
    rows = pl.DataFrame(
        list(_pictures(root, refused, progress)),
        schema={PLACE: pl.String, "url": pl.String, "label": pl.String},
        orient="row",
    )
    if rows.is_empty():
        known = " ".join(sorted(ENDINGS))
        raise ImageFolderError(f"{root} holds no picture", f"known are {known}; each in the folder of its label")
    rows = rows.with_columns(row_ref=pl.col(PLACE))
    if source.table:
        rows = _described(rows, source, refused)
    kept_back = pl.DataFrame(refused, schema=dict.fromkeys(OWN[:3], pl.String), orient="row")
    rows = pl.concat([rows, kept_back], how="diagonal").sort("row_ref", maintain_order=True)
    rows.write_parquet(file)
    return hashlib.sha256(rows.write_csv().encode("utf-8", "surrogateescape")).hexdigest()


def _pictures(root: Path, refused: list[Rejected], progress: Progress | None) -> Iterator[tuple[str, str, str]]:
    """(place, URL, label) of each picture, by place."""
    done = 0
    for folder, inner, names in os.walk(root):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder, name)
            if path.suffix.lower() not in ENDINGS or name.startswith("."):
                continue
            place = path.relative_to(root).as_posix()
            try:
                with path.open("rb") as opened:
                    digest = hashlib.file_digest(opened, "sha256").hexdigest()
                place.encode()
            except OSError as error:
                refused.append(Rejected(place, "unreadable", error.strerror or str(error)))
                continue
            except UnicodeEncodeError:
                refused.append(Rejected(ascii(place), "not_utf8", "the file's name is not UTF-8"))
                continue
            yield place, url_of(place, digest), path.parent.name if path.parent != root else ""
            done += 1
            if progress:
                progress(done, None, "pictures of the folder")


def _described(rows: pl.DataFrame, source: ImageFolder, refused: list[Rejected]) -> pl.DataFrame:
    """The rows with what the table says of them."""
    [table] = files_of(Path(source.table or ""))
    read = list(tables(table, refused))
    said = pl.DataFrame(pa.concat_tables(read, promote_options="default")) if read else pl.DataFrame({PLACE: []})
    column = _file_column(said.columns, source)
    said = said.rename({"row_ref": "table_ref", column: PLACE}).unique(PLACE, keep="first", maintain_order=True)
    unknown = said.join(rows, on=PLACE, how="anti").select("table_ref", PLACE).rows()
    refused += [Rejected(ref, "no_such_file", f"{place} is not in {source.path}") for ref, place in unknown]
    own = [name for name in said.columns if name in ("url", "label")]
    joined = rows.join(said.rename({name: f"{name}_of_table" for name in own}), on=PLACE, how="left")
    if "label" in own:
        joined = joined.with_columns(label=pl.coalesce("label_of_table", "label")).drop("label_of_table")
    return joined.drop("table_ref")


def _file_column(columns: list[str], source: ImageFolder) -> str:
    named = [snake_case(source.file_column)] if source.file_column else FILE_COLUMNS
    found = next((name for name in named if name in columns), None)
    if found is None:
        raise ImageFolderError(
            f"the table {source.table} has no column of files; it has: {', '.join(columns)}",
            "name it in the dataset file: source.image_folder.file_column",
        )
    return found
