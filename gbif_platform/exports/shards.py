"""Which picture goes into which shard, so that an export that grows keeps the shards it has."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import polars as pl

from gbif_platform.exports.contents import ALL, Export, ExportFile, Read
from gbif_platform.exports.layout import described, growing, row_digests
from gbif_platform.exports.manifest import ExportError
from gbif_platform.exports.pictures import read_in_order

MOST_PICTURES = 10_000
"""In one shard; img2dataset's `number_sample_per_shard`."""
MOST_MB = 512


@dataclass(frozen=True)
class ShardSize:
    """At which size a new shard ends, whichever comes first; a shard has one picture at least.

    Raises:
        ExportError: one of them is below 1.
    """

    pictures: int = MOST_PICTURES
    megabytes: int = MOST_MB

    def __post_init__(self) -> None:
        if min(self.pictures, self.megabytes) < 1:
            raise ExportError("a shard has at least 1 picture and 1 MB", "give larger numbers")


def in_shards(rows: pl.DataFrame, before: pl.DataFrame, pattern: str, size: ShardSize) -> pl.DataFrame:
    """The shard of each picture: where it is already, else in new shards.

    Shards of a subset are numbered from 0 without a gap: where one has lost all its pictures, a new one or else the
    last one takes its number.

    Args:
        rows: media_id, subset (not null), shard_size; ordered.
        before: media_id, file: shards that are there.
        pattern: name of a shard, with `{subset}` and `{number}`, e.g. `{subset}/{number:06d}.tar`.

    Returns:
        media_id, file.
    """
    parts = [rows.select("media_id").with_columns(file=pl.lit(None, pl.String)).clear()]
    for (subset,), members in rows.group_by("subset", maintain_order=True):
        numbers = _numbers(members, before, pattern.replace("{subset}", str(subset)))
        names = [pattern.format(subset=subset, number=number) for number in _numbered(numbers, members, size)]
        parts.append(members.select("media_id").with_columns(file=pl.Series(names, dtype=pl.String)))
    return pl.concat(parts)


def _numbers(members: pl.DataFrame, before: pl.DataFrame, pattern: str) -> list[int | None]:
    """The number of the shard in which each medium is, None where it is in none of that name."""
    left, right = (re.escape(end) for end in re.split(r"\{number[^}]*\}", pattern))
    known = before.select("media_id", number=pl.col("file").str.extract(f"^{left}(\\d+){right}$").cast(pl.Int64))
    return members.join(known, "media_id", "left", maintain_order="left")["number"].to_list()


def _numbered(numbers: list[int | None], members: pl.DataFrame, size: ShardSize) -> list[int]:
    """Numbers for all, without a gap."""
    taken = {number for number in numbers if number is not None}
    free = (number for number in range(len(numbers) + len(taken)) if number not in taken)
    found, pictures, size_left = [], size.pictures, 0
    for number, more in zip(numbers, members["shard_size"], strict=True):
        if number is not None:
            found.append(number)
            continue
        if pictures == size.pictures or more > size_left:
            current, pictures, size_left = next(free), 0, size.megabytes * 10**6
        pictures, size_left = pictures + 1, size_left - more
        found.append(current)
    used = set(found)
    gaps = [number for number in range(len(used)) if number not in used]
    moved = dict(zip((number for number in sorted(used) if number >= len(used)), gaps, strict=True))
    return [moved.get(number, number) for number in found]


@dataclass(frozen=True)
class Shards:
    """A format with many pictures in a file; `pattern` and `_write` are the format's own."""

    size: ShardSize = field(default_factory=ShardSize)
    pattern: ClassVar[str] = ""
    in_shards: ClassVar[bool] = True

    def place(self, export: Export, before: pl.DataFrame) -> pl.DataFrame:
        """A picture stays in its shard."""
        rows = export.rows.select("media_id", pl.col("subset").fill_null(ALL), "shard_size")
        placed = in_shards(rows, before, self.pattern.replace("{name}", export.name), self.size)
        contents = export.rows.select("media_id", content=self._contents(export))
        return contents.join(placed, "media_id", maintain_order="left")

    def _contents(self, export: Export) -> pl.Series:
        return row_digests(self._described(export))

    @staticmethod
    def _described(export: Export) -> pl.DataFrame:
        """What a shard may say of a picture: all but where it is stored, which compaction changes."""
        return export.rows.drop("shard", "shard_offset", "file", strict=False)

    def write(self, export: Export, work: pl.DataFrame, read: Read, folder: Path) -> Iterator[list[ExportFile]]:
        """Write shards, pictures ordered by media_id."""
        for (name,), rows in work.sort("file", "media_id").group_by("file", maintain_order=True):
            part = growing(folder, "shard")
            self._write(export, rows, read_in_order(rows, read), part)
            target = folder / str(name)
            target.parent.mkdir(parents=True, exist_ok=True)
            part.replace(target)
            yield [described(folder, str(name))]

    def _write(self, export: Export, rows: pl.DataFrame, read: Read, path: Path) -> None:
        raise NotImplementedError

    def beside(self, export: Export, folder: Path) -> None:
        """classes.txt: one class a line, in the order of their indices."""
        (folder / "classes.txt").write_text("".join(f"{name}\n" for name in export.classes), encoding="utf-8")
