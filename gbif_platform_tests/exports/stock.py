"""Stored pictures and their catalogue rows, to be exported: real JPEGs with their real digests."""

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import polars as pl
from PIL import Image

from gbif_platform.exports.contents import ALL, Export
from gbif_platform.exports.export import ExportReport, write_export
from gbif_platform.exports.formats import layout_of
from gbif_platform.exports.manifest import NAME
from gbif_platform.exports.shards import ShardSize
from gbif_platform_tests.exports.small_export import SCHEMA

LABELS = ("Bufo bufo", "Rana temporaria", "Triturus cristatus")
SUBSETS = ("train", "train", "train", "validation")


class Stock:
    """An object store of pictures; `asked` counts the pictures that were read."""

    def __init__(self) -> None:
        self.bytes, self.asked, self.fails_after = b"", 0, -1

    def read(self, shard: str, offset: int, size: int) -> bytes:
        if self.asked == self.fails_after:
            raise KeyboardInterrupt
        self.asked += 1
        return self.bytes[offset : offset + size]

    def rows(self, count: int, start: int = 0, labels: Sequence[str | None] = LABELS) -> pl.DataFrame:
        """Media m0000 …, three of four in train."""
        return pl.DataFrame([self._row(number, labels) for number in range(start, start + count)], schema=SCHEMA)

    def _row(self, number: int, labels: Sequence[str | None]) -> dict[str, object]:
        file = BytesIO()
        colour = (number * 37 % 256, number * 91 % 256, number // 256)
        Image.new("RGB", (24, 16), colour).save(file, "JPEG", quality=95)
        data, offset = file.getvalue(), len(self.bytes)
        self.bytes += data
        return {
            "media_id": f"{sha256(str(number).encode()).hexdigest()[:8]}-{number:04}",
            "url_id": f"u{number:04}",
            "url": f"https://pictures.example/{number}.jpg",
            "gbif_id": str(1000 + number),
            "label": labels[number % len(labels)],
            "license": "CC-BY-4.0",
            "creator": "=cmd|' /C calc'!A0" if number == 1 else f"Jörg № {number}",
            "subset": SUBSETS[number % len(SUBSETS)],
            "nested": ["few"] if number % 5 == 0 else [],
            "width": 24,
            "height": 16,
            "caption_taxonomic_common": f"a picture of number {number}",
            "transform": "keep_ratio-16-jpeg-92",
            "shard": "images/shard.tar",
            "shard_offset": offset,
            "shard_size": len(data),
            "sha256": sha256(data).hexdigest(),
        }


def contents(rows: pl.DataFrame, kind: str, suffix: str = ".jpg") -> Export:
    return Export(
        name="frogs",
        snapshot="10.15468/dl.sand01",
        description="Frogs and newts.",
        label="species",
        format=kind,
        rows=rows.sort("media_id"),
        classes=sorted(rows["label"].drop_nulls().unique()),
        subsets=sorted(rows["subset"].fill_null(ALL).unique()),
        citations=["GBIF.org (15 January 2026) GBIF Occurrence Download https://doi.org/10.15468/dl.sand01"],
        licence="CC-BY-4.0",
        licences=pl.DataFrame({"license": ["CC-BY-4.0"], "pictures": [len(rows)]}),
        version="1",
        suffix=suffix,
        dataset_citations=["A museum's frogs https://doi.org/10.15468/frogs"],
    )


def write(
    stock: Stock,
    rows: pl.DataFrame,
    kind: str,
    folder: Path,
    *,
    verify: bool = False,
    link: bool = True,
    most: int = 10,
    name: str = "frogs",
) -> ExportReport:
    """Export rows into a folder, at most ten pictures in a shard."""
    layout = layout_of(kind, link=link, shard_size=ShardSize(pictures=most))
    return write_export(replace(contents(rows, kind), name=name), layout, stock.read, folder, verify=verify)


def files(folder: Path) -> dict[str, bytes]:
    """All files of a folder, of the manifest the rows: its bytes may differ with the history of the frame."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return found | {NAME: pl.read_parquet(folder / NAME).write_csv().encode()}


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of change of all files and folders but the folder itself."""
    found = {path.relative_to(folder).as_posix(): path.stat() for path in folder.rglob("*")}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in found.items()}
