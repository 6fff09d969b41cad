"""The user's own vernacular names: a CSV file with the columns scientificName and vernacularName."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path

import polars as pl

from gbif_platform.errors import PlatformError

LARGEST = 64 * 2**20
HEADINGS = ("scientificname", "vernacularname")
SETTING = "taxonomy.vernacular_names"


class BadVernacularNames(PlatformError):
    """The file of vernacular names cannot be used; the message has file and line."""


def read_vernacular_names(path: Path) -> pl.DataFrame:
    """Columns `scientific_name`, `vernacular_name` of the file, each name once; other columns are left alone.

    Raises:
        BadVernacularNames: it is missing, too large, no UTF-8, lacks a column or a value, or names a taxon in two ways.
    """
    names: dict[str, tuple[str, int]] = {}
    for line, scientific, vernacular in _rows(path, _text(path)):
        known, at = names.setdefault(scientific, (vernacular, line))
        if known != vernacular:
            raise BadVernacularNames(
                f"{path}:{line}: {scientific} is {vernacular!r} here and {known!r} in line {at}",
                "give each scientificName one vernacularName",
            )
    return pl.DataFrame(
        {"scientific_name": list(names), "vernacular_name": [vernacular for vernacular, _ in names.values()]},
        schema={"scientific_name": pl.String, "vernacular_name": pl.String},
    )


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > LARGEST:
            raise BadVernacularNames(f"{path}:1: more than {LARGEST // 2**20} MiB", "give a list of names")
        content = path.read_bytes()
    except OSError as error:
        raise BadVernacularNames(
            f"{SETTING}: cannot read {path}: {error.strerror}", f"correct {SETTING} in the dataset file"
        ) from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise BadVernacularNames(f"{path}:{line}: not UTF-8", "save the file as UTF-8") from error


def _rows(path: Path, text: str) -> Iterator[tuple[int, str, str]]:
    """Line, scientific name and vernacular name of each row that is not blank."""
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = [cell.strip().lower() for cell in next(reader, [])]
        if missing := [name for name in HEADINGS if name not in header]:
            raise BadVernacularNames(
                f"{path}:1: no column {' or '.join(missing)}", "start the file with: scientificName,vernacularName"
            )
        for row in reader:
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != len(header):
                raise BadVernacularNames(
                    f"{path}:{reader.line_num}: {len(row)} values for {len(header)} columns",
                    'quote values that hold a comma: "…"',
                )
            scientific, vernacular = (" ".join(row[header.index(name)].split()) for name in HEADINGS)
            if not (scientific and vernacular):
                raise BadVernacularNames(
                    f"{path}:{reader.line_num}: a row needs both scientificName and vernacularName",
                    "complete the row or remove it",
                )
            yield reader.line_num, scientific, vernacular
    except csv.Error as error:
        raise BadVernacularNames(f"{path}:{reader.line_num}: {error}", "correct the CSV") from error
