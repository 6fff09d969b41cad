"""The pictures that a model is asked about: files of any kind from outside, or the stored ones of a dataset.

Each comes as the bytes that a shard would hold, so that the model sees outside pictures as it saw those it learnt from.
"""

import hashlib
import math
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from gbif_platform.errors import PlatformError
from gbif_platform.gbif.archive_rows import Rejected
from gbif_platform.images.transform import ImageRefused, Transform, transform_image
from gbif_platform.sources.image_folder import ENDINGS, FILE_COLUMNS
from gbif_platform.sources.list_files import ROW_REF, tables

if TYPE_CHECKING:
    from gbif_platform.steps.run import Run
    from gbif_platform.training.bundle import Bundle
    from gbif_platform.training.data import Samples, ShardReader

MAX_BYTES = 64 * 2**20
TABLES = (".csv", ".tsv", ".parquet", ".csv.gz", ".tsv.gz")
URL = re.compile(r"https?:/", re.IGNORECASE)  # one slash: a path has lost the other
URL_ADVICE = "URLs are not fetched: make a dataset of them with source: urls"
SMALLEST_SIDE = 256  # what datasets store unless they say otherwise


class PicturesError(PlatformError):
    """There are no pictures where some should be."""


class Problem(NamedTuple):
    """A picture that could not be read.

    `reason` is one of `images.reasons` or of `sources.list_files`, `no_such_file` or `url_not_fetched`.
    """

    name: str
    reason: str
    detail: str = ""


class Pictures(Protocol):
    """N pictures with names."""

    @property
    def names(self) -> Sequence[str]:
        """For people."""

    def load(self, place: int) -> bytes:
        """The stored form of one. Raises ImageRefused, SampleError."""

    def digest(self) -> str:
        """The same for the same pictures in the same order."""


@dataclass(frozen=True)
class Found:
    """What paths lead to.

    Attributes:
        files: in order, with their names for people.
        problems: rows of tables that name no file.
        aside: files in folders that are no pictures by their names.
    """

    files: list[tuple[str, Path]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    aside: int = 0


def find_files(paths: Iterable[Path]) -> Found:
    """The pictures that files, folders (with all below them, in order) and tables (CSV, TSV, Parquet) name.

    A table has a column `path`, `file_name` or the like, relative to the table's folder.

    Raises:
        PicturesError: a path is not there, a table has no such column, or there is no picture at all.
        ListUnreadable: a table is damaged.
    """
    paths = list(paths)
    files: list[tuple[str, Path]] = []
    problems: list[Problem] = []
    aside = 0
    for path in paths:
        if path.is_dir():
            below = list(_below(path))
            pictures = [file for file in below if file.suffix.lower() in ENDINGS]
            files += [(_shown(file), file) for file in pictures]
            aside += len(below) - len(pictures)
        elif not path.exists():
            advice = URL_ADVICE if URL.match(str(path)) else "correct the path"
            raise PicturesError(f"there is no file or folder {path}", advice)
        elif path.name.lower().endswith(TABLES):
            files += _of_table(path, problems)
        else:
            files.append((_shown(path), path))
    if not files and not problems:
        raise PicturesError(
            f"no picture in {', '.join(map(str, paths)) or 'nothing'}", f"known are {' '.join(sorted(ENDINGS))}"
        )
    return Found(files, problems, aside)


def _below(root: Path) -> Iterator[Path]:
    for folder, inner, names in os.walk(root):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        yield from (Path(folder, name) for name in sorted(names) if not name.startswith("."))


def _of_table(table: Path, problems: list[Problem]) -> Iterator[tuple[str, Path]]:
    refused: list[Rejected] = []
    for rows in tables(table, refused):
        column = next((name for name in FILE_COLUMNS if name in rows.column_names), None)
        if column is None:
            named = ", ".join(name for name in rows.column_names if name != ROW_REF)
            raise PicturesError(
                f"{table} has no column of files; it has: {named}", f"name it {' or '.join(FILE_COLUMNS[:3])}"
            )
        for place, value in zip(rows[ROW_REF].to_pylist(), rows[column].to_pylist(), strict=True):
            if value and "\0" not in value:
                yield value, table.parent / value
            else:
                problems.append(Problem(place, "no_such_file", f"{column} is empty or no path"))
    problems += [Problem(ref, reason, detail) for ref, reason, detail in refused]


def _shown(path: Path) -> str:
    return os.fsencode(path).decode("utf-8", "replace")


class FilePictures:
    """Files from anywhere, made upright, 8-bit sRGB and small as a dataset's pictures are.

    Args:
        files: names and paths.
        transform: what the model's pictures went through, see `transform_of`.
    """

    def __init__(self, files: Sequence[tuple[str, Path]], transform: Transform) -> None:
        self.names = [name for name, _ in files]
        self._paths = [path for _, path in files]
        self._transform = transform

    def load(self, place: int) -> bytes:
        """Raises ImageRefused."""
        path = self._paths[place]
        try:
            about = path.stat()
            if not stat.S_ISREG(about.st_mode):  # a pipe would be waited for
                raise ImageRefused("file_unreadable", "no regular file")
            if about.st_size > MAX_BYTES:
                raise ImageRefused("too_many_bytes", f"{about.st_size} bytes")
            data = path.read_bytes()
        except OSError as error:
            raise ImageRefused(*_unreadable(self.names[place], error)) from error
        return transform_image(data, self._transform).data

    def digest(self) -> str:
        """Of names, paths, sizes and times of change; what is in the files is not read."""
        digest = hashlib.sha256(repr(self._transform).encode())
        for name, path in zip(self.names, self._paths, strict=True):
            try:
                about = path.stat()
                state = (about.st_size, about.st_mtime_ns)
            except OSError:
                state = None
            digest.update(repr((name, str(path.absolute()), state)).encode())
        return digest.hexdigest()


def _unreadable(name: str, error: OSError) -> tuple[str, str]:
    if URL.match(name):
        return "url_not_fetched", URL_ADVICE
    gone = isinstance(error, FileNotFoundError | NotADirectoryError)
    return "no_such_file" if gone else "file_unreadable", error.strerror or str(error)


def transform_of(bundle: "Bundle") -> Transform:
    """What the pictures a model learnt from went through; where the bundle does not know, a dataset's defaults."""
    if bundle.pictures:
        return Transform(**bundle.pictures)
    side = math.ceil(bundle.preprocess.size / bundle.preprocess.crop_share)
    return Transform(size=max(SMALLEST_SIDE, side))


class StoredPictures:
    """Pictures of a dataset, out of its shards; named by their media ids. `close` when done."""

    def __init__(self, samples: "Samples", reader: "ShardReader") -> None:
        self.names = samples.media_id.to_pylist()
        self._samples = samples
        self._reader = reader
        self.close = reader.close

    def load(self, place: int) -> bytes:
        """Raises SampleError."""
        samples = self._samples
        return self._reader.read(samples.shard_of(place), int(samples.offset[place]), int(samples.size[place]))

    def digest(self) -> str:
        """Of media ids, labels and places in the shards."""
        places = np.stack([self._samples.offset, self._samples.size]).astype(np.int64)
        return hashlib.sha256(self._samples.digest().encode() + places.tobytes()).hexdigest()


def stored_pictures(run: "Run", subset: str | None) -> StoredPictures:
    """The split pictures of a dataset's snapshot, of one subset or all.

    Raises:
        PicturesError: there are none.
    """
    import polars as pl

    from gbif_platform.steps.trained_model import labelled_pictures
    from gbif_platform.training.data import Samples, ShardReader

    with run.reader() as con:
        rows = labelled_pictures(run, con)
    if subset:
        known = sorted(rows["subset"].unique())
        rows = rows.filter(pl.col("subset") == subset)
    if rows.is_empty():
        said = f" in subset {subset}; there are: {', '.join(known) or 'none'}" if subset else ""
        raise PicturesError(
            f"dataset {run.dataset.name}, snapshot {run.snapshot}, has no picture{said}",
            f"gbif-platform run {run.dataset.name} --select splits",
        )
    labels = sorted(rows["label"].unique())
    return StoredPictures(Samples.from_table(rows.to_arrow(), labels), ShardReader(run.platform.shards))
