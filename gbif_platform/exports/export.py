"""Writing an export into a folder: what is there already is not written again, and what is gone disappears.

First the files that are not wanted any more are removed, then the manifest is written with all files that there will
be, then the files, each under its name once it is whole, and at last the manifest with all sizes and digests. A folder
that was left in between is completed by the next run.
"""

import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
from filelock import FileLock, Timeout

from gbif_platform.exports.beside import write_beside
from gbif_platform.exports.contents import Export, ExportFile, Read
from gbif_platform.exports.layout import Layout, described
from gbif_platform.exports.manifest import SCHEMA, WORK, ExportError, Manifest, read_manifest
from gbif_platform.exports.pictures import THREADS

CHECKPOINT_SECONDS = 20.0
"""A killed run has worked for nothing for so long at most, or for one shard."""
FILE = {"file": pl.String, "size": pl.Int64, "sha256": pl.String}

Progress = Callable[[int, int | None, str], None]


@dataclass(frozen=True)
class ExportReport:
    """What an export's folder holds, and what had to be done for it.

    Attributes:
        pictures: in the export.
        written, kept, removed: files that hold pictures.
        damaged: files that were missing or not as the manifest has them; they were written again.
        up_to_date: nothing in the folder was changed.
        unstored: media of the catalogue whose pictures are not stored any more; they are left out.
    """

    folder: Path
    format: str
    pictures: int
    written: int
    kept: int
    removed: int
    damaged: int
    up_to_date: bool
    unstored: int = 0


def write_export(
    export: Export,
    layout: Layout,
    read: Read,
    folder: Path,
    *,
    verify: bool = False,
    progress: Progress = lambda done, total, note: None,
) -> ExportReport:
    """Make a folder hold an export.

    Args:
        read: bytes of a stored picture.
        folder: new, empty, or with an earlier export of the same dataset and format.
        verify: compare digests of the files that are kept, not their sizes alone.
        progress: called with files done, files to write, note.

    Raises:
        ExportError: the folder holds anything else, another process writes there, or a stored picture is damaged.
    """
    read_manifest(folder, export.name, export.format)  # raises before anything is made
    with _own(folder):
        return _Writer(export, layout, folder, progress).write(read, verify)


@contextmanager
def _own(folder: Path) -> Iterator[None]:
    """Keep other processes out, and leave nothing of the work behind."""
    work = folder / WORK
    try:
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"cannot write into {folder}: {error.strerror}", "name a folder of yours") from error
    try:
        with FileLock(work / "lock", timeout=0):
            for left in work.iterdir():
                if left.name != "lock":
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
            try:
                yield
            finally:
                shutil.rmtree(work, ignore_errors=True)
    except Timeout as error:
        raise ExportError(f"another process writes into {folder}", "wait for it, or name another folder") from error


class _Writer:
    """One export into one folder that nobody else writes into."""

    def __init__(self, export: Export, layout: Layout, folder: Path, progress: Progress) -> None:
        self.layout, self.folder, self.progress = layout, folder, progress
        self.before = read_manifest(folder, export.name, export.format)
        self.rows = _placed(export, layout, self.before)
        self.export = export.with_files(self.rows)

    def write(self, read: Read, verify: bool) -> ExportReport:
        """Make the folder hold the export."""
        after, damaged = _known(self.folder, self.rows, self.before, verify)
        missing = after.filter(pl.col("sha256").is_null())
        unwanted = _not_in(self.before.pictures, after)
        if missing.height or unwanted:
            _remove(self.folder, unwanted)
            self._tell(after)
            after = self._pictures(after, missing, read)
        beside, folders, changed = self._beside(after)
        manifest = replace(self.before, files=pl.concat([after, beside]), folders=folders, complete=True)
        if changed := changed or bool(missing.height or unwanted) or not manifest.same_as(self.before):
            manifest.write(self.folder)
        written, files = missing["file"].n_unique(), after["file"].n_unique()
        self.progress(files, files, "done" if changed else "up to date")
        return ExportReport(
            folder=self.folder,
            format=self.export.format,
            pictures=len(self.export.rows),
            written=written,
            kept=files - written,
            removed=len(unwanted),
            damaged=damaged,
            up_to_date=not changed,
        )

    def _tell(self, pictures: pl.DataFrame, beside: pl.DataFrame | None = None, folders: Iterable[str] = ()) -> None:
        """Write the manifest of a folder in work, which has both what was there and what will be."""
        others = self.before.files.filter(pl.col("media_id").is_null())
        if beside is not None:
            others = pl.concat([others.join(beside, "file", "anti"), beside])
        own = sorted({*self.before.folders, *folders})
        replace(self.before, files=pl.concat([pictures, others]), folders=own, complete=False).write(self.folder)

    def _pictures(self, after: pl.DataFrame, missing: pl.DataFrame, read: Read) -> pl.DataFrame:
        """Write what is missing; returns the manifest's rows with sizes and digests."""
        work = self.export.rows.join(missing.select("media_id"), "media_id", "semi", maintain_order="left")
        total, count, last = work["file"].n_unique(), 0, time.monotonic()
        done: list[ExportFile] = []
        self.progress(0, total, "")
        try:
            for files in self.layout.write(self.export, work, read, self.folder):
                done.extend(files)
                count += len(files)
                self.progress(count, total, "")
                if time.monotonic() - last > CHECKPOINT_SECONDS:
                    after, done, last = _with(after, done), [], time.monotonic()
                    self._tell(after)
        except BaseException:
            with suppress(OSError):  # the disk may be full
                self._tell(_with(after, done))
            raise
        return _with(after, done)

    def _beside(self, after: pl.DataFrame) -> tuple[pl.DataFrame, list[str], bool]:
        """Write the other files, and make the folders, where they differ; returns the rows of the files, the folders,
        and whether anything was written or removed."""
        shards = (
            after.select(*FILE).unique("file").sort("file") if self.layout.in_shards else after.select(*FILE).clear()
        )
        with TemporaryDirectory(dir=self.folder / WORK) as name:
            staged = Path(name)
            write_beside(self.export, self.layout, [ExportFile(*row) for row in shards.iter_rows()], staged)
            found = sorted(path.relative_to(staged).as_posix() for path in staged.rglob("*") if path.is_file())
            rows = _with(_unwritten(found), [described(staged, path) for path in found])
            unwanted = _not_in(self.before.files.filter(pl.col("media_id").is_null()), rows)
            differing = rows.filter(~pl.Series(_sound(self.folder, rows.select(*FILE), verify=True), dtype=pl.Boolean))
            folders = sorted(path.relative_to(staged).as_posix() for path in staged.glob("*/*") if path.is_dir())
            if differing.height or unwanted or folders != self.before.folders:
                self._tell(after, rows, folders)
                _remove(self.folder, unwanted)
            for path in differing["file"]:
                (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
                (staged / path).replace(self.folder / path)
            changed = _same_folders(self.folder, folders, self.before.folders)
        return rows, folders, changed or bool(differing.height or unwanted)


def _same_folders(folder: Path, wanted: Iterable[str], before: Iterable[str]) -> bool:
    """Make the folders that there are to be, and remove those of before; returns whether any was made."""
    missing = [path for path in wanted if not (folder / path).is_dir()]
    for path in missing:
        (folder / path).mkdir(parents=True)
    for path in sorted(set(before) - set(wanted)):
        with suppress(OSError):  # not empty, or gone with its last picture
            (folder / path).rmdir()
            (folder / path).parent.rmdir()
    return bool(missing)


def _placed(export: Export, layout: Layout, before: Manifest) -> pl.DataFrame:
    """Rows of the manifest without size and digest."""
    rows = export.rows.select("media_id", "subset", "label")
    placed = rows.join(layout.place(export, before.pictures), "media_id", maintain_order="left")
    unknown = {name: pl.lit(None, kind) for name, kind in FILE.items() if name != "file"}
    return placed.with_columns(**unknown).select(*SCHEMA).sort("file", "media_id")


def _known(folder: Path, rows: pl.DataFrame, before: Manifest, verify: bool) -> tuple[pl.DataFrame, int]:
    """The rows with size and digest of the files that are there and hold just these pictures; and how many files
    should have been there and are damaged."""
    written = before.pictures.filter(pl.col("sha256").is_not_null())
    same = rows.select("file", "media_id", "content").join(written, ["file", "media_id", "content"], "semi")
    counts = [frame.group_by("file").len(name) for name, frame in (("new", rows), ("old", written), ("same", same))]
    unchanged = counts[0].join(counts[1], "file").join(counts[2], "file").filter(
        (pl.col("new") == pl.col("same")) & (pl.col("old") == pl.col("same"))
    )  # fmt: skip
    files = written.join(unchanged, "file", "semi").select(*FILE).unique("file").sort("file")
    sound = files.filter(pl.Series(_sound(folder, files, verify), dtype=pl.Boolean))
    return rows.drop("size", "sha256").join(sound, "file", "left").select(*SCHEMA).sort("file", "media_id"), (
        len(files) - len(sound)
    )


def _sound(folder: Path, files: pl.DataFrame, verify: bool) -> list[bool]:
    """Whether each file is what the manifest says."""

    def sound(row: tuple[str, int, str]) -> bool:
        file, size, digest = row
        try:
            if (folder / file).stat().st_size != size:
                return False
            return not verify or described(folder, file).sha256 == digest
        except OSError:
            return False

    if not verify:
        return [sound(row) for row in files.iter_rows()]
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(sound, files.iter_rows()))


def _not_in(rows: pl.DataFrame, others: pl.DataFrame) -> list[str]:
    """Files of the first rows that are not among those of the others."""
    return sorted(rows.select("file").unique().join(others, "file", "anti")["file"])


def _unwritten(files: list[str]) -> pl.DataFrame:
    """Rows of the manifest for files without pictures."""
    return pl.DataFrame({"file": files}, schema={"file": pl.String}).select(
        "file", *(pl.lit(None, kind).alias(name) for name, kind in SCHEMA.items() if name != "file")
    )


def _remove(folder: Path, files: Iterable[str]) -> None:
    """Remove files, and folders that are empty then."""
    for file in files:
        (folder / file).unlink(missing_ok=True)
    for parent in sorted({(folder / file).parent for file in files} - {folder}, reverse=True):
        with suppress(OSError):  # not empty
            parent.rmdir()
            parent.parent.rmdir()


def _with(rows: pl.DataFrame, files: list[ExportFile]) -> pl.DataFrame:
    known = pl.DataFrame([(one.path, one.size, one.sha256) for one in files], schema=FILE, orient="row")
    return rows.update(known, on="file", how="left")
